//! The changes of one target: one task reads the stream and spreads its keys over the lanes, and one
//! task a lane looks the documents up.

use std::{collections::HashMap, fmt, hash::BuildHasher, sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{mpsc, watch};

use crate::{
    change::{
        Cause, Change, ClusterTime, DocumentKey, Hashing, Namespace, Phase, RuleIndex, State,
        States, event::Op, key::KeyShape,
    },
    checkpoint::tracker::{Claim, Completion, Tracker},
    delivery::{
        Halt,
        lane::{Lane, Noted, Pending, Subject},
    },
    rules::model::{OnDelete, OnDrop, OnHistoryLost},
    source::{
        budget::Budget,
        error::Remedy,
        lookup::Read,
        stream::{Batch, ChangeStream, Event, Start},
    },
    status::{EventKind, RuleStatus, TargetStatus},
};

use super::{
    Error,
    aligning::Defined,
    demand::Demand,
    newcomers::Newcomers,
    reading::{Fetched, Reading, SourceBackoff},
    rule_set::RuleSet,
};

/// How long an idle stream's reply is waited for while a copy runs: each of the copy's replies waits
/// for the stream to have passed its time.
pub const COPY_AWAIT: Duration = Duration::from_millis(20);
/// Bytes of documents that one lookup is asked for, about.
const LOOKUP_BYTES: usize = 2 << 20;
/// Keys in one lookup, at the most.
const LOOKUP_KEYS: usize = 2_000;
/// Namespaces whose lookups of one lane are under way at once.
const LOOKUPS: usize = 4;

/// The lanes of a target, and which key belongs to which.
pub struct Lanes {
    lanes: Vec<Arc<Lane>>,
    hasher: Hashing,
    /// Nothing that is read for a change is older than this, nor what is written told to be: a sweep
    /// removes what is older than the copies' start.
    floor: ClusterTime,
    /// Every event up to here has been noted in its lane.
    frontier: watch::Sender<ClusterTime>,
}

impl Lanes {
    /// So many lanes, whose waiting keys may take `pending` bytes together. `floor` is the newest
    /// start of a copy.
    pub fn new(count: usize, pending: usize, floor: ClusterTime) -> Self {
        let lanes: Vec<_> = (0..count).map(|_| Arc::new(Lane::new(pending / count))).collect();
        lanes.iter().for_each(|lane| lane.raise(floor));
        Self::over(lanes, floor)
    }

    /// So many lanes for events, of which none stands for another.
    pub fn of_events(count: usize, pending: usize) -> Self {
        let lanes = (0..count).map(|_| Arc::new(Lane::new(pending / count))).collect();
        Self::over(lanes, ClusterTime::ZERO)
    }

    fn over(lanes: Vec<Arc<Lane>>, floor: ClusterTime) -> Self {
        let (frontier, _) = watch::channel(ClusterTime::ZERO);
        Self { lanes, hasher: Hashing::default(), floor, frontier }
    }

    /// Every write for a change bears this time or a later one.
    pub fn floor(&self) -> ClusterTime {
        self.floor
    }

    /// Has the present state of documents read and delivered, as if they had changed at the time
    /// beside each. Waits where too many keys wait already. Each holds a claim of `completion`.
    pub async fn ask(
        &self,
        namespace: &Namespace,
        asked: impl IntoIterator<Item = Asked>,
        completion: &Completion,
    ) {
        let mut of_lanes: Vec<Vec<Asked>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for asked in asked {
            of_lanes[self.index(namespace, &asked.key)].push(asked);
        }
        // A claim is made when nothing is waited for any more: who drops this has lost none.
        let note = |Asked { key, time, deleted }| Noted {
            subject: Subject { namespace: namespace.clone(), key },
            time: time.max(self.floor),
            since: None,
            deleted,
            claim: completion.claim(),
        };
        for (lane, asked) in self.lanes.iter().zip(of_lanes) {
            if !asked.is_empty() {
                lane.room().await;
                lane.asked(asked.into_iter().map(note));
            }
        }
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.iter()
    }

    /// The lane of a document.
    ///
    /// The `_id` alone decides: a sharded document whose shard key changes is deleted under one
    /// document key and inserted under another at one cluster time, and the two must not overtake
    /// one another on their way to the same place.
    pub fn index(&self, namespace: &Namespace, key: &DocumentKey) -> usize {
        let hash = match key.is_compound() {
            true => DocumentKey::from_id(key.id()).map(|id| self.hasher.hash_one((namespace, id))),
            false => Ok(self.hasher.hash_one((namespace, key))),
        };
        // The key was read when it was made, so its `_id` can be read again.
        let hash = hash.unwrap_or_default();
        usize::try_from(hash % self.lanes.len() as u64).expect("less than the number of lanes")
    }

    /// To wait for the frontier.
    pub fn frontier(&self) -> watch::Receiver<ClusterTime> {
        self.frontier.subscribe()
    }

    /// Says that every event up to `frontier` has been noted in its lane, or was settled before.
    pub fn advance(&self, frontier: ClusterTime) {
        for lane in &self.lanes {
            lane.advance(frontier);
        }
        self.frontier.send_if_modified(|known| {
            let moved = frontier > *known;
            *known = frontier.max(*known);
            moved
        });
    }
}

/// A document whose present state is to be delivered.
pub struct Asked {
    /// Which.
    pub key: DocumentKey,
    /// What the target holds of it is not newer.
    pub time: ClusterTime,
    /// Whether one that is not there leaves the target, whatever `on_drop` says.
    pub deleted: bool,
}

/// Reads one target's change stream into its lanes.
pub struct Following {
    /// The source.
    pub reading: Arc<Reading>,
    /// The target's rules.
    pub rules: Arc<RuleSet>,
    /// Where the keys go.
    pub lanes: Arc<Lanes>,
    /// What holds the position back.
    pub tracker: Tracker<ClusterTime>,
    /// The target's name.
    pub target: String,
    /// Its status.
    pub status: Arc<TargetStatus>,
    /// Of each rule, by its index.
    pub rule_status: Vec<Arc<RuleStatus>>,
    /// What has a plan, and what gets one.
    pub newcomers: Newcomers,
    /// Where definitions go, where the target follows them.
    pub defined: Option<mpsc::Sender<Defined>>,
}

/// Why a stream is read no further.
enum Ended {
    /// It has to be opened in another way.
    Reopen,
    /// It fails.
    Failed(crate::source::error::Error),
    /// Something has to be copied again first.
    Demand(Demand),
}

impl Following {
    /// Follows from `start` until it is stopped, or something has to be copied again: what is then
    /// to be done has not been done, and the position stays before it. `copying` says whether a copy
    /// waits for the stream's frontier.
    ///
    /// # Errors
    /// `HistoryLost`, and `Refused` where the source has no change stream for these rules.
    pub async fn run(
        mut self,
        start: ClusterTime,
        mut copying: watch::Receiver<bool>,
    ) -> Result<Option<Demand>, Error> {
        let rules = self.rules.clone();
        let (selectors, scope) = (rules.followed(), rules.scope());
        let definitions = self.defined.is_some();
        tracing::info!(target = self.target, ?scope, from = %start, "following changes");
        let mut reached = start;
        let mut from = Start::At(start);
        let mut backoff = SourceBackoff::default();
        let stop = self.reading.stop.clone();
        loop {
            let copies = *copying.borrow_and_update();
            let max_await = copies.then_some(COPY_AWAIT);
            let source = self.reading.source.patient(backoff.patience);
            let opened = tokio::select! {
                opened = source.watch(&scope, &selectors, &from, max_await, definitions) => opened,
                () = stop.cancelled() => return Ok(None),
            };
            let before = reached;
            let ended = match opened {
                Ok(mut stream) => {
                    let read = self.read(&mut stream, &mut reached, &mut from, &mut copying);
                    tokio::select! {
                        ended = read => ended?,
                        () = stop.cancelled() => return Ok(None),
                    }
                }
                Err(error) => Ended::Failed(error),
            };
            if reached > before {
                backoff.reset();
            }
            let error = match ended {
                Ended::Reopen => continue,
                Ended::Demand(demand) => return Ok(Some(demand)),
                Ended::Failed(error) => error,
            };
            match error.remedy() {
                Remedy::HistoryLost => {
                    let why = error.to_string();
                    let why = Lost::Oplog(why);
                    return history_lost(&self.rules, &self.target, reached, &why).map(Some);
                }
                Remedy::Retry => {
                    if self.reading.hold_back("change stream", &error, &mut backoff).await.is_err()
                    {
                        return Ok(None);
                    }
                }
                Remedy::Reject => {
                    return Err(Error::Refused(format!(
                        "the change stream of target {} can't be opened: {error}",
                        self.target
                    )));
                }
            }
        }
    }

    /// Reads until the stream can't go on as it is.
    async fn read(
        &mut self,
        stream: &mut ChangeStream,
        reached: &mut ClusterTime,
        from: &mut Start,
        copying: &mut watch::Receiver<bool>,
    ) -> Result<Ended, Error> {
        loop {
            let mut batch = tokio::select! {
                batch = stream.next() => match batch {
                    Ok(batch) => batch,
                    Err(error) => return Ok(Ended::Failed(error)),
                },
                // The wait for an idle reply is fixed when a stream is opened.
                () = changed(copying) => return Ok(Ended::Reopen),
            };
            let ended = self.ended(&batch.events);
            if let Some((first, _)) = &ended {
                // Once they are copied again, the stream is read again from before them.
                batch.frontier = batch.frontier.min(batch.events[*first].time().before());
                batch.events.truncate(*first);
            }
            self.newcomers.meet(&batch.events).await?;
            if let Some((_, demand)) = ended {
                self.spread(batch).await;
                return Ok(Ended::Demand(demand));
            }
            let invalidated = match batch.events.last() {
                Some(Event::Invalidated { token, .. }) => Some(token.clone()),
                _ => None,
            };
            self.status.source_recovered();
            *reached = (*reached).max(batch.frontier);
            self.spread(batch).await;
            match invalidated {
                Some(token) => {
                    *from = Start::After(token);
                    return Ok(Ended::Reopen);
                }
                None => *from = Start::At(*reached),
            }
        }
    }

    /// What has to be copied again because of events that end or replace a collection, all of the
    /// batch together, and the first of them.
    ///
    /// A copy that was planned after such an event has seen what it left.
    fn ended(&self, events: &[Event]) -> Option<(usize, Demand)> {
        let mut demand = Demand::default();
        let mut first = None;
        for (index, event) in events.iter().enumerate() {
            // Before a database is dropped, each of its collections is.
            let Event::Ended { op, namespace, to, time } = event else { continue };
            let gone = namespace.iter().map(|namespace| (namespace, true));
            let replaced = to.iter().map(|namespace| (namespace, false));
            for (namespace, gone) in gone.chain(replaced) {
                for &rule in &*self.rules.following(namespace) {
                    self.rule_status[usize::from(rule.0)]
                        .event(EventKind::from_operation_type(op), 1);
                    let planned = self.newcomers.planned(&(rule, namespace.clone()));
                    if planned.is_some_and(|planned| planned >= *time) {
                        continue;
                    }
                    let rule = self.rules.get(rule).rule();
                    let on_drop = if gone { rule.on_drop } else { OnDrop::Remove };
                    tracing::info!(
                        target = self.target,
                        rule = rule.name,
                        op,
                        %namespace,
                        %time,
                        keep = on_drop == OnDrop::Keep,
                        "a collection has ended or was replaced: it is copied again as it is now"
                    );
                    demand.part(&rule.name, namespace, on_drop);
                    demand.seen = demand.seen.max(*time);
                    first.get_or_insert(index);
                }
            }
        }
        first.map(|first| (first, demand))
    }

    /// Notes a batch in the lanes. Cancelled half-way it leaves its span open, so the position stays
    /// before it.
    async fn spread(&self, batch: Batch) {
        let span = self.tracker.open();
        let mut noted: Vec<Vec<Noted>> = self.lanes.iter().map(|_| Vec::new()).collect();
        let times = batch.events.first().map(Event::time).zip(batch.events.last().map(Event::time));
        for event in batch.events {
            match event {
                Event::Changed { namespace, key, time, wall_time, op } => {
                    let rules = self.rules.following(&namespace);
                    if rules.is_empty() {
                        continue;
                    }
                    for rule in &*rules {
                        self.rule_status[usize::from(rule.0)].event(op.into(), 1);
                    }
                    let lane = self.lanes.index(&namespace, &key);
                    noted[lane].push(Noted {
                        subject: Subject { namespace, key },
                        time,
                        since: wall_time,
                        deleted: op == Op::Delete,
                        claim: span.claim(),
                    });
                }
                Event::Defined { op, namespace, .. } => {
                    let rules = self.rules.following(&namespace);
                    let Some(defined) = self.defined.as_ref().filter(|_| !rules.is_empty()) else {
                        continue;
                    };
                    for rule in &*rules {
                        self.rule_status[usize::from(rule.0)]
                            .event(EventKind::from_operation_type(op), 1);
                    }
                    // It ends with this pipeline; then nothing settles the claim.
                    let _ = defined.send(Defined { namespace, claim: span.claim() }).await;
                }
                // What had to be done about it has been done: `ended`.
                Event::Ended { .. } => {}
                Event::Invalidated { time, .. } => {
                    tracing::info!(target = self.target, %time, "change stream invalidated, opening it behind");
                }
            }
        }
        for (lane, noted) in self.lanes.iter().zip(noted) {
            if !noted.is_empty() {
                lane.room().await;
                lane.changed(noted);
            }
        }
        self.lanes.advance(batch.frontier);
        self.status.seen(times, std::time::SystemTime::now());
        span.close(batch.frontier);
    }
}

/// Why a position is of no more use.
#[derive(PartialEq, Eq, Debug)]
pub enum Lost {
    /// The oplog no longer reaches back to it, in the server's words.
    Oplog(String),
    /// It is one of another replica set or cluster.
    AnotherSource,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oplog(words) => f.write_str(words),
            Self::AnotherSource => {
                f.write_str("the source is another replica set or cluster than before")
            }
        }
    }
}

