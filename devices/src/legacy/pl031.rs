//! PL031 real-time clock: the time of day in seconds since 1970, in UTC, and an alarm.
//!
//! Source: Arm DDI 0224, "`PrimeCell` Real Time Clock (PL031) Technical Reference Manual", chapter 3 ("Programmer's Model").
//! Registers are 32 bits wide; a narrower write leaves zeros above.
//!
//! | offset | register |
//! | --- | --- |
//! | 0x00 | RTCDR, read only: the time |
//! | 0x04 | RTCMR: the time at which the alarm goes off |
//! | 0x08 | RTCLR: a write sets the time; reads what was written last |
//! | 0x0C | RTCCR: 1, the clock runs; a clock that runs ignores writes |
//! | 0x10 | RTCIMSC, bit 0: the alarm interrupts |
//! | 0x14 | RTCRIS, read only, bit 0: the alarm went off |
//! | 0x18 | RTCMIS, read only, bit 0: it did, and interrupts |
//! | 0x1C | RTCICR, write only: a 1 in bit 0 stops the alarm |
//! | 0xFE0-0xFFC | RTCPeriphID, RTCPCellID |
//!
//! The clock starts with the host's time and goes on with it; a guest that sets it sets its own. Deviations: the alarm goes
//! off as well where a step of the host's clock passes its time, and the interrupt line is edge-triggered: it rises with
//! RTCMIS.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bus::BusDevice;
use crate::interrupt::{InterruptSink, IrqLine};
use crate::legacy::registers::{answer_word, primecell_id, word};
use crate::thread;

const DATA: u64 = 0x00;
const MATCH: u64 = 0x04;
const LOAD: u64 = 0x08;
const CONTROL: u64 = 0x0C;
const MASK: u64 = 0x10;
const RAW: u64 = 0x14;
const MASKED: u64 = 0x18;
const CLEAR: u64 = 0x1C;
const ID: std::ops::Range<u64> = 0xFE0..0x1000;

/// `RTCPeriphID0` to 3: part number 0x031, designer 0x41 (Arm), revision 1.
const PERIPH_ID: [u8; 4] = [0x31, 0x10, 0x14, 0x00];
/// The only bit of the interrupt registers.
const ALARM: u32 = 1 << 0;
/// The alarm's thread looks at the host's clock so often, in case somebody has set that.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

type Clock = Box<dyn Fn() -> SystemTime + Send>;

/// The clock.
pub struct Pl031 {
    shared: Arc<Shared>,
    /// Whether there is a thread for the alarm, or there was none to be had. It is started when the guest first wants an
    /// alarm: most never do.
    has_thread: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Signalled when the alarm's thread has something to look at.
    changed: Condvar,
}

struct State {
    clock: Clock,
    line: IrqLine,
    /// What to add to the host's seconds to have the guest's, modulo 2^32.
    offset: u32,
    load: u32,
    alarm: u32,
    mask: u32,
    raw: u32,
    /// The time up to which the alarm was looked for.
    seen: u32,
    is_gone: bool,
}

impl Pl031 {
    /// Length of the register range in bytes.
    pub const LEN: u64 = 0x1000;

    /// A clock that shows the host's time, and interrupts by this line.
    pub fn new(line: IrqLine) -> Self {
        Self::with_clock(line, Box::new(SystemTime::now))
    }

