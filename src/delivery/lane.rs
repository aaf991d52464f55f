//! A lane: the order of one share of the keys, from the change stream and the copy to the target.
//!
//! Keys are spread over the lanes of a target by hash. Within a lane everything is in order, so two
//! changes of one document never overtake one another; between lanes there is no order.
//!
//! ```text
//!  stream ──changed──▶ pending ──take──▶ in flight ──complete──▶ ┐
//!                                        (lookup)               ├─▶ output ──▶ writer
//!  copy ──offer (keys that changed meanwhile are dropped)──────▶ ┘
//! ```
//!
//! This file is the whole of the handover between copy and changes. It is a state machine behind
//! one lock that is never held across a wait; it knows no MongoDB and no target.
//!
//! # Why a copied document never overtakes a change
//! A chunk opens a window before it reads: the lane answers with `low`, the newest time that it
//! knows of, and from then on remembers each key that the stream shows in that namespace. The chunk
//! is read after `low`, so what changed up to `low` is older than what it reads. A reply is offered
//! once the lane's frontier has passed the time at which the member answered (`high`): then each key
//! that changed between `low` and `high` is in the window, or still waits for its lookup. Those are
//! dropped, since their lookup reads a state at least as new. The rest is appended to the output
//! under the same lock under which later changes will be noted, and so stands before them.
//!
//! A lookup reads the present, which may be newer than the event that asked for it, and newer than
//! `high`. So a key whose lookup ends while a window is open counts as changed in it, and `low` is
//! never before what an ended lookup has read: not the frontier, which lags behind the events that
//! have been noted already, let alone behind their lookups.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use smallvec::smallvec;
use tokio::sync::Notify;

use crate::{
    change::{Change, ClusterTime, DocumentKey, KeyMap, KeySet, Namespace, Phase, State},
    checkpoint::tracker::{Claim, Claims},
};

/// Bytes of keys that a window remembers, at the most; a chunk that meets more is read anew from
/// where it is.
const WINDOW_BYTES: usize = 4 << 20;
/// The same for all open windows of a lane together.
const WINDOWS_BYTES: usize = 32 << 20;
/// What a remembered key costs beside its own bytes.
const BESIDE_SEEN: usize = 32;
/// What a pending key costs beside its own bytes.
const BESIDE: usize = 256;

/// One document of one namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Subject {
    /// Where.
    pub namespace: Namespace,
    /// Which.
    pub key: DocumentKey,
}

impl Subject {
    /// Whether both are one document, which has another key once its shard key has changed.
    pub fn is_same_document(&self, other: &Self) -> bool {
        let id = |it: &Self| DocumentKey::from_id(it.key.id()).ok();
        let shards = || self.key.is_compound() || other.key.is_compound();
        self.namespace == other.namespace
            && (self.key == other.key || shards() && id(self) == id(other))
    }
}

/// An event of the stream, as far as a lane is concerned.
#[derive(Debug)]
pub struct Noted {
    /// Which document changed.
    pub subject: Subject,
    /// The event's cluster time.
    pub time: ClusterTime,
    /// The server's clock at the event.
    pub since: Option<bson::DateTime>,
    /// Whether it says that the document is no more.
    pub deleted: bool,
    /// Holds the stream's position until the change is settled.
    pub claim: Claim,
}

/// A key whose present state has to be read.
#[derive(Debug)]
pub struct Pending {
    /// Which document.
    pub subject: Subject,
    /// The newest event's cluster time.
    pub time: ClusterTime,
    /// The server's clock at the oldest event.
    pub since: Option<bson::DateTime>,
    /// Whether the newest event says that the document is no more.
    pub deleted: bool,
    /// Whether the stream has shown it, rather than that it was asked for alone.
    pub shown: bool,
    /// Of all events that this one read answers.
    pub claims: Claims,
}

/// A chunk's view of the lane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct WindowId(pub u64);

/// The window has met more keys than it may remember; nothing was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overflow;

/// What windows may remember, in bytes of keys.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    /// One of them.
    each: usize,
    /// All that are open.
    all: usize,
}

#[derive(Debug)]
struct Window {
    id: WindowId,
    namespace: Namespace,
    /// Each with whether the stream has shown it, rather than that it was asked for alone.
    seen: KeyMap<DocumentKey, bool>,
    bytes: usize,
    overflow: bool,
}