/// What the rules want done about a position that is of no more use.
///
/// # Errors
/// `HistoryLost`, where one of them says to stop.
pub fn history_lost(
    rules: &RuleSet,
    target: &str,
    position: ClusterTime,
    why: &Lost,
) -> Result<Demand, Error> {
    let followed = || rules.iter().map(|(_, rule)| rule).filter(|rule| rule.follows());
    if followed().any(|rule| rule.rule().on_history_lost == OnHistoryLost::Stop) {
        let another_source = *why == Lost::AnotherSource;
        return Err(Error::HistoryLost { target: target.to_owned(), position, another_source });
    }
    let mut demand = Demand { lost: true, ..Demand::default() };
    for rule in followed() {
        let rule = rule.rule();
        let again = rule.on_history_lost == OnHistoryLost::Resync;
        tracing::warn!(
            target,
            rule = rule.name,
            %position,
            %why,
            "history lost: {}",
            match again {
                true => "the rule is copied again, and what is gone is removed",
                false => "the rule goes on from now, and what it missed stays missing",
            }
        );
        if again {
            demand.rules.insert(rule.name.clone());
        }
    }
    Ok(demand)
}

impl From<Op> for EventKind {
    fn from(operation: Op) -> Self {
        match operation {
            Op::Insert => Self::Insert,
            Op::Update => Self::Update,
            Op::Replace => Self::Replace,
            Op::Delete => Self::Delete,
        }
    }
}

