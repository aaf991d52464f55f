//! MongoDB as far as the handover is concerned: documents with their history by cluster time, a
//! stream that shows events in order, reads that any member may answer, and a target.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bson::{RawBsonRef, rawdoc};
use smallvec::smallvec;

use super::super::*;
use crate::{
    change::{Cause, Document, Phase, RuleIndex, State},
    checkpoint::tracker::{Completion, Span, Tracker},
};

pub const KEYS: u64 = 6;
pub const LANES: usize = 2;
/// Each copies its share of the keys, as ranges do.
pub const CHUNKS: usize = 2;
/// Before the stream and the copy begin.
const STARTED: u64 = 10;

#[derive(Clone, Debug)]
pub enum Step {
    /// One transaction: all its events have one time. Versions differ, times do not.
    Write { keys: Vec<u64>, delete: bool },
    /// A reply of the stream, cut anywhere, also within a transaction.
    Stream { most: usize },
    /// The stream is lost, and opened again at its last frontier.
    Reopen,
    /// Keys are taken for a lookup.
    Take { lane: usize, most: usize },
    /// The server answers it, on a member that is so far behind (at most to what was asked for).
    Look { lane: usize, lag: u64 },
    /// Its answer arrives.
    Complete { lane: usize },
    /// A chunk opens its window.
    Open { chunk: usize },
    /// The next reply of its cursor: read on a member that lags, which answers `later`.
    Page { chunk: usize, lag: u64, later: u64 },
    /// Its oldest reply is offered, if the frontier has passed it.
    Offer { chunk: usize },
    /// Its cursor is lost.
    Break { chunk: usize },
    /// The target takes and applies so many.
    Deliver { lane: usize, most: usize },
    /// One of the batches that were applied is settled.
    Settle { which: proptest::sample::Index },
}

pub fn namespace() -> Namespace {
    Namespace::new("shop", "products")
}

pub fn key(id: u64) -> DocumentKey {
    DocumentKey::from_id(RawBsonRef::Int64(id.cast_signed())).expect("a key")
}

/// What a change carries in this world.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub id: u64,
    /// The time of the write that made the state.
    pub version: u64,
    pub deleted: bool,
    /// The time at which it was read.
    pub as_of: u64,
    pub phase: Phase,
}

pub fn seen(change: &Change) -> Seen {
    let RawBsonRef::Int64(id) = change.key.id() else { panic!("keys are numbers here") };
    let State::Present(document) = &change.states[0].1 else { panic!("states are present here") };
    let number =
        |name| document.raw().get_i64(name).expect("it was written by this model").cast_unsigned();
    Seen {
        id: id.cast_unsigned(),
        version: number("version"),
        deleted: document.raw().get_bool("deleted").expect("it was written by this model"),
        as_of: number("as_of"),
        phase: change.phase,
    }
}

fn make(seen: Seen, time: ClusterTime, claims: Claims) -> Change {
    let document = Document::from(rawdoc! {
        "version": seen.version.cast_signed(),
        "deleted": seen.deleted,
        "as_of": seen.as_of.cast_signed(),
    });
    Change {
        namespace: namespace(),
        key: key(seen.id),
        time,
        cause: Cause::Event(time),
        read: time,
        since: None,
        deleted: false,
        phase: seen.phase,
        states: smallvec![(RuleIndex(0), State::Present(document))],
        claims,
    }
}

/// A copied document.
pub fn change(id: u64, version: u64, claim: Claim) -> Change {
    let seen = Seen { id, version, deleted: false, as_of: version, phase: Phase::Copy };
    make(seen, ClusterTime(0), smallvec![claim])
}

/// A lookup that found every document in the state of one time.
pub fn answer(taken: Vec<Pending>, version: u64) -> Vec<Change> {
    let answer = |pending: Pending| {
        let RawBsonRef::Int64(id) = pending.subject.key.id() else { panic!("a number") };
        let id = id.cast_unsigned();
        let seen = Seen { id, version, deleted: false, as_of: version, phase: Phase::Changes };
        make(seen, pending.time, pending.claims)
    };
    taken.into_iter().map(answer).collect()
}

/// A state in a document's history: there, or deleted, from `version` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct At {
    version: u64,
    deleted: bool,
}

struct Lookup {
    taken: Vec<Pending>,
    after: u64,
    read: Option<(Vec<Seen>, u64)>,
}