#[derive(Default, Debug)]
struct Front {
    frontier: ClusterTime,
    /// No event that was noted is newer.
    newest_event: ClusterTime,
    /// No event that was noted and no lookup that has ended is newer.
    newest: ClusterTime,
    /// The newest time with which something was asked for.
    asked: ClusterTime,
    pending: KeyMap<Subject, Waiting>,
    order: VecDeque<Subject>,
    pending_bytes: usize,
    /// What is being read, with the claims of copied documents that what is read stands for too, and
    /// whether the stream has shown it.
    in_flight: KeyMap<Subject, (Claims, bool)>,
    windows: Vec<Window>,
    /// Of the keys that all of them remember.
    windows_bytes: usize,
    output: VecDeque<Change>,
    /// Whether nothing more is to be waited for behind it.
    hurried: bool,
    /// How many of them come from the stream.
    output_changes: usize,
}

#[derive(Debug)]
struct Waiting {
    time: ClusterTime,
    since: Option<bson::DateTime>,
    deleted: bool,
    /// Whether the stream has shown it, rather than that it was asked for alone.
    shown: bool,
    claims: Claims,
}

/// See the module's head.
#[derive(Debug)]
pub struct Lane {
    front: Mutex<Front>,
    pending_limit: usize,
    output_limit: usize,
    remembered: Remembered,
    pending_added: Notify,
    pending_taken: Notify,
    output_added: Notify,
    output_taken: Notify,
    hurry: Notify,
}

