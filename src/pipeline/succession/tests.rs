//! Few places, many documents, several lanes, and ends at any moment: against a source, a store and an
//! engine in memory that take their time at every step. Time stands still until everything waits. What a seed
//! leaves open is the order of maps.
//!
//! `MONGOSYNC_RANDOM_SEED` plays one alone; `MONGOSYNC_RANDOM_SECONDS` says for how long to play, rather than
//! how many.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bson::{RawDocument, RawDocumentBuf, rawdoc};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use smallvec::smallvec;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::*;
use crate::{
    change::{
        Cause, Change, ClusterTime, Document, DocumentKey, Namespace, Phase, RuleIndex, State,
        id::{IdType, IdTypes},
    },
    checkpoint::{
        keys,
        lease::{self, Identity, Validity},
        memory::MemoryStore,
        store::{Store, StoreError, Table, Write},
        tracker::Claim,
    },
    delivery::{
        contested::Contested,
        dead_letters::DeadLetters,
        ids::{Decided, Ids, Probe},
        lane::{Lane, Noted, Pending},
        places::Places,
        shape::{ShapedRule, Shaper},
        spots::Spots,
        writer::{Grouping, Writer},
    },
    pipeline::holders::HolderRequests,
    rules::model::{DeliverySettings, OnDelete},
    status::{Status, TargetStatus, fixture},
    target::{Action, Operation, Outcome, PlaceKey, Placed, Placing, Request, Retry, Target},
};

const LANES: usize = 2;
const DOCUMENTS: u64 = 24;
const PLACES: u64 = 15;
/// That are played in each run of the tests.
const HISTORIES: u64 = 60;

/// Chance, and what has happened.
struct Course {
    seed: u64,
    /// Whether what a killed process had on its way arrives after all.
    late: bool,
    /// Told once the next write is cut off in its middle.
    cut: Mutex<Option<Arc<Notify>>>,
    random: Mutex<StdRng>,
    told: Mutex<Vec<String>>,
}

impl Course {
    fn below(&self, limit: u64) -> u64 {
        self.random.lock().unwrap().random_range(0..limit)
    }

    fn chance(&self, of: f64) -> bool {
        self.random.lock().unwrap().random_bool(of)
    }

    /// What takes a moment, or none.
    async fn pause(&self) {
        match self.below(4) {
            0 => tokio::task::yield_now().await,
            ms => sleep(Duration::from_millis(ms * ms * self.below(3))).await,
        }
    }

