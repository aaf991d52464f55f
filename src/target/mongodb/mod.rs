//! MongoDB: documents go as the bytes that they are, each to its own `_id`.
//!
//! Its place is behind `delivery`, which decides what is sent when, and again. Here it is placed
//! (`routes`, `place`), written into commands (`command`), sent once (`writing`), and the answer read
//! (`answer`); collections are made (`collections`), remembered as ours (`marker`) and indexed
//! (`indexes`), what becomes of them is followed (`definition`, `align`), values that two documents claim are
//! sorted out (`contested`), and what is refused for no known reason (`doubted`). Events are inserted, each
//! as a document of its own (`event`), and never touched again.
//!
//! # Late writes
//! A MongoDB keeps no versions that a write could be refused by, and none are put into documents. What
//! stands in their stead is in `fence`: within a process sessions whose attempts are numbered, from one
//! process to the next a time after which a write fails. The next process reads the present state of all
//! that was not settled and writes it again, so the end is the same.
//!
//! What remains: an insert of the copy into a collection that was empty bears no time. One that arrives
//! after another process has taken over does nothing where the document is there; where it was deleted
//! in between, it brings it back, until the sweep at the end of that copy. Nor does the insert of an event:
//! one that comes late finds it there, or puts it where it would have been put again.

mod align;
mod answer;
mod collections;
mod command;
mod connection;
mod contested;
mod definition;
mod doubted;
mod event;
mod fence;
mod indexes;
mod looks;
mod marker;
mod place;
mod reading;
mod rights;
mod routes;
mod writing;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bson::{Document, RawDocument, Uuid, doc};
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinSet,
};

pub use place::{MongoPlaceKey, PlaceError, place_key};
pub use routes::MongoRule;

use self::{
    align::Alignment,
    answer::Failed,
    collections::{Asking, Collections, Kept, Ready},
    connection::{Connection, unusable},
    contested::Contested,
    doubted::Doubted,
    indexes::{Indexed, Unbuilt},
    routes::Routes,
    writing::{Group, Portion},
};
use super::{
    Action, Align, Contents, Listing, Look, Operation, Origins, Outcome, PlaceKey, Placed, Placing,
    Pressure, Request, Retry, Target,
};
use crate::{
    change::{ClusterTime, DocumentKey, Namespace, Phase},
    finding::Finding,
    rules::model::{MongoDb, address},
    transform::Meta,
};

/// The first byte of an item, before the document: a copied document.
const COPIED: u8 = b'c';
/// A document that has changed.
const CHANGED: u8 = b'u';
/// An event.
const APPENDED: u8 = b'a';
/// A removal; what follows is the namespace in the source of what is removed.
const REMOVED: u8 = b'r';
/// How long the end of a copy waits for its indexes before it says so.
const BUILDING: Duration = Duration::from_millis(10);

/// One MongoDB, 4.4 or later: a replica set or a sharded cluster.
pub struct MongoTarget {
    settings: MongoDb,
    /// In the comments of its writes, so that those of an earlier process can be told.
    owner: String,
    run: String,
    timeout: Duration,
    /// Whether requests are only shown to a person.
    shown: bool,
    contested: Contested,
    doubted: Doubted,
    within: Arc<Within>,
    alignment: Arc<Alignment>,
    /// Indexes that are being built, by rule.
    building: Mutex<HashMap<String, JoinSet<Result<(), Retry>>>>,
}

/// What the target and its tasks share.
struct Within {
    routes: Routes,
    origins: Option<Arc<dyn Origins>>,
    connection: OnceCell<Connection>,
    collections: Collections,
    unbuilt: Unbuilt,
}

impl Within {
    async fn ready(
        &self,
        connection: &Connection,
        owner: &str,
        name: &str,
        kept: Kept<'_>,
    ) -> Result<Arc<OnceCell<Ready>>, Retry> {
        let asking =
            Asking { connection, routes: &self.routes, origins: self.origins.as_deref(), owner };
        self.collections.ready(&asking, name, kept).await
    }

