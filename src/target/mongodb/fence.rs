//! What keeps a write that comes late from undoing a newer one.
//!
//! **Within a process** each lane writes in a session of its own, and every attempt bears a number above
//! all before it. The server takes no older number once it has seen a newer one, and carries out one
//! command of a session at a time: an attempt whose fate is open is over, or refused, before the next
//! one does anything. So that the next need not wait for it, what is still running is ended first.
//!
//! **From one process to the next** a session can't be handed over. Every replacement, removal and
//! document that is made where none was bears the time, by the server's clock, at which the right to
//! write ends, and fails after it; the next process writes nothing before that time, and before all that
//! earlier ones left running has ended. An insert of the copy can't bear a time.

use std::{sync::Mutex, sync::PoisonError, time::Duration};

use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::{Client, ClientSession, Database, error::Error};
use tokio::time::Instant;
use tracing::warn;

use crate::target::{LEASE, Pressure, Retry, Right};

use super::{answer, connection::unusable};

/// The number before the first attempt's. The driver hands out sessions that it has used itself, with
/// numbers from 1 on: an attempt with one of those would be taken for one that was carried out before.
const BEFORE_THE_FIRST: i64 = 1 << 40;
/// Where nothing says how long the right to write lasts.
const WINDOW: Duration = Duration::from_secs(60);
/// How soon a look at what is still running is repeated.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One lane's session.
pub(super) struct LaneSession {
    session: ClientSession,
    number: i64,
    /// Whether the last attempt may still be under way.
    open: bool,
}

impl LaneSession {
    pub async fn start(client: &Client) -> Result<Self, Retry> {
        let session = client.start_session().await.map_err(|error| answer::refusal(&error))?;
        Ok(Self { session, number: BEFORE_THE_FIRST, open: false })
    }

    /// Runs a command that is built for an attempt's number. May be dropped: the next attempt ends it.
    pub async fn run(
        &mut self,
        database: &Database,
        build: impl FnOnce(i64) -> RawDocumentBuf,
    ) -> Result<Document, Error> {
        if self.open {
            let admin = self.session.client().database("admin");
            let command = doc! { "killSessions": [self.session.id().clone()] };
            match admin.run_command(command).await {
                // Whoever may not end it waits for it: the server sees to that.
                Err(error) if answer::code(&error).is_none() => return Err(error),
                _ => {}
            }
        }
        self.number += 1;
        self.open = true;
        let command = build(self.number);
        let answer = database.run_raw_command(command).session(&mut self.session).await;
        self.open = answer.is_err();
        answer
    }
}

/// The server's clock at a moment of ours, in milliseconds. It was that time a little before, so that no
/// write is given more time than it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    millis: i64,
    at: Instant,
}

impl Reading {
    fn when(self, moment: Instant) -> i64 {
        let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        self.millis
            .saturating_add(millis(moment.saturating_duration_since(self.at)))
            .saturating_sub(millis(self.at.saturating_duration_since(moment)))
    }
}

/// The clock of the server that is written to.
///
/// A host that sleeps stops our clock and not the server's, so a write that was in time by ours comes
/// late. The clock is read again then; but what it says counts only for a right that was asked for after
/// that: until it is renewed, nobody knows whether there still is any.
pub(super) struct Clock(Mutex<Readings>);

struct Readings {
    known: Reading,
    newer: Option<Reading>,
    /// Another server may write now, with a clock of its own.
    doubted: bool,
}

impl Clock {
    pub async fn read(client: &Client) -> Result<Self, Retry> {
        Ok(Self::of(read(client).await?))
    }

    fn of(known: Reading) -> Self {
        Self(Mutex::new(Readings { known, newer: None, doubted: false }))
    }

    /// Has it read again before the next write.
    pub fn doubt(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).doubted = true;
    }

    /// Reads it again where it was doubted.
    pub async fn settle(&self, client: &Client) -> Result<(), Retry> {
        {
            let readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if !readings.doubted || readings.newer.is_some() {
                return Ok(());
            }
        }
        let read = read(client).await?;
        self.note(read);
        Ok(())
    }

    fn note(&self, read: Reading) {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (readings.newer, readings.doubted) = (Some(read), false);
    }

    /// When, by the server's clock, a write that may have no effect without the right is over.
    pub fn deadline(&self, right: Option<&Right>) -> bson::DateTime {
        let mut readings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(right) = right else {
            let known = readings.newer.unwrap_or(readings.known);
            return bson::DateTime::from_millis(known.when(Instant::now() + WINDOW));
        };
        if let Some(newer) = readings.newer
            && newer.at <= right.since
        {
            (readings.known, readings.newer) = (newer, None);
        }
        let known = readings.known.when(right.until);
        let newer = readings.newer.map_or(known, |newer| newer.when(right.until));
        bson::DateTime::from_millis(known.min(newer))
    }
}

