//! The replies of one cursor, none of which is waited for without end.

use std::time::Duration;

use futures_util::StreamExt;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};

use super::{Source, error::Error};

/// How long a reply is waited for at first. The driver sets no limit, and what a network drops without
/// a word is resent for a quarter of an hour; a reply that was lost is waited for even longer.
pub(super) const ANSWER: Duration = Duration::from_secs(45);
/// The longest wait for one.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long replies are waited for: longer each time that none came, since a server may take as long
/// as it likes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience(Duration);

impl Patience {
    /// As it is before anything has gone wrong.
    pub const FIRST: Self = Self(ANSWER);
    /// Of what may take very long by its nature.
    pub(super) const LONG: Self = Self(Duration::from_secs(3600));

    /// By so much longer than the server holds an answer back by itself.
    pub(super) fn beyond(self, held_back: Duration) -> Self {
        Self(self.0.saturating_add(held_back))
    }

    /// After an error.
    #[must_use]
    pub fn after(self, error: &Error) -> Self {
        match error {
            Error::Silent { .. } => Self(self.0.saturating_mul(2).min(LONGEST)),
            _ => self,
        }
    }

    /// Gives up what takes longer.
    pub(super) async fn wait<T>(
        self,
        command: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.0, work).await {
            Ok(done) => done,
            Err(_) => Err(Error::Silent { command, after: self.0 }),
        }
    }
}

/// A cursor's replies.
pub(super) struct Replies {
    cursor: RawBatchCursor,
    patience: Patience,
}

impl Replies {
    pub(super) fn new(cursor: RawBatchCursor, patience: Patience) -> Self {
        Self { cursor, patience }
    }

    /// The next one; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<RawBatch, Error>> {
        let next = async { self.cursor.next().await.transpose().map_err(Error::from) };
        self.patience.wait("a request for more of a cursor", next).await.transpose()
    }
}

impl Source {
    /// The same, with replies waited for so long.
    #[must_use]
    pub fn patient(&self, patience: Patience) -> Self {
        Self { patience, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_not_answered_is_given_up_and_waited_for_longer_the_next_time() {
        let mut patience = Patience::FIRST;
        for seconds in [45, 90, 180, 360, 720, 1_440, 2_880, 5_760, 11_520, 23_040, 46_080, 86_400]
        {
            let begun = tokio::time::Instant::now();
            let never = std::future::pending::<Result<(), Error>>();
            let error = patience.wait("a find", never).await.expect_err("no answer");
            assert_eq!(begun.elapsed().as_secs(), seconds);
            assert_eq!(error.remedy(), super::super::error::Remedy::Retry);
            patience = patience.after(&error);
        }
        let late = async {
            tokio::time::sleep(Duration::from_secs(80_000)).await;
            Ok(5)
        };
        assert_eq!(patience.wait("a find", late).await.expect("an answer"), 5);
        assert_eq!(Patience::FIRST.after(&Error::garbled("nothing")), Patience::FIRST);
    }
}