    /// See [`Collections::left`].
    async fn left(
        &self,
        connection: &Connection,
        owner: &str,
        name: &str,
        from: &Namespace,
    ) -> Result<Option<Arc<Ready>>, Retry> {
        let asking =
            Asking { connection, routes: &self.routes, origins: self.origins.as_deref(), owner };
        self.collections.left(&asking, name, from).await
    }

    /// Builds indexes for what a rule has copied, collection by collection.
    async fn index(
        self: Arc<Self>,
        rule: String,
        owner: String,
        alignment: Arc<Alignment>,
    ) -> Result<(), Retry> {
        let (Some(connection), Some(origins)) = (self.connection.get(), &self.origins) else {
            return Ok(());
        };
        let mut waits = None;
        for from in origins.namespaces(&rule).await? {
            let Some(name) = self.routes.container(&rule, &from) else { continue };
            let follows = alignment.follows() && self.routes.follows(&name);
            let built = self.index_one((connection, &owner), &name, &from, follows).await;
            if let Err(retry) = built {
                waits = Some(retry);
            }
        }
        waits.map_or(Ok(()), Err)
    }

    /// Builds indexes for one collection; makes it, where nothing has been written. `follows` says whether
    /// what the source has no longer is dropped.
    async fn index_one(
        &self,
        (connection, owner): (&Connection, &str),
        name: &str,
        from: &Namespace,
        follows: bool,
    ) -> Result<(), Retry> {
        let Some(origins) = &self.origins else { return Ok(()) };
        let kept = Kept::Documents(Some(from));
        let cell = self.ready(connection, owner, name, kept).await?;
        let own = cell.get().filter(|ready| ready.refused.is_none() && ready.own);
        let uuid = own.and_then(|ready| ready.uuid.as_ref());
        let (Some(uuid), Some(namespace)) = (uuid, Namespace::parse(name)) else { return Ok(()) };
        let Some(described) = origins.collection(from).await? else { return Ok(()) };
        let indexed = Indexed {
            client: &connection.client,
            namespace: &namespace,
            uuid,
            described,
            keeps: self.routes.keeps(name),
            follows,
        };
        self.unbuilt.build(indexed).await
    }
}

impl MongoTarget {
    /// Connects to nothing yet. `timeout` is for one request. Without `origins` collections are made
    /// without options and without indexes, and none is ours.
    pub fn new(
        settings: &MongoDb,
        owner: &str,
        timeout: Duration,
        rules: Vec<MongoRule>,
        origins: Option<Arc<dyn Origins>>,
    ) -> Self {
        Self {
            settings: settings.clone(),
            owner: owner.to_owned(),
            run: Uuid::new().to_string(),
            timeout,
            shown: false,
            contested: Contested::default(),
            doubted: Doubted::default(),
            alignment: Arc::new(Alignment::new()),
            within: Arc::new(Within {
                routes: Routes::new(rules),
                origins,
                connection: OnceCell::new(),
                collections: Collections::new(),
                unbuilt: Unbuilt::default(),
            }),
            building: Mutex::default(),
        }
    }

    /// Of no use to send with: requests are lines of Extended JSON for a person.
    #[must_use]
    pub fn shown(self) -> Self {
        Self { shown: true, ..self }
    }

    async fn connect(&self) -> Result<&Connection, Retry> {
        let open = || {
            let only_append = self.within.routes.only_append();
            Connection::open(&self.settings.uri, (&self.owner, &self.run), only_append)
        };
        self.within.connection.get_or_try_init(open).await
    }

    /// Items by the namespace that they are written to.
    fn groups(request: &Request) -> Result<BTreeMap<&str, Group>, Retry> {
        let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
        for (index, item) in request.items.iter().enumerate() {
            let place = MongoPlaceKey::decode(&item.place);
            let place = place.map_err(|error| unusable(error.to_string()))?;
            let group = groups.entry(place.namespace).or_default();
            match request.body.get(item.range.start) {
                Some(&COPIED) => group.copied.push(index),
                Some(&CHANGED) => group.changed.push(index),
                Some(&APPENDED) => group.appended.push(index),
                Some(&REMOVED) => group.removed.push(index),
                _ => return Err(unusable("an item that was not encoded here".to_owned())),
            }
        }
        Ok(groups)
    }

