//! Where the stream of an `events` rule is: a time, and a token that tells the events of one transaction
//! apart.

use bson::RawDocumentBuf;

use crate::{
    change::ClusterTime,
    checkpoint::records::PositionRecord,
    source::events::{EventStart, ResumeToken},
};

use super::super::{following::Lanes, settling::Place};

/// A place in the stream. The order is that of the stream.
#[derive(Clone, PartialEq, PartialOrd, Debug)]
pub struct EventPosition {
    time: ClusterTime,
    token: Option<ResumeToken>,
}

impl EventPosition {
    /// Before everything that happens at this time.
    pub fn at(time: ClusterTime) -> Self {
        Self { time, token: None }
    }

    /// Behind an event, or behind all that a reply has returned.
    pub fn behind(token: ResumeToken) -> Self {
        Self { time: token.time().unwrap_or_default(), token: Some(token) }
    }

    /// A stored one.
    pub fn of(record: &PositionRecord) -> Self {
        let token = record.token.as_deref().and_then(ResumeToken::read);
        Self { time: record.time, token }
    }

    /// Tells the lanes what an earlier run has settled. Behind a token, events of its very time were told
    /// that are not shown again: whatever is copied has to be read behind them.
    pub fn told(&self, lanes: &Lanes) {
        lanes.advance(self.time.before());
        if self.token.is_some() {
            lanes.iter().for_each(|lane| lane.raise(self.time));
        }
    }

    /// How a stream is opened there.
    pub fn start(&self) -> EventStart {
        match &self.token {
            Some(token) => EventStart::After(token.clone()),
            None => EventStart::At(self.time),
        }
    }
}

impl Place for EventPosition {
    fn time(&self) -> ClusterTime {
        self.time
    }

    fn token(&self) -> Option<RawDocumentBuf> {
        self.token.as_ref().map(ResumeToken::document)
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::{change::Namespace, delivery::lane::WindowId};

    #[test]
    fn a_chunk_reads_behind_what_was_told_before_a_restart() {
        let token = ResumeToken::read(&rawdoc! { "_data": "8263B0D7C5000000022B0429296E1404" });
        let behind = EventPosition::behind(token.expect("a token"));
        let time = behind.time;
        assert!(time > ClusterTime::ZERO);
        for (position, expected) in [(behind, time), (EventPosition::at(time), time.before())] {
            let lanes = Lanes::of_events(2, 1 << 20);
            position.told(&lanes);
            for lane in lanes.iter() {
                let window = lane.open_window(WindowId(0), &Namespace::new("shop", "orders"));
                assert_eq!(window, expected);
                // The events of that time that were not told are still to come.
                assert_eq!(lane.frontier(), time.before());
            }
        }
    }
}
