//! The status machine without any transport's registers.

use std::sync::Mutex;

use vm_memory::GuestAddress;

use super::*;
use crate::virtio::interrupt::Notification;
use crate::virtio::runner::WorkerThreads;
use crate::virtio::testing::{Reverser, rings};

/// Remembers what it was notified of.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Notification>>>);

impl NotificationSink for Recorder {
    fn notify(&self, notification: Notification) {
        self.0.lock().unwrap().push(notification);
    }
}

fn core() -> (Core, WorkerThreads, Recorder) {
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
    let recorder = Recorder::default();
    let (core, runners) = Core::new(Box::new(Reverser::new()), memory, Box::new(recorder.clone())).unwrap();
    let mut threads = WorkerThreads::default();
    for runner in runners {
        threads.start("runner".into(), runner).unwrap();
    }
    (core, threads, recorder)
}

/// A driver's way to DRIVER_OK with queue 1.
fn start(core: &mut Core) {
    core.set_status(ACKNOWLEDGE | DRIVER);
    for half in [0, 1] {
        core.select_device_features(half);
        core.select_driver_features(half);
        core.accept_features(core.selected_features());
    }
    core.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    core.select_queue(1);
    let [descriptors, available, used] = rings(1);
    *core.rings().unwrap() = Rings { size: 16, descriptors, available, used };
    core.set_queue_ready(true);
    core.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

#[test]
fn its_state_is_values_and_a_reset_takes_all_back_but_the_generation() {
    let (mut core, _threads, recorder) = core();
    let first = core.driver_state().clone();
    start(&mut core);
    let state = core.driver_state();
    assert_eq!((state.status, state.driver_features, state.queue_select), (15, core.offered(), 1));
    let [descriptors, available, used] = rings(1);
    let set_up = QueueState { rings: Rings { size: 16, descriptors, available, used }, ready: true };
    assert_eq!(state.queues, [QueueState::default(), set_up]);
    core.interrupt.config_changed(|| true);
    assert_eq!(core.interrupt_state(), InterruptState { status: 2, generation: 1, live: true, needs_reset: false });
    assert_eq!(*recorder.0.lock().unwrap(), [Notification::ConfigChange]);
    core.set_status(0);
    assert_eq!(*core.driver_state(), first);
    assert_eq!(core.interrupt_state(), InterruptState { generation: 1, ..InterruptState::default() });
}

#[test]
fn a_queue_is_reset_alone_and_only_if_that_was_negotiated() {
    let (mut core, _threads, _) = core();
    start(&mut core);
    core.reset_queue();
    assert!(!core.is_queue_ready());
    assert_eq!(core.driver_state().queues, [QueueState::default(); 2]);
    assert_eq!(core.status(), 15);
    core.set_status(0);
    core.set_status(ACKNOWLEDGE | DRIVER);
    core.select_driver_features(1);
    core.accept_features(1);
    core.set_status(FEATURES_OK | DRIVER | ACKNOWLEDGE);
    core.rings().unwrap().size = 16;
    core.reset_queue();
    assert_eq!(core.driver_state().queues[0].rings.size, 16);
}

#[test]
fn rings_are_closed_until_features_are_negotiated_and_while_the_queue_is_ready() {
    let (mut core, _threads, _) = core();
    assert!(core.rings().is_none());
    start(&mut core);
    assert!(core.rings().is_none());
    assert_eq!(core.max_queue_size(), 16);
    core.select_queue(2);
    assert!(core.rings().is_none() && !core.is_queue_ready());
    assert_eq!(core.max_queue_size(), 0);
    core.select_queue(0);
    assert!(core.rings().is_some(), "a queue that was never enabled");
}

#[test]
fn no_queue_revives_before_the_device_is_reset() {
    let (mut core, _threads, _) = core();
    start(&mut core);
    core.interrupt.needs_reset();
    for queue in [0, 1] {
        core.select_queue(queue);
        core.reset_queue();
        let [descriptors, available, used] = rings(queue as usize);
        *core.rings().unwrap() = Rings { size: 16, descriptors, available, used };
        core.set_queue_ready(true);
        assert!(!core.is_queue_ready(), "queue {queue}");
    }
    assert_eq!(core.status(), 15 | NEEDS_RESET);
    core.set_status(0);
    start(&mut core);
    assert!(core.is_queue_ready());
}
