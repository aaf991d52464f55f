//! How far a target is behind its source.
//!
//! Plain computing on times that others report; it asks no clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::change::ClusterTime;

/// A stream that says nothing for this long is not "all settled" any more, whatever its `max_await`.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);

/// Follows one target.
///
/// Lag is the age of the oldest change that is known and not settled:
/// - Where something is unsettled, `now` minus the time of the oldest such change. Its exact time is
///   not tracked; the later of the first change that was seen since all was settled and the settled
///   position is never later than it, and within one reply's span of it.
/// - Where all is settled, 0, for as long as the source keeps answering. Once it has been silent for
///   longer than its longest pause, the lag counts from the last answer: what happened since is not
///   known, and "nothing" would be a guess.
/// - Before the source's first answer, the age of the stored position that is resumed from; unknown
///   without one.
///
/// A cluster time has whole seconds. Its end is taken for it, so that a system that keeps up shows
/// no lag; in exchange a lag may read up to a second too low. A source clock that runs ahead reads
/// as 0.
#[derive(Debug)]
pub(super) struct LagClock {
    patience: Duration,
    position: ClusterTime,
    last_event: ClusterTime,
    oldest: Option<ClusterTime>,
    heard: Option<SystemTime>,
}

impl LagClock {
    /// `max_await` is how long the source may take to answer that nothing has happened.
    pub(super) fn new(max_await: Duration) -> Self {
        Self {
            patience: LEAST_PATIENCE.max(max_await * 3),
            position: ClusterTime::ZERO,
            last_event: ClusterTime::ZERO,
            oldest: None,
            heard: None,
        }
    }

    /// A reply of the change stream, with the times of its first and last event; `None` for an
    /// empty one.
    pub(super) fn seen(&mut self, events: Option<(ClusterTime, ClusterTime)>, now: SystemTime) {
        self.heard = Some(now);
        let Some((first, last)) = events else { return };
        self.last_event = self.last_event.max(last);
        if self.oldest.is_none() && last > self.position {
            self.oldest = Some(first.max(self.position));
        }
    }

    /// Everything up to this time is settled. May go back: a rule that is copied anew starts over.
    pub(super) fn settled(&mut self, position: ClusterTime) {
        self.position = position;
        if position >= self.last_event {
            self.oldest = None;
        } else if let Some(oldest) = &mut self.oldest {
            *oldest = position.max(*oldest);
        }
    }

    /// `None` while nothing is known.
    pub(super) fn lag(&self, now: SystemTime) -> Option<Duration> {
        let since = |time| now.duration_since(time).unwrap_or(Duration::ZERO);
        let age = |time: ClusterTime| {
            since(UNIX_EPOCH + Duration::from_secs(u64::from(time.seconds()) + 1))
        };
        match (self.oldest, self.heard) {
            (Some(oldest), _) => Some(age(oldest)),
            (None, Some(heard)) => {
                let silence = since(heard);
                Some(if silence > self.patience { silence } else { Duration::ZERO })
            }
            (None, None) if self.position > ClusterTime::ZERO => Some(age(self.position)),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: u64) -> ClusterTime {
        ClusterTime(seconds << 32 | 1)
    }

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    enum Report {
        Position(u64),
        Events(u64, u64, f64),
        Empty(f64),
    }
    use Report::{Empty, Events, Position};

    #[test]
    fn lag_by_what_was_reported() {
        let rows: &[(&str, &[Report], f64, Option<f64>)] = &[
            ("nothing known", &[], 100.0, None),
            ("resumed, source not reached yet", &[Position(40)], 100.0, Some(59.0)),
            ("idle", &[Position(40), Empty(100.0)], 101.0, Some(0.0)),
            ("idle, and silent for long", &[Position(40), Empty(100.0)], 111.5, Some(11.5)),
            ("one event on its way", &[Position(40), Events(95, 95, 95.5)], 100.0, Some(4.0)),
            ("that event, in its own second", &[Events(100, 100, 100.4)], 100.5, Some(0.0)),
            ("settled", &[Events(95, 95, 95.5), Position(95)], 100.0, Some(0.0)),
            ("catching up", &[Position(10), Events(10, 50, 100.0)], 100.0, Some(89.0)),
            ("half way", &[Events(11, 50, 100.0), Position(30)], 100.0, Some(69.0)),
            (
                "the copy of the position lies behind",
                &[Position(10), Events(60, 70, 99.0)],
                100.0,
                Some(39.0),
            ),
            (
                "seen before, delivered again",
                &[Position(50), Events(40, 45, 99.0)],
                100.0,
                Some(0.0),
            ),
            ("unsettled and silent", &[Events(95, 95, 95.5)], 300.0, Some(204.0)),
            ("the source's clock runs ahead", &[Events(500, 500, 100.0)], 100.0, Some(0.0)),
            (
                "started over",
                &[Position(90), Events(91, 91, 91.0), Position(91), Position(20)],
                100.0,
                Some(0.0),
            ),
        ];
        for (name, reports, now, expected) in rows {
            let mut clock = LagClock::new(Duration::from_secs(1));
            for report in *reports {
                match *report {
                    Position(seconds) => clock.settled(time(seconds)),
                    Events(first, last, now) => {
                        clock.seen(Some((time(first), time(last))), at(now));
                    }
                    Empty(now) => clock.seen(None, at(now)),
                }
            }
            assert_eq!(clock.lag(at(*now)).map(|lag| lag.as_secs_f64()), *expected, "{name}");
        }
    }

    #[test]
    fn patience_follows_max_await() {
        let mut clock = LagClock::new(Duration::from_secs(20));
        clock.seen(None, at(100.0));
        assert_eq!(clock.lag(at(150.0)), Some(Duration::ZERO));
        assert_eq!(clock.lag(at(161.0)), Some(Duration::from_secs(61)));
    }
}
