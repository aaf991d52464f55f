//! The checked model of a rule file: what the rest of the program works from.
//!
//! It knows nothing of YAML, and everything in it holds: names lead somewhere, times and sizes are
//! numbers, queries are BSON, templates and scripts have been parsed. `rules::load` is the only
//! maker.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bson::{RawDocumentBuf, Timestamp};
use mongodb::options::{ConnectionString, HostInfo};

use crate::{
    change::{
        Document, Namespace,
        event::{Happened, Op},
    },
    transform::{Given, Script},
};

use super::template::Template;

mod lines;
mod webhook;

pub use lines::{LineFile, Stdout};
pub use webhook::{
    Header, MOST_HEADERS, SigningSecret, SigningSecretError, Webhook, WebhookFormat, WebhookUrl,
    header_fault, is_step,
};

/// A whole rule file.
#[derive(Debug)]
pub struct RuleFile {
    /// The file as it was named, for messages.
    pub path: PathBuf,
    /// Names the positions and the lease: `name:`, else the file's stem.
    pub name: String,
    /// Where documents are read.
    pub source: Source,
    /// Where positions, copy progress and dead letters are kept.
    pub checkpoint: Checkpoint,
    /// The status server; `None` where it is `off`.
    pub http: Option<Http>,
    /// In the order of the file; at least one.
    pub targets: Vec<Target>,
    /// In the order of the file; at least one, names unique.
    pub rules: Vec<Rule>,
    /// In the order of the file.
    pub tests: Vec<Test>,
}

impl RuleFile {
    /// The rules that write to `target`, each with what it says about that target.
    pub fn deliveries<'a>(
        &'a self,
        target: &'a str,
    ) -> impl Iterator<Item = (&'a Rule, &'a Destination)> + 'a {
        self.rules.iter().flat_map(move |rule| {
            rule.to.iter().filter(move |to| to.target == target).map(move |to| (rule, to))
        })
    }

    /// The rules of each pipeline of `target`: those that deliver documents share one, each that delivers
    /// events has its own, with its name. None is empty.
    pub fn pipelines<'a>(&'a self, target: &'a str) -> Vec<(Option<&'a str>, Vec<&'a Rule>)> {
        let all = self.deliveries(target).map(|(rule, _)| rule);
        let (events, documents): (Vec<_>, Vec<_>) = all.partition(|rule| rule.events.is_some());
        let shared = Some((None, documents)).filter(|(_, rules)| !rules.is_empty());
        let own = events.into_iter().map(|rule| (Some(rule.name.as_str()), vec![rule]));
        shared.into_iter().chain(own).collect()
    }
}

/// Text that is never shown: `Debug` prints dots.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// `source:`
#[derive(Clone, Debug)]
pub struct Source {
    /// A connection string with whatever options the driver takes; may hold a password.
    pub uri: Secret,
    /// How long a change stream's `getMore` waits on an idle system.
    pub max_await: Duration,
    /// Events or documents in one reply, at the most.
    pub batch_size: u32,
}

impl Source {
    /// The hosts (or the name that leads to them), and the replica set's name; no login.
    pub fn address(&self) -> String {
        address(&self.uri)
    }
}

/// Where a MongoDB is, for people: the hosts of its connection string, and the replica set's name.
pub fn address(uri: &Secret) -> String {
    // The readers have parsed it before.
    let Ok(parsed) = ConnectionString::parse(uri.expose()) else { return "…".to_owned() };
    let hosts = match &parsed.host_info {
        HostInfo::HostIdentifiers(hosts) => {
            hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        HostInfo::DnsRecord(name) => name.clone(),
        _ => "…".to_owned(),
    };
    match &parsed.replica_set {
        Some(set) => format!("{hosts}, replica set {set}"),
        None => hosts,
    }
}

/// As whom a connection string logs in.
pub fn user(uri: &Secret) -> Option<String> {
    ConnectionString::parse(uri.expose()).ok()?.credential?.username
}

/// `checkpoint:`
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// How often positions are stored.
    pub every: Duration,
    /// Where.
    pub store: CheckpointStore,
}