struct Page {
    documents: Vec<Seen>,
    high: u64,
    last: bool,
}

#[derive(Default)]
struct Chunk {
    window: Option<(WindowId, u64)>,
    pages: VecDeque<Page>,
    /// The next key to be read, and the next to be offered.
    reads: u64,
    offered: u64,
    /// What the lanes took, or left out for a change that stands for it.
    handed_over: Vec<Seen>,
    completion: Completion,
    closed: bool,
    /// Changes that were appended and are not settled.
    unsettled: usize,
}

struct Delivered {
    change: Change,
    chunk: Option<usize>,
}

pub struct World {
    now: u64,
    history: BTreeMap<u64, Vec<At>>,
    /// Time and key of each event.
    log: Vec<(u64, u64)>,
    streamed: usize,
    frontier: u64,
    lanes: Vec<Lane>,
    tracker: Tracker<u64>,
    lookups: Vec<Option<Lookup>>,
    chunks: Vec<Chunk>,
    windows: u64,
    target: HashMap<u64, At>,
    delivered: Vec<Delivered>,
    /// Of each key, the newest time of a read whose delivery is settled.
    settled: HashMap<u64, u64>,
}

impl World {
    pub fn new(window_keys: usize) -> Self {
        let lane = || {
            let mut lane = Lane::new(1 << 20);
            lane.remembered = Remembered { each: window_keys * 80, all: window_keys * 120 };
            lane
        };
        let history = (0..KEYS).map(|id| (id, vec![At { version: id + 1, deleted: id % 3 == 2 }]));
        Self {
            now: STARTED,
            history: history.collect(),
            log: Vec::new(),
            streamed: 0,
            frontier: 0,
            lanes: (0..LANES).map(|_| lane()).collect(),
            tracker: Tracker::new(),
            lookups: (0..LANES).map(|_| None).collect(),
            chunks: (0..CHUNKS).map(|_| Chunk::default()).collect(),
            windows: 0,
            target: HashMap::new(),
            delivered: Vec::new(),
            settled: HashMap::new(),
        }
    }

    fn lane(id: u64) -> usize {
        usize::try_from(id % LANES as u64).expect("few")
    }

    fn at(&self, id: u64, time: u64) -> At {
        let history = &self.history[&id];
        *history.iter().rfind(|at| at.version <= time).expect("each key has a beginning")
    }

    fn read(&self, id: u64, time: u64, phase: Phase) -> Seen {
        let At { version, deleted } = self.at(id, time);
        Seen { id, version, deleted, as_of: time, phase }
    }

