//! Whose a place is: of the documents whose places are stored, no two are ever put in one.
//!
//! Beside the places of each document the store holds, for each spot (what no two documents may share,
//! [`Target::spot`]), which document has it. That is durable before anything is sent there, and goes
//! once the document has been taken away from there. The document that finds another's gives up its own
//! old places, so that two that swap theirs do not wait for one another, stands aside, and has the other
//! one delivered as it is in the source. Where that has come to pass and the place is still held, it is
//! refused; once the place is free it is asked for, after a restart too.
//!
//! No position need wait for a document that is asked for. So the store says who awaits a spot from
//! before its old places are given up until it has been delivered, or has a letter that says so; the next
//! run looks at all of those again.
//!
//! Only one process writes, and one task a document: what is found free is noted in memory until it is
//! durable whose it is, and so is what is being given up. After a crash a document's places may say that it
//! lies where nobody does, and what says whose a spot is may come late: it counts only where the document's
//! own places say so too.
//!
//! A document whose shard key changes has a new key. It does not meet itself: the place passes to the new
//! key, whoever else wants it, and the old one, whose removal comes in either order, no more gives it up.
//! Documents of several shards with one `_id` are taken for one.

mod awaiting;
mod inherited;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque, hash_map},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use awaiting::Recalled;
use sha2::{Digest, Sha256};
use smallvec::{SmallVec, smallvec};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, DocumentKey, Namespace},
    checkpoint::{
        keys,
        records::{SpotRecord, load_many, put, removal},
        store::{RecordKey, Store, Write},
        tracker::Completion,
    },
    target::{Action, PlaceKey, Target},
};

use super::{
    Halt,
    batch::Origin,
    contested::{ASKED, Holder},
    dead_letters::{Letter, Stage},
    insist,
    lane::Subject,
    places::{Move, Places, RulePlace},
    shape::Shaper,
    slice::Settling,
};

/// Documents that wait for others at once. Who finds no room is refused without waiting: it follows
/// once the place is free.
const WAITING: usize = 10_000;
/// So long one waits before the other is asked for: mostly its own change is on its way.
const QUIET: Duration = Duration::from_secs(1);
/// How long one waits for another that itself waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// What no two documents may share in a target, as the store names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Spot([u8; 16]);

impl Spot {
    /// Of a place.
    pub fn of(target: &dyn Target, place: &PlaceKey) -> Self {
        let digest: [u8; 32] = Sha256::digest(&target.spot(place).0).into();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Self(short)
    }
}

/// A document that has met another in a place.
struct Meeting {
    spot: Spot,
    holder: Subject,
    /// The delivery of the holder after which it is known that it stays, once it has been asked for.
    round: Option<u64>,
    since: Instant,
}

/// The deliveries of one document that others have met.
#[derive(Default)]
struct Rounds {
    begun: u64,
    ended: u64,
    asked: Option<Arc<Completion>>,
    /// Meetings with it.
    meetings: usize,
}

#[derive(Default)]
struct State {
    /// Found free, until it is durable whose they are.
    taking: HashMap<Spot, Subject>,
    /// Being given up.
    leaving: HashMap<Spot, Subject>,
    waiting: HashMap<Subject, Vec<Meeting>>,
    rounds: HashMap<Subject, Rounds>,
    /// What documents wait for, or have been refused for.
    awaited: HashSet<Spot>,
    /// Those of them for which that is not durable yet, each with of how many documents.
    noting: HashMap<Spot, usize>,
    /// Those of them that have become free.
    freed: VecDeque<Spot>,
}

/// The spots of one target.
pub struct Spots {
    store: Arc<dyn Store>,
    name: String,
    target: Arc<dyn Target>,
    /// All rules of the file that write there: what others have left behind is nobody's. Without any,
    /// nobody meets another.
    rules: BTreeSet<String>,
    state: Mutex<State>,
    is_freed: Notify,
    holders: mpsc::Sender<Holder>,
    newest: AtomicU64,
    /// The source's time when this run began: an earlier one has sent nothing newer.
    begun: AtomicU64,
}