    /// Writes one group; what is refused as a whole is refused item by item.
    async fn write(
        &self,
        connection: &Connection,
        request: &Request,
        (name, group): (&str, &Group),
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Failed> {
        let puts = group.copied.iter().chain(&group.changed).chain(&group.appended);
        let kept = if group.appended.is_empty() { Kept::Documents(None) } else { Kept::Events };
        let cell = match puts.clone().next() {
            Some(_) => {
                Some(self.within.ready(connection, &self.owner, name, kept).await.map_err(these)?)
            }
            None => None,
        };
        let made = cell.as_deref().and_then(OnceCell::get);
        if let Some(words) = made.and_then(|ready| ready.refused.as_ref()) {
            puts.for_each(|&index| outcomes[index] = Some(Outcome::Rejected(words.clone())));
        }
        let made = made.filter(|ready| ready.refused.is_none());
        let (removed, left) =
            self.removable(connection, request, (name, &group.removed), outcomes).await?;
        // A removal makes no collection and does not say whose it is: what is put alone decides.
        let (ready, group) = match (made, &left) {
            (Some(made), _) => (made, Group { removed, ..group.clone() }),
            (None, Some(left)) => (&**left, Group { removed, ..Group::default() }),
            (None, None) => return Ok(()),
        };
        let namespace = Namespace::parse(name);
        let namespace =
            namespace.ok_or_else(|| Failed::These(unusable(format!("{name} is no namespace"))))?;
        let database = connection.client.database(namespace.database());
        let before = ready.written();
        let portion =
            Portion { target: self, connection, namespace, database, request, ready, before };
        let mut lane = connection.lane(request.lane).await.map_err(Failed::All)?;
        portion.write(&group, &mut lane, outcomes).await
    }

    /// Of the removals from one collection those that are to be carried out, and the collection. The
    /// others get their outcomes: they are done where there is no collection.
    async fn removable(
        &self,
        connection: &Connection,
        request: &Request,
        (name, removals): (&str, &[usize]),
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(Vec<usize>, Option<Arc<Ready>>), Failed> {
        let mut known: BTreeMap<&[u8], Option<Arc<Ready>>> = BTreeMap::new();
        let (mut removed, mut left) = (Vec::with_capacity(removals.len()), None);
        for &index in removals {
            let from = &request.body[request.items[index].range.clone()][1..];
            if !known.contains_key(from) {
                let read = str::from_utf8(from).ok().and_then(Namespace::parse);
                let read = read.ok_or_else(|| {
                    Failed::These(unusable("a removal from nowhere was encoded".to_owned()))
                })?;
                let looked = self.within.left(connection, &self.owner, name, &read).await;
                known.insert(from, looked.map_err(these)?);
            }
            let ready = known.get(from).and_then(Option::as_ref);
            match ready.map(|ready| (ready, &ready.refused)) {
                None => outcomes[index] = Some(Outcome::Applied),
                Some((_, Some(words))) => outcomes[index] = Some(Outcome::Rejected(words.clone())),
                Some((ready, None)) => {
                    removed.push(index);
                    left = Some(ready.clone());
                }
            }
        }
        Ok((removed, left))
    }
}

/// That a collection can't be seen to. However the server puts it, it is about that one, and no
/// document's fault.
fn these(retry: Retry) -> Failed {
    Failed::These(match retry.pressure {
        Pressure::Same | Pressure::Less => retry,
        Pressure::Split | Pressure::TooLarge => {
            Retry { reason: "unexpected", pressure: Pressure::Same, ..retry }
        }
    })
}

#[async_trait]
impl Target for MongoTarget {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        self.within.routes.place(rule, placing)
    }

    fn keeps_ids(&self, _rule: &str) -> bool {
        true
    }

    fn place_is_fixed(&self, rule: &str) -> bool {
        self.within.routes.is_fixed(rule)
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        if self.shown {
            return show(operation, body);
        }
        match (&operation.action, operation.phase) {
            (Action::Remove, _) => {
                body.push(REMOVED);
                body.extend_from_slice(operation.namespace.as_str().as_bytes());
            }
            (Action::Put(document), phase) => {
                fits("document", document.size())?;
                body.push(if phase == Phase::Copy { COPIED } else { CHANGED });
                body.extend_from_slice(document.bytes());
            }
            (Action::Append(told), _) => {
                let document = event::document(told, operation.told_time());
                fits("event", document.as_bytes().len())?;
                body.push(APPENDED);
                body.extend_from_slice(document.as_bytes());
            }
        }
        Ok(())
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        self.alignment.opened().await;
        let connection = self.connect().await?;
        let groups = Self::groups(request)?;
        // An event that comes late does no harm, and those of other rules may be under way.
        if groups.values().any(|group| group.items().count() > group.appended.len()) {
            connection.alone(request.right.as_ref(), self.timeout).await?;
        }
        connection.clock.settle(&connection.client).await?;
        let mut outcomes: Vec<Option<Outcome>> = vec![None; request.items.len()];
        for (&name, group) in &groups {
            match self.write(connection, request, (name, group), &mut outcomes).await {
                Ok(()) => {}
                // Trouble with one collection leaves the others alone.
                Err(Failed::These(retry)) if lies_in_the_way(&retry) => {
                    let retry = Retry { message: format!("{name}: {}", retry.message), ..retry };
                    for index in group.items() {
                        outcomes[index].get_or_insert_with(|| Outcome::Held(retry.clone()));
                    }
                }
                Err(Failed::These(retry)) if groups.len() > 1 => {
                    for index in group.items() {
                        outcomes[index].get_or_insert_with(|| Outcome::Retry(retry.clone()));
                    }
                }
                Err(Failed::All(retry) | Failed::These(retry)) => return Err(retry),
            }
        }
        for (item, outcome) in request.items.iter().zip(&outcomes) {
            if matches!(outcome, Some(Outcome::Applied | Outcome::Rejected(_))) {
                self.contested.settled(&item.place);
                self.doubted.settled(&item.place);
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn prepare(&self) -> Result<(), Retry> {
        self.connect().await.map(drop)
    }

    async fn reach(&self) -> Result<(), Retry> {
        self.connect().await.map(drop)
    }

    async fn fault(&self) -> Result<Option<String>, Retry> {
        let Some(origins) = self.within.origins.as_deref() else { return Ok(None) };
        let mut reads = BTreeMap::new();
        for rule in self.within.routes.names() {
            reads.insert(rule.to_owned(), origins.namespaces(rule).await?);
        }
        if let Some(fault) = self.loops(origins, &reads).await?.into_iter().next() {
            return Ok(Some(fault));
        }
        Ok(self.clashes(origins, &reads).await?.into_iter().next())
    }

    async fn copy_complete(&self, rule: &str) -> Result<(), Retry> {
        // The source has no indexes for events.
        if self.within.routes.appends(rule) {
            return Ok(());
        }
        self.connect().await?;
        if !self.alignment.is_open() {
            return Err(not_indexed("the definitions of collections are being compared"));
        }
        let known = {
            let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
            building.remove(rule)
        };
        let mut task = known.unwrap_or_else(|| {
            let mut task = JoinSet::new();
            let (within, alignment) = (self.within.clone(), self.alignment.clone());
            task.spawn(within.index(rule.to_owned(), self.owner.clone(), alignment));
            task
        });
        match tokio::time::timeout(BUILDING, task.join_next()).await {
            Ok(Some(Ok(built))) => built.and_then(|()| match self.alignment.copied(rule) {
                true => Ok(()),
                false => Err(not_indexed("more indexes are to be built")),
            }),
            Ok(None) => Ok(()),
            Ok(Some(Err(error))) if error.is_panic() => {
                std::panic::resume_unwind(error.into_panic())
            }
            Ok(Some(Err(error))) => Err(unusable(error.to_string())),
            Err(_) => {
                let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
                building.insert(rule.to_owned(), task);
                Err(not_indexed("indexes are being built"))
            }
        }
    }

    fn aligns(&self) {
        self.alignment.begins();
    }

    async fn align(&self, asked: Align<'_>) -> Result<(), Retry> {
        self.align_as(asked).await
    }

    fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        self.within.routes.container(rule, namespace)
    }

    fn containers(&self, rule: &str) -> Vec<String> {
        self.within.routes.containers(rule)
    }

    fn is_versioned(&self) -> bool {
        false
    }

    fn can_list(&self) -> bool {
        true
    }

    fn key(&self, place: &PlaceKey) -> Option<DocumentKey> {
        MongoPlaceKey::decode(place).ok()?.key()
    }

    async fn list(
        &self,
        container: &str,
        _written: Range<ClusterTime>,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        self.list_all(container, found).await
    }

    fn expected(&self, operation: &Operation) -> Result<Option<Vec<u8>>, String> {
        match &operation.action {
            Action::Put(document) => Ok(Some(reading::content(document.raw()))),
            Action::Remove | Action::Append(_) => Ok(None),
        }
    }

    async fn read(&self, places: &[PlaceKey]) -> Result<Contents, Retry> {
        self.held(places).await
    }

    async fn inspect(&self, look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        self.look_at_collections(look).await
    }

    fn meta(&self, operation: &Operation) -> Meta {
        let place = MongoPlaceKey::decode(&operation.place).ok();
        let Some((database, collection)) = place.and_then(|it| it.namespace.split_once('.')) else {
            return Meta::default();
        };
        Meta {
            database: Some(database.to_owned()),
            collection: Some(collection.to_owned()),
            ..Meta::default()
        }
    }

    fn describe(&self, place: &PlaceKey) -> String {
        MongoPlaceKey::decode(place)
            .map_or_else(|error| error.to_string(), |place| place.to_string())
    }
}

fn not_indexed(words: &str) -> Retry {
    Retry { reason: "indexes", message: words.to_owned(), after: None, pressure: Pressure::Same }
}

/// Whether what failed is about one collection, and the others can be written to: a right, or what nobody
/// has heard of. It may last until a person sees to it.
fn lies_in_the_way(retry: &Retry) -> bool {
    matches!(retry.reason, "unauthorized" | "unexpected") && retry.pressure == Pressure::Same
}

/// Refuses what no MongoDB takes.
fn fits(what: &str, bytes: usize) -> Result<(), String> {
    match bytes <= command::MAX_DOCUMENT {
        true => Ok(()),
        false => Err(format!(
            "the {what} has {bytes} bytes, MongoDB takes {} at most",
            command::MAX_DOCUMENT
        )),
    }
}

/// One operation as a line of canonical Extended JSON.
fn show(operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
    let place = MongoPlaceKey::decode(&operation.place).map_err(|error| error.to_string())?;
    let read = |raw: &RawDocument| {
        Document::try_from(raw).map_err(|error| format!("the document can't be read: {error}"))
    };
    let line = match &operation.action {
        Action::Put(document) => {
            doc! { "put": place.namespace, "document": read(document.raw())? }
        }
        Action::Remove => doc! { "remove": place.namespace, "document": read(place.id)? },
        Action::Append(told) => {
            let document = event::document(told, operation.told_time());
            doc! { "append": place.namespace, "document": read(&document)? }
        }
    };
    let line = bson::Bson::Document(line).into_canonical_extjson();
    serde_json::to_writer(&mut *body, &line).map_err(|error| error.to_string())?;
    body.push(b'\n');
    Ok(())
}

/// Shows the hosts, and no login.
impl fmt::Debug for MongoTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = address(&self.settings.uri);
        f.debug_struct("MongoTarget").field("address", &address).finish_non_exhaustive()
    }
}
