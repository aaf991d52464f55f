//! The events of one rule: one task reads its stream into the lanes.

use std::sync::Arc;

use smallvec::smallvec;
use tokio::sync::watch;

use crate::{
    change::{Cause, Change, ClusterTime, Phase, State, event::Lack},
    checkpoint::tracker::{Claim, Tracker},
    source::{
        budget::Budget,
        error::{Error as SourceError, Remedy},
        events::{CLOSED, EventBatch, EventQuery, EventStream, Extent, Seen, StreamEvent},
    },
    status::{EventKind, RuleStatus, TargetStatus},
};

use super::{
    super::{
        Error,
        demand::Demand,
        following::{COPY_AWAIT, Lanes, Lost, changed, history_lost},
        reading::{Reading, SourceBackoff},
        rule_set::RuleSet,
        settling::Place,
    },
    course::Course,
    images::Images,
    plan::RULE,
    position::EventPosition,
};

/// So many events are read one by one in search of one that is too large.
const SEARCHED: u32 = 4_000;

/// An event that does not fit into a message of the server.
const TOO_LARGE: i32 = 10334;

/// The server's codes for a token that it can't go on from: a stage of the rule hides its event now, or
/// the stream was invalidated there.
const LOST_TOKEN: [i32; 3] = [260, 280, 50811];

/// Reads one rule's events into its lanes.
pub struct EventFollowing {
    /// The source.
    pub reading: Arc<Reading>,
    /// The one rule.
    pub rules: Arc<RuleSet>,
    /// How its events are asked for.
    pub query: Arc<EventQuery>,
    /// Where they go.
    pub lanes: Arc<Lanes>,
    /// What holds the position back.
    pub tracker: Tracker<EventPosition>,
    /// The target's name.
    pub target: String,
    /// Of this pipeline.
    pub status: Arc<TargetStatus>,
    /// Of the rule.
    pub rule_status: Arc<RuleStatus>,
    /// Pays for what is read.
    pub budget: Arc<Budget>,
    /// Whose images are kept.
    pub images: Arc<Images>,
}

/// Why a stream is read no further.
enum Ended {
    /// It has to be opened in another way.
    Reopen,
    /// It fails.
    Failed(SourceError),
}

/// What a batch has come to.
struct Spread {
    /// Its events but for those that were read before.
    taken: usize,
    /// Whether the stream ends with it.
    invalidated: bool,
}

impl EventFollowing {
    /// Follows from a position until it is stopped, or has to begin elsewhere. `copying` says whether a
    /// copy waits for the stream's frontier: every update brings its document then, since the copy
    /// leaves out what has changed meanwhile.
    ///
    /// # Errors
    /// `HistoryLost`, and `Refused` where the source has no change stream for the rule.
    pub async fn run(
        self,
        position: EventPosition,
        mut copying: watch::Receiver<bool>,
    ) -> Result<Option<Demand>, Error> {
        let rule = self.rules.get(RULE).rule().name.clone();
        let scope = self.query.scope();
        let from = position.time();
        tracing::info!(target = self.target, rule, ?scope, %from, "following events");
        let mut course = Course::new(position);
        let mut backoff = SourceBackoff::default();
        let stop = self.reading.stop.clone();
        loop {
            let copies = *copying.borrow_and_update();
            let max_await = copies.then_some(COPY_AWAIT);
            let source = self.reading.source.patient(backoff.patience);
            let extent = (copies, course.extent);
            let opened = tokio::select! {
                opened = source.watch_events(&self.query, &course.from, extent, max_await, &self.budget) => opened,
                () = stop.cancelled() => return Ok(None),
            };
            let before = course.reached.clone();
            let ended = match opened {
                Ok(mut stream) => {
                    let read = self.read(&mut stream, &mut course, &mut copying);
                    tokio::select! {
                        ended = read => ended,
                        () = stop.cancelled() => return Ok(None),
                    }
                }
                Err(error) => Ended::Failed(error),
            };
            let read_on = course.reached > before;
            if read_on {
                backoff.reset();
            }
            let error = match ended {
                Ended::Reopen => continue,
                Ended::Failed(error) => error,
            };
            if self.goes_on(&error, &mut course, read_on)? {
                continue;
            }
            match error.remedy() {
                Remedy::HistoryLost => {
                    let why = error.to_string();
                    let position = course.time();
                    let why = Lost::Oplog(why);
                    return history_lost(&self.rules, &self.target, position, &why).map(Some);
                }
                Remedy::Retry => {
                    if self.reading.hold_back("change stream", &error, &mut backoff).await.is_err()
                    {
                        return Ok(None);
                    }
                }
                Remedy::Reject => {
                    return Err(Error::Refused(format!(
                        "the change stream of rule {rule} can't be opened: {error}"
                    )));
                }
            }
        }
    }

