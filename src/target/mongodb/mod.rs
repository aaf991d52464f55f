//! MongoDB: documents go as the bytes that they are, each to its own `_id`.
//!
//! Its place is behind `delivery`, which decides what is sent when, and again. Here it is placed
//! (`routes`, `place`), written into commands (`command`), sent once (`connection`), and the answer
//! read (`answer`); collections are made and indexed (`collections`), and values that two documents
//! claim are sorted out (`contested`).
//!
//! # Late writes
//! A MongoDB keeps no versions that a write could be refused by, and none are put into documents. In
//! their stead:
//! - Within a process the lanes keep order, and a batch is awaited before the next is sent.
//! - Every put and every removal of a change bears the time at which the lease ends, by the server's
//!   clock: what a process that has lost its lease still sends does nothing.
//! - What a process that died left running in the server is ended before the next one writes.
//! - The next process reads the present state of all that was not settled and writes it again, so the
//!   end is the same.
//!
//! What remains: an insert of the copy into a collection that was empty bears no time. One that arrives
//! after another process has taken over does nothing where the document is there; where it was deleted
//! in between, it brings it back.

mod answer;
mod collections;
mod command;
mod connection;
mod contested;
mod place;
mod routes;

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bson::{Document, RawDocument, RawDocumentBuf, Uuid, doc, raw::cstr};
use futures_util::TryStreamExt;
use mongodb::{
    Collection, Database,
    options::{Acknowledgment, CollectionOptions, ReadConcern, WriteConcern},
};
use tokio::{
    sync::{OnceCell, mpsc},
    task::JoinSet,
};

pub use place::{MongoPlaceKey, PlaceError, place_key};
pub use routes::MongoRule;

use self::{
    answer::Fate,
    collections::{Collections, Ready},
    command::{Around, Write},
    connection::{Connection, unusable},
    contested::{Contested, Way},
    routes::Routes,
};
use super::{
    Action, Listing, Look, Operation, Origins, Outcome, PlaceKey, Placed, Placing, Pressure,
    Request, Retry, Target,
};
use crate::{
    change::{ClusterTime, DocumentKey, Namespace, Phase},
    finding::{Finding, Part},
    rules::model::{MongoDb, address},
    transform::Meta,
};

/// The first byte of an item, before the document: a copied document.
const COPIED: u8 = b'c';
/// A document that has changed.
const CHANGED: u8 = b'u';
/// A removal; nothing follows.
const REMOVED: u8 = b'r';
/// Places in one page of a listing.
const PAGE: usize = 1_000;
/// How long the end of a copy waits for its indexes before it says so.
const BUILDING: Duration = Duration::from_secs(1);

/// One MongoDB, 4.4 or later.
pub struct MongoTarget {
    settings: MongoDb,
    /// In the comments of its writes, so that those of an earlier process can be told.
    owner: String,
    run: String,
    timeout: Duration,
    routes: Arc<Routes>,
    origins: Option<Arc<dyn Origins>>,
    /// Whether requests are only shown to a person.
    shown: bool,
    connection: Arc<OnceCell<Connection>>,
    collections: Arc<Collections>,
    contested: Contested,
    /// Indexes that are being built, by rule.
    building: Mutex<HashMap<String, JoinSet<Result<(), Retry>>>>,
}

/// Items of one namespace, by their index in the request.
#[derive(Default)]
struct Group {
    copied: Vec<usize>,
    changed: Vec<usize>,
    removed: Vec<usize>,
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
            routes: Arc::new(Routes::new(rules)),
            origins,
            shown: false,
            connection: Arc::new(OnceCell::new()),
            collections: Arc::new(Collections::new()),
            contested: Contested::default(),
            building: Mutex::default(),
        }
    }

    /// Of no use to send with: requests are lines of Extended JSON for a person.
    #[must_use]
    pub fn shown(self) -> Self {
        Self { shown: true, ..self }
    }

    async fn connect(&self) -> Result<&Connection, Retry> {
        let open = || Connection::open(&self.settings.uri, &self.owner, &self.run);
        self.connection.get_or_try_init(open).await
    }

    async fn ready(
        &self,
        connection: &Connection,
        name: &str,
    ) -> Result<Arc<OnceCell<Ready>>, Retry> {
        self.collections.ready(connection, name, &self.routes, self.origins.as_deref()).await
    }

    /// Indexes for what a rule has copied, collection by collection.
    async fn index(
        rule: String,
        routes: Arc<Routes>,
        connection: Arc<OnceCell<Connection>>,
        collections: Arc<Collections>,
        origins: Arc<dyn Origins>,
    ) -> Result<(), Retry> {
        let Some(connection) = connection.get() else { return Ok(()) };
        let mut waits = None;
        for from in origins.namespaces(&rule).await? {
            let Some(name) = routes.container(&rule, &from) else { continue };
            // Makes it, where nothing has been written.
            let cell = collections.ready(connection, &name, &routes, Some(&*origins)).await?;
            if cell.get().is_none_or(|ready| ready.refused.is_some()) {
                continue;
            }
            if let Err(retry) = collections.index(connection, &name, &from, &*origins).await {
                waits = Some(retry);
            }
        }
        waits.map_or(Ok(()), Err)
    }
}