/// Waits for a change; for ever where none can come any more.
pub async fn changed(copying: &mut watch::Receiver<bool>) {
    if copying.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Answers one lane's pending keys with the present state of their documents.
pub struct Answering {
    /// The source.
    pub reading: Arc<Reading>,
    /// The target's rules.
    pub rules: Arc<RuleSet>,
    /// Which lane.
    pub lane: Arc<Lane>,
    /// Every change bears this time or a later one. The lane was raised to it, so no read is older.
    pub floor: ClusterTime,
    /// Pays for what is read.
    pub budget: Arc<Budget>,
}

impl Answering {
    /// Works until it is stopped.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn run(self) -> Result<(), Halt> {
        let stop = self.reading.stop.clone();
        // The documents may be of any size; a few tell.
        let mut most = 32;
        loop {
            let taken = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                taken = async {
                    self.lane.output_room().await;
                    self.budget.available().await;
                    self.lane.take(most).await
                } => taken,
            };
            let (changes, unread, as_of) = match self.answer(taken).await {
                Err(Halt::Stopped) => return Ok(()),
                answered => answered?,
            };
            most = next_size(&changes, most);
            self.lane.complete(changes, unread, as_of);
        }
    }

    /// The changes, and the keys that were not read, both in the order in which they were taken; and
    /// a time that no state in them is newer than.
    async fn answer(
        &self,
        taken: Vec<Pending>,
    ) -> Result<(Vec<Change>, Vec<Pending>, ClusterTime), Halt> {
        let mut groups: HashMap<Namespace, Vec<(usize, Pending)>> = HashMap::new();
        let count = taken.len();
        for (index, pending) in taken.into_iter().enumerate() {
            groups.entry(pending.subject.namespace.clone()).or_default().push((index, pending));
        }
        let mut answers: Vec<Vec<Answered>> = (0..count).map(|_| Vec::new()).collect();
        let mut answered = stream::iter(groups)
            .map(|(namespace, group)| self.answer_namespace(namespace, group))
            .buffer_unordered(LOOKUPS);
        let mut as_of = ClusterTime::ZERO;
        while let Some((group, read)) = answered.try_next().await? {
            as_of = as_of.max(read);
            for (index, answered) in group {
                answers[index].push(answered);
            }
        }
        let (mut changes, mut unread) = (Vec::with_capacity(count), Vec::new());
        for answered in answers.into_iter().flatten() {
            match answered {
                Answered::Change(change) => changes.push(change),
                Answered::Unread(pending) => unread.push(pending),
            }
        }
        Ok((changes, unread, as_of))
    }

    async fn answer_namespace(
        &self,
        namespace: Namespace,
        group: Vec<(usize, Pending)>,
    ) -> Result<(Vec<(usize, Answered)>, ClusterTime), Halt> {
        let least = self.lane.asked_for().max(self.floor);
        // Not before what the lane has put out: a member that lags would take a document back.
        let newest = group.iter().map(|(_, pending)| pending.time).max();
        let after = self.lane.newest().max(newest.unwrap_or_default());
        let keys: Vec<DocumentKey> =
            group.iter().map(|(_, pending)| pending.subject.key.clone()).collect();
        let deleted: Vec<bool> = group.iter().map(|(_, pending)| pending.deleted).collect();
        let rules = self.rules.following(&namespace);
        // `None` where a rule's read did not reach the key.
        let mut states: Vec<Option<States>> =
            keys.iter().map(|_| Some(States::with_capacity(rules.len()))).collect();
        let mut as_of = after;
        for &rule in &*rules {
            let (answers, read) = self.states(rule, &namespace, &keys, after).await?;
            as_of = as_of.max(read);
            let keeps = self.rules.get(rule).rule().on_drop == OnDrop::Keep;
            for ((states, state), &deleted) in states.iter_mut().zip(answers).zip(&deleted) {
                match (states.as_mut(), state) {
                    (Some(states), Some(State::Gone)) if keeps && !deleted => {
                        states.push((rule, State::Dropped));
                    }
                    (Some(states), Some(state)) => states.push((rule, state)),
                    _ => *states = None,
                }
            }
        }
        let (moved, read) = self.moved(&namespace, &keys, &states, &rules, after).await?;
        as_of = as_of.max(read);
        let mut answered = Vec::with_capacity(group.len() + moved.len());
        let mut moved: HashMap<usize, Moved> = moved.into_iter().collect();
        for (at, ((index, pending), states)) in group.into_iter().zip(states).enumerate() {
            let (states, behind) = match (states, moved.remove(&at)) {
                (Some(states), None) => (states, None),
                (Some(states), Some(Moved::To(key, found))) => (states, Some((key, found))),
                (None, _) | (_, Some(Moved::NotRead)) => {
                    answered.push((index, Answered::Unread(pending)));
                    continue;
                }
            };
            let change = |key, states, claims| {
                Answered::Change(Change {
                    namespace: namespace.clone(),
                    key,
                    time: pending.time.max(least),
                    // A copy that was planned since raises the least, and not this.
                    cause: Cause::Event(pending.time),
                    read: as_of,
                    since: pending.since,
                    deleted: pending.deleted,
                    phase: Phase::Changes,
                    states,
                    claims,
                })
            };
            // Behind the removal, which may be of the same place. The event is not done before it is.
            let behind = behind.map(|(key, states)| {
                let claims = pending.claims.iter().map(Claim::share).collect();
                change(key, states, claims)
            });
            answered.push((index, change(pending.subject.key, states, pending.claims)));
            answered.extend(behind.map(|change| (index, change)));
        }
        Ok((answered, as_of))
    }

    /// On a sharded collection a document whose shard key changed is deleted under its old document
    /// key and inserted under its new one, in either order. A key that is gone is therefore looked
    /// for under its `_id` alone, and what is there is delivered behind the removal, under its new key.
    ///
    /// No state in it is newer than the time.
    async fn moved(
        &self,
        namespace: &Namespace,
        keys: &[DocumentKey],
        states: &[Option<States>],
        rules: &[RuleIndex],
        after: ClusterTime,
    ) -> Result<(Vec<(usize, Moved)>, ClusterTime), Halt> {
        let gone = |states: &States| {
            let gone =
                |state: &State| matches!(state, State::Gone | State::Dropped | State::Unmatched);
            states.iter().all(|(_, state)| gone(state))
        };
        let (mut moved, mut as_of) = (Vec::new(), after);
        for (at, key) in keys.iter().enumerate() {
            if !key.is_compound() || !states[at].as_ref().is_some_and(gone) {
                continue;
            }
            let Ok(id) = DocumentKey::from_id(key.id()) else { continue };
            let (mut found, mut is_read) = (States::new(), true);
            for &rule in rules {
                let one = std::slice::from_ref(&id);
                let (answer, read) = self.states(rule, namespace, one, after).await?;
                as_of = as_of.max(read);
                match answer.into_iter().next().flatten() {
                    None => is_read = false,
                    Some(state @ (State::Present(_) | State::Failed(_))) => {
                        found.push((rule, state));
                    }
                    Some(_) => {}
                }
            }
            if !is_read {
                moved.push((at, Moved::NotRead));
            } else if !found.is_empty() {
                match self.key_now(namespace, key, &id, after).await? {
                    Fetched::Present(document) => {
                        let now = shape_of(key).key_of(&document).unwrap_or(id);
                        moved.push((at, Moved::To(now, found)));
                    }
                    // It has been deleted since, and that will be told of the key that it had.
                    Fetched::Absent => {}
                    Fetched::Unread => moved.push((at, Moved::NotRead)),
                    Fetched::Failed(words) => {
                        let failed = |(rule, _)| (rule, State::Failed(words.clone()));
                        let found = found.into_iter().map(failed).collect();
                        moved.push((at, Moved::To(id, found)));
                    }
                }
            }
        }
        Ok((moved, as_of))
    }

    /// What the document key of a document is made of: `id` is its `_id`, and `before` a document key that
    /// it had.
    async fn key_now(
        &self,
        namespace: &Namespace,
        before: &DocumentKey,
        id: &DocumentKey,
        after: ClusterTime,
    ) -> Result<Fetched, Halt> {
        let read = Read::keys(shape_of(before).paths());
        let one = std::slice::from_ref(id);
        let answer = self.reading.fetch(namespace, &read, one, after, &self.budget).await?;
        Ok(answer.fetched.into_iter().next().unwrap_or(Fetched::Unread))
    }

    async fn states(
        &self,
        rule: RuleIndex,
        namespace: &Namespace,
        keys: &[DocumentKey],
        after: ClusterTime,
    ) -> Result<(Vec<Option<State>>, ClusterTime), Halt> {
        let rule = self.rules.get(rule);
        let answer = self.reading.fetch(namespace, &rule.read, keys, after, &self.budget).await?;
        let mut states: Vec<Option<State>> = answer
            .fetched
            .into_iter()
            .map(|fetched| match fetched {
                Fetched::Present(document) => Some(State::Present(document)),
                Fetched::Absent => Some(State::Gone),
                Fetched::Failed(words) => Some(State::Failed(words)),
                Fetched::Unread => None,
            })
            .collect();
        let mut as_of = answer.operation_time;
        let rule = rule.rule();
        if rule.on_delete == OnDelete::Keep || rule.on_drop == OnDrop::Keep {
            as_of = as_of.max(self.tell_apart(namespace, keys, after, &mut states).await?);
        }
        Ok((states, as_of))
    }

    /// A document that the rule's read did not return was deleted, or no longer matches; where the
    /// rule treats the two differently, a read by `_id` alone tells which: one whose shard key has changed
    /// is still there.
    async fn tell_apart(
        &self,
        namespace: &Namespace,
        keys: &[DocumentKey],
        after: ClusterTime,
        states: &mut [Option<State>],
    ) -> Result<ClusterTime, Halt> {
        let gone: Vec<usize> =
            (0..keys.len()).filter(|&index| matches!(states[index], Some(State::Gone))).collect();
        let by_id = |key: &DocumentKey| DocumentKey::from_id(key.id()).unwrap_or(key.clone());
        let missing: Vec<DocumentKey> = gone.iter().map(|&index| by_id(&keys[index])).collect();
        let read = Read::existence();
        let answer = self.reading.fetch(namespace, &read, &missing, after, &self.budget).await?;
        for (index, fetched) in gone.into_iter().zip(answer.fetched) {
            match fetched {
                Fetched::Present(_) => states[index] = Some(State::Unmatched),
                Fetched::Absent => {}
                Fetched::Failed(words) => states[index] = Some(State::Failed(words)),
                Fetched::Unread => states[index] = None,
            }
        }
        Ok(answer.operation_time)
    }
}

/// What a document key is made of that looks like this one.
fn shape_of(key: &DocumentKey) -> KeyShape {
    let names = key.raw().iter_elements().flatten();
    KeyShape::sharded(names.map(|field| field.key().as_str().to_owned()))
}

/// What a document has become whose key is gone.
enum Moved {
    /// It is there under another key.
    To(DocumentKey, States),
    /// It could not be read: to be asked again.
    NotRead,
}

/// What became of a key that was taken.
enum Answered {
    Change(Change),
    Unread(Pending),
}

/// How many keys the next lookup takes: about [`LOOKUP_BYTES`] of documents like the last ones.
fn next_size(changes: &[Change], most: usize) -> usize {
    let keys = changes.len();
    let bytes: usize = changes.iter().map(Change::size).sum();
    if keys == 0 || bytes == 0 {
        return most;
    }
    (LOOKUP_BYTES * keys / bytes).clamp(1, (most * 2).min(LOOKUP_KEYS))
}