/// The kinds of checkpoint store.
#[derive(Clone, Debug)]
pub enum CheckpointStore {
    /// Collections in a MongoDB.
    MongoDb {
        /// `None` is the source itself.
        uri: Option<Secret>,
        /// Default `mongosync`.
        database: String,
    },
    /// A folder on this host.
    File {
        /// Default `.mongosync/NAME` beside the rule file.
        path: PathBuf,
    },
    /// What a program brings that has mongosync as a library. No file alone has one.
    Own,
}

impl CheckpointStore {
    /// The collections that one in a MongoDB has.
    pub const COLLECTIONS: [&str; 7] =
        ["positions", "copies", "places", "dead_letters", "facts", "leases", "fences"];
}

/// `http:`
#[derive(Clone, Debug)]
pub struct Http {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whether the file says so; a default that is taken gives way to a free port.
    pub listen_written: bool,
    /// Always there where `listen` is not a loopback address.
    pub token: Option<Secret>,
}

/// One entry of `targets:`.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name that rules use.
    pub name: String,
    /// What it is.
    pub kind: TargetKind,
    /// How it is written to.
    pub delivery: DeliverySettings,
}

/// What a target is. A new target is one variant here, one folder under `target/` and one row in
/// the conformance suite.
#[derive(Clone, Debug)]
pub enum TargetKind {
    /// `elasticsearch:` or `opensearch:`
    Engine(Engine),
    /// `mongodb:`
    MongoDb(MongoDb),
    /// `webhook:`
    Webhook(Webhook),
    /// `file:`
    File(LineFile),
    /// `stdout:`
    Stdout(Stdout),
    /// What a program brings that has mongosync as a library. No file alone has one.
    Own,
}

/// The settings that every target has.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// A request ends here, in bytes of its body; one document larger than this goes alone.
    pub max_bytes: usize,
    /// A request ends here, in documents.
    pub max_actions: usize,
    /// How long a lane gathers while a request is under way.
    pub max_delay: Duration,
    /// Lanes, each with one request under way; 1 where `ordering: total`.
    pub concurrency: usize,
    /// One request, from its first byte to the last byte of its answer.
    pub timeout: Duration,
    /// The first wait after a failure that can pass.
    pub retry_initial: Duration,
    /// The longest wait between two tries.
    pub retry_max: Duration,
    /// For how long a document is tried before it becomes a dead letter; `None` is for ever.
    pub give_up_after: Option<Duration>,
    /// What a refusal for good leads to.
    pub on_rejected: OnRejected,
}

/// `on_rejected:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRejected {
    /// Every refusal becomes a dead letter.
    DeadLetter,
    /// The first refusal ends the run (it is a dead letter too).
    Stop,
    /// So many refusals end the run.
    StopAfter(u64),
}

/// Which of the two families of engine, for messages and for what differs between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineFlavor {
    /// Elasticsearch 7.10 and later.
    Elasticsearch,
    /// OpenSearch 1 and later.
    OpenSearch,
}

impl EngineFlavor {
    /// The key in the rule file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Elasticsearch => "elasticsearch",
            Self::OpenSearch => "opensearch",
        }
    }
}

/// `elasticsearch:` and `opensearch:`
#[derive(Clone, Debug)]
pub struct Engine {
    /// Which one.
    pub flavor: EngineFlavor,
    /// At least one, without user and password, without a trailing slash.
    pub urls: Vec<String>,
    /// How to log in.
    pub auth: EngineAuth,
    /// Certificates.
    pub tls: Tls,
    /// Whether bulk bodies are sent as gzip.
    pub gzip: bool,
    /// `json: extended` writes canonical Extended JSON.
    pub extended_json: bool,
}

/// `mongodb:` of a target.
#[derive(Clone, Debug)]
pub struct MongoDb {
    /// A connection string with whatever options the driver takes; may hold a password.
    pub uri: Secret,
}

/// `auth:` of an engine.
#[derive(Clone, Debug)]
pub enum EngineAuth {
    /// No header.
    None,
    /// `username` and `password`.
    Basic(String, Secret),
    /// `api_key`, as base64 of `id:key`, as the engine hands it out.
    ApiKey(Secret),
    /// `bearer`.
    Bearer(Secret),
}