    fn tell(&self, what: String) {
        self.told.lock().unwrap().push(what);
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lying {
    region: i64,
    at: i64,
    n: i64,
}

struct Event {
    key: DocumentKey,
    time: ClusterTime,
    deleted: bool,
}

/// What MongoDB has.
struct Source {
    sharded: bool,
    documents: BTreeMap<i64, Lying>,
    clock: u64,
    events: Vec<Event>,
}

fn namespace() -> Namespace {
    Namespace::new("shop", "products")
}

fn key(sharded: bool, id: i64, region: i64) -> DocumentKey {
    let key = match sharded {
        true => rawdoc! { "region": region, "_id": id },
        false => rawdoc! { "_id": id },
    };
    DocumentKey::from_document_key(&key).expect("a key")
}

fn number(key: &DocumentKey, name: &str) -> Option<i64> {
    key.raw().get_i64(name).ok()
}

impl Source {
    fn now(&self) -> ClusterTime {
        ClusterTime(self.clock)
    }

    fn tell(&mut self, id: i64, region: i64, deleted: bool) {
        let (key, time) = (key(self.sharded, id, region), self.now());
        self.events.push(Event { key, time, deleted });
    }

    fn set(&mut self, id: i64, at: i64, in_two: bool) {
        self.clock += 1;
        let n = i64::try_from(self.clock).expect("small");
        let lying = Lying { region: n % 3, at, n };
        let before = self.documents.insert(id, lying);
        match before {
            Some(before) if in_two && self.sharded => {
                self.tell(id, before.region, true);
                self.tell(id, lying.region, false);
            }
            // Under the key that it had.
            Some(before) => self.tell(id, before.region, false),
            None => self.tell(id, lying.region, false),
        }
    }

    fn remove(&mut self, id: i64) {
        self.clock += 1;
        if let Some(before) = self.documents.remove(&id) {
            self.tell(id, before.region, true);
        }
    }

    fn find(&self, wanted: &DocumentKey) -> Option<Lying> {
        let id = number(wanted, "_id").expect("an _id");
        let found = self.documents.get(&id).copied();
        found.filter(|it| !wanted.is_compound() || number(wanted, "region") == Some(it.region))
    }
}

/// Writes one thing after the other, as the contract of a store has it: whoever is killed has written a
/// first part of it, and some more arrives when the next one works already. As in MongoDB that changes
/// nothing which the next one has written.
struct Slow {
    store: Arc<MemoryStore>,
    course: Arc<Course>,
    epoch: u64,
    /// Who has written what last.
    epochs: Arc<Mutex<HashMap<(Table, RecordKey), u64>>>,
}

impl Slow {
    fn again(&self) -> Self {
        Self {
            store: self.store.clone(),
            course: self.course.clone(),
            epoch: self.epoch,
            epochs: self.epochs.clone(),
        }
    }

    async fn land(&self, mut part: Vec<Write>, how: &str) -> Result<(), StoreError> {
        {
            let mut epochs = self.epochs.lock().unwrap();
            part.retain(|write| {
                let at = (write.table, write.key.clone());
                let is_mine = epochs.get(&at).is_none_or(|epoch| *epoch <= self.epoch);
                match (is_mine, &write.value) {
                    (true, Some(_)) => drop(epochs.insert(at, self.epoch)),
                    (true, None) => drop(epochs.remove(&at)),
                    (false, _) => {}
                }
                is_mine
            });
        }
        for write in part.iter().filter(|write| write.table == Table::Places) {
            let to = write.value.as_ref().map(|value| format!("{value:?}"));
            self.course.tell(format!("stored {:?} = {to:?}{how}", write.key));
        }
        self.store.write(part).await
    }
}

/// What a killed process has on its way to the store.
struct UnderWay {
    store: Slow,
    left: VecDeque<Write>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // A letter that comes late is settled by the next success of its document.
        let left: Vec<Write> =
            self.left.drain(..).filter(|write| write.table == Table::Places).collect();
        let store = self.store.again();
        if left.is_empty() || !store.course.late {
            return;
        }
        tokio::spawn(async move {
            sleep(Duration::from_millis(store.course.below(300))).await;
            store.land(left, ", late").await.expect("a store in memory");
        });
    }
}

#[async_trait]
impl Store for Slow {
    fn place(&self) -> &str {
        self.store.place()
    }

    async fn get(
        &self,
        table: Table,
        key: &RecordKey,
    ) -> Result<Option<RawDocumentBuf>, StoreError> {
        self.course.pause().await;
        let found = self.store.get(table, key).await;
        self.course.pause().await;
        found
    }

