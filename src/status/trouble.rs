//! What goes wrong, told as it happens to whoever listens.
//!
//! The log tells the same to people. A listener that is slow holds up nobody: it is told how much it
//! has missed.

use tokio::sync::broadcast;

/// So many lie ready for a listener that is slow.
const KEPT: usize = 256;

/// Something that goes wrong. Passwords in connection strings are masked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// A target, or the source as far as the target is concerned, is tried again and again until it
    /// goes through. Told when that begins, and again where the reason is another one.
    Waiting {
        /// The target.
        target: String,
        /// Why, in the other side's words.
        words: String,
    },
    /// A document or an event was refused for good. Its dead letter is stored by now.
    Refused {
        /// The target.
        target: String,
        /// The rule.
        rule: String,
        /// Where the document lives in the source.
        namespace: String,
        /// Its `_id` as text.
        id: String,
        /// Who refused it, and why, in their words.
        words: String,
    },
    /// A target's pipeline can't go on, which ends the run.
    Failed {
        /// The target.
        target: String,
        /// Why.
        words: String,
    },
    /// The run has failed: the last that is told of it, whether a target was to blame or it did not come
    /// so far.
    Ended {
        /// Why, and what led to it.
        words: String,
    },
    /// So many were not told, for they were not fetched in time.
    Missed(u64),
}

/// The way from all targets to all listeners.
#[derive(Clone, Debug)]
pub(super) struct Troubles(broadcast::Sender<Trouble>);

impl Troubles {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(KEPT))
    }

    pub(super) fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }

    pub(super) fn are_heard(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(super) fn tell(&self, trouble: Trouble) {
        // Nobody may listen.
        let _ = self.0.send(trouble);
    }
}

/// Hears what goes wrong from when it was made on.
#[derive(Debug)]
pub struct Listener(broadcast::Receiver<Trouble>);

impl Listener {
    /// The next one; `None` once nothing can go wrong any more. Where it is dropped nothing is lost.
    pub async fn next(&mut self) -> Option<Trouble> {
        match self.0.recv().await {
            Ok(trouble) => Some(trouble),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Trouble::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// The next one where there is one already.
    pub fn ready(&mut self) -> Option<Trouble> {
        match self.0.try_recv() {
            Ok(trouble) => Some(trouble),
            Err(broadcast::error::TryRecvError::Lagged(missed)) => Some(Trouble::Missed(missed)),
            Err(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{State, Status, fixture};

    fn waiting(words: &str) -> Trouble {
        Trouble::Waiting { target: "search".to_owned(), words: words.to_owned() }
    }

    #[tokio::test]
    async fn trouble_is_told_once_and_without_passwords() {
        let status = Status::new(&fixture::rules());
        let mut listener = status.troubles();
        let target = status.target("search");
        for _ in 0..3 {
            target.waiting("connect mongodb://me:hunter2@h/ refused");
        }
        assert_eq!(listener.ready(), Some(waiting("connect mongodb://me:…@h/ refused")));
        assert_eq!(listener.ready(), None, "it is the same at every try");
        target.waiting("busy");
        target.recovered();
        target.set_state(State::Following);
        target.waiting("busy");
        assert_eq!(listener.next().await, Some(waiting("busy")));
        assert_eq!(listener.next().await, Some(waiting("busy")), "it began again");
        assert_eq!(listener.ready(), None);
    }

    #[tokio::test]
    async fn who_listens_too_slowly_is_told_how_much_was_missed() {
        let status = Status::new(&fixture::rules());
        let mut listener = status.troubles();
        let target = status.target("search");
        for number in 0..KEPT + 3 {
            target.waiting(&number.to_string());
        }
        assert_eq!(listener.next().await, Some(Trouble::Missed(3)));
        assert_eq!(listener.next().await, Some(waiting("3")));
    }
}