/// `tls:`; paths are resolved against the rule file's folder.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// A PEM file with the authorities to trust beside the system's own.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key, both PEM.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// One entry of `rules:`.
#[derive(Debug)]
pub struct Rule {
    /// Unique in the file.
    pub name: String,
    /// `namespace:` and `exclude:`
    pub namespaces: Selector,
    /// `copy:`; `None` where it is false.
    pub copy: Option<CopySettings>,
    /// `changes:`; `None` where it is false: what is only copied.
    pub changes: Option<ChangesSettings>,
    /// What goes with `delivery: events`; `None` where documents are delivered as they are now.
    pub events: Option<EventSettings>,
    /// A MongoDB query.
    pub filter: Option<RawDocumentBuf>,
    /// A MongoDB projection, which keeps `_id`.
    pub project: Option<RawDocumentBuf>,
    /// Stages that keep one document one document.
    pub pipeline: Vec<RawDocumentBuf>,
    /// The compiled script.
    pub transform: Option<Arc<Script>>,
    /// Whether a MongoDB that is written to follows the definitions of collections, not their documents
    /// alone.
    pub ddl: bool,
    /// What happens in the target when a document is deleted.
    pub on_delete: OnDelete,
    /// What happens in the target when a collection is dropped or renamed away.
    pub on_drop: OnDrop,
    /// What happens when the rule delivers something else than what was copied.
    pub on_rule_change: OnRuleChange,
    /// What happens when the oplog no longer reaches back to the position.
    pub on_history_lost: OnHistoryLost,
    /// At least one.
    pub to: Vec<Destination>,
    /// Changes exactly when what the rule delivers has changed: a hash over namespaces, filter,
    /// project, pipeline, script with its imports, limits and destinations.
    pub fingerprint: String,
}

impl Rule {
    /// Where the first run begins, where the rule says so: what is copied begins where the copy did.
    pub fn since(&self) -> Option<Timestamp> {
        match self.changes.filter(|_| self.copy.is_none())?.since {
            Since::Time(time) => Some(time),
            Since::Now => None,
        }
    }
}

/// `on_delete:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    /// Deleted in the source, removed from the target.
    Remove,
    /// Deleted in the source, kept in the target. (A document that leaves the filter still leaves.)
    Keep,
}

/// `on_drop:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDrop {
    /// What the target holds of the collection is removed.
    Remove,
    /// The target keeps it.
    Keep,
}

/// `on_rule_change:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRuleChange {
    /// It is said, and what was delivered before stays as it is.
    Warn,
    /// The rule is copied again, and what it no longer delivers is removed.
    Resync,
}

/// `on_history_lost:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHistoryLost {
    /// The rule is copied again, and what is gone is removed.
    Resync,
    /// The run ends.
    Stop,
    /// The rule goes on with what comes from now on, and it is said.
    Now,
}

/// `copy:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySettings {
    /// Chunks that are read at the same time.
    pub parallel: usize,
    /// Bytes of documents in a chunk, about.
    pub chunk: usize,
    /// Whether the server may use disk for a sort.
    pub allow_disk_use: bool,
}

impl CopySettings {
    /// What a rule has that says nothing.
    pub const DEFAULT: Self = Self { parallel: 4, chunk: 32 << 20, allow_disk_use: true };
}

/// Which namespaces a rule reads.
#[derive(Clone, Debug)]
pub struct Selector {
    /// Any of these; at least one.
    pub include: Vec<NamespacePattern>,
    /// None of these.
    pub exclude: Vec<NamespacePattern>,
}

/// One pattern of `namespace:` or `exclude:`. Database and collection are matched apart.
#[derive(Clone, Debug)]
pub enum NamespacePattern {
    /// One namespace, by name.
    Exact(Namespace),
    /// A glob on each side of the first dot.
    Glob(Box<NamespaceGlob>),
    /// A regular expression over `db.collection`.
    Regex(regex::Regex),
}

/// A glob on each side of the first dot.
#[derive(Clone, Debug)]
pub struct NamespaceGlob {
    /// As it was written.
    pub text: String,
    /// For the database.
    pub database: globset::GlobMatcher,
    /// The database where it holds no wildcard: the stream's scope depends on it.
    pub literal_database: Option<String>,
    /// For the collection.
    pub collection: globset::GlobMatcher,
}

impl Selector {
    /// The one namespace that this selects, where it is one exact name.
    pub fn exact(&self) -> Option<&Namespace> {
        match self.include.as_slice() {
            [NamespacePattern::Exact(namespace)] => Some(namespace),
            _ => None,
        }
    }