impl Lane {
    /// An empty lane whose waiting keys may take so many bytes.
    pub fn new(pending_limit: usize) -> Self {
        Self {
            front: Mutex::default(),
            pending_limit,
            output_limit: (pending_limit / BESIDE).max(1),
            remembered: Remembered { each: WINDOW_BYTES, all: WINDOWS_BYTES },
            pending_added: Notify::new(),
            pending_taken: Notify::new(),
            output_added: Notify::new(),
            output_taken: Notify::new(),
            hurry: Notify::new(),
        }
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        // Every method leaves the state whole at each point where it could panic.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes events, in stream order. Several events of one key become one pending read.
    pub fn changed(&self, events: impl IntoIterator<Item = Noted>) {
        let mut front = self.front();
        for event in events {
            front.newest_event = front.newest_event.max(event.time);
            front.note(event, true, self.remembered);
        }
        drop(front);
        self.pending_added.notify_one();
    }

    /// Takes events into the output, in stream order: nothing is looked up for them, and none stands for
    /// another.
    pub fn happened(&self, events: Vec<Change>) {
        let mut front = self.front();
        let front = &mut *front;
        for event in events {
            front.newest_event = front.newest_event.max(event.time);
            front.newest = front.newest.max(event.time);
            let subject = Subject { namespace: event.namespace.clone(), key: event.key.clone() };
            front.mark(&subject, true, self.remembered);
            front.put_out(event);
        }
        self.output_added.notify_one();
    }

    /// Notes documents that are to be read though nothing says that they have changed. Each bears the
    /// time of the newest event at the least, which is before its read: what an event has put into the
    /// target does not refuse what is found now.
    pub fn asked(&self, asked: impl IntoIterator<Item = Noted>) {
        let mut front = self.front();
        for noted in asked {
            let time = noted.time.max(front.newest_event);
            front.asked = front.asked.max(time);
            let waiting = front.pending.get(&noted.subject);
            // What an event that waits says of it is newer than what is asked for.
            let deleted = match waiting {
                Some(waiting) if waiting.time > noted.time => waiting.deleted,
                _ => noted.deleted,
            };
            front.note(Noted { time, deleted, ..noted }, false, self.remembered);
        }
        drop(front);
        self.pending_added.notify_one();
    }

    /// Says that every event up to `frontier` has been noted.
    pub fn advance(&self, frontier: ClusterTime) {
        let mut front = self.front();
        front.frontier = front.frontier.max(frontier);
    }

    /// Says that no read may be older than `time`, as if the lane had seen something of that time.
    pub fn raise(&self, time: ClusterTime) {
        let mut front = self.front();
        front.newest = front.newest.max(time);
    }

    /// Waits until the waiting keys take less than the limit. Cancel safe.
    pub async fn room(&self) {
        loop {
            let taken = self.pending_taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if self.front().pending_bytes < self.pending_limit {
                return;
            }
            taken.await;
        }
    }

    /// Remembers, from now on, which keys of the namespace change. Returns the time after which the
    /// chunk has to read: nothing that the lane has seen or put out is newer.
    pub fn open_window(&self, id: WindowId, namespace: &Namespace) -> ClusterTime {
        let mut front = self.front();
        let namespace = namespace.clone();
        front.windows.push(Window {
            id,
            namespace,
            seen: KeyMap::default(),
            bytes: 0,
            overflow: false,
        });
        front.frontier.max(front.newest)
    }

    /// Forgets a window.
    pub fn close_window(&self, id: WindowId) {
        let mut front = self.front();
        let closed: usize =
            front.windows.extract_if(.., |window| window.id == id).map(|it| it.bytes).sum();
        front.windows_bytes -= closed;
    }

    /// Takes copied documents of the window's namespace into the output, in order, and drops those
    /// whose key has changed since the window was opened or waits for its read: their change brings
    /// a state that is as new. It takes their claims too, so that the copy is not over before it is
    /// delivered: what was asked for, rather than shown by the stream, holds back nothing else. Where that
    /// has been read already, it may still wait for something: it is asked for once more, for the copy.
    ///
    /// The caller has waited until [`Lane::frontier`] passed the time of the read. Returns how many
    /// were dropped.
    ///
    /// # Errors
    /// [`Overflow`], and then nothing was taken and the claims are settled: the chunk has to read them
    /// again.
    pub fn offer(&self, id: WindowId, changes: Vec<Change>) -> Result<usize, Overflow> {
        let mut front = self.front();
        let front = &mut *front;
        let window = front
            .windows
            .iter()
            .find(|window| window.id == id)
            .expect("a chunk offers only through its own open window");
        if window.overflow {
            changes.into_iter().for_each(|change| Claim::settle_all(change.claims));
            return Err(Overflow);
        }
        let mut dropped = 0;
        let mut again = Vec::new();
        // Where nothing changes meanwhile, no copied document has to be looked for.
        let none_to_come = front.pending.is_empty() && front.in_flight.is_empty();
        for mut change in changes {
            if !none_to_come {
                let subject =
                    Subject { namespace: change.namespace.clone(), key: change.key.clone() };
                let to_come = match front.pending.get_mut(&subject) {
                    Some(waiting) => Some(&mut waiting.claims),
                    None => front.in_flight.get_mut(&subject).map(|(claims, _)| claims),
                };
                if let Some(claims) = to_come {
                    change.claims.into_iter().for_each(|claim| claim.join(claims));
                    dropped += 1;
                    continue;
                }
            }
            match window.seen.get(&change.key) {
                // Its change is ahead in the output, or was.
                Some(true) => {
                    change.states.clear();
                    dropped += 1;
                }
                Some(false) => {
                    dropped += 1;
                    again.push(change);
                    continue;
                }
                None => {}
            }
            front.output_changes += usize::from(change.phase == Phase::Changes);
            front.output.push_back(change);
        }
        self.output_added.notify_one();
        for Change { namespace, key, time, claims, .. } in again {
            let subject = Subject { namespace, key };
            let time = time.max(front.newest_event);
            front.asked = front.asked.max(time);
            for claim in claims {
                let (subject, since, deleted) = (subject.clone(), None, false);
                let noted = Noted { subject, time, since, deleted, claim };
                front.note(noted, false, self.remembered);
            }
            self.pending_added.notify_one();
        }
        Ok(dropped)
    }

    /// Takes copied documents that nothing else writes (a rule without changes).
    pub fn append(&self, changes: Vec<Change>) {
        let mut front = self.front();
        changes.into_iter().for_each(|change| front.put_out(change));
        drop(front);
        self.output_added.notify_one();
    }

    /// Up to which time every event has been noted.
    pub fn frontier(&self) -> ClusterTime {
        self.front().frontier
    }

    /// Waits for pending keys and takes up to `most`, oldest first. They count as in flight until
    /// [`Lane::complete`]. Cancel safe: what is returned was taken, what is not was not.
    ///
    /// The caller takes again only after it has completed what it took.
    pub async fn take(&self, most: usize) -> Vec<Pending> {
        loop {
            let added = self.pending_added.notified();
            {
                let mut front = self.front();
                if !front.order.is_empty() {
                    let taken = front.take(most);
                    drop(front);
                    self.pending_taken.notify_one();
                    return taken;
                }
            }
            added.await;
        }
    }

    /// Appends what the reads of taken keys returned, in order, and lets go of the keys. Those that
    /// were not read (`unread`, in order) wait again, before all others. No state that was read is
    /// newer than `as_of`.
    pub fn complete(&self, changes: Vec<Change>, unread: Vec<Pending>, as_of: ClusterTime) {
        let mut front = self.front();
        let front = &mut *front;
        front.newest = front.newest.max(as_of);
        let mut of_copied: KeyMap<Subject, Claims> = KeyMap::default();
        for (subject, (claims, shown)) in std::mem::take(&mut front.in_flight) {
            front.mark(&subject, shown, self.remembered);
            if !claims.is_empty() {
                of_copied.insert(subject, claims);
            }
        }
        for mut change in changes {
            if !of_copied.is_empty() {
                let subject =
                    Subject { namespace: change.namespace.clone(), key: change.key.clone() };
                change.claims.extend(of_copied.remove(&subject).unwrap_or_default());
            }
            front.put_out(change);
        }
        for mut pending in unread.into_iter().rev() {
            pending.claims.extend(of_copied.remove(&pending.subject).unwrap_or_default());
            front.put_back(pending);
        }
        self.output_added.notify_one();
        self.pending_added.notify_one();
    }

    /// Waits until fewer changes than the limit lie in the output, so that removals, which no
    /// budget of bytes holds back, can't pile up behind a target that is away. Cancel safe.
    pub async fn output_room(&self) {
        loop {
            let taken = self.output_taken.notified();
            if self.front().output_changes < self.output_limit {
                return;
            }
            taken.await;
        }
    }

    /// Takes up to `most` changes from the output, in order, whose documents have no more than so many
    /// `bytes` together, or one that has more; none where there are none. What a document has become under
    /// another key comes with what it was.
    pub fn try_output(&self, most: usize, bytes: usize) -> Vec<Change> {
        let mut front = self.front();
        let mut sum = 0;
        let fits = |change: &&Change| {
            let first = sum == 0;
            // One of no document is no change of none.
            sum += change.size().max(1);
            first || sum <= bytes
        };
        let mut count = front.output.iter().take(most).take_while(fits).count();
        while count > 0 && front.is_parted(count) {
            count += 1;
        }
        let taken: Vec<Change> = front.output.drain(..count).collect();
        let changes = taken.iter().filter(|change| change.phase == Phase::Changes).count();
        front.output_changes -= changes;
        drop(front);
        if changes > 0 {
            self.output_taken.notify_one();
        }
        taken
    }

    /// Takes up to `most` changes from the output, in order, as long as none is of a document in `held`,
    /// to which each is added. Whether one of those stands next.
    pub fn try_output_apart(&self, most: usize, held: &mut KeySet<Subject>) -> (Vec<Change>, bool) {
        let mut front = self.front();
        let mut taken = Vec::new();
        let mut apart = true;
        while taken.len() < most {
            let Some(next) = front.output.front() else { break };
            let subject = Subject { namespace: next.namespace.clone(), key: next.key.clone() };
            // What only settles something is sent nowhere.
            apart = next.states.is_empty() || held.insert(subject);
            if !apart {
                break;
            }
            taken.extend(front.output.pop_front());
        }
        let changes = taken.iter().filter(|change| change.phase == Phase::Changes).count();
        front.output_changes -= changes;
        drop(front);
        if changes > 0 {
            self.output_taken.notify_one();
        }
        (taken, !apart)
    }

    /// Waits until there is output. Cancel safe.
    pub async fn output_ready(&self) {
        loop {
            let added = self.output_added.notified();
            if !self.front().output.is_empty() {
                return;
            }
            added.await;
        }
    }

    /// Says that a copy has handed over all that it has: what is gathered is not to wait for more.
    pub fn hurry(&self) {
        self.front().hurried = true;
        self.hurry.notify_one();
    }

    /// Whether there is no output, and none to be waited for.
    pub fn is_hurried(&self) -> bool {
        let front = self.front();
        front.hurried && front.output.is_empty()
    }

    /// Waits until [`Lane::is_hurried`]. Cancel safe.
    pub async fn hurried(&self) {
        loop {
            let hurry = self.hurry.notified();
            if self.is_hurried() {
                return;
            }
            hurry.await;
        }
    }

    /// What was gathered has been sent: what comes from now on is waited for as ever.
    pub fn calm(&self) {
        let mut front = self.front();
        front.hurried &= !front.output.is_empty();
    }

    /// A time that no event noted and no read ended here is newer than. A read after it never
    /// returns less than an earlier one did, whichever member answers.
    pub fn newest(&self) -> ClusterTime {
        self.front().newest
    }

    /// The newest time with which something was asked for; no later than [`Lane::newest`] from now on.
    /// That may be ahead of the stream, and what was put somewhere bears it. What later events take away
    /// from there is to bear no older one.
    pub fn asked_for(&self) -> ClusterTime {
        self.front().asked
    }

    /// Bytes of the keys that wait for their read.
    pub fn pending_bytes(&self) -> usize {
        self.front().pending_bytes
    }
}

impl Front {
    /// Has the open windows of the key's namespace remember it, and whether the stream has shown it.
    fn mark(&mut self, subject: &Subject, shown: bool, limits: Remembered) {
        for window in &mut self.windows {
            if window.namespace != subject.namespace || window.overflow {
                continue;
            }
            if let Some(known) = window.seen.get_mut(&subject.key) {
                *known |= shown;
            } else if window.bytes >= limits.each || self.windows_bytes >= limits.all {
                window.overflow = true;
                window.seen = KeyMap::default();
                self.windows_bytes -= std::mem::take(&mut window.bytes);
            } else {
                window.seen.insert(subject.key.clone(), shown);
                let size = subject.key.size() + BESIDE_SEEN;
                window.bytes += size;
                self.windows_bytes += size;
            }
        }
    }