    /// A member that is behind, but not before what the read asked for.
    fn behind(&self, after: u64, lag: u64) -> u64 {
        self.now.saturating_sub(lag).max(after)
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Write { keys, delete } => self.write(&keys, delete),
            Step::Stream { most } => self.stream(most),
            Step::Reopen => {
                self.streamed = self.log.partition_point(|&(time, _)| time < self.frontier);
            }
            Step::Take { lane, most } => self.take(lane, most),
            Step::Look { lane, lag } => self.look(lane, lag),
            Step::Complete { lane } => self.complete(lane),
            Step::Open { chunk } => self.open(chunk),
            Step::Page { chunk, lag, later } => self.page(chunk, lag, later),
            Step::Offer { chunk } => self.offer(chunk),
            Step::Break { chunk } => self.close_window(chunk),
            Step::Deliver { lane, most } => self.deliver(lane, most),
            Step::Settle { which } => {
                if !self.delivered.is_empty() {
                    self.settle(which.index(self.delivered.len()));
                }
            }
        }
        self.check();
    }

    fn write(&mut self, keys: &[u64], delete: bool) {
        self.now += 1;
        for &id in keys {
            let history = self.history.get_mut(&id).expect("keys are known");
            let at = At { version: self.now, deleted: delete };
            match history.last_mut() {
                Some(last) if last.version == self.now => *last = at,
                _ => history.push(at),
            }
            self.log.push((self.now, id));
        }
    }

    fn stream(&mut self, most: usize) {
        let end = self.log.len().min(self.streamed + most);
        let events: Vec<(u64, u64)> = self.log[self.streamed..end].to_vec();
        let frontier = match events.last() {
            Some(&(time, _)) => time - 1,
            // An idle reply's token.
            None if end == self.log.len() => self.now,
            None => return,
        };
        self.streamed = end;
        let span: Span<u64> = self.tracker.open();
        let mut noted: Vec<Vec<Noted>> = (0..LANES).map(|_| Vec::new()).collect();
        for (time, id) in events {
            noted[Self::lane(id)].push(Noted {
                subject: Subject { namespace: namespace(), key: key(id) },
                time: ClusterTime(time),
                since: None,
                deleted: false,
                claim: span.claim(),
            });
        }
        for (lane, noted) in self.lanes.iter().zip(noted) {
            lane.changed(noted);
        }
        for lane in &self.lanes {
            lane.advance(ClusterTime(frontier));
        }
        self.frontier = self.frontier.max(frontier);
        span.close(frontier);
    }

    fn take(&mut self, lane: usize, most: usize) {
        if self.lookups[lane].is_some() {
            return;
        }
        let Some(taken) = futures_util::FutureExt::now_or_never(self.lanes[lane].take(most)) else {
            return;
        };
        let newest = taken.iter().map(|pending| pending.time).max().expect("never empty");
        let after = newest.max(self.lanes[lane].newest()).0;
        self.lookups[lane] = Some(Lookup { taken, after, read: None });
    }

    fn look(&mut self, lane: usize, lag: u64) {
        let Some(lookup) = &self.lookups[lane] else { return };
        if lookup.read.is_some() {
            return;
        }
        let time = self.behind(lookup.after, lag);
        let read = lookup
            .taken
            .iter()
            .map(|pending| {
                let RawBsonRef::Int64(id) = pending.subject.key.id() else { panic!("a number") };
                self.read(id.cast_unsigned(), time, Phase::Changes)
            })
            .collect();
        let lookup = self.lookups[lane].as_mut().expect("it was there");
        lookup.read = Some((read, time));
    }

    fn complete(&mut self, lane: usize) {
        let read = self.lookups[lane].as_ref().is_some_and(|lookup| lookup.read.is_some());
        let Some(lookup) = self.lookups[lane].take_if(|_| read) else { return };
        let (seen, as_of) = lookup.read.expect("it was read");
        let changes = lookup
            .taken
            .into_iter()
            .zip(seen)
            .map(|(pending, seen)| make(seen, pending.time, pending.claims))
            .collect();
        self.lanes[lane].complete(changes, Vec::new(), ClusterTime(as_of));
    }

    fn open(&mut self, chunk: usize) {
        if self.chunks[chunk].window.is_some() || self.chunks[chunk].closed {
            return;
        }
        let id = WindowId(self.windows);
        self.windows += 1;
        let low = self.lanes.iter().map(|lane| lane.open_window(id, &namespace())).max();
        let low = low.expect("there are lanes").0.max(STARTED);
        let chunk = &mut self.chunks[chunk];
        chunk.window = Some((id, low));
        chunk.reads = chunk.offered;
    }

    fn close_window(&mut self, chunk: usize) {
        let Some((id, _)) = self.chunks[chunk].window.take() else { return };
        self.chunks[chunk].pages.clear();
        self.lanes.iter().for_each(|lane| lane.close_window(id));
    }

    /// Two keys a reply; the chunk's keys are every `CHUNKS`th.
    fn page(&mut self, chunk: usize, lag: u64, later: u64) {
        let Some((_, low)) = self.chunks[chunk].window else { return };
        let share = KEYS / CHUNKS as u64;
        let from = self.chunks[chunk].reads;
        if from >= share {
            return;
        }
        let to = share.min(from + 2);
        let time = self.behind(low, lag);
        let documents = (from..to)
            .map(|index| chunk as u64 * share + index)
            .map(|id| self.read(id, time, Phase::Copy))
            .filter(|seen| !seen.deleted)
            .collect();
        let high = self.now.min(time + later).max(time);
        let chunk = &mut self.chunks[chunk];
        chunk.reads = to;
        chunk.pages.push_back(Page { documents, high, last: to == share });
    }

    fn offer(&mut self, index: usize) {
        let frontier = self.frontier;
        let chunk = &mut self.chunks[index];
        let Some((window, _)) = chunk.window else { return };
        let Some(page) = chunk.pages.pop_front_if(|page| page.high <= frontier) else { return };
        let mut changes: Vec<Vec<Change>> = (0..LANES).map(|_| Vec::new()).collect();
        for &seen in &page.documents {
            let claim = chunk.completion.claim();
            changes[Self::lane(seen.id)].push(make(seen, ClusterTime(STARTED), smallvec![claim]));
        }
        let mut overflow = false;
        for (lane, changes) in self.lanes.iter().zip(changes) {
            let count = changes.len();
            match lane.offer(window, changes) {
                Ok(dropped) => chunk.unsettled += count - dropped,
                Err(Overflow) => overflow = true,
            }
        }
        if overflow {
            self.close_window(index);
            return;
        }
        chunk.offered += 2;
        chunk.handed_over.extend(page.documents);
        if page.last {
            chunk.completion.close();
            chunk.closed = true;
            self.close_window(index);
        }
    }

    fn deliver(&mut self, lane: usize, most: usize) {
        let share = KEYS / CHUNKS as u64;
        for change in self.lanes[lane].try_output(most, usize::MAX) {
            if change.states.is_empty() {
                self.delivered.push(Delivered { change, chunk: None });
                continue;
            }
            let seen = seen(&change);
            let at = At { version: seen.version, deleted: seen.deleted };
            if let Some(before) = self.target.insert(seen.id, at) {
                assert!(
                    before.version <= at.version,
                    "document {} goes back from {before:?} to {seen:?}",
                    seen.id
                );
            }
            let chunk =
                (seen.phase == Phase::Copy).then(|| usize::try_from(seen.id / share).expect("few"));
            self.delivered.push(Delivered { change, chunk });
        }
    }

    fn settle(&mut self, index: usize) {
        let Delivered { change, chunk } = self.delivered.swap_remove(index);
        if let Some(chunk) = chunk {
            self.chunks[chunk].unsettled -= 1;
        }
        if !change.states.is_empty() {
            let seen = seen(&change);
            let settled = self.settled.entry(seen.id).or_default();
            *settled = seen.as_of.max(*settled);
        }
        Claim::settle_all(change.claims);
    }

    /// What must be so at any time.
    fn check(&self) {
        if let Some(position) = self.tracker.settled() {
            for &(_, id) in self.log.iter().take_while(|&&(time, _)| time <= position) {
                let event = self.log.iter().filter(|event| event.1 == id && event.0 <= position);
                let newest = event.map(|event| event.0).max().unwrap_or(0);
                let settled = self.settled.get(&id).copied().unwrap_or(0);
                assert!(
                    settled >= newest,
                    "the position {position} has passed the event of document {id} at {newest}, \
                     settled up to {settled}"
                );
            }
        }
        for chunk in self.chunks.iter().filter(|chunk| chunk.completion.is_done()) {
            assert!(
                chunk.closed && chunk.unsettled == 0,
                "a chunk is done when all that it handed over is settled, and not before"
            );
            for read in &chunk.handed_over {
                let held = self.target.get(&read.id).map_or(0, |held| held.version);
                assert!(
                    held >= read.version,
                    "a chunk is done before what stands for {read:?} went to the target"
                );
            }
        }
    }

    /// Everything goes on until nothing is left to do.
    pub fn drain(&mut self) {
        for round in 0..100 {
            self.stream(usize::MAX - self.streamed);
            self.stream(1);
            for lane in 0..LANES {
                self.take(lane, 100);
                self.look(lane, 0);
                self.complete(lane);
                self.deliver(lane, 100);
            }
            for chunk in 0..CHUNKS {
                self.open(chunk);
                self.page(chunk, 0, 0);
                self.offer(chunk);
            }
            while !self.delivered.is_empty() {
                self.settle(self.delivered.len() / 2);
            }
            self.check();
            if round > 2 && self.chunks.iter().all(|chunk| chunk.closed) && self.tracker.is_idle() {
                return;
            }
        }
        panic!("it never comes to rest: a claim was lost, or a chunk can't end");
    }

    pub fn check_end(&self) {
        let there = |at: At| (!at.deleted).then_some(at.version);
        for id in 0..KEYS {
            let source = there(self.at(id, self.now));
            let target = self.target.get(&id).copied().and_then(there);
            assert_eq!(target, source, "document {id}");
        }
        assert_eq!(self.tracker.settled(), Some(self.now), "the position is at the end");
        assert_eq!(self.tracker.outstanding(), 0);
        for chunk in &self.chunks {
            assert!(chunk.completion.is_done());
        }
        for lane in &self.lanes {
            assert_eq!(lane.pending_bytes(), 0);
            assert!(lane.front().windows.is_empty(), "every window is closed");
        }
    }
}