    /// Whether there is another way to read on, which is then the course; `read_on` is whether the stream
    /// has brought anything since it was opened.
    ///
    /// # Errors
    /// `Refused` where there is none, and waiting does not help.
    fn goes_on(
        &self,
        error: &SourceError,
        course: &mut Course,
        read_on: bool,
    ) -> Result<bool, Error> {
        let rule = &self.rules.get(RULE).rule().name;
        let code = error.code();
        if code == Some(TOO_LARGE) {
            match course.extent {
                // One of those that were to come next.
                Extent::Whole => course.read(Extent::Single),
                // The very next one.
                Extent::Single => course.read(Extent::Slim),
                Extent::Slim => {
                    return Err(Error::Refused(format!(
                        "the change stream of rule {rule} meets an event that is too large for MongoDB \
                         to send, whatever is left out of it: {error}"
                    )));
                }
            }
            return Ok(true);
        }
        if code.is_some_and(|code| LOST_TOKEN.contains(&code)) {
            if course.by_time() {
                tracing::info!(
                    target = self.target,
                    rule,
                    time = %course.time(),
                    "the stream can't go on behind its last event, which the rule may hide now: it goes on \
                     from the time of that event"
                );
                return Ok(true);
            }
            if self.query.is_shaped() && code != Some(260) {
                return Err(Error::Refused(format!(
                    "the change stream of rule {rule} can't be read, perhaps for its `changes.pipeline`, \
                     which has to leave the `_id` of each event as it is: {error}"
                )));
            }
        }
        if matches!(error, SourceError::Garbled(CLOSED)) {
            tracing::info!(
                target = self.target,
                rule,
                time = %course.time(),
                "the stream was closed, perhaps since its collection has ended: opening it behind"
            );
            // Which one has ended, a stage of the rule may have hidden.
            self.images.ended(None);
            return Ok(course.closed(read_on));
        }
        Ok(false)
    }

    /// Reads until the stream can't go on as it is.
    async fn read(
        &self,
        stream: &mut EventStream<'_>,
        course: &mut Course,
        copying: &mut watch::Receiver<bool>,
    ) -> Ended {
        loop {
            let batch = tokio::select! {
                batch = stream.next() => match batch {
                    Ok(batch) => batch,
                    Err(error) => return Ended::Failed(error),
                },
                // What is asked for is fixed when a stream is opened.
                () = changed(copying) => return Ended::Reopen,
            };
            self.status.source_recovered();
            let events = u32::try_from(batch.events.len()).unwrap_or(u32::MAX);
            let Spread { taken, invalidated } = self.spread(batch, course).await;
            course.count = course.count.saturating_add(events.max(1));
            match course.extent {
                _ if invalidated => {
                    course.read(Extent::Whole);
                    return Ended::Reopen;
                }
                // What was read before is not what is too large.
                Extent::Slim if taken > 0 => {
                    course.read(Extent::Whole);
                    return Ended::Reopen;
                }
                Extent::Single if course.count >= SEARCHED => {
                    course.read(Extent::Whole);
                    return Ended::Reopen;
                }
                _ => {}
            }
        }
    }

    /// Puts a batch into the lanes. Cancelled half-way it leaves spans unsettled, so the position stays
    /// before them.
    async fn spread(&self, batch: EventBatch, course: &mut Course) -> Spread {
        let EventBatch { events, frontier, token, read } = batch;
        let times = events.first().map(StreamEvent::time).zip(events.last().map(StreamEvent::time));
        let mut changes: Vec<Vec<Change>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let (mut taken, mut invalidated) = (0, false);
        for event in events {
            let token = event.token().clone();
            if !course.reach(&token) {
                if matches!(event, StreamEvent::Invalidated { .. }) {
                    course.closed(false);
                    invalidated = true;
                }
                continue;
            }
            taken += 1;
            let position = EventPosition::behind(token);
            match event {
                StreamEvent::Happened(seen) => {
                    if self.rules.following(&seen.namespace).is_empty() {
                        self.tracker.reach(position);
                        continue;
                    }
                    if seen.event.lacks.is_some() {
                        self.images.missed(&seen.namespace, seen.time);
                    }
                    self.images.met(&seen.namespace).await;
                    let span = self.tracker.open();
                    let change = self.change(*seen, course.extent, (read, span.claim()));
                    span.close(position);
                    let lane = self.lanes.index(&change.namespace, &change.key);
                    changes[lane].push(change);
                }
                StreamEvent::Ended { op, namespace, to, time, .. } => {
                    tracing::info!(
                        target = self.target,
                        op,
                        namespace = namespace.as_ref().map(tracing::field::display),
                        %time,
                        "a collection has ended or has another name: what was told stays told"
                    );
                    self.rule_status.event(EventKind::from_operation_type(op), 1);
                    self.images.ended(namespace.as_ref());
                    // Another collection has this name now.
                    if let Some(to) = &to {
                        self.images.ended(Some(to));
                        if !self.rules.following(to).is_empty() {
                            self.images.met(to).await;
                        }
                    }
                    self.tracker.reach(position);
                }
                StreamEvent::Invalidated { time, .. } => {
                    tracing::info!(
                        target = self.target, %time, "change stream invalidated, opening it behind"
                    );
                    self.rule_status.event(EventKind::Invalidate, 1);
                    self.images.ended(None);
                    self.tracker.reach(position);
                    invalidated = true;
                }
            }
        }
        for (lane, changes) in self.lanes.iter().zip(changes) {
            if !changes.is_empty() {
                lane.output_room().await;
                lane.happened(changes);
            }
        }
        self.lanes.advance(frontier);
        self.status.seen(times, std::time::SystemTime::now());
        // Behind an invalidate nothing but a new stream goes on.
        if let Some(token) = token.filter(|_| !invalidated)
            && course.reach(&token)
        {
            self.tracker.reach(EventPosition::behind(token));
        }
        Spread { taken, invalidated }
    }

    fn change(&self, seen: Seen, extent: Extent, (read, claim): (ClusterTime, Claim)) -> Change {
        let Seen { namespace, key, time, wall_time, mut event, .. } = seen;
        self.rule_status.event(event.op.into(), 1);
        if extent == Extent::Slim {
            event.lacks = Some(Lack::Rest);
        }
        Change {
            namespace,
            key,
            time,
            cause: Cause::Event(time),
            // What it brings may have been looked up behind the event.
            read: read.max(time),
            since: wall_time,
            deleted: false,
            phase: Phase::Changes,
            states: smallvec![(RULE, State::Happened(Arc::new(event)))],
            claims: smallvec![claim],
        }
    }
}
