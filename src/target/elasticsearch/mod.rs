//! Elasticsearch and OpenSearch: documents go out in bulk requests with the cluster time as
//! external version, so that a write that comes late or twice is refused by the engine.
//!
//! Its place is behind `delivery`, which decides what is sent when, and again. Here it is encoded
//! (`encode`), sent once to one node (`nodes`, `health`), and the answer read (`answer`); and indices
//! are made (`indices`), filled beside others and swapped in (`replacement`), marked as this rule
//! file's (`owners`), arranged for the copy (`filling`), listed (`listing`) and read (`reading`). It decides nothing
//! about retries, order or the size of a request.

mod answer;
mod encode;
mod event;
mod filling;
mod health;
mod indices;
mod inspect;
mod listing;
mod mappings;
mod nodes;
mod owners;
mod place;
mod reading;
mod replacement;
mod routes;

use std::{
    fmt,
    io::Write,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use bson::Uuid;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde::Deserialize;
use tokio::sync::mpsc;
use tracing::{info, warn};

pub use indices::IndexPlan;
pub use place::{EnginePlaceKey, PlaceError, place_key};
pub use routes::EngineRule;

use self::{answer::Answer, encode::Line, indices::Indices, nodes::Nodes, routes::Routes};
use crate::{
    change::{ClusterTime, Namespace},
    finding::Finding,
    rules::model::{Engine, EngineFlavor},
    target::{
        Action, Contents, Listing, Look, Operation, Origins, Outcome, PlaceKey, Placed, Placing,
        Pressure, Request, Retry, Target, http::SetupError, json::Mode,
    },
    transform::Meta,
};

/// One Elasticsearch or OpenSearch, 7.10 or 1.0 and later.
///
/// Writes are idempotent under [`Operation::time`] by the engine's external versions, with the one
/// limit that engines have: the version of a removal is forgotten after `index.gc_deletes` (60 s).
///
/// [`Operation::extra`] is the name of an ingest pipeline.
pub struct EngineTarget {
    nodes: Nodes,
    indices: Indices,
    routes: Routes,
    flavor: EngineFlavor,
    mode: Mode,
    gzip: bool,
    /// Set once what the engine is has been logged.
    greeted: OnceLock<()>,
    /// Who remembers whose documents lie under a default name.
    origins: Option<Arc<dyn Origins>>,
}

impl EngineTarget {
    /// Reads certificates and makes the clients; connects to nothing yet. `timeout` is for one
    /// request, from connecting to the last byte of the answer. `owner` is the rule file's name, by
    /// which indices are marked.
    ///
    /// # Errors
    /// Where a setting or a file that it names can't be used; never for an engine that is away.
    pub fn new(
        settings: &Engine,
        owner: &str,
        timeout: Duration,
        rules: Vec<EngineRule>,
    ) -> Result<Self, SetupError> {
        let indices = Indices::new(owner);
        Ok(Self {
            nodes: Nodes::new(settings, timeout)?,
            routes: Routes::new(rules, &indices),
            indices,
            flavor: settings.flavor,
            mode: if settings.extended_json { Mode::Extended } else { Mode::Plain },
            gzip: settings.gzip,
            greeted: OnceLock::new(),
            origins: None,
        })
    }

    /// Has whose documents lie under a default name remembered before the first of them is written.
    #[must_use]
    pub fn remembering(self, origins: Option<Arc<dyn Origins>>) -> Self {
        Self { origins, ..self }
    }

    /// See [`EngineTarget::remembering`].
    async fn remember(&self, request: &Request) -> Result<(), Retry> {
        let Some(origins) = self.origins.as_deref().filter(|_| self.indices.forgets()) else {
            return Ok(());
        };
        let unkept = |name| Some((name, self.indices.unkept(name)?));
        let mut names: Vec<_> =
            EnginePlaceKey::indices(&request.items).filter_map(unkept).collect();
        names.sort_unstable_by_key(|(name, _)| *name);
        names.dedup_by_key(|(name, _)| *name);
        if !names.is_empty() {
            origins.keep_names(&names).await?;
        }
        for (name, namespace) in names {
            self.indices.hold(name, &namespace);
        }
        Ok(())
    }

    /// Says how the index of this name is to be made if it is not there. To be called before the
    /// first operation that names it is encoded; cheap, and harmless to repeat. What is declared
    /// before `prepare` is made there, what is declared later at its first write. Of several plans
    /// for a name, the first one is made. An index that was never declared is made with the
    /// engine's defaults.
    pub fn declare_index(&self, name: &str, plan: &Arc<IndexPlan>) {
        self.indices.declare(name, plan);
    }

    async fn bulk(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        // Before it is looked by which names it goes: none is taken away until this is answered.
        let under_way = self.indices.begin(request).await;
        let renamed = self.indices.by_present_names(request);
        let body = renamed.map_or_else(|| request.body.clone(), Bytes::from);
        let body = if self.gzip { compressed(body).await? } else { body };
        let answer = self.nodes.bulk(body, self.gzip).await?;
        // What a proxy says that waits no longer is no answer of the engine.
        if !answer.is_of_proxy() {
            under_way.answered();
        }
        let outcomes = answer::outcomes(&answer, request.items.len())?;
        let mut last: &[u8] = &[];
        for (item, outcome) in request.items.iter().zip(&outcomes) {
            if let Outcome::Retry(retry) = outcome
                && retry.reason == answer::MISSING
                && let Ok(index) = EnginePlaceKey::index_bytes(&item.place)
                && index != last
                && let Ok(name) = str::from_utf8(index)
            {
                self.indices.forget(name);
                last = index;
            }
        }
        Ok(outcomes)
    }

    /// What an answer to the question what it is says.
    ///
    /// # Errors
    /// Where it is nothing that can be written to.
    fn about(&self, answer: &Answer) -> Result<Greeting, Retry> {
        match answer.status {
            200..300 => {}
            403 => return Ok(Greeting::Silent(answer::refusal(answer).message)),
            _ => return Err(answer::refusal(answer)),
        }
        let refuse =
            |reason, message| Retry { reason, message, after: None, pressure: Pressure::Same };
        let about: About = serde_json::from_slice(&answer.body).map_err(|_| {
            let addresses = self.nodes.addresses().collect::<Vec<_>>().join(", ");
            let words =
                format!("what answers is neither Elasticsearch nor OpenSearch: {addresses}");
            refuse("garbled", words)
        })?;
        let (flavor, version) = (about.flavor(), &about.version.number);
        if !is_supported(flavor, version) {
            let words = format!("{} {version} is too old: 7.10 at least", flavor.as_str());
            return Err(refuse("unexpected", words));
        }
        Ok(Greeting::Known(about))
    }

    /// Asks what the engine is, and logs it the first time.
    async fn greet(&self) -> Result<(), Retry> {
        let answer = self.nodes.ask(|engine| async move { engine.info().send().await }).await?;
        let about = match self.about(&answer)? {
            Greeting::Known(about) => about,
            // The writes will tell what it may.
            Greeting::Silent(reason) => {
                if self.greeted.set(()).is_ok() {
                    warn!(reason, "engine reached, but it does not say what it is");
                }
                return Ok(());
            }
        };
        let flavor = about.flavor();
        let version = about.version.number;
        if self.greeted.set(()).is_ok() {
            let cluster = about.cluster_name.unwrap_or_default();
            info!(engine = flavor.as_str(), version, cluster, "engine reached");
            if flavor != self.flavor {
                warn!(
                    found = flavor.as_str(),
                    written = self.flavor.as_str(),
                    "the engine is another one than the rule file says"
                );
            }
        }
        Ok(())
    }
}

/// What came of asking an engine what it is.
enum Greeting {
    /// It can be written to.
    Known(About),
    /// It was reached, and the login counts, but may not ask; why, in words.
    Silent(String),
}

/// What `GET /` says.
#[derive(Deserialize)]
struct About {
    cluster_name: Option<String>,
    cluster_uuid: Option<String>,
    version: Version,
}

#[derive(Deserialize)]
struct Version {
    number: String,
    distribution: Option<String>,
}

impl About {
    fn flavor(&self) -> EngineFlavor {
        match self.version.distribution.as_deref() {
            Some("opensearch") => EngineFlavor::OpenSearch,
            _ => EngineFlavor::Elasticsearch,
        }
    }
}

/// Elasticsearch 7.10 brought the last of what is asked for here (`require_alias`), and OpenSearch
/// began there. A version that reads like none is taken.
fn is_supported(flavor: EngineFlavor, version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    match (flavor, parts.next(), parts.next()) {
        (EngineFlavor::Elasticsearch, Some(Ok(major)), Some(Ok(minor))) => {
            (major, minor) >= (7, 10)
        }
        _ => true,
    }
}

#[async_trait]
impl Target for EngineTarget {
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        self.routes.place(rule, placing, &self.indices)
    }

    fn place_is_fixed(&self, rule: &str) -> bool {
        self.routes.is_fixed(rule)
    }

    fn keeps_ids(&self, rule: &str) -> bool {
        self.routes.keeps_ids(rule)
    }

    /// Two routings may come to one shard, where an id is one document's.
    fn spot(&self, place: &PlaceKey) -> PlaceKey {
        match EnginePlaceKey::decode(place) {
            Ok(known) => EnginePlaceKey { routing: None, ..known }.encode(),
            Err(_) => place.clone(),
        }
    }

    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let removes = matches!(operation.action, Action::Remove);
        let place = match EnginePlaceKey::decode(&operation.place) {
            Err(error) if !removes => return Err(error.to_string()),
            // Nothing of this target's lies there.
            Err(_) => return Ok(()),
            Ok(place) => place,
        };
        let way = self.indices.way(place.index);
        let line = Line {
            require_alias: way.alias,
            place: EnginePlaceKey { index: way.instead.as_deref().unwrap_or(place.index), ..place },
            time: operation.time,
            pipeline: &operation.extra,
        };
        match encode::write_lines(&line, &operation.action, self.mode, body) {
            // What can't be written was never there to be removed.
            Err(_) if removes => Ok(()),
            written => written,
        }
    }

    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry> {
        self.remember(request).await?;
        let held = self.indices.ready(&self.nodes, request).await?;
        if held.is_empty() {
            return self.bulk(request).await;
        }
        let mut held = held.into_iter().peekable();
        let mut outcomes: Vec<Option<Outcome>> = (0..request.items.len())
            .map(|position| held.next_if(|(at, _)| *at == position).map(|(_, outcome)| outcome))
            .collect();
        let open: Vec<_> = (0..outcomes.len()).filter(|&at| outcomes[at].is_none()).collect();
        if !open.is_empty() {
            for (&at, outcome) in open.iter().zip(self.bulk(&request.only(&open)).await?) {
                outcomes[at] = Some(outcome);
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    async fn reach(&self) -> Result<(), Retry> {
        let answer = self.nodes.ask(|engine| async move { engine.info().send().await }).await?;
        match answer.status {
            429 | 502..=504 => Err(answer::refusal(&answer)),
            _ => Ok(()),
        }
    }

    async fn inspect(&self, look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        self.look(look).await
    }

    async fn prepare(&self) -> Result<(), Retry> {
        self.greet().await?;
        self.indices.prepare(&self.nodes).await
    }

    async fn copy_begins(&self, rule: &str) -> Result<(), Retry> {
        self.indices.filling.begin(&self.nodes, rule).await
    }

    async fn copy_complete(&self, rule: &str) -> Result<(), Retry> {
        self.indices.filling.end(&self.nodes, rule).await?;
        self.indices.refresh(&self.nodes, rule).await
    }

    fn containers(&self, rule: &str) -> Vec<String> {
        self.routes.containers(rule)
    }

    fn settle(&self, rule: &str, namespace: &Namespace) -> Result<(), String> {
        self.routes.settle(rule, namespace, &self.indices)
    }

    fn holds(&self, container: &str, namespace: &Namespace) {
        self.indices.hold(container, namespace);
    }

    fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        self.routes.container(rule, namespace)
    }

    fn can_list(&self) -> bool {
        true
    }

    async fn list(
        &self,
        container: &str,
        written: Range<ClusterTime>,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        if self.indices.is_fresh(container) {
            return Ok(Listing::Whole);
        }
        let way = self.indices.way(container);
        let name = way.instead.as_deref().unwrap_or(container);
        let mark = owners::mark(self.indices.owner(), container);
        if let Some(why) = owners::others(&self.nodes, name, &mark).await? {
            return Ok(Listing::NotOurs(why));
        }
        listing::list(&self.nodes, container, name, written, found).await
    }

    fn expected(&self, operation: &Operation) -> Result<Option<Vec<u8>>, String> {
        let mut lines = Vec::new();
        self.encode(operation, &mut lines)?;
        // What an ingest pipeline makes of it, the engine alone knows.
        if !operation.extra.is_empty() {
            return Ok(None);
        }
        // The second of two lines: the very bytes that are sent as the document's source.
        let end = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |at| at + 1);
        lines.drain(..end);
        lines.pop();
        Ok(Some(lines))
    }

    async fn read(&self, places: &[PlaceKey]) -> Result<Contents, Retry> {
        reading::read(&self.nodes, places).await
    }

    fn is_replaceable(&self, rule: &str, container: &str) -> bool {
        self.routes.declare(rule, container, &self.indices);
        self.indices.way(container).alias && replacement::has_room(container)
    }

    async fn list_replaced(
        &self,
        container: &str,
        written: Range<ClusterTime>,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        let everything = written.end == ClusterTime(u64::MAX);
        let others = replacement::others(&self.nodes, container, self.indices.owner()).await?;
        if let Some(why) = others.filter(|_| !everything) {
            return Ok(Listing::NotOurs(why));
        }
        match listing::list(&self.nodes, container, container, written, found).await? {
            // What can't be seen can't be taken over.
            Listing::NotOurs(why) => {
                let message = format!("{container} can't be read, and so not be replaced: {why}");
                Err(Retry {
                    reason: "unauthorized",
                    message,
                    after: None,
                    pressure: Pressure::Same,
                })
            }
            Listing::Whole => Ok(Listing::Whole),
        }
    }

    fn replace(&self, rule: &str, container: &str, id: Uuid, begun: bool) {
        self.routes.declare(rule, container, &self.indices);
        self.indices.replace(container, id, begun);
    }

    async fn take_over(&self, container: &str, places: &[PlaceKey]) -> Result<(), Retry> {
        let places = places.iter().filter_map(|place| EnginePlaceKey::decode(place).ok());
        let ids: Vec<&str> =
            places.filter(|place| place.index == container).map(|place| place.id).collect();
        match self.indices.replacement(container).filter(|_| !ids.is_empty()) {
            Some(id) => replacement::take_over(&self.nodes, container, &id, &ids).await,
            None => Ok(()),
        }
    }

    async fn swap(&self, container: &str) -> Result<(), Retry> {
        self.indices.swap(&self.nodes, container).await
    }

    fn meta(&self, operation: &Operation) -> Meta {
        let Ok(place) = EnginePlaceKey::decode(&operation.place) else { return Meta::default() };
        let pipeline = str::from_utf8(&operation.extra).ok().filter(|name| !name.is_empty());
        Meta {
            id: Some(place.id.to_owned()),
            index: Some(place.index.to_owned()),
            routing: place.routing.map(str::to_owned),
            ingest_pipeline: pipeline.map(str::to_owned),
            ..Meta::default()
        }
    }

    fn describe(&self, place: &PlaceKey) -> String {
        EnginePlaceKey::decode(place)
            .map_or_else(|error| error.to_string(), |place| place.to_string())
    }
}

/// Shows the nodes' addresses, and no credentials.
impl fmt::Debug for EngineTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.addresses().collect();
        f.debug_struct("EngineTarget").field("flavor", &self.flavor).field("nodes", &nodes).finish()
    }
}

/// The body as gzip, made beside the threads that wait for sockets: 8 MiB take some 50 ms.
async fn compressed(body: Bytes) -> Result<Bytes, Retry> {
    let compress = move || {
        let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
        encoder.write_all(&body)?;
        encoder.finish()
    };
    let failed = |error: &dyn std::error::Error| Retry {
        reason: "unexpected",
        message: format!("the request could not be compressed: {error}"),
        after: None,
        pressure: Pressure::Same,
    };
    match tokio::task::spawn_blocking(compress).await {
        Ok(Ok(compressed)) => Ok(compressed.into()),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

#[cfg(test)]
mod tests;
