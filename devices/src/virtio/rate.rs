//! Holding a device to a rate: a token bucket, with the timer that tells when to go on.

use std::io;
use std::time::{Duration, Instant};

use event_manager::{EventOps, EventSet, Events};
use vmm_sys_util::timerfd::TimerFd;

/// So much may pass at once after a pause, as a part of what may pass in a second.
const BURST: Duration = Duration::from_millis(100);

/// A limit for one worker: without a rate, there is none.
pub struct RateLimiter(Option<Limit>);

struct Limit {
    bucket: TokenBucket,
    timer: TimerFd,
}

impl RateLimiter {
    /// A limit of so many units per second, each as the caller counts them.
    pub fn new(rate: Option<u64>) -> io::Result<Self> {
        let Some(rate) = rate else { return Ok(Self(None)) };
        Ok(Self(Some(Limit { bucket: TokenBucket::new(rate, Instant::now()), timer: TimerFd::new()? })))
    }

    /// Has the worker's `event` called with `data` when it may go on.
    pub fn register(&self, data: u32, ops: &mut EventOps) -> Result<(), event_manager::Error> {
        match &self.0 {
            Some(limit) => ops.add(Events::with_data(&limit.timer, data, EventSet::IN)),
            None => Ok(()),
        }
    }

    /// Whether something may pass now. If not, the event comes when it may.
    pub fn ready(&mut self) -> bool {
        let Some(limit) = &mut self.0 else { return true };
        let wait = limit.bucket.wait(Instant::now());
        if let Some(wait) = wait
            && let Err(error) = limit.timer.reset(wait, None)
        {
            log::warn!("A device's rate cannot be limited: {error}");
            return true;
        }
        wait.is_none()
    }

    /// Counts what passed, which may be more than was left: then the next wait is longer.
    pub fn spend(&mut self, amount: u64) {
        if let Some(limit) = &mut self.0 {
            limit.bucket.spend(amount);
        }
    }

    /// Takes note of the event.
    pub fn rung(&mut self) {
        if let Some(limit) = &mut self.0 {
            let _ = limit.timer.wait();
        }
    }
}

/// Tokens come at a steady rate and are spent, on credit as well.
#[derive(Debug)]
struct TokenBucket {
    /// Tokens per second, not 0.
    rate: u64,
    most: u64,
    tokens: i128,
    filled: Instant,
}

impl TokenBucket {
    fn new(rate: u64, now: Instant) -> Self {
        let most = (rate / (1000 / BURST.as_millis() as u64)).max(1);
        Self { rate, most, tokens: most.into(), filled: now }
    }

    /// How long until there is a token; none if there is one.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let missing = u128::try_from(1 - self.tokens).ok().filter(|&missing| missing > 0)?;
        let nanoseconds = (missing * 1_000_000_000).div_ceil(self.rate.into());
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    fn spend(&mut self, amount: u64) {
        self.tokens -= i128::from(amount);
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        let new = elapsed.saturating_mul(self.rate.into()) / 1_000_000_000;
        // Less than a token is not lost, but counted next time.
        if new > 0 {
            self.filled = now;
            let new = i128::try_from(new).unwrap_or(i128::MAX);
            self.tokens = self.tokens.saturating_add(new).min(self.most.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_in_ten_seconds_is_the_rate_and_a_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, start);
        let (mut now, mut passed) = (start, 0);
        while now < start + Duration::from_secs(10) {
            match bucket.wait(now) {
                None => {
                    bucket.spend(7);
                    passed += 7;
                }
                Some(wait) => now += wait,
            }
        }
        assert!((9_900..=10_120).contains(&passed), "{passed}");
    }

    #[test]
    fn a_pause_saves_up_a_burst_only() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(1000, start);
        bucket.fill(start + Duration::from_hours(1));
        assert_eq!(bucket.tokens, 100);
        bucket.spend(u64::MAX);
        assert!(bucket.wait(start + Duration::from_hours(1)).unwrap() > Duration::from_hours(1_000_000));
    }

    #[test]
    fn no_rate_is_no_limit() {
        let mut limiter = RateLimiter::new(None).unwrap();
        limiter.spend(u64::MAX);
        assert!(limiter.ready());
    }
}