/// A document that was withheld from a place.
struct Withheld {
    at: usize,
    spot: Spot,
    holder: Subject,
    origin: Arc<Origin>,
    place: PlaceKey,
}

/// A document that has a spot.
pub struct Holding {
    /// Which.
    pub subject: Subject,
    /// Whether the store knows of other places of it too. One that moved as the last run ended may have
    /// left this one.
    pub has_others: bool,
}

/// What came of a slice.
#[derive(Default)]
pub(super) struct Looked {
    /// To be written with the places, before anything is sent.
    pub writes: Vec<Write>,
    /// Documents that come back, each with which of the slice's changes it was.
    pub waits: Vec<(usize, Arc<Origin>)>,
    taken: Vec<Spot>,
    refused: Vec<Withheld>,
    /// Who awaits which spot, as far as that is not stored.
    awaiting: Vec<(Spot, Subject)>,
}

impl Spots {
    /// Those of one target, and who is to be delivered since others have met it. `rules` are all of the
    /// file that write there; none where no two documents can be given one place.
    pub fn new(
        store: Arc<dyn Store>,
        name: &str,
        target: Arc<dyn Target>,
        rules: BTreeSet<String>,
    ) -> (Self, mpsc::Receiver<Holder>) {
        let (holders, asked) = mpsc::channel(ASKED);
        let spots = Self {
            store,
            name: name.to_owned(),
            target,
            rules,
            state: Mutex::default(),
            is_freed: Notify::new(),
            holders,
            newest: AtomicU64::new(0),
            begun: AtomicU64::new(0),
        };
        (spots, asked)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every method leaves the state whole at each point where it could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A run begins, at this time of the source. To be called before anything is delivered.
    pub fn begin(&self, now: ClusterTime) {
        self.begun.store(now.0, Ordering::Release);
        self.newest.fetch_max(now.0, Ordering::AcqRel);
    }

    /// Whether an earlier run may have sent something newer.
    pub(super) fn is_earlier(&self, time: ClusterTime) -> bool {
        time.0 < self.begun.load(Ordering::Acquire)
    }

    /// A time of the source that nothing which was put in a place or removed from there is newer than.
    pub fn newest(&self) -> ClusterTime {
        ClusterTime(self.newest.load(Ordering::Acquire))
    }

    fn key(&self, spot: Spot) -> RecordKey {
        keys::spot(&self.name, &spot.0)
    }

    async fn owners(
        &self,
        spots: &[Spot],
        stop: &CancellationToken,
    ) -> Result<Vec<Option<Subject>>, Halt> {
        if spots.is_empty() {
            return Ok(Vec::new());
        }
        let keys: Vec<_> = spots.iter().map(|spot| self.key(*spot)).collect();
        let found = insist(stop, || load_many::<SpotRecord>(&*self.store, &keys)).await?;
        // One that names no document is nobody's.
        Ok(found.into_iter().map(|record| record.as_ref().and_then(subject)).collect())
    }

    /// Whose spots are: only where the owner's own places say so too.
    async fn holders(
        &self,
        spots: &[Spot],
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<Vec<Option<Holding>>, Halt> {
        let found = self.owners(spots, stop).await?;
        let said: Vec<Subject> = found.iter().flatten().cloned().collect();
        let mut lying = places.load(&said, stop).await?.into_iter();
        let holder = |(spot, owner): (&Spot, Option<Subject>)| {
            let subject = owner?;
            let lying = lying.next().unwrap_or_default().into_iter();
            let held = lying.filter(|place| self.rules.contains(&*place.rule));
            let (here, others): (Vec<Spot>, Vec<Spot>) = held
                .map(|place| Spot::of(&*self.target, &place.place))
                .partition(|held| held == spot);
            let has_others = !others.is_empty();
            (!here.is_empty()).then_some(Holding { subject, has_others })
        };
        Ok(spots.iter().zip(found).map(holder).collect())
    }

    /// Whose a spot is, as the store says.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn holder(
        &self,
        spot: Spot,
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<Option<Holding>, Halt> {
        Ok(self.holders(&[spot], places, stop).await?.remove(0))
    }

    /// Takes the free spots of a slice's documents for them, and withholds them from those that others
    /// have: what is put there is taken out of the changes, and what they hold there no more is not
    /// removed. Everything up to the `position` is settled.
    pub(super) async fn look(
        &self,
        changes: &mut [Settling],
        shaper: &Shaper,
        places: &Places,
        position: Option<ClusterTime>,
        stop: &CancellationToken,
    ) -> Result<Looked, Halt> {
        if self.rules.is_empty() || changes.iter().all(|change| change.moved.is_none()) {
            return Ok(Looked::default());
        }
        let mut all: Vec<Vec<(Spot, PlaceKey)>> = Vec::with_capacity(changes.len());
        for change in &mut *changes {
            let mut own = Vec::new();
            if let Some(moved) = &change.moved {
                let seen = change.read.max(change.time).0;
                self.newest.fetch_max(seen, Ordering::AcqRel);
                for place in moved.new.iter().chain(&moved.old) {
                    if !own.iter().any(|(_, known)| *known == place.place) {
                        own.push((Spot::of(&*self.target, &place.place), place.place.clone()));
                    }
                }
            }
            all.push(own);
        }
        let mut owners = self.decide(changes, &all, places, stop).await?;
        // Until all that an earlier run may have had in hand is settled by this one.
        let anew = position.is_none_or(|position| self.is_earlier(position));
        let mut looked = Looked { taken: owners.reserved.drain().collect(), ..Looked::default() };
        for (spot, subject) in &owners.taken {
            looked.writes.push(put(self.key(*spot), &record(subject)));
        }
        let mut written: HashSet<Spot> = HashSet::new();
        for (at, (change, own)) in changes.iter_mut().zip(all).enumerate() {
            let Some(moved) = &mut change.moved else { continue };
            let mut withheld = Vec::new();
            for (spot, place) in own {
                let here =
                    |(operation, _): &mut (crate::target::Operation, _)| operation.place == place;
                let puts = moved.new.iter().any(|new| new.place == place);
                match owners.of.get(&spot) {
                    Some(holder) if !owners.lets_in(spot, holder, &moved.subject, puts) => {
                        moved.new.retain(|new| new.place != place);
                        for (operation, origin) in change.shaped.operations.extract_if(.., here) {
                            let is_own = holder.is_same_document(&moved.subject);
                            match operation.action {
                                // Its other key has it now, or does not yet know that it has not.
                                Action::Remove if is_own && shaper.follows(origin.rule) => {
                                    let known = moved.old.iter().filter(|old| old.place == place);
                                    moved.new.extend(known.cloned());
                                    looked.waits.push((at, origin));
                                }
                                // Who does not hold it has nothing to remove there.
                                Action::Remove | Action::Append(_) => {}
                                Action::Put(_) => {
                                    let (holder, place) = (holder.clone(), place.clone());
                                    withheld.push(Withheld { at, spot, holder, origin, place });
                                }
                            }
                        }
                    }
                    holder => {
                        // An earlier run may have meant to put it there, and not done so. Nor does its own
                        // record say what has been put there while the place was nobody's.
                        let earlier = self.is_earlier(change.time);
                        let has = moved.old.iter().any(|old| old.place == place);
                        if earlier || !has || owners.taken.contains_key(&spot) {
                            change.fresh.push(place.clone());
                        }
                        // Not what is that of the same document under its other key.
                        if holder.is_none_or(|holder| *holder == moved.subject) {
                            moved.spots.push((spot, place));
                        }
                    }
                }
            }
            moved.awaits_no_more = self.meet(&moved.subject, withheld, shaper, &mut looked);
            // A process that was shut out since may still take away whose they are, and that the document
            // lies there.
            moved.anew = anew;
            let leaves = moved.old.len() > moved.new.len();
            let has = |places: &[RulePlace], at: &PlaceKey| places.iter().any(|it| it.place == *at);
            let kept = moved.spots.iter().filter(|(spot, at)| {
                let again = anew || (leaves || !has(&moved.old, at)) && has(&moved.new, at);
                again && !owners.taken.contains_key(spot) && written.insert(*spot)
            });
            let write = |(spot, _): &(Spot, _)| put(self.key(*spot), &record(&moved.subject));
            looked.writes.extend(kept.map(write));
        }
        let awaiting: HashMap<RecordKey, &Subject> = looked
            .awaiting
            .iter()
            .map(|(spot, subject)| (self.awaiting_key(*spot, subject), subject))
            .collect();
        let writes = awaiting.into_iter().map(|(key, subject)| put(key, &record(subject)));
        looked.writes.extend(writes);
        Ok(looked)
    }

    /// Whose each spot is, and which of them have just been taken.
    async fn decide(
        &self,
        changes: &[Settling],
        all: &[Vec<(Spot, PlaceKey)>],
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<Owners, Halt> {
        let wanted = Wanted::of(changes, all);
        let mut owners = Owners::default();
        let mut blocked: HashMap<Spot, Subject> = HashMap::new();
        {
            let mut state = self.state();
            for (spot, own) in &wanted {
                for it in own.iter().filter(|it| !it.has) {
                    match state.taking.get(spot) {
                        None => {
                            state.taking.insert(*spot, it.subject.clone());
                            owners.reserved.insert(*spot);
                        }
                        Some(other) if !owners.reserved.contains(spot) => {
                            blocked.insert(*spot, other.clone());
                        }
                        // Of the keys of one document the last one.
                        Some(other) if it.puts && other.is_same_document(it.subject) => {
                            state.taking.insert(*spot, it.subject.clone());
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        let spots: Vec<Spot> = wanted.iter().map(|(spot, _)| *spot).collect();
        let found = self.owners(&spots, stop).await?;
        let mut again: Vec<(Spot, &[Wanted])> = Vec::new();
        {
            let mut state = self.state();
            for ((spot, own), owner) in wanted.iter().zip(found) {
                let spot = *spot;
                match (blocked.get(&spot), owner) {
                    // It had left the spot, which another is taking, and that was not stored; unless its own
                    // record says that it has it.
                    (Some(other), owner) => match owner.filter(|it| Wanted::has(own, it)) {
                        Some(owner) => owners.stays(spot, owner),
                        None => drop(owners.of.insert(spot, other.clone())),
                    },
                    (None, Some(owner)) if own.iter().all(|it| *it.subject == owner) => {
                        owners.stays(spot, owner);
                    }
                    (None, None) if owners.reserved.contains(&spot) => {
                        owners.take_reserved(&state, spot);
                    }
                    // Whoever is looked at a second time has the spot to himself meanwhile.
                    (None, owner) => match state.taking.get(&spot) {
                        Some(other) if !owners.reserved.contains(&spot) => match owner {
                            Some(owner) if Wanted::has(own, &owner) => owners.stays(spot, owner),
                            owner => {
                                let holder = owner.unwrap_or_else(|| other.clone());
                                owners.of.insert(spot, holder);
                            }
                        },
                        Some(_) => again.push((spot, own)),
                        None => {
                            let Some(taker) = Wanted::taker(own) else { continue };
                            state.taking.insert(spot, taker.clone());
                            owners.reserved.insert(spot);
                            again.push((spot, own));
                        }
                    },
                }
            }
        }
        if !again.is_empty() {
            self.decide_again(&mut owners, again, places, stop).await?;
        }
        Ok(owners)
    }

    /// What was found free, or another's, though it should not be: looked at once more, now that nobody
    /// else can take it. It is another's only where that one's own places say so. From one key of a document
    /// it passes to the one that puts something there, or else takes something away, whoever else wants it:
    /// what the first one gives up behind that is not given up.
    async fn decide_again(
        &self,
        owners: &mut Owners,
        again: Vec<(Spot, &[Wanted<'_>])>,
        places: &Places,
        stop: &CancellationToken,
    ) -> Result<(), Halt> {
        let spots: Vec<Spot> = again.iter().map(|(spot, _)| *spot).collect();
        let found = self.holders(&spots, places, stop).await?;
        let mut state = self.state();
        for ((spot, own), holding) in again.into_iter().zip(found) {
            if let Some(Holding { subject: owner, .. }) = holding {
                match Wanted::heir(own, &owner) {
                    Some(heir) if *heir != owner => {
                        state.taking.insert(spot, heir.clone());
                    }
                    Some(_) => {
                        owners.stays(spot, owner);
                        continue;
                    }
                    None => {
                        owners.of.insert(spot, owner);
                        continue;
                    }
                }
            }
            owners.take_reserved(&state, spot);
        }
        Ok(())
    }

    /// Has those delivered that hold what a document is withheld from. Who need not be waited for any
    /// longer, or can't be, refuses it. Returns which spots the document waits for no more.
    fn meet(
        &self,
        subject: &Subject,
        withheld: Vec<Withheld>,
        shaper: &Shaper,
        looked: &mut Looked,
    ) -> Vec<Spot> {
        let mut state = self.state();
        if withheld.is_empty() && state.waiting.is_empty() {
            return Vec::new();
        }
        let state = &mut *state;
        let before = state.waiting.remove(subject).unwrap_or_default();
        // One that nobody looks up again can only be refused.
        let has_room = withheld.iter().all(|it| shaper.follows(it.origin.rule))
            && (!before.is_empty() || state.waiting.len() < WAITING);
        let stays = |spot: &Spot| withheld.iter().any(|met| met.spot == *spot);
        let over = before.iter().map(|it| it.spot).filter(|spot| !stays(spot)).collect();
        let mut now: Vec<Meeting> = Vec::new();
        let mut waits = false;
        for met in withheld.iter().filter(|_| has_room) {
            let known = before.iter().find(|it| it.spot == met.spot && it.holder == met.holder);
            let (meeting, is_over) = self.waits(state, known, met);
            now.push(meeting);
            waits |= !is_over;
        }
        for met in &withheld {
            // While it waits, once is enough.
            if !waits || !before.iter().any(|it| it.spot == met.spot) {
                state.awaited.insert(met.spot);
                *state.noting.entry(met.spot).or_default() += 1;
                looked.awaiting.push((met.spot, subject.clone()));
            }
        }
        // Of several places all are waited for, or none.
        if waits {
            looked.waits.extend(withheld.into_iter().map(|it| (it.at, it.origin)));
        } else {
            now.clear();
            looked.refused.extend(withheld);
        }
        for meeting in &now {
            state.rounds.entry(meeting.holder.clone()).or_default().meetings += 1;
        }
        for meeting in before {
            if let Some(rounds) = state.rounds.get_mut(&meeting.holder) {
                rounds.meetings -= 1;
                if rounds.meetings == 0 {
                    state.rounds.remove(&meeting.holder);
                }
            }
        }
        if !now.is_empty() {
            state.waiting.insert(subject.clone(), now);
        }
        over
    }

    /// Asks for the holder, and says whether that is over: it has been delivered since the two met, or waits
    /// itself and will not move.
    fn waits(
        &self,
        state: &mut State,
        known: Option<&Meeting>,
        withheld: &Withheld,
    ) -> (Meeting, bool) {
        let waits_too = state.waiting.contains_key(&withheld.holder);
        let rounds = state.rounds.entry(withheld.holder.clone()).or_default();
        if rounds.asked.as_ref().is_some_and(|asked| asked.is_done()) {
            (rounds.asked, rounds.ended) = (None, rounds.begun);
        }
        let since = known.map_or_else(Instant::now, |known| known.since);
        let waited = since.elapsed();
        let next = (waited >= QUIET).then_some(rounds.begun + 1);
        let round = known.and_then(|known| known.round).or(next);
        let is_over =
            round.is_some_and(|round| rounds.ended >= round) || (waits_too && waited >= PATIENCE);
        let wanted = round.is_some_and(|round| rounds.begun < round);
        if !is_over && rounds.asked.is_none() && wanted {
            let delivered = Arc::new(Completion::new());
            let holder = Holder { subject: withheld.holder.clone(), delivered: delivered.clone() };
            // Where many wait, it is asked for the next time.
            if self.holders.try_send(holder).is_ok() {
                (rounds.asked, rounds.begun) = (Some(delivered), rounds.begun + 1);
            }
        }
        let (spot, holder) = (withheld.spot, withheld.holder.clone());
        (Meeting { spot, holder, round, since }, is_over)
    }

    /// Whose the spots are is durable. What is refused becomes letters, each with which of the slice's
    /// changes it is of; unless its place has become free meanwhile, and then it waits after all.
    pub(super) async fn decided(
        &self,
        looked: Looked,
        shaper: &Shaper,
        stop: &CancellationToken,
    ) -> Result<(Vec<(usize, Letter)>, Vec<(usize, Arc<Origin>)>), Halt> {
        let Looked { mut waits, taken, refused, awaiting, .. } = looked;
        if !taken.is_empty() || !awaiting.is_empty() {
            let mut state = self.state();
            for spot in &taken {
                state.taking.remove(spot);
            }
            for (spot, _) in &awaiting {
                if let hash_map::Entry::Occupied(mut noting) = state.noting.entry(*spot) {
                    *noting.get_mut() -= 1;
                    if *noting.get() == 0 {
                        noting.remove();
                    }
                }
            }
        }
        let spots: Vec<Spot> = refused.iter().map(|refused| refused.spot).collect();
        let owners = self.owners(&spots, stop).await?;
        let mut letters = Vec::with_capacity(refused.len());
        for (Withheld { at, holder, origin, place, .. }, owner) in refused.into_iter().zip(owners) {
            if owner.is_none() && shaper.follows(origin.rule) {
                waits.push((at, origin));
                continue;
            }
            let later = match shaper.follows(origin.rule) {
                true => "if the other one leaves, this one takes its place by itself",
                false => {
                    "its rule follows no changes, so it does not take the place of one that leaves"
                }
            };
            let words = format!(
                "its place is that of another document, {} of {}: two documents are never put in one \
                 place. Have the rule give each a place of its own; {later}",
                holder.key.display(),
                holder.namespace
            );
            let place = Some(self.target.describe(&place));
            letters.push((at, Letter::new(origin, Stage::Place, words, place)));
        }
        Ok((letters, waits))
    }

    /// A document is about to give spots up.
    pub(super) fn leave(&self, subject: &Subject, spots: &[Spot]) {
        let mut state = self.state();
        spots.iter().for_each(|spot| drop(state.leaving.insert(*spot, subject.clone())));
    }

    /// What is to be written for the spots that a document is about to give up. Those that its new key
    /// has are none of them.
    pub(super) async fn leaving(
        &self,
        subject: &Subject,
        spots: &mut Vec<Spot>,
        stop: &CancellationToken,
    ) -> Result<Vec<Write>, Halt> {
        if subject.key.is_compound() {
            let owners = self.owners(spots, stop).await?;
            let mut state = self.state();
            let mut owners = owners.into_iter();
            spots.retain(|spot| {
                let stays = owners.next().flatten().is_none_or(|owner| owner == *subject);
                if !stays {
                    state.leaving.remove(spot);
                }
                stays
            });
        }
        Ok(spots.iter().map(|spot| removal::<SpotRecord>(self.key(*spot))).collect())
    }

    /// It has given them up, durably.
    pub(super) fn left(&self, spots: &[Spot]) {
        let mut state = self.state();
        let mut freed = false;
        for spot in spots {
            state.leaving.remove(spot);
            if state.awaited.contains(spot) {
                state.freed.push_back(*spot);
                freed = true;
            }
        }
        if freed {
            self.is_freed.notify_one();
        }
    }
}

/// What a document of a slice has to do with a spot.
struct Wanted<'a> {
    subject: &'a Subject,
    /// Whether it is to be put there.
    puts: bool,
    /// Whether its record says that it may lie there.
    has: bool,
}

impl<'a> Wanted<'a> {
    /// Those of a slice by their spots, in order.
    fn of(
        changes: &'a [Settling],
        all: &[Vec<(Spot, PlaceKey)>],
    ) -> Vec<(Spot, SmallVec<[Self; 2]>)> {
        // The first change of a document knows its record, and a later one what the first one adds, too.
        let mut stored: HashMap<&Subject, &[RulePlace]> = HashMap::new();
        let mut known: HashMap<Spot, usize> = HashMap::new();
        let mut wanted: Vec<(Spot, SmallVec<[Self; 2]>)> = Vec::new();
        for (change, own) in changes.iter().zip(all) {
            let Some(Move { subject, old, new, .. }) = change.moved.as_deref() else { continue };
            let old = *stored.entry(subject).or_insert(old);
            for (spot, place) in own {
                let is_among = |places: &[RulePlace]| places.iter().any(|it| it.place == *place);
                let it = Self { subject, puts: is_among(new), has: is_among(old) };
                match known.entry(*spot) {
                    hash_map::Entry::Occupied(at) => wanted[*at.get()].1.push(it),
                    hash_map::Entry::Vacant(at) => {
                        at.insert(wanted.len());
                        wanted.push((*spot, smallvec![it]));
                    }
                }
            }
        }
        wanted
    }

    /// Whether it is a document of the slice whose record says that it may lie there.
    fn has(own: &[Self], subject: &Subject) -> bool {
        own.iter().any(|it| it.has && it.subject == subject)
    }

    /// Under which key a document of the slice has a spot that its record says it has: the last one that puts
    /// something there, or the one that has it, or the last one that takes something away.
    fn heir(own: &[Self], owner: &Subject) -> Option<&'a Subject> {
        let keys = || own.iter().rev().filter(|it| it.subject.is_same_document(owner));
        let puts = keys().find(|it| it.puts);
        puts.or_else(|| keys().find(|it| it.subject == owner))
            .or(keys().next())
            .map(|it| it.subject)
    }

    /// Who gets a spot that is nobody's: the first one that is to be put there, under its last key.
    fn taker(own: &[Self]) -> Option<&'a Subject> {
        let first = own.iter().find(|it| it.puts).or(own.first())?;
        let mut keys = own.iter().rev().filter(|it| it.subject.is_same_document(first.subject));
        Some(keys.find(|it| it.puts).unwrap_or(first).subject)
    }
}

/// Whose spots are, as far as that was looked at.
#[derive(Default)]
struct Owners {
    of: HashMap<Spot, Subject>,
    taken: HashMap<Spot, Subject>,
    /// Nobody else takes them before it is durable whose they are.
    reserved: HashSet<Spot>,
    /// Those of the slice's documents.
    own: HashSet<Spot>,
}

impl Owners {
    /// It is and stays that of a document of the slice.
    fn stays(&mut self, spot: Spot, owner: Subject) {
        self.own.insert(spot);
        self.of.insert(spot, owner);
    }

    /// Whether a document may be put there, or taken away from there. What is one document's under any key of
    /// the slice is given up behind all that the slice does there; what it has under another key may be
    /// another's by then. It is put there under other keys only where the spot passes on to the last one.
    fn lets_in(&self, spot: Spot, holder: &Subject, subject: &Subject, puts: bool) -> bool {
        let is_own = || match puts {
            true => self.taken.contains_key(&spot),
            false => self.own.contains(&spot),
        };
        holder == subject || is_own() && holder.is_same_document(subject)
    }

    /// Of the document that it is reserved for, unless one that gives it up has not done so yet.
    fn take_reserved(&mut self, state: &State, spot: Spot) {
        match (state.leaving.get(&spot), state.taking.get(&spot)) {
            (Some(other), taker) if taker != Some(other) => {
                self.of.insert(spot, other.clone());
            }
            (_, Some(taker)) => {
                self.taken.insert(spot, taker.clone());
                self.stays(spot, taker.clone());
            }
            (_, None) => {}
        }
    }
}

fn record(subject: &Subject) -> SpotRecord {
    let key = subject.key.raw().to_owned();
    SpotRecord { namespace: subject.namespace.to_string(), key }
}

fn subject(record: &SpotRecord) -> Option<Subject> {
    let namespace = Namespace::parse(&record.namespace)?;
    let key = DocumentKey::from_document_key(&record.key).ok()?;
    Some(Subject { namespace, key })
}

#[cfg(test)]
mod tests;