    fn note(&mut self, event: Noted, shown: bool, limits: Remembered) {
        let Noted { subject, time, since, deleted, claim } = event;
        self.newest = self.newest.max(time);
        self.mark(&subject, shown, limits);
        if let Some(waiting) = self.pending.get_mut(&subject) {
            waiting.shown |= shown;
            if time >= waiting.time {
                (waiting.time, waiting.deleted) = (time, deleted);
            }
            claim.join(&mut waiting.claims);
            return;
        }
        self.pending_bytes += cost(&subject);
        self.order.push_back(subject.clone());
        let claims = smallvec![claim];
        self.pending.insert(subject, Waiting { time, since, deleted, shown, claims });
    }

    /// Whether the states of a document stand on both sides, under different keys. Events have an order of
    /// their own, and may be taken one by one.
    fn is_parted(&self, count: usize) -> bool {
        let both =
            count.checked_sub(1).and_then(|at| self.output.get(at)).zip(self.output.get(count));
        both.is_some_and(|(one, other)| {
            let of = |change: &Change| Subject {
                namespace: change.namespace.clone(),
                key: change.key.clone(),
            };
            let tells = |change: &Change| {
                change.states.iter().any(|(_, state)| matches!(state, State::Happened(_)))
            };
            let shards = one.key.is_compound() || other.key.is_compound();
            shards
                && !tells(one)
                && !tells(other)
                && one.key != other.key
                && of(one).is_same_document(&of(other))
        })
    }