    async fn get_many(
        &self,
        table: Table,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError> {
        self.course.pause().await;
        let mut found = Vec::new();
        let some = 1 + self.course.below(keys.len().max(1) as u64) as usize;
        for some in keys.chunks(some) {
            found.extend(self.store.get_many(table, some).await?);
            self.course.pause().await;
        }
        Ok(found)
    }

    async fn scan(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError> {
        self.course.pause().await;
        let found = self.store.scan(table, prefix, after, limit).await;
        self.course.pause().await;
        found
    }

    async fn scan_keys(
        &self,
        table: Table,
        prefix: &RecordKey,
        after: Option<&RecordKey>,
        limit: usize,
    ) -> Result<Vec<RecordKey>, StoreError> {
        self.store.scan_keys(table, prefix, after, limit).await
    }

    async fn write(&self, mut writes: Vec<Write>) -> Result<(), StoreError> {
        let removes = writes.first().is_some_and(|write| write.value.is_none());
        writes.sort_by_key(|write| write.value.is_none() != removes);
        let mut under_way = UnderWay { store: self.again(), left: writes.into() };
        self.course.pause().await;
        let some = 1 + self.course.below(2 * under_way.left.len().max(1) as u64) as usize;
        while !under_way.left.is_empty() {
            let count = some.min(under_way.left.len());
            self.land(under_way.left.drain(..count).collect(), "").await?;
            let cut = self.course.cut.lock().unwrap().take_if(|_| !under_way.left.is_empty());
            if let Some(cut) = cut {
                cut.notify_one();
                std::future::pending::<()>().await;
            }
            self.course.pause().await;
        }
        Ok(())
    }

    async fn swap(
        &self,
        key: &RecordKey,
        expected: Option<&RawDocument>,
        new: &RawDocument,
    ) -> Result<bool, StoreError> {
        self.store.swap(key, expected, new).await
    }

    async fn fence(&self, epoch: u64) -> Result<(), StoreError> {
        self.store.fence(epoch).await
    }
}

/// Of each place, and each region where it has several, the version, and the `_id` and `n` of what lies
/// there.
type Shelves = BTreeMap<(i64, i64), (u64, Option<(i64, i64)>)>;

/// Takes nothing that is older than what it has, as an engine with external versions.
struct Shelf {
    /// Whether what has another region lies elsewhere in one place, as with a routing.
    routed: bool,
    places: Mutex<Shelves>,
    course: Arc<Course>,
}

#[async_trait]
impl Target for Shelf {
    fn place(&self, _: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        let document = placing.document.expect("what is chosen by a document has one");
        let at = document.get_i64("at").map_err(|_| "nowhere".to_owned())?;
        let region = document.get_i64("region").map_err(|_| "nowhere".to_owned())?;
        let place = format!("{at} {}", if self.routed { region } else { 0 });
        Ok(Placed { place: PlaceKey(place.into_bytes().into()), extra: Bytes::new() })
    }

    fn spot(&self, place: &PlaceKey) -> PlaceKey {
        let place = self.describe(place);
        let (at, _) = place.split_once(' ').expect("both");
        PlaceKey(at.as_bytes().into())
    }

    fn place_is_fixed(&self, _: &str) -> bool {
        false
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let (place, time) = (self.describe(&operation.place), operation.time.0);
        let line = match &operation.action {
            Action::Put(document) => {
                let number = |name| document.raw().get_i64(name).expect("a number");
                format!("{place} {time} {} {}", number("_id"), number("n"))
            }
            Action::Remove => format!("{place} {time}"),
            Action::Append(_) => unreachable!("nothing is told"),
        };
        body.extend_from_slice(line.as_bytes());
        Ok(())
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        self.course.pause().await;
        let mut outcomes = Vec::new();
        for item in &request.items {
            if self.course.chance(0.1) {
                self.course.pause().await;
            }
            let line = str::from_utf8(&request.body[item.range.clone()]).expect("text");
            let numbers: Vec<i64> = line.split(' ').map(|it| it.parse().expect("it")).collect();
            let (place, time) = ((numbers[0], numbers[1]), numbers[2].cast_unsigned());
            let mut places = self.places.lock().unwrap();
            let known = places.entry(place).or_insert((0, None));
            let outcome = match known.0 > time {
                true => Outcome::Superseded,
                false => {
                    *known = (time, numbers.get(3).map(|id| (*id, numbers[4])));
                    Outcome::Applied
                }
            };
            self.course.tell(format!("at {place:?}: {line} {outcome:?}, {known:?}"));
            outcomes.push(outcome);
        }
        self.course.pause().await;
        Ok(outcomes)
    }

    fn describe(&self, place: &PlaceKey) -> String {
        String::from_utf8(place.0.to_vec()).expect("text")
    }
}

struct Ints;

#[async_trait]
impl Probe for Ints {
    async fn id_types(&self, _: &Namespace) -> Result<IdTypes, Halt> {
        let mut types = IdTypes::default();
        types.insert(IdType::of(bson::RawBsonRef::Int64(1)));
        Ok(types)
    }
}

/// What outlives a run.
struct Stage {
    course: Arc<Course>,
    source: Mutex<Source>,
    store: Arc<MemoryStore>,
    shelf: Arc<Shelf>,
    validity: Validity,
    epoch: AtomicU64,
    epochs: Arc<Mutex<HashMap<(Table, RecordKey), u64>>>,
    /// Events that need not be read again.
    position: Mutex<usize>,
    _keeping: JoinSet<()>,
}

/// Dropped, it is killed.
struct Run {
    noted: Arc<Mutex<Vec<Arc<Completion>>>>,
    _tasks: JoinSet<()>,
}

impl Stage {
    async fn new(sharded: bool, seed: u64) -> Arc<Self> {
        // What lies under both keys of a document in two places of one spot is not always taken away yet.
        let routed = !sharded && seed / 2 % 2 == 1;
        let course = Arc::new(Course {
            seed,
            late: seed % 2 == 1,
            cut: Mutex::default(),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            told: Mutex::default(),
        });
        let leases = Arc::new(MemoryStore::new("shop"));
        let store = Arc::new(leases.another());
        let stop = CancellationToken::new();
        let me = Identity::of_this_process("shop", "shop.yaml".as_ref());
        let held = lease::acquire(leases, &me, |_| {}, &stop).await.expect("nobody else is there");
        store.fence(held.epoch()).await.expect("the newest epoch");
        let validity = held.validity();
        let mut keeping = JoinSet::new();
        keeping.spawn(async move { held.keep(&CancellationToken::new()).await.expect("kept") });
        let (documents, events) = (BTreeMap::new(), Vec::new());
        let shelf = Shelf { routed, places: Mutex::default(), course: course.clone() };
        Arc::new(Self {
            course,
            source: Mutex::new(Source { sharded, documents, clock: 100, events }),
            store,
            shelf: Arc::new(shelf),
            validity,
            epoch: AtomicU64::new(1),
            epochs: Arc::default(),
            position: Mutex::new(0),
            _keeping: keeping,
        })
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap()
    }

    async fn run(self: &Arc<Self>) -> Run {
        let mut file = fixture::rules();
        file.rules.truncate(1);
        let stop = CancellationToken::new();
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed);
        let (course, epochs) = (self.course.clone(), self.epochs.clone());
        let store = Arc::new(Slow { store: self.store.clone(), course, epoch, epochs });
        let (target, name): (Arc<dyn Target>, Arc<str>) = (self.shelf.clone(), "products".into());
        let rule = ShapedRule {
            name: name.clone(),
            script: None,
            on_delete: OnDelete::Remove,
            fixed: false,
            follows: true,
            events: false,
        };
        let settings = DeliverySettings { max_actions: 10, ..file.targets[0].delivery.clone() };
        let dead_letters = DeadLetters::load(
            store.clone(),
            "search",
            vec![name.clone()],
            settings.on_rejected,
            &stop,
        );
        let dead_letters = dead_letters.await.expect("a store in memory");
        let rules = BTreeSet::from([name.to_string()]);
        let (spots, met) = Spots::new(store.clone(), "search", target.clone(), rules);
        spots.begin(self.source().now());
        let status = Status::new(&file).target("search");
        let context = Arc::new(Context {
            grouping: Grouping::Any,
            target: target.clone(),
            shaper: Shaper::new(target, vec![rule]),
            lookup: None,
            ids: Ids::new(store.clone(), Arc::new(Ints), Decided::default()),
            places: Places::new(store.clone(), "search"),
            spots,
            dead_letters: Arc::new(dead_letters),
            contested: Contested::new().0,
            settings,
            rules: vec![status.rule("products")],
            status,
            validity: self.validity.clone(),
            drain: CancellationToken::new(),
            stop: stop.clone(),
        });
        context.spots.inherit(&context.places, &stop).await.expect("a store in memory");
        let rules = RuleSet::new(&Arc::new(file), "search", None, |_| true, |_| false);
        let (lanes, rules) =
            (Arc::new(Lanes::new(LANES, 1 << 20, ClusterTime::ZERO)), Arc::new(rules));
        let mut tasks = JoinSet::new();
        for (number, lane) in lanes.iter().enumerate() {
            let writer = Writer::new(number, lane.clone(), context.clone());
            tasks.spawn(async move { writer.run().await.expect("nothing fails") });
            let (stage, lane) = (self.clone(), lane.clone());
            tasks.spawn(async move { stage.answer(&lane).await });
        }
        let asking =
            HolderRequests { rules: rules.clone(), context: context.clone(), by_place: false };
        let asking = asking.run(lanes.clone(), met, stop.clone());
        tasks.spawn(async move { drop(asking.await.expect("nothing fails")) });
        let succession =
            Succession { lanes: lanes.clone(), rules, context: context.clone(), is_whole: true };
        tasks.spawn(async move { drop(succession.run(stop).await.expect("nothing fails")) });
        let noted: Arc<Mutex<Vec<Arc<Completion>>>> = Arc::default();
        let (stage, known, context) = (self.clone(), noted.clone(), context.clone());
        tasks.spawn(async move { stage.follow(&lanes, &known, &context.status).await });
        Run { noted, _tasks: tasks }
    }

    /// The stream.
    async fn follow(
        &self,
        lanes: &Lanes,
        noted: &Mutex<Vec<Arc<Completion>>>,
        status: &TargetStatus,
    ) {
        let from = *self.position.lock().unwrap();
        let mut next = from;
        loop {
            self.course.pause().await;
            let most = 1 + self.course.below(8) as usize;
            let mut of_lanes: Vec<Vec<Noted>> = lanes.iter().map(|_| Vec::new()).collect();
            let frontier = {
                let source = self.source();
                for Event { key, time, deleted } in source.events.iter().skip(next).take(most) {
                    let done = Arc::new(Completion::new());
                    let subject = Subject { namespace: namespace(), key: key.clone() };
                    of_lanes[lanes.index(&namespace(), key)].push(Noted {
                        subject,
                        time: *time,
                        since: None,
                        deleted: *deleted,
                        claim: done.claim(),
                    });
                    done.close();
                    noted.lock().unwrap().push(done);
                    next += 1;
                }
                next.checked_sub(1).map_or(ClusterTime::ZERO, |last| source.events[last].time)
            };
            for (lane, noted) in lanes.iter().zip(of_lanes) {
                lane.changed(noted);
            }
            lanes.advance(frontier);
            if self.course.chance(0.2) {
                let settled =
                    noted.lock().unwrap().iter().take_while(|done| done.is_done()).count();
                let position = from + settled;
                *self.position.lock().unwrap() = position;
                let source = self.source();
                status.position(match source.events.get(position) {
                    Some(event) => ClusterTime(event.time.0 - 1),
                    None => source.now(),
                });
            }
            let is_idle = next == self.source().events.len();
            sleep(Duration::from_millis(if is_idle { 20 } else { 1 })).await;
        }
    }

    /// Lookups, as a lane's answering does them.
    async fn answer(&self, lane: &Lane) {
        loop {
            let most = 1 + self.course.below(16) as usize;
            let taken = lane.take(most).await;
            self.course.pause().await;
            let least = lane.asked_for();
            let keys: Vec<DocumentKey> = taken.iter().map(|it| it.subject.key.clone()).collect();
            let (states, mut as_of) = {
                let source = self.source();
                let states: Vec<_> = keys.iter().map(|key| source.find(key)).collect();
                (states, source.now())
            };
            let mut changes = Vec::new();
            for (pending, state) in taken.into_iter().zip(states) {
                let key = pending.subject.key.clone();
                let mut moved = None;
                if state.is_none() && key.is_compound() {
                    self.course.pause().await;
                    let id = DocumentKey::from_id(key.id()).expect("a key");
                    let found = self.source().find(&id);
                    self.course.pause().await;
                    let now = self.source().find(&id);
                    if let (Some(found), Some(now)) = (found, now) {
                        let id = number(&key, "_id").expect("an _id");
                        moved = Some((super::tests::key(true, id, now.region), found));
                    }
                }
                self.course.tell(format!(
                    "looked {:?} up: {state:?}, {:?}, for {}",
                    key.raw(),
                    moved.as_ref().map(|(key, found)| (key.raw(), found)),
                    pending.time.0,
                ));
                let behind = moved.map(|(key, found)| {
                    let claims = pending.claims.iter().map(Claim::share).collect();
                    change(&pending, key, Some(found), claims, least)
                });
                let mut gone = change(&pending, key, state, Default::default(), least);
                gone.claims = pending.claims;
                changes.push(gone);
                changes.extend(behind);
            }
            as_of = as_of.max(self.source().now());
            for change in &mut changes {
                change.read = as_of;
            }
            lane.complete(changes, Vec::new(), as_of);
        }
    }

    /// What is wrong, if anything.
    async fn wrong(&self) -> Option<String> {
        let source = self.source().documents.clone();
        let held = self.shelf.places.lock().unwrap().clone();
        let all = RecordKey(Vec::new());
        let letters = self.store.scan(Table::DeadLetters, &all, None, 10_000).await.expect("it");
        let letters: Vec<i64> = letters
            .iter()
            .map(|(_, letter)| letter.get_document("key").unwrap().get_i64("_id").unwrap())
            .collect();
        let refused: BTreeSet<i64> = letters.iter().copied().collect();
        let mut expected = BTreeSet::new();
        for place in 0..PLACES.cast_signed() {
            let own: BTreeMap<i64, i64> = source
                .iter()
                .filter(|(_, lying)| lying.at == place)
                .map(|(id, lying)| (*id, lying.n))
                .collect();
            let here = held.range((place, 0)..(place + 1, 0));
            let here: Vec<_> =
                here.filter_map(|((_, region), (_, held))| Some((*region, (*held)?))).collect();
            match here[..] {
                [] if own.is_empty() => {}
                [(region, (id, n))]
                    if own.get(&id) == Some(&n) && (!self.shelf.routed || region == n % 3) =>
                {
                    expected.extend(own.keys().filter(|other| **other != id));
                }
                _ => return Some(format!("at {place} is {here:?}, of {own:?}")),
            }
        }
        (refused != expected || letters.len() != refused.len())
            .then(|| format!("letters of {letters:?}, and not of {expected:?}"))
    }

    async fn right(&self, run: &Run) {
        for _ in 0..120 {
            sleep(Duration::from_secs(1)).await;
            let done = run.noted.lock().unwrap().iter().all(|it| it.is_done());
            if done && self.wrong().await.is_none() {
                return;
            }
        }
        panic!("{:?}, {}", self.wrong().await, self.story());
    }

    fn change(&self) {
        let (id, at) = (self.course.below(DOCUMENTS), self.course.below(PLACES));
        let (id, at) = (id.cast_signed(), at.cast_signed());
        let mut source = self.source();
        // What changes mostly stays where it is.
        let at = match source.documents.get(&id) {
            Some(lying) if self.course.chance(0.5) => lying.at,
            _ => at,
        };
        match self.course.chance(0.2) {
            true => source.remove(id),
            false => source.set(id, at, self.course.chance(0.5)),
        }
        self.course.tell(format!("{id} is {:?}", source.documents.get(&id)));
    }

    async fn stir(&self, count: u64) {
        for _ in 0..count {
            self.change();
            if self.course.chance(0.5) {
                self.course.pause().await;
            }
        }
    }

    /// Whether the store says nothing of any place.
    async fn is_forgotten(&self) -> bool {
        let all = RecordKey(Vec::new());
        let stored = self.store.scan(Table::Places, &all, None, 10).await.expect("in memory");
        let known = keys::spots_known("search");
        stored.iter().all(|(key, _)| *key == known)
    }

    /// Where all that has happened is written down.
    fn story(&self) -> String {
        let path = std::env::temp_dir().join(format!("mongosync-places-{}.txt", self.course.seed));
        let told = self.course.told.lock().unwrap().join("\n");
        match std::fs::write(&path, told) {
            Ok(()) => format!("see {}", path.display()),
            Err(error) => error.to_string(),
        }
    }
}

fn change(
    pending: &Pending,
    key: DocumentKey,
    state: Option<Lying>,
    claims: crate::checkpoint::tracker::Claims,
    least: ClusterTime,
) -> Change {
    let id = number(&key, "_id").expect("an _id");
    let present = |lying: Lying| {
        let raw = rawdoc! { "_id": id, "at": lying.at, "n": lying.n, "region": lying.region };
        State::Present(Document::from(raw))
    };
    Change {
        namespace: namespace(),
        key,
        time: pending.time.max(least),
        cause: Cause::Event(pending.time),
        read: ClusterTime::ZERO,
        since: None,
        deleted: pending.deleted,
        phase: Phase::Changes,
        states: smallvec![(RuleIndex(0), state.map_or(State::Gone, present))],
        claims,
    }
}

async fn history(sharded: bool, seed: u64) {
    let stage = Stage::new(sharded, seed).await;
    stage.stir(40).await;
    for _ in 0..4 {
        let run = stage.run().await;
        stage.stir(stage.course.below(40)).await;
        sleep(Duration::from_millis(stage.course.below(400))).await;
        if stage.course.chance(0.7) {
            let cut = Arc::new(Notify::new());
            *stage.course.cut.lock().unwrap() = Some(cut.clone());
            // Where everything is done there is none.
            let _ = timeout(Duration::from_secs(1), cut.notified()).await;
            stage.course.cut.lock().unwrap().take();
        }
        drop(run);
        stage.course.tell("killed".into());
        stage.stir(stage.course.below(20)).await;
    }
    let run = stage.run().await;
    stage.right(&run).await;
    // Else nobody else comes to what those runs have left.
    if stage.course.chance(0.5) {
        stage.stir(150).await;
        stage.right(&run).await;
    }
    let ids: Vec<i64> = stage.source().documents.keys().copied().collect();
    ids.into_iter().for_each(|id| stage.source().remove(id));
    stage.right(&run).await;
    drop(run);
    // Who was refused, and went elsewhere before, is looked at by the next run.
    let run = stage.run().await;
    stage.right(&run).await;
    // What arrives late may say whose a place is that its document has left, which counts for nothing.
    for _ in 0..100 {
        if stage.course.late || stage.is_forgotten().await {
            return;
        }
        sleep(Duration::from_secs(1)).await;
    }
    panic!("the store still says something of a place, {}", stage.story());
}

fn histories(sharded: bool) {
    let number = |name| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
    };
    let seconds = number("MONGOSYNC_RANDOM_SECONDS").map(Duration::from_secs);
    let began = std::time::Instant::now();
    let play = |seed| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        println!("seed {seed}");
        runtime.block_on(history(sharded, seed));
    };
    match number("MONGOSYNC_RANDOM_SEED") {
        Some(seed) => play(seed),
        None => (0..)
            .take_while(|seed| seconds.map_or(*seed < HISTORIES, |it| began.elapsed() < it))
            .for_each(play),
    }
}

#[test]
fn who_shares_places_is_told_apart_whatever_happens() {
    histories(false);
}

#[test]
fn who_shares_places_and_changes_its_shard_key_is_told_apart_whatever_happens() {
    histories(true);
}