async fn read(client: &Client) -> Result<Reading, Retry> {
    let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
    let hello = hello.map_err(|error| answer::refusal(&error))?;
    let time = hello
        .get_datetime("localTime")
        .map_err(|_| unusable("the MongoDB does not tell the time".to_owned()))?;
    Ok(Reading { millis: time.timestamp_millis(), at: Instant::now() })
}

fn not_yet(message: &str, after: Duration) -> Retry {
    Retry {
        reason: LEASE,
        message: message.to_owned(),
        after: Some(after),
        pressure: Pressure::Same,
    }
}

/// Whether nothing that earlier processes of `owner` sent can be carried out any more. What they left
/// running is ended; `limit` is how long it runs at the most, and `reached` when we came. A user may see
/// and end what is his own.
pub(super) async fn is_alone(
    client: &Client,
    (owner, run): (&str, &str),
    right: Option<&Right>,
    (reached, limit): (Instant, Duration),
) -> Result<(), Retry> {
    if let Some(right) = right {
        let left = right.alone.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Err(not_yet("what an earlier process sent may still be on its way", left));
        }
    }
    let comment = doc! { "$regex": mark_pattern(owner), "$ne": run };
    let running = [
        doc! { "$currentOp": { "allUsers": false } },
        doc! { "$match": { "command.comment": comment } },
        doc! { "$project": { "opid": 1 } },
    ];
    let admin = client.database("admin");
    let running: Result<Vec<Document>, Error> =
        async { admin.aggregate(running).await?.try_collect().await }.await;
    let running = match running {
        Ok(running) => running,
        Err(error) if answer::code(&error).is_some_and(answer::is_denied) => {
            let left = (reached + limit).saturating_duration_since(Instant::now());
            let words = "whether an earlier process still writes can't be seen with this login";
            return if left.is_zero() { Ok(()) } else { Err(not_yet(words, left)) };
        }
        Err(error) => return Err(answer::refusal(&error)),
    };
    if running.is_empty() {
        return Ok(());
    }
    warn!(count = running.len(), "ending writes that an earlier process left behind");
    for operation in &running {
        let Some(id) = operation.get("opid") else { continue };
        // One that has ended by itself is gone all the same; another look tells.
        let _ = admin.run_command(doc! { "killOp": 1, "op": id }).await;
    }
    Err(not_yet("what an earlier process left running is being ended", LOOK_AGAIN))
}

/// What stands in the comment of every write of a run. A pipeline that appends events has a run of its own
/// beside that of the documents, and neither is to end what the other has under way.
pub(super) fn mark(owner: &str, run: &str, only_append: bool) -> String {
    format!("mongosync {}{owner} {run}", if only_append { "events " } else { "" })
}

/// A regular expression of the marks of all runs that keep an owner's documents, and of no run that appends
/// his events.
fn mark_pattern(owner: &str) -> String {
    format!("^mongosync {} ", regex::escape(owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_append_events_are_let_alone() {
        for (owner, run, only_append, expected) in [
            ("shop 1", "a", false, true),
            ("shop 1", "a", true, false),
            ("shop 11", "a", false, false),
            ("events shop 1", "a", false, false),
        ] {
            let mark = mark(owner, run, only_append);
            let pattern = regex::Regex::new(&mark_pattern("shop 1")).expect("a pattern");
            assert_eq!(pattern.is_match(&mark), expected, "{mark}");
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// A host slept for a minute: its clock stands at 10 s, the server's at 70.
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_read_again_counts_for_a_renewed_right_alone() {
        let began = Instant::now();
        let clock = Clock::of(Reading { millis: 0, at: began });
        let right = |since: u32| {
            let since = began + since * SECOND;
            Right { since, until: since + 5 * SECOND, alone: began }
        };
        let deadline = |since| clock.deadline(Some(&right(since))).timestamp_millis();
        assert_eq!(deadline(8), 13_000);
        clock.note(Reading { millis: 70_000, at: began + 10 * SECOND });
        // Whether the lease was lost in that minute is not known yet.
        assert_eq!(deadline(8), 13_000);
        assert_eq!(deadline(9), 14_000);
        assert_eq!(deadline(11), 76_000);
        assert_eq!(deadline(12), 77_000);
    }

    /// The clock of the member that writes now is behind.
    #[tokio::test(start_paused = true)]
    async fn of_two_clocks_the_one_that_ends_earlier_counts() {
        let began = Instant::now();
        let clock = Clock::of(Reading { millis: 100_000, at: began });
        clock.note(Reading { millis: 40_000, at: began + SECOND });
        let right = Right { since: began, until: began + 5 * SECOND, alone: began };
        assert_eq!(clock.deadline(Some(&right)).timestamp_millis(), 44_000);
    }
}
