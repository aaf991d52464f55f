//! Where the stream of an `events` rule is: a time, and a token that tells the events of one transaction
//! apart.

use bson::RawDocumentBuf;

use crate::{
    change::ClusterTime,
    checkpoint::records::PositionRecord,
    source::events::{EventStart, ResumeToken},
};

use super::super::settling::Place;

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