    /// Whether the rule reads this namespace. Patterns pass over `system.*` collections and the
    /// `admin`, `config` and `local` databases; an exact name does not.
    pub fn matches(&self, namespace: &Namespace) -> bool {
        self.include.iter().any(|pattern| pattern.matches(namespace))
            && !self.exclude.iter().any(|pattern| pattern.matches(namespace))
    }

    /// Whether the namespace is selected, and not in the database that patterns pass over.
    pub fn takes(&self, namespace: &Namespace, hidden: Option<&str>) -> bool {
        self.matches(namespace) && (hidden != Some(namespace.database()) || self.names(namespace))
    }

    /// Whether the namespace is selected by its exact name.
    pub fn names(&self, namespace: &Namespace) -> bool {
        self.include
            .iter()
            .any(|pattern| matches!(pattern, NamespacePattern::Exact(name) if name == namespace))
    }
}

/// As it was written.
impl fmt::Display for NamespacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(namespace) => write!(f, "{namespace}"),
            Self::Glob(glob) => f.write_str(&glob.text),
            Self::Regex(regex) => match regex.as_str().strip_prefix("(?i)") {
                Some(pattern) => write!(f, "/{pattern}/i"),
                None => write!(f, "/{regex}/"),
            },
        }
    }
}

impl NamespacePattern {
    /// Whether this one pattern takes the namespace.
    pub fn matches(&self, namespace: &Namespace) -> bool {
        let hidden = || {
            namespace.collection().starts_with("system.")
                || matches!(namespace.database(), "admin" | "config" | "local")
        };
        match self {
            Self::Exact(name) => name == namespace,
            Self::Glob(glob) => {
                glob.database.is_match(namespace.database())
                    && glob.collection.is_match(namespace.collection())
                    && !hidden()
            }
            Self::Regex(regex) => regex.is_match(namespace.as_str()) && !hidden(),
        }
    }
}

/// One entry of a rule's `to:`.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// The target's name.
    pub target: String,
    /// What the entry says about it.
    pub place: Place,
}

/// Where in a target a rule's documents lie. One variant a kind of target.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// In an Elasticsearch or OpenSearch.
    Engine(EnginePlace),
    /// In a MongoDB.
    MongoDb(MongoPlace),
    /// Behind a webhook, whose target says where.
    Webhook,
    /// In files, whose target says which.
    File,
    /// On standard output.
    Stdout,
    /// In a target that a program brings, which says where.
    Own,
}

/// `to:` of a MongoDB.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MongoPlace {
    /// `None` is the namespace in the source.
    pub namespace: Option<Template>,
}

impl MongoPlace {
    /// Where a namespace's documents lie, where it follows from the namespace and the rule's name
    /// alone.
    pub fn name_for(&self, namespace: &Namespace, rule: Option<&str>) -> Option<String> {
        match &self.namespace {
            Some(template) => template.known(Some(namespace), rule),
            None => Some(namespace.as_str().to_owned()),
        }
    }
}

/// `to:` of an engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EnginePlace {
    /// `None` is `_id` as plain text.
    pub id: Option<Template>,
    /// `None` where documents are routed by id.
    pub routing: Option<Template>,
    /// The ingest pipeline's name.
    pub ingest_pipeline: Option<Template>,
    /// The index.
    pub index: EngineIndex,
}

/// `index:` of an engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineIndex {
    /// `None` is `db-collection` in lower case.
    pub name: Option<Template>,
    /// Whether `name` is an alias with numbered indices behind it.
    pub alias: bool,
    /// Settings for indices that mongosync makes, as JSON.
    pub settings: Option<serde_json::Value>,
    /// Mappings for indices that mongosync makes, as JSON.
    pub mappings: Option<serde_json::Value>,
}

impl EngineIndex {
    /// The name for a namespace's documents, where it follows from the namespace and the rule's
    /// name alone.
    pub fn name_for(&self, namespace: &Namespace, rule: Option<&str>) -> Option<String> {
        match &self.name {
            Some(template) => template.known(Some(namespace), rule),
            None => Some(Self::default_name(namespace)),
        }
    }

    /// `db-collection` in lower case, as engines want their names.
    pub fn default_name(namespace: &Namespace) -> String {
        let (database, collection) = (namespace.database(), namespace.collection());
        let mut name = String::with_capacity(database.len() + 1 + collection.len());
        for part in [database, "-", collection] {
            name.push_str(part);
        }
        match name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
            true => name,
            false => name.to_lowercase(),
        }
    }
}

