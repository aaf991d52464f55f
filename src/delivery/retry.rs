//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng;
use tokio_util::sync::CancellationToken;

/// The longest wait that the other side can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Exponential waits with jitter: each is between half of the nominal wait and all of it, so that
/// lanes that failed together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    tries: u32,
}

impl Backoff {
    /// Starts at `initial`, doubles up to `max`.
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { initial, max: max.max(initial), tries: 0 }
    }

    /// The wait before the next try. What the other side asked for is the least.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let nominal = self.nominal();
        self.tries = self.tries.saturating_add(1);
        let jittered = nominal.mul_f64(rand::rng().random_range(0.5..=1.0));
        jittered.max(asked.unwrap_or_default().min(LONGEST_ASKED))
    }

    fn nominal(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.tries.min(31));
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Something went through: the next failure starts at the beginning.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// How many waits there have been since the last success.
    pub fn tries(&self) -> u32 {
        self.tries
    }
}

/// Sleeps; false where it was cancelled first.
pub async fn pause(wait: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = stop.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(500));
        for nominal in [100, 200, 400, 500, 500] {
            let wait = backoff.next(None);
            assert!(wait >= Duration::from_millis(nominal / 2), "{wait:?} of {nominal}");
            assert!(wait <= Duration::from_millis(nominal), "{wait:?} of {nominal}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(100));
    }

    #[test]
    fn what_was_asked_for_is_the_least() {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        assert_eq!(backoff.next(Some(Duration::from_secs(7))), Duration::from_secs(7));
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..1000 {
            assert!(backoff.next(None) <= Duration::from_secs(30));
        }
    }
}