/// What of a request is for one namespace.
struct Portion<'a> {
    target: &'a MongoTarget,
    connection: &'a Connection,
    namespace: Namespace,
    database: Database,
    request: &'a Request,
}

impl Portion<'_> {
    /// The `{_id}` that the document has, which may be of another type than that of its place.
    fn id_of(document: &RawDocument) -> Option<RawDocumentBuf> {
        let id = document.get("_id").ok().flatten()?;
        let mut own = RawDocumentBuf::new();
        own.append(cstr!("_id"), id);
        Some(own)
    }

    fn document(&self, index: usize) -> Result<&RawDocument, Retry> {
        let bytes = &self.request.body[self.request.items[index].range.clone()];
        RawDocument::from_bytes(&bytes[1..])
            .map_err(|_| unusable("a document that was encoded can't be read".to_owned()))
    }

    fn place(&self, index: usize) -> Result<MongoPlaceKey<'_>, Retry> {
        MongoPlaceKey::decode(&self.request.items[index].place)
            .map_err(|error| unusable(error.to_string()))
    }

    /// Inserts what is most likely not there. The fates in the order of `items`.
    async fn insert(&self, items: &[usize]) -> Result<Vec<Fate>, Retry> {
        let concern = WriteConcern::builder().w(Acknowledgment::Majority).build();
        let options = CollectionOptions::builder().write_concern(concern).build();
        let collection: Collection<RawDocumentBuf> =
            self.database.collection_with_options(self.namespace.collection(), options);
        let mut documents = Vec::with_capacity(items.len());
        for &index in items {
            documents.push(self.document(index)?.to_owned());
        }
        let inserted = collection
            .insert_many(documents)
            .ordered(false)
            .bypass_document_validation(true)
            .comment(self.connection.run.as_str());
        match inserted.await {
            Ok(_) => Ok(vec![Fate::Known(Outcome::Applied); items.len()]),
            Err(error) => answer::insert_fates(&error, items.len()),
        }
    }

    /// Replaces, or inserts where there is nothing.
    async fn put(&self, items: &[usize]) -> Result<Vec<Fate>, Retry> {
        let mut writes = Vec::with_capacity(items.len());
        let mut ids = Vec::with_capacity(items.len());
        for &index in items {
            let document = self.document(index)?;
            ids.push(
                Self::id_of(document)
                    .ok_or_else(|| unusable("a document without _id was encoded".to_owned()))?,
            );
            writes.push(document);
        }
        let writes: Vec<Write<'_>> =
            ids.iter().zip(writes).map(|(id, document)| Write::Put(id, document)).collect();
        let sizes: Vec<usize> =
            items.iter().map(|&index| self.request.items[index].range.len()).collect();
        self.run(&writes, &sizes).await
    }

    async fn remove(&self, items: &[usize]) -> Result<Vec<Fate>, Retry> {
        let mut writes = Vec::with_capacity(items.len());
        let mut sizes = Vec::with_capacity(items.len());
        for &index in items {
            let id = self.place(index)?.id;
            sizes.push(id.as_bytes().len() + 220);
            writes.push(Write::Remove(id));
        }
        self.run(&writes, &sizes).await
    }

    async fn run(&self, writes: &[Write<'_>], sizes: &[usize]) -> Result<Vec<Fate>, Retry> {
        let mut fates = Vec::with_capacity(writes.len());
        for part in command::cut(sizes) {
            let around = Around {
                collection: self.namespace.collection(),
                run: &self.connection.run,
                bypass_validation: true,
                max_time_ms: i64::try_from(self.target.timeout.as_millis()).unwrap_or(i64::MAX),
                deadline: self.connection.deadline(self.request.expires),
            };
            let writes = &writes[part];
            match self.database.run_raw_command(command::command(&around, writes)).await {
                Ok(answer) => fates.extend(answer::fates(&answer, writes.len())?),
                Err(error) if answer::is_refused_for_good(&error) && writes.len() == 1 => {
                    fates.push(Fate::Known(Outcome::Rejected(answer::words(&error))));
                }
                Err(error) => return Err(answer::refusal(&error)),
            }
        }
        if fates.contains(&Fate::Late) {
            self.connection.read_clock().await?;
        }
        Ok(fates)
    }

    /// Writes all of a group and tells the outcome of each item.
    async fn write(
        &self,
        group: Group,
        ready: &Ready,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Retry> {
        let Group { copied, mut changed, removed } = group;
        let mut met: Vec<(usize, String)> = Vec::new();
        if ready.is_fresh() && !copied.is_empty() {
            let fates = self.insert(&copied).await?;
            let before = changed.len();
            for (&index, fate) in copied.iter().zip(fates) {
                match fate {
                    Fate::There => changed.push(index),
                    Fate::Contested(words) => met.push((index, words)),
                    fate => outcomes[index] = Some(known(fate)),
                }
            }
            if (changed.len() - before) * 2 > copied.len() {
                ready.is_filled();
            }
        } else {
            changed.extend(copied);
        }
        if !changed.is_empty() {
            for (&index, fate) in changed.iter().zip(self.put(&changed).await?) {
                match fate {
                    Fate::Contested(words) => met.push((index, words)),
                    fate => outcomes[index] = Some(known(fate)),
                }
            }
        }
        if !removed.is_empty() {
            for (&index, fate) in removed.iter().zip(self.remove(&removed).await?) {
                outcomes[index] = Some(known(fate));
            }
        }
        self.sort_out(met, outcomes).await
    }

    /// See [`contested`].
    async fn sort_out(
        &self,
        met: Vec<(usize, String)>,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Retry> {
        let contested = &self.target.contested;
        let mut cleared = Vec::new();
        for (index, words) in met {
            let place = &self.request.items[index].place;
            match contested.met(place) {
                Way::Clear => cleared.push(index),
                way @ Way::Wait => outcomes[index] = Some(contested.outcome(place, way, words)),
            }
        }
        if cleared.is_empty() {
            return Ok(());
        }
        self.remove(&cleared).await?;
        for (&index, fate) in cleared.iter().zip(self.put(&cleared).await?) {
            let place = &self.request.items[index].place;
            outcomes[index] = Some(match fate {
                Fate::Contested(words) => contested.outcome(place, Way::Clear, words),
                fate => known(fate),
            });
        }
        Ok(())
    }
}

/// What is left of a fate once contested values have been seen to.
fn known(fate: Fate) -> Outcome {
    let again = |reason, message: String| {
        Outcome::Retry(Retry { reason, message, after: None, pressure: Pressure::Same })
    };
    match fate {
        Fate::Known(outcome) => outcome,
        Fate::There => again("collision", "two writes of one _id met".to_owned()),
        Fate::Contested(words) => again("duplicate", words),
        Fate::Late => again("late", "the write came too late, by the server's clock".to_owned()),
    }
}

#[async_trait]
impl Target for MongoTarget {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        self.routes.place(rule, placing)
    }

    fn place_is_fixed(&self, rule: &str) -> bool {
        self.routes.is_fixed(rule)
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        if self.shown {
            return show(operation, body);
        }
        match (&operation.action, operation.phase) {
            (Action::Remove, _) => body.push(REMOVED),
            (Action::Put(document), phase) => {
                if document.size() > command::MAX_DOCUMENT {
                    return Err(format!(
                        "the document has {} bytes, MongoDB takes {} at most",
                        document.size(),
                        command::MAX_DOCUMENT
                    ));
                }
                body.push(if phase == Phase::Copy { COPIED } else { CHANGED });
                body.extend_from_slice(document.bytes());
            }
        }
        Ok(())
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        let connection = self.connect().await?;
        let mut groups: BTreeMap<&str, Group> = BTreeMap::new();
        for (index, item) in request.items.iter().enumerate() {
            let place = MongoPlaceKey::decode(&item.place);
            let place = place.map_err(|error| unusable(error.to_string()))?;
            let group = groups.entry(place.namespace).or_default();
            match request.body.get(item.range.start) {
                Some(&COPIED) => group.copied.push(index),
                Some(&CHANGED) => group.changed.push(index),
                _ => group.removed.push(index),
            }
        }
        let mut outcomes: Vec<Option<Outcome>> = vec![None; request.items.len()];
        for (name, group) in groups {
            let cell = self.ready(connection, name).await?;
            let ready = cell.get().ok_or_else(|| unusable(format!("{name} is not ready")))?;
            if let Some(words) = &ready.refused {
                for index in group.copied.into_iter().chain(group.changed).chain(group.removed) {
                    outcomes[index] = Some(Outcome::Rejected(words.clone()));
                }
                continue;
            }
            let Some(namespace) = Namespace::parse(name) else { continue };
            let database = connection.client.database(namespace.database());
            let part = Portion { target: self, connection, namespace, database, request };
            part.write(group, ready, &mut outcomes).await?;
        }
        for (item, outcome) in request.items.iter().zip(&outcomes) {
            if matches!(outcome, Some(Outcome::Applied)) {
                self.contested.settled(&item.place);
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

    async fn copy_complete(&self, rule: &str) -> Result<(), Retry> {
        let Some(origins) = &self.origins else { return Ok(()) };
        self.connect().await?;
        let known = {
            let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
            building.remove(rule)
        };
        let mut task = known.unwrap_or_else(|| {
            let mut task = JoinSet::new();
            task.spawn(Self::index(
                rule.to_owned(),
                self.routes.clone(),
                self.connection.clone(),
                self.collections.clone(),
                origins.clone(),
            ));
            task
        });
        match tokio::time::timeout(BUILDING, task.join_next()).await {
            Ok(Some(Ok(built))) => built,
            Ok(None) => Ok(()),
            Ok(Some(Err(error))) if error.is_panic() => {
                std::panic::resume_unwind(error.into_panic())
            }
            Ok(Some(Err(error))) => Err(unusable(error.to_string())),
            Err(_) => {
                let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
                building.insert(rule.to_owned(), task);
                Err(Retry {
                    reason: "indexes",
                    message: "indexes are being built".to_owned(),
                    after: None,
                    pressure: Pressure::Same,
                })
            }
        }
    }

    fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        self.routes.container(rule, namespace)
    }

    fn containers(&self, rule: &str) -> Vec<String> {
        self.routes.containers(rule)
    }

    fn is_versioned(&self) -> bool {
        false
    }

    fn key(&self, place: &PlaceKey) -> Option<DocumentKey> {
        MongoPlaceKey::decode(place).ok()?.key()
    }

    /// Every `_id` of the collection, whenever it was written.
    async fn list(
        &self,
        container: &str,
        _written: Range<ClusterTime>,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        let own = match &self.origins {
            Some(origins) => origins.is_own(container).await?,
            None => None,
        };
        match own {
            Some(true) => {}
            Some(false) => {
                return Ok(Listing::NotOurs("it held documents before mongosync came".to_owned()));
            }
            // Nothing has ever been written there.
            None => return Ok(Listing::Whole),
        }
        let Some(namespace) = Namespace::parse(container) else { return Ok(Listing::Whole) };
        let connection = self.connect().await?;
        let failed = |error: mongodb::error::Error| answer::refusal(&error);
        let database = connection.client.database(namespace.database());
        let options = CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
        let collection: Collection<RawDocumentBuf> =
            database.collection_with_options(namespace.collection(), options);
        let mut cursor = collection
            .find(doc! {})
            .projection(doc! { "_id": 1 })
            .hint(mongodb::options::Hint::Keys(doc! { "_id": 1 }))
            .await
            .map_err(failed)?;
        let mut page = Vec::with_capacity(PAGE);
        while let Some(document) = cursor.try_next().await.map_err(failed)? {
            let id = document.get("_id").ok().flatten();
            let place = id.and_then(|id| place_key(container, id).ok());
            page.extend(place);
            if page.len() == PAGE && found.send(std::mem::take(&mut page)).await.is_err() {
                return Ok(Listing::Whole);
            }
        }
        if !page.is_empty() {
            // Whoever asked has gone.
            let _ = found.send(page).await;
        }
        Ok(Listing::Whole)
    }

    async fn inspect(&self, look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        let connection = self.connect().await?;
        let mut found = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        for (rule, namespaces) in look.reads {
            for namespace in namespaces {
                let Some(name) = self.routes.container(rule, namespace) else { continue };
                let Some(own) = Namespace::parse(&name).filter(|_| seen.insert(name.clone()))
                else {
                    continue;
                };
                let database = connection.client.database(own.database());
                let Some(kind) = collections::kind(&database, own.collection()).await? else {
                    continue;
                };
                if kind != "collection" {
                    let words = format!("{name} is a {kind}, and can't be written to");
                    let part = Part::Target(look.target.to_owned());
                    found.push(
                        Finding::error("not_a_collection", part, words)
                            .help("name another with `namespace:` under `to:`"),
                    );
                }
            }
        }
        Ok(found)
    }

    fn meta(&self, _operation: &Operation) -> Meta {
        Meta::default()
    }

    fn describe(&self, place: &PlaceKey) -> String {
        MongoPlaceKey::decode(place)
            .map_or_else(|error| error.to_string(), |place| place.to_string())
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
