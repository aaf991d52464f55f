//! How far the stream of an `events` rule has been read, and how it is opened to be read on.

use crate::source::events::{EventStart, Extent, ResumeToken};

use super::{super::settling::Place, position::EventPosition};

/// How far the stream has been read, and how it is read on.
pub struct Course {
    /// Where it is opened next.
    pub from: EventStart,
    /// Everything up to here has been read.
    pub reached: EventPosition,
    /// What of the events is asked for.
    pub extent: Extent,
    /// Events or replies in the present extent.
    pub count: u32,
    /// What stands up to here in the stream was read before: it is opened by time, which is less exact.
    leave_out: Option<ResumeToken>,
}

impl Course {
    /// From a position on.
    pub fn new(position: EventPosition) -> Self {
        Self {
            from: position.start(),
            reached: position,
            extent: Extent::Whole,
            count: 0,
            leave_out: None,
        }
    }

    /// Asks for another extent.
    pub fn read(&mut self, extent: Extent) {
        self.extent = extent;
        self.count = 0;
    }

    /// Everything up to a token has been read. Whether that is news.
    pub fn reach(&mut self, token: &ResumeToken) -> bool {
        if self.leave_out.as_ref().is_some_and(|known| token <= known) {
            return false;
        }
        self.leave_out = None;
        self.from = EventStart::After(token.clone());
        let position = EventPosition::behind(token.clone());
        let further = position > self.reached;
        if further {
            self.reached = position;
        }
        further
    }

    /// The stream can't be opened behind its last event: it is opened at that event's time, and leaves out
    /// what was read. Whether there is such an event.
    pub fn by_time(&mut self) -> bool {
        let EventStart::After(token) = &self.from else { return false };
        let Some(time) = token.time() else { return false };
        self.leave_out = Some(token.clone());
        self.from = EventStart::At(time);
        true
    }

    /// The server has closed the stream, by an invalidate that may have been hidden, and is behind it with
    /// what it read last. `read_on` is whether anything was read since it was opened. Whether it may
    /// be opened again at once: where nothing was read, it may be closed again and again.
    pub fn closed(&mut self, read_on: bool) -> bool {
        self.read(Extent::Whole);
        if let EventStart::At(time) = self.from
            && self.leave_out.take().is_some()
        {
            // The end is what was read before, and a stream by its time shows it again, for ever.
            self.from = EventStart::At(time.after());
            return true;
        }
        read_on
    }

    /// The time of the last event that was read.
    pub fn time(&self) -> crate::change::ClusterTime {
        self.reached.time()
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::change::ClusterTime;

    /// A token of the second 7 and this increment.
    fn token(increment: u32) -> ResumeToken {
        let data = format!("8200000007{increment:08X}2B0429296E1404");
        ResumeToken::read(&rawdoc! { "_data": data }).expect("a token")
    }

    fn at(increment: u32) -> ClusterTime {
        bson::Timestamp { time: 7, increment }.into()
    }

    /// A stage of the rule hides `drop` and `invalidate`: the reply that closes the stream has the token of
    /// the invalidate, and behind that it goes on.
    #[test]
    fn a_stream_that_was_closed_goes_on_behind_its_end() {
        let mut course = Course::new(EventPosition::at(at(1)));
        assert!(course.reach(&token(4)));
        assert!(course.closed(true));
        assert_eq!((&course.from, course.extent), (&EventStart::After(token(4)), Extent::Whole));
        assert!(!course.closed(false), "it is not opened again and again without a pause");
        assert_eq!(course.from, EventStart::After(token(4)));
    }

    #[test]
    fn an_end_that_was_read_before_is_passed() {
        let mut course = Course::new(EventPosition::behind(token(4)));
        assert!(course.by_time());
        assert_eq!(course.from, EventStart::At(at(4)));
        assert!(!course.reach(&token(3)) && !course.reach(&token(4)), "both were read before");
        assert!(course.closed(false));
        assert_eq!(course.from, EventStart::At(at(5)));
        assert!(!course.by_time(), "there is no event that it stands behind");
        assert!(course.reach(&token(5)));
        assert_eq!(course.from, EventStart::After(token(5)));
    }

    #[test]
    fn what_was_read_before_is_left_out_once() {
        let mut course = Course::new(EventPosition::behind(token(4)));
        assert!(course.by_time() && !course.reach(&token(4)) && course.reach(&token(5)));
        assert_eq!(course.time(), at(5));
        // What stands behind a later event is not compared with it any more.
        assert!(!course.reach(&token(2)));
        assert_eq!(course.reached, EventPosition::behind(token(5)));
    }
}
