//! A target that answers by script, and all that a writer needs around it: for the tests of this
//! stage.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bson::{RawBsonRef, RawDocument, rawdoc};
use bytes::Bytes;
use smallvec::smallvec;
use tokio::{
    sync::{Notify, mpsc},
    task::{JoinHandle, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Halt,
    contested::{Contested, Holder},
    dead_letters::DeadLetters,
    ids::{Decided, Ids, Probe},
    lane::Lane,
    places::Places,
    shape::{ShapedRule, Shaper},
    spots::Spots,
    writer::{Context, Grouping, Writer},
};
use crate::{
    change::{
        Cause, Change, ClusterTime, Document, DocumentKey, Namespace, Phase, RuleIndex, State,
        id::{IdType, IdTypes},
    },
    checkpoint::{
        lease::{self, Identity},
        memory::MemoryStore,
        store::{RecordKey, Store, Table},
        tracker::{Claim, Completion},
    },
    rules::model::{DeliverySettings, OnDelete, OnRejected},
    status::{Status, fixture},
    target::{
        Action, Operation, Outcome, PlaceKey, Placed, Placing, Pressure, Request, Retry, Target,
    },
    transform::{Lookup, Meta, Script},
};

/// What the target says to one request.
pub enum Answer {
    /// Of each item: what its line begins with, and what becomes of it. Others are applied.
    Items(Vec<(&'static str, Outcome)>),
    /// Of the whole request.
    All(Retry),
    /// An answer with so many outcomes.
    Count(usize),
    /// None.
    Hang,
    /// All applied, once this is notified.
    Gate(Arc<Notify>),
    /// Everything is applied, so late.
    After(Duration),
    Panic,
}

pub fn retry(pressure: Pressure) -> Retry {
    Retry { reason: "unavailable", message: "busy".into(), after: None, pressure }
}

/// A rule's places: fixed under a prefix (`!` for none) and the id, or a field of the document. What
/// stands before a `|` makes another place of the same thing.
#[derive(Clone, Copy)]
pub enum Where {
    ById(&'static str),
    ByField(&'static str),
}

/// Every rule by its name.
pub struct Scripted {
    places: BTreeMap<&'static str, Where>,
    script: Mutex<VecDeque<Answer>>,
    sent: Mutex<Vec<(Duration, Vec<String>)>>,
    held: Mutex<BTreeMap<String, i64>>,
    began: Instant,
}

impl Scripted {
    pub fn new(places: &[(&'static str, Where)]) -> Arc<Self> {
        Arc::new(Self {
            places: places.iter().copied().collect(),
            script: Mutex::default(),
            sent: Mutex::default(),
            held: Mutex::default(),
            began: Instant::now(),
        })
    }

    pub fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        self.script.lock().unwrap().extend(answers);
    }

    /// The request behind those that are scripted waits until this is notified, and is applied then.
    pub fn gate(&self) -> Arc<Notify> {
        let gate = Arc::new(Notify::new());
        self.answers([Answer::Gate(gate.clone())]);
        gate
    }

    /// From now on everything is applied.
    pub fn answers_no_more(&self) {
        self.script.lock().unwrap().clear();
    }

    /// Each request as its lines: `place=value`, or `place-` for a removal.
    pub fn sent(&self) -> Vec<Vec<String>> {
        self.sent.lock().unwrap().iter().map(|(_, lines)| lines.clone()).collect()
    }

    /// When each request was sent.
    pub fn sent_at(&self) -> Vec<u128> {
        self.sent.lock().unwrap().iter().map(|(at, _)| at.as_millis()).collect()
    }

    /// What lies in which place.
    pub fn held(&self) -> Vec<(String, i64)> {
        self.held.lock().unwrap().clone().into_iter().collect()
    }

    fn apply(&self, line: &str) {
        let mut held = self.held.lock().unwrap();
        match line.split_once('=') {
            Some((place, value)) => held.insert(place.into(), value.parse().unwrap()),
            None => held.remove(line.strip_suffix('-').unwrap()),
        };
    }
}

#[async_trait]
impl Target for Scripted {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        let place = match self.places[rule] {
            Where::ById("!") => return Err("it can lie nowhere".into()),
            Where::ById(_) if placing.event.is_some() => {
                placing.event.unwrap_or_default().to_owned()
            }
            Where::ById(prefix) => format!("{prefix}{}", placing.id),
            Where::ByField(field) => {
                let document = placing.document.expect("only fixed places are asked for removals");
                document.get_str(field).map_err(|_| format!("there is no {field}"))?.to_owned()
            }
        };
        Ok(Placed { place: PlaceKey(place.into_bytes().into()), extra: Bytes::new() })
    }

    fn place_is_fixed(&self, rule: &str) -> bool {
        matches!(self.places[rule], Where::ById(_))
    }

    /// It asks for the items one after the other.
    fn longest(&self, timeout: Duration) -> Duration {
        2 * timeout
    }

    fn thing(&self, place: &PlaceKey) -> PlaceKey {
        let place = self.describe(place);
        let thing = place.split('|').next_back().unwrap_or_default();
        PlaceKey(thing.as_bytes().into())
    }

    fn is_scripted(&self, place: &PlaceKey) -> bool {
        self.describe(place).starts_with("http")
    }

    /// Of what lies at `?` no removal can be made, and none is to be made of what lies at `.`.
    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let place = self.describe(&operation.place);
        match (&operation.action, place.as_str()) {
            (Action::Remove, "?") => return Err("no way there".into()),
            (Action::Remove, ".") => return Ok(()),
            _ => {}
        }
        let line = match &operation.action {
            Action::Put(document) => match document.raw().get("v") {
                Ok(Some(RawBsonRef::Int64(value))) => format!("{place}={value}\n"),
                _ => {
                    body.extend_from_slice(b"half a line");
                    return Err("no v".into());
                }
            },
            Action::Remove => format!("{place}-\n"),
            Action::Append(told) => format!("{place}={}\n", told.document_id),
        };
        body.extend_from_slice(line.as_bytes());
        Ok(())
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let lines: Vec<String> = request
            .items
            .iter()
            .map(|item| {
                let bytes = request.body[item.range.clone()].to_vec();
                String::from_utf8(bytes).unwrap().trim_end().to_owned()
            })
            .collect();
        let length: usize = request.items.iter().map(|item| item.range.len()).sum();
        assert_eq!(length, request.body.len(), "a body holds its items and nothing else");
        self.sent.lock().unwrap().push((self.began.elapsed(), lines.clone()));
        let answer = self.script.lock().unwrap().pop_front();
        let mut outcomes = vec![Outcome::Applied; lines.len()];
        match answer {
            None => {}
            Some(Answer::Items(items)) => {
                for (line, outcome) in lines.iter().zip(&mut outcomes) {
                    let found = items.iter().find(|(start, _)| line.starts_with(start));
                    *outcome = found.map_or(Outcome::Applied, |(_, outcome)| outcome.clone());
                }
            }
            Some(Answer::All(retry)) => return Err(retry),
            Some(Answer::Count(count)) => return Ok(vec![Outcome::Applied; count]),
            Some(Answer::After(time)) => tokio::time::sleep(time).await,
            Some(Answer::Hang) => std::future::pending().await,
            Some(Answer::Gate(gate)) => gate.notified().await,
            Some(Answer::Panic) => panic!("as the script says"),
        }
        for (line, outcome) in lines.iter().zip(&outcomes) {
            if *outcome == Outcome::Applied {
                self.apply(line);
            }
        }
        Ok(outcomes)
    }

    async fn prepare(&self) -> Result<(), Retry> {
        Ok(())
    }

    fn meta(&self, operation: &Operation) -> Meta {
        Meta { id: Some(self.describe(&operation.place)), ..Meta::default() }
    }

    fn describe(&self, place: &PlaceKey) -> String {
        String::from_utf8(place.0.to_vec()).unwrap()
    }
}

struct Ints;

#[async_trait]
impl Probe for Ints {
    async fn id_types(&self, _: &Namespace) -> Result<IdTypes, Halt> {
        Ok(ints())
    }
}

pub fn settings() -> DeliverySettings {
    DeliverySettings {
        max_bytes: 1 << 20,
        max_actions: 100,
        max_delay: Duration::from_millis(50),
        concurrency: 1,
        timeout: Duration::from_secs(60),
        retry_initial: Duration::from_millis(100),
        retry_max: Duration::from_secs(30),
        give_up_after: None,
        on_rejected: OnRejected::DeadLetter,
    }
}

/// One lane with its writer.
pub struct Bench {
    pub target: Arc<Scripted>,
    pub lane: Arc<Lane>,
    pub store: Arc<MemoryStore>,
    pub context: Arc<Context>,
    pub drain: CancellationToken,
    /// Documents that others have met in their places.
    pub met: Mutex<mpsc::Receiver<Holder>>,
    _keeping: JoinSet<()>,
}

/// The rules `products` and `orders`, of which the test says where they put things.
pub fn shaped(target: &Scripted, on_delete: OnDelete) -> Vec<ShapedRule> {
    ["products", "orders"]
        .into_iter()
        .filter(|name| target.places.contains_key(name))
        .map(|name| ShapedRule {
            name: name.into(),
            script: None,
            on_delete,
            fixed: target.place_is_fixed(name),
            follows: true,
            events: false,
        })
        .collect()
}

impl Bench {
    pub async fn new(places: &[(&'static str, Where)], settings: DeliverySettings) -> Self {
        Self::with_script(places, settings, None).await
    }

    /// With a script that all rules have, and what answers its lookups.
    pub async fn with_script(
        places: &[(&'static str, Where)],
        settings: DeliverySettings,
        script: Option<(&str, Arc<dyn Lookup>)>,
    ) -> Self {
        Self::grouped(places, settings, script, None).await
    }

    /// With rules that deliver events, of which so many stand in a batch.
    pub async fn of_events(settings: DeliverySettings, grouping: Grouping) -> Self {
        let places = [("products", Where::ById("p"))];
        Self::grouped(&places, settings, None, Some(grouping)).await
    }

    async fn grouped(
        places: &[(&'static str, Where)],
        settings: DeliverySettings,
        script: Option<(&str, Arc<dyn Lookup>)>,
        events: Option<Grouping>,
    ) -> Self {
        let leases = Arc::new(MemoryStore::new("shop"));
        let store = Arc::new(leases.another());
        let stop = CancellationToken::new();
        let me = Identity::of_this_process("shop", "shop.yaml".as_ref());
        let held = lease::acquire(leases, &me, |_| {}, &stop).await.expect("nobody else is there");
        store.fence(held.epoch()).await.expect("the newest epoch");
        let validity = held.validity();
        let mut keeping = JoinSet::new();
        keeping.spawn(async move { held.keep(&CancellationToken::new()).await.expect("kept") });
        let target = Scripted::new(places);
        let mut rules = shaped(&target, OnDelete::Remove);
        for rule in &mut rules {
            let compile = |(text, _): &(&str, _)| Script::compile(text, Default::default(), None);
            rule.script = script.as_ref().map(|it| Arc::new(compile(it).expect("a script")));
            rule.events = events.is_some();
        }
        let names: Vec<Arc<str>> = rules.iter().map(|rule| rule.name.clone()).collect();
        let status = Status::new(&fixture::rules()).target("search");
        status.position(ClusterTime(9));
        let dead_letters =
            DeadLetters::load(store.clone(), "search", names.clone(), settings.on_rejected, &stop)
                .await
                .expect("a store in memory");
        let drain = CancellationToken::new();
        let all = names.iter().map(|name| name.to_string()).collect();
        let (spots, met) = Spots::new(store.clone(), "search", target.clone(), all);
        spots.begin(ClusterTime(9));
        let context = Context {
            grouping: events.unwrap_or(Grouping::Any),
            target: target.clone(),
            shaper: Shaper::new(target.clone(), rules),
            lookup: script.map(|(_, lookup)| lookup),
            ids: Ids::new(store.clone(), Arc::new(Ints), Decided::default()),
            places: Places::new(store.clone(), "search"),
            spots,
            dead_letters: Arc::new(dead_letters),
            contested: Contested::new().0,
            settings,
            rules: names.iter().map(|name| status.rule(name)).collect(),
            status,
            validity,
            drain: drain.clone(),
            stop,
        };
        let (lane, context) = (Arc::new(Lane::new(1 << 20)), Arc::new(context));
        Self { target, lane, store, context, drain, met: Mutex::new(met), _keeping: keeping }
    }

    /// Starts the writer. It ends once the bench is drained, or with the test's runtime.
    pub fn write(&self) -> JoinHandle<Result<(), Halt>> {
        tokio::spawn(Writer::new(0, self.lane.clone(), self.context.clone()).run())
    }

    /// Puts changes into the lane; the completion says when all are settled.
    pub fn put(&self, changes: impl IntoIterator<Item = (i64, State)>) -> Completion {
        let completion = Completion::new();
        let change = |(id, state)| change(id, state, vec![completion.claim()]);
        self.lane.append(changes.into_iter().map(change).collect());
        completion.close();
        completion
    }

    /// The keys and words of the dead letters that are stored.
    pub async fn letters(&self) -> Vec<(String, String)> {
        let all = RecordKey(Vec::new());
        let records = self.store.scan(Table::DeadLetters, &all, None, 100).await.unwrap();
        let text = |record: &RawDocument, name| record.get_str(name).unwrap().to_owned();
        records
            .iter()
            .map(|(_, record)| (text(record, "key_text"), text(record, "words")))
            .collect()
    }
}

/// A namespace whose ids are numbers.
pub fn ints() -> IdTypes {
    let mut types = IdTypes::default();
    types.insert(IdType::of(RawBsonRef::Int64(1)));
    types
}

pub fn namespace() -> Namespace {
    Namespace::new("shop", "products")
}

pub fn key(id: i64) -> DocumentKey {
    DocumentKey::from_id(RawBsonRef::Int64(id)).expect("a key")
}

/// A state of the first rule.
pub fn change(id: i64, state: State, claims: impl IntoIterator<Item = Claim>) -> Change {
    Change {
        namespace: namespace(),
        key: key(id),
        time: ClusterTime(7),
        cause: Cause::Event(ClusterTime(7)),
        read: ClusterTime(9),
        since: None,
        deleted: false,
        phase: Phase::Changes,
        states: smallvec![(RuleIndex(0), state)],
        claims: claims.into_iter().collect(),
    }
}

/// A document whose value is `v`.
pub fn value(v: i64) -> State {
    State::Present(Document::from(rawdoc! { "_id": v, "v": v }))
}

/// A document that lies where its field `at` says.
pub fn lying(at: &str, v: i64) -> State {
    State::Present(Document::from(rawdoc! { "v": v, "at": at }))
}