    fn with_clock(line: IrqLine, clock: Clock) -> Self {
        let state = State { clock, line, offset: 0, load: 0, alarm: 0, mask: 0, raw: 0, seen: 0, is_gone: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let clock = Self { shared, has_thread: false };
        let now = clock.state().now();
        clock.state().seen = now;
        clock
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Has the thread look at the alarm anew, and starts it if there is an alarm to wait for.
    fn rearm(&mut self) {
        let waits = self.state().waits();
        if waits && !self.has_thread {
            self.has_thread = true;
            let shared = Arc::clone(&self.shared);
            if let Err(error) = thread::spawn("rtc".into(), move || shared.watch()) {
                log::error!("The alarm of the guest's clock will not go off by itself: {error}");
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Pl031 {
    fn drop(&mut self) {
        self.state().is_gone = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The alarm's thread: lets the alarm go off when its time comes.
    fn watch(&self) {
        let mut state = self.lock();
        while !state.is_gone {
            state.look();
            // Without an alarm to wait for there is nothing to do until one is set.
            let time = if state.waits() { state.time_to_alarm().min(LOOK_INTERVAL) } else { Duration::MAX };
            state = if time == Duration::MAX {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

impl State {
    fn host(&self) -> Duration {
        (self.clock)().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    /// The guest's time. The counter wraps in 2106.
    fn now(&self) -> u32 {
        (self.host().as_secs() as u32).wrapping_add(self.offset)
    }

    /// Whether somebody must wait for the alarm, which interrupts and has not gone off.
    const fn waits(&self) -> bool {
        self.mask != 0 && self.raw == 0
    }

    /// How long until the counter has the alarm's time, which it has not now.
    fn time_to_alarm(&self) -> Duration {
        let seconds = self.alarm.wrapping_sub(self.seen);
        let into_second = Duration::from_nanos(self.host().subsec_nanos().into());
        Duration::from_secs(seconds.into()).saturating_sub(into_second)
    }

    /// Lets the alarm go off if its time has come since the last look.
    fn look(&mut self) {
        let now = self.now();
        let (passed, until) = (now.wrapping_sub(self.seen), self.alarm.wrapping_sub(self.seen));
        // A clock that was set back has passed nothing.
        let is_back = passed > u32::MAX / 2;
        self.seen = now;
        if !is_back && (1..=passed).contains(&until) {
            self.go_off();
        }
    }

    fn go_off(&mut self) {
        let masked = self.raw & self.mask;
        self.raw |= ALARM;
        self.interrupt_unless(masked);
    }

    /// Interrupts if the alarm does now and did not before.
    fn interrupt_unless(&self, masked_before: u32) {
        if self.raw & self.mask & !masked_before != 0
            && let Err(error) = self.line.trigger()
        {
            log::debug!("The alarm of the guest's clock is on its way: {error}");
        }
    }

    fn read(&mut self, offset: u64) -> u32 {
        self.look();
        match offset {
            DATA => self.seen,
            MATCH => self.alarm,
            LOAD => self.load,
            CONTROL => 1,
            MASK => self.mask,
            RAW => self.raw,
            MASKED => self.raw & self.mask,
            _ if ID.contains(&offset) => primecell_id(offset, PERIPH_ID),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.look();
        match offset {
            MATCH => self.alarm = value,
            LOAD => {
                self.load = value;
                self.offset = value.wrapping_sub(self.host().as_secs() as u32);
                self.seen = value;
            }
            MASK => {
                let masked = self.raw & self.mask;
                self.mask = value & ALARM;
                self.interrupt_unless(masked);
            }
            CLEAR => self.raw &= !value,
            _ => {}
        }
        // The comparison is not with what the counter comes to, but with what it is.
        if matches!(offset, MATCH | LOAD) && self.alarm == self.seen {
            self.go_off();
        }
    }
}

impl BusDevice for Pl031 {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let is_register = offset < Self::LEN && offset.is_multiple_of(4);
        let value = if is_register { self.state().read(offset) } else { 0 };
        answer_word(data, value);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if data.is_empty() || offset >= Self::LEN || !offset.is_multiple_of(4) {
            return;
        }
        self.state().write(offset, word(data));
        if [MATCH, LOAD, MASK, CLEAR].contains(&offset) {
            self.rearm();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    fn read(rtc: &mut Pl031, offset: u64) -> u32 {
        let mut data = [0xFF; 4];
        rtc.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(rtc: &mut Pl031, offset: u64, value: u32) {
        rtc.write(offset, &value.to_le_bytes());
    }

    /// A clock whose host's time, in seconds, the test sets; and its line.
    fn clock(start: u64) -> (Pl031, IrqLine, Arc<AtomicU64>) {
        let (line, time) = (IrqLine::new().unwrap(), Arc::new(AtomicU64::new(start)));
        let shared = Arc::clone(&time);
        let now = move || UNIX_EPOCH + Duration::from_secs(shared.load(Ordering::Relaxed));
        (Pl031::with_clock(line.clone(), Box::new(now)), line, time)
    }

    /// How many edges there were since the last time.
    fn edges(line: &IrqLine) -> u64 {
        line.eventfd().read().unwrap_or(0)
    }

    #[test]
    fn it_shows_the_hosts_time_until_it_is_set() {
        let mut rtc = Pl031::new(IrqLine::new().unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
        assert!((now..now + 2).contains(&read(&mut rtc, DATA)));
        write(&mut rtc, LOAD, 1000);
        assert!((1000..1002).contains(&read(&mut rtc, DATA)));
        assert_eq!((read(&mut rtc, LOAD), read(&mut rtc, CONTROL)), (1000, 1));
        // A driver that starts a clock which runs changes nothing.
        write(&mut rtc, CONTROL, 1);
        assert!((1000..1003).contains(&read(&mut rtc, DATA)));
    }

    #[test]
    fn it_is_a_pl031_of_arm_and_takes_any_access() {
        let (mut rtc, ..) = clock(7);
        let id: Vec<_> = ID.step_by(4).map(|offset| read(&mut rtc, offset)).collect();
        assert_eq!(id, [0x31, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1]);
        for offset in (0..Pl031::LEN + 8).chain([u64::MAX]) {
            for width in [0, 1, 2, 4, 8] {
                rtc.read(offset, &mut vec![0; width]);
                rtc.write(offset, &vec![0xFF; width]);
            }
        }
    }

    #[test]
    fn the_alarm_shows_when_its_time_has_come_and_until_it_is_cleared() {
        let (mut rtc, line, time) = clock(100);
        write(&mut rtc, MATCH, 105);
        for (now, raw) in [(104, 0), (105, 1), (106, 1)] {
            time.store(now, Ordering::Relaxed);
            // Masked, it interrupts nobody.
            let state = [RAW, MASKED, MATCH].map(|offset| read(&mut rtc, offset));
            assert_eq!((state, edges(&line)), ([raw, 0, 105], 0), "{now}");
        }
        write(&mut rtc, MASK, 1);
        assert_eq!((read(&mut rtc, MASKED), edges(&line)), (1, 1));
        write(&mut rtc, MASK, 1);
        write(&mut rtc, CLEAR, 0);
        assert_eq!((read(&mut rtc, RAW), edges(&line)), (1, 0));
        write(&mut rtc, CLEAR, 1);
        assert_eq!((read(&mut rtc, RAW), read(&mut rtc, MASKED), read(&mut rtc, MASK), edges(&line)), (0, 0, 1, 0));
        // It was once: the time does not come again.
        time.store(200, Ordering::Relaxed);
        assert_eq!((read(&mut rtc, RAW), edges(&line)), (0, 0));
    }

    #[test]
    fn an_alarm_for_now_goes_off_at_once_and_one_that_is_past_does_not() {
        let (mut rtc, line, time) = clock(100);
        write(&mut rtc, MASK, 1);
        write(&mut rtc, MATCH, 99);
        assert_eq!((read(&mut rtc, RAW), edges(&line)), (0, 0));
        write(&mut rtc, MATCH, 100);
        assert_eq!((read(&mut rtc, RAW), edges(&line)), (1, 1));
        write(&mut rtc, CLEAR, 1);
        // Setting the clock to the alarm's time is its time, too; past it is not.
        write(&mut rtc, MATCH, 500);
        write(&mut rtc, LOAD, 501);
        assert_eq!((read(&mut rtc, RAW), edges(&line)), (0, 0));
        write(&mut rtc, LOAD, 500);
        assert_eq!((read(&mut rtc, RAW), edges(&line)), (1, 1));
        write(&mut rtc, CLEAR, 1);
        // The host's clock is set back, past the alarm's time.
        time.store(50, Ordering::Relaxed);
        assert_eq!((read(&mut rtc, DATA), read(&mut rtc, RAW), edges(&line)), (450, 0, 0));
    }

    #[test]
    fn a_counter_that_wraps_comes_to_its_alarm() {
        let (mut rtc, _, time) = clock(100);
        write(&mut rtc, LOAD, u32::MAX - 1);
        write(&mut rtc, MATCH, 1);
        time.store(102, Ordering::Relaxed);
        assert_eq!((read(&mut rtc, DATA), read(&mut rtc, RAW)), (0, 0));
        time.store(103, Ordering::Relaxed);
        assert_eq!((read(&mut rtc, DATA), read(&mut rtc, RAW)), (1, 1));
    }

    #[test]
    fn the_interrupt_comes_by_itself() {
        let line = IrqLine::new().unwrap();
        let mut rtc = Pl031::new(line.clone());
        let now = read(&mut rtc, DATA);
        write(&mut rtc, MATCH, now + 2);
        let begun = Instant::now();
        write(&mut rtc, MASK, 1);
        let end = begun + Duration::from_secs(30);
        while edges(&line) == 0 {
            assert!(Instant::now() < end, "no interrupt came");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!((now + 2..now + 30).contains(&read(&mut rtc, DATA)));
        assert!(begun.elapsed() > Duration::from_millis(900), "{:?}", begun.elapsed());
        assert_eq!(read(&mut rtc, MASKED), 1);
    }

    #[test]
    fn the_thread_ends_with_the_clock() {
        let (mut rtc, ..) = clock(100);
        write(&mut rtc, MATCH, 200);
        write(&mut rtc, MASK, 1);
        let shared = Arc::downgrade(&rtc.shared);
        drop(rtc);
        let end = Instant::now() + Duration::from_secs(30);
        while shared.strong_count() > 0 {
            assert!(Instant::now() < end, "the thread goes on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