    fn put_out(&mut self, change: Change) {
        self.output_changes += usize::from(change.phase == Phase::Changes);
        self.output.push_back(change);
    }

    /// The opposite of `take`, for one key.
    fn put_back(&mut self, pending: Pending) {
        let Pending { subject, time, since, deleted, shown, claims } = pending;
        if let Some(waiting) = self.pending.get_mut(&subject) {
            // What was noted since was noted later.
            waiting.time = waiting.time.max(time);
            waiting.since = since.or(waiting.since);
            waiting.shown |= shown;
            for claim in claims {
                claim.join(&mut waiting.claims);
            }
            return;
        }
        self.pending_bytes += cost(&subject);
        self.order.push_front(subject.clone());
        self.pending.insert(subject, Waiting { time, since, deleted, shown, claims });
    }

    fn take(&mut self, most: usize) -> Vec<Pending> {
        debug_assert!(self.in_flight.is_empty(), "one batch of reads at a time");
        let count = self.order.len().min(most);
        let mut taken = Vec::with_capacity(count);
        for subject in self.order.drain(..count) {
            let Waiting { time, since, deleted, shown, claims } =
                self.pending.remove(&subject).expect("what is in order is pending");
            self.pending_bytes -= cost(&subject);
            self.in_flight.insert(subject.clone(), (Claims::new(), shown));
            taken.push(Pending { subject, time, since, deleted, shown, claims });
        }
        taken
    }
}

/// Bytes that are counted for a document that waits.
pub(super) fn cost(subject: &Subject) -> usize {
    subject.key.size() + BESIDE
}

#[cfg(test)]
mod tests;
