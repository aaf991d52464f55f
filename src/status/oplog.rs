//! How much of the oplog is left before a target's position falls out of it.

use super::Status;
use crate::change::ClusterTime;

/// The oplog of the source at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OplogReach {
    /// The time of its oldest entry.
    pub first: ClusterTime,
    /// The time of its newest entry.
    pub last: ClusterTime,
    /// Whether it is about as large as it may become, so that old entries go. Where that is not
    /// known, it may be.
    pub full: bool,
}

impl OplogReach {
    /// How many seconds are left before this position falls out at the pace of before; `None` where
    /// over a quarter of the oplog lies before it, or nothing goes yet.
    fn short_for(self, position: ClusterTime) -> Option<u32> {
        let seconds = self.last.seconds().saturating_sub(self.first.seconds());
        let left = position.seconds().saturating_sub(self.first.seconds());
        let gone = position < self.first;
        (gone || self.full && left < seconds / 4).then_some(left)
    }
}

impl Status {
    /// The oplog was looked at. The log says, once each time, where a target comes near its end.
    pub fn oplog(&self, reach: OplogReach) {
        let seconds = reach.last.seconds().saturating_sub(reach.first.seconds());
        self.oplog_window(std::time::Duration::from_secs(seconds.into()));
        for target in self.targets() {
            let short = target.position_now().and_then(|position| reach.short_for(position));
            if target.oplog_is_short(short.is_some()) {
                continue;
            }
            if let Some(left) = short {
                tracing::warn!(
                    target = target.name(),
                    left_seconds = left,
                    window_seconds = seconds,
                    "less than a quarter of the oplog is left before this target's position falls \
                     out of it: let the target catch up, or enlarge the oplog (replSetResizeOplog)"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_a_full_oplog_is_short() {
        let time = |time: u32| ClusterTime::from(bson::Timestamp { time, increment: 1 });
        for (first, last, full, position, expected) in [
            (1_000, 2_000, true, 2_000, None),
            (1_000, 2_000, true, 1_250, None),
            (1_000, 2_000, true, 1_249, Some(249)),
            (1_000, 2_000, true, 1_000, Some(0)),
            // Nothing goes while there is room.
            (1_000, 2_000, false, 1_000, None),
            // It has gone.
            (1_000, 2_000, false, 999, Some(0)),
            // A second is no pace.
            (1_000, 1_001, true, 1_000, None),
        ] {
            let reach = OplogReach { first: time(first), last: time(last), full };
            assert_eq!(reach.short_for(time(position)), expected, "{reach:?} {position}");
        }
    }
}