/// `changes:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangesSettings {
    /// Where the first run begins when the rule has no copy.
    pub since: Since,
}

/// What goes with `delivery: events`.
#[derive(Clone, PartialEq, Debug)]
pub struct EventSettings {
    /// What is told of; in the order of [`Op::ALL`], never empty.
    pub operations: Vec<Op>,
    /// `changes.full_document`
    pub full_document: FullDocument,
    /// `changes.pre_image`
    pub pre_image: PreImage,
    /// `changes.pipeline`: stages of the change stream.
    pub pipeline: Vec<RawDocumentBuf>,
}

impl EventSettings {
    /// What a rule has that says nothing.
    pub fn new() -> Self {
        Self {
            operations: Op::ALL.to_vec(),
            full_document: FullDocument::UpdateLookup,
            pre_image: PreImage::Off,
            pipeline: Vec::new(),
        }
    }

    /// Whether MongoDB has to keep images of the collections' documents.
    pub fn needs_images(&self) -> bool {
        self.pre_image == PreImage::Required || self.full_document == FullDocument::Required
    }
}

impl Default for EventSettings {
    fn default() -> Self {
        Self::new()
    }
}

/// `changes.full_document:` which document an update brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FullDocument {
    /// As it is when MongoDB answers: perhaps newer than the change.
    UpdateLookup,
    /// As it was behind the change, where MongoDB keeps images.
    WhenAvailable,
    /// The same; an update without one is refused.
    Required,
    /// None.
    Off,
}

impl FullDocument {
    /// Each by its name in the file, the default first.
    pub const WORDS: [(&'static str, Self); 4] = [
        ("update_lookup", Self::UpdateLookup),
        ("when_available", Self::WhenAvailable),
        ("required", Self::Required),
        ("off", Self::Off),
    ];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        let own = Self::WORDS.iter().find(|(_, word)| *word == self);
        own.map_or("", |(name, _)| *name)
    }
}

/// `changes.pre_image:` whether a change brings the document before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreImage {
    /// No.
    Off,
    /// Where MongoDB keeps images.
    WhenAvailable,
    /// Yes: images are switched on where they are not, and a change without one is refused.
    Required,
}

impl PreImage {
    /// Each by its name in the file, the default first.
    pub const WORDS: [(&'static str, Self); 3] =
        [("off", Self::Off), ("when_available", Self::WhenAvailable), ("required", Self::Required)];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        let own = Self::WORDS.iter().find(|(_, word)| *word == self);
        own.map_or("", |(name, _)| *name)
    }
}

/// `changes.since:`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// With what comes from now on.
    Now,
    /// At this cluster time.
    Time(Timestamp),
}

/// One entry of `tests:`.
#[derive(Debug)]
pub struct Test {
    /// What it shows.
    pub name: String,
    /// The name of the rule that it is about, which is one of the file.
    pub rule: String,
    /// Which of the rule's targets the delivery is made for.
    pub target: String,
    /// Where the document lives: one that the rule reads.
    pub namespace: Namespace,
    /// What the rule is run on.
    pub given: GivenChange,
    /// What answers the script's lookups.
    pub lookup: Given,
    /// What is to come of it.
    pub expected: Expected,
    /// Where that is written.
    pub place: LineColumn,
}

/// What a test runs its rule on.
#[derive(Debug)]
pub enum GivenChange {
    /// A document, which has an `_id`; for a rule that delivers events it is one of the copy.
    Document(Document),
    /// An event, with the document key of the document that it is about.
    Event {
        /// `{_id: …}`
        key: RawDocumentBuf,
        /// What is told.
        event: Box<Happened>,
    },
}

/// A place in the rule file, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineColumn {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// `expect:`
#[derive(Clone, Debug, PartialEq)]
pub enum Expected {
    /// `remove()`
    Removed,
    /// `skip()`
    Skipped,
    /// What is delivered; each has an `_id` where documents are delivered.
    Documents(Vec<bson::Document>),
    /// An event without a document.
    NoDocument,
    /// Of what is effective for the delivery, what is named; `None` where there is to be none.
    Meta(BTreeMap<String, Option<String>>),
    /// A dead letter whose reason holds this text.
    Error(String),
}
