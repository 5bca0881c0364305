//! A pool of threads that wait for the host: for every storage, and for hosts without io_uring.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use event_manager::{EventOps, EventSet, Events};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{Disk, Done, Engine, Request};
use crate::thread;

/// So many requests of a queue wait for the host at a time: enough to keep a disk busy, and few for the host to have.
const THREADS: usize = 4;

/// The pool.
pub struct Pool {
    /// None when it ends.
    requests: Option<Sender<Request>>,
    done: Receiver<Done>,
    bell: Arc<EventFd>,
    in_flight: usize,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool for requests of this disk.
    pub fn new(disk: &Arc<Disk>) -> io::Result<Self> {
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let (requests, waiting) = channel();
        let (finished, done) = channel();
        let waiting = Arc::new(Mutex::new(waiting));
        let mut pool = Self { requests: Some(requests), done, bell, in_flight: 0, threads: Vec::new() };
        for number in 0..THREADS {
            let (waiting, finished) = (Arc::clone(&waiting), finished.clone());
            let (disk, bell) = (Arc::clone(disk), Arc::clone(&pool.bell));
            let work = move || work(&waiting, &finished, &disk, &bell);
            pool.threads.push(thread::spawn(format!("blk-io-{number}"), work)?);
        }
        Ok(pool)
    }
}

fn work(waiting: &Mutex<Receiver<Request>>, finished: &Sender<Done>, disk: &Disk, bell: &EventFd) {
    loop {
        let request = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(request) = request else { return };
        // An error means that the pool is gone.
        if finished.send(request.perform(disk)).is_err() {
            return;
        }
        // It fails only when its counter is full, and then the worker is on its way.
        let _ = bell.write(1);
    }
}

impl Engine for Pool {
    fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        ops.add(Events::with_data(&*self.bell, data, EventSet::IN))
    }

    fn rung(&self) {
        let _ = self.bell.read();
    }

    fn start(&mut self, request: Request) {
        if let Some(requests) = &self.requests
            && requests.send(request).is_ok()
        {
            self.in_flight += 1;
        }
    }

    fn submit(&mut self) {}

    fn done(&mut self) -> Option<Done> {
        let done = self.done.try_recv().ok()?;
        self.in_flight -= 1;
        Some(done)
    }

    fn stop(&mut self) {
        while self.in_flight > 0 && self.done.recv().is_ok() {
            self.in_flight -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.requests = None;
        for thread in self.threads.drain(..) {
            // A panic ended the whole process.
            let _ = thread.join();
        }
    }
}
