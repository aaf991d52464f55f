//! How fast a number grows.

use std::time::{Duration, Instant};

/// After this long a change of speed shows by two thirds.
const MEMORY: Duration = Duration::from_secs(3);

/// An average that forgets.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: Option<(Instant, u64)>,
    per_second: Option<f64>,
}

impl Rate {
    /// The number is `total` now; answers how much it grows a second. A number that has shrunk
    /// began anew, and so does the average.
    pub(super) fn at(&mut self, now: Instant, total: u64) -> f64 {
        let Some((then, before)) = self.last.filter(|&(_, before)| before <= total) else {
            *self = Self { last: Some((now, total)), per_second: None };
            return 0.0;
        };
        let elapsed = now.saturating_duration_since(then).as_secs_f64();
        if elapsed > 0.0 {
            let current = (total - before) as f64 / elapsed;
            let weight = 1.0 - (-elapsed / MEMORY.as_secs_f64()).exp();
            let old = self.per_second.unwrap_or(current);
            self.per_second = Some(old + weight * (current - old));
            self.last = Some((now, total));
        }
        self.per_second.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_and_forgets() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut rate = Rate::default();
        assert_eq!(rate.at(at(0), 500), 0.0, "what was there before is no speed");
        assert_eq!(rate.at(at(1), 600), 100.0);
        assert_eq!(rate.at(at(1), 600), 100.0, "no time, no news");
        let slower = rate.at(at(4), 600);
        assert!((36.0..38.0).contains(&slower), "{slower}");
        assert!(rate.at(at(60), 600) < 0.1);
        assert_eq!(rate.at(at(61), 5), 0.0, "began anew");
    }
}
