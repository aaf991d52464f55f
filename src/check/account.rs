//! What a rule file means, as data: what is read, how it is shaped, where it goes and where positions
//! are kept. Values of filters and the like are left out, and so is every secret: names alone tell
//! what a rule does.

use std::path::Path;

use bson::RawDocumentBuf;
use serde::Serialize;

use crate::rules::{
    model::{
        self, CheckpointStore, Destination, Engine, EngineAuth, EngineIndex, OnDelete, OnDrop,
        OnHistoryLost, OnRejected, OnRuleChange, Place, Rule, RuleFile, TargetKind, Webhook,
        WebhookFormat,
    },
    template::Template,
    units::{written_size, written_time},
};

/// A whole file.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Account {
    /// The file as it was named.
    pub file: String,
    /// Names the positions and the lease.
    pub name: String,
    /// Hosts and replica set of the source.
    pub source: String,
    /// Where positions are kept.
    pub checkpoint: Kept,
    /// The address of the status server; `None` where it is off.
    pub http: Option<Listening>,
    /// In the order of the file.
    pub targets: Vec<Written>,
}

/// Where positions are kept.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Kept {
    /// The database or the folder.
    #[serde(rename = "in")]
    pub place: String,
    /// How often.
    pub every: String,
}

/// The status server.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Listening {
    /// IP address and port.
    pub listen: String,
    /// Whether another port is taken where this one is in use.
    pub or_any_port: bool,
    /// Whether a token is asked for.
    pub token: bool,
}

/// A target, and the rules that write to it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Written {
    /// The name that rules use.
    pub name: String,
    /// What it is, as in the file.
    pub kind: String,
    /// Its addresses.
    pub urls: Vec<String>,
    /// How it is logged in to, without what is secret.
    pub login: String,
    /// What it is sent, where that can be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sends: Option<String>,
    /// Requests at a time.
    pub requests: usize,
    /// What happens to a document that is refused for good.
    pub refused: String,
    /// In the order of the file; none where no rule writes to it.
    pub rules: Vec<Ruled>,
}

/// What a rule does for one target.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ruled {
    /// The rule's name.
    pub name: String,
    /// What it reads, as it is written.
    pub namespaces: Vec<String>,
    /// What of that it does not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// What is told of every single change; `None` where documents are kept as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Events>,
    /// Whether what is there is copied.
    pub copy: bool,
    /// Whether changes are followed.
    pub changes: bool,
    /// Where the first run begins, where nothing is copied and it is not now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The fields that the filter looks at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filter: Vec<String>,
    /// The fields that the projection names, and whether it keeps them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<Projected>,
    /// The names of the stages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pipeline: Vec<String>,
    /// The script.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transform: Option<Scripted>,
    /// Whether a document that is deleted in the source stays in the target.
    pub keeps_deleted: bool,
    /// Whether a collection that is dropped in the source stays in the target.
    pub keeps_dropped: bool,
    /// Whether a MongoDB that is written to follows the definitions of collections.
    pub ddl: bool,
    /// What happens when the rule has changed, as in the file.
    pub on_rule_change: &'static str,
    /// What happens when the oplog no longer reaches back, as in the file.
    pub on_history_lost: &'static str,
    /// The index that documents lie in, or a template of its name, in an engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// The collection that documents lie in, or a template of its name, in a MongoDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Whether that is an alias.
    pub alias: bool,
    /// Whether the rule says how the index is made.
    pub settings: bool,
    /// Whether the rule says what its mappings are.
    pub mappings: bool,
    /// The template of the id; `None` where the target says where documents go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The template of the routing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<String>,
    /// The template of the ingest pipeline's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingest_pipeline: Option<String>,
    /// Whether the checkpoint store remembers where each document lies.
    pub places_are_kept: bool,
}

/// What `delivery: events` tells.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Events {
    /// What is told of, as MongoDB calls it.
    pub operations: Vec<&'static str>,
    /// Which document an update brings, as in the file.
    pub full_document: &'static str,
    /// Whether a change brings the document before it, as in the file.
    pub pre_image: &'static str,
    /// The names of the stages in the change stream.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pipeline: Vec<String>,
}

/// A projection.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Projected {
    /// Whether the fields are kept, rather than left out.
    pub keeps: bool,
    /// Their names.
    pub fields: Vec<String>,
}

/// A script.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Scripted {
    /// The files that it imports, from the rule file's folder.
    pub imports: Vec<String>,
}

impl Account {
    /// Of a file.
    pub fn of(rules: &RuleFile) -> Self {
        let checkpoint = match &rules.checkpoint.store {
            CheckpointStore::MongoDb { uri: None, database } => {
                format!("the source, in the database {database}")
            }
            CheckpointStore::MongoDb { uri: Some(uri), database } => {
                format!("the MongoDB at {}, in the database {database}", model::address(uri))
            }
            CheckpointStore::File { path } => format!("the folder {}", path.display()),
            CheckpointStore::Own => "the program's own".to_owned(),
        };
        Self {
            file: rules.path.display().to_string(),
            name: rules.name.clone(),
            source: rules.source.address(),
            checkpoint: Kept { place: checkpoint, every: written_time(rules.checkpoint.every) },
            http: rules.http.as_ref().map(|http| Listening {
                listen: http.listen.to_string(),
                or_any_port: !http.listen_written,
                token: http.token.is_some(),
            }),
            targets: rules.targets.iter().map(|target| written(rules, target)).collect(),
        }
    }
}

fn written(rules: &RuleFile, target: &model::Target) -> Written {
    let (kind, urls, login, sends) = match &target.kind {
        TargetKind::Engine(engine) => {
            (engine.flavor.as_str(), engine.urls.clone(), login(engine), None)
        }
        TargetKind::MongoDb(settings) => {
            let login = match model::user(&settings.uri) {
                Some(user) => format!("user {user}"),
                None => "none".to_owned(),
            };
            ("mongodb", vec![model::address(&settings.uri)], login, None)
        }
        TargetKind::Webhook(webhook) => (
            "webhook",
            vec![webhook.url.to_string()],
            signed(webhook),
            Some(sent(webhook, target.delivery.max_actions)),
        ),
        TargetKind::File(file) => {
            let sends = match file.rotate.and_then(|size| usize::try_from(size).ok()) {
                Some(size) => format!("lines of JSON, up to {} in a file", written_size(size)),
                None => "lines of JSON".to_owned(),
            };
            let path = file.folder.join(file.path.as_str()).display().to_string();
            ("file", vec![path], "none".to_owned(), Some(sends))
        }
        TargetKind::Stdout(_) => {
            ("stdout", Vec::new(), "none".to_owned(), Some("lines of JSON".to_owned()))
        }
        TargetKind::Own => ("own", Vec::new(), "none".to_owned(), None),
    };
    Written {
        name: target.name.clone(),
        kind: kind.to_owned(),
        urls,
        login,
        sends,
        requests: target.delivery.concurrency,
        refused: match target.delivery.on_rejected {
            OnRejected::DeadLetter => "becomes a dead letter".to_owned(),
            OnRejected::Stop => "ends the run".to_owned(),
            OnRejected::StopAfter(count) => format!("ends the run after {count} of them"),
        },
        rules: rules
            .deliveries(&target.name)
            .map(|(rule, destination)| ruled(rules, rule, target, destination))
            .collect(),
    }
}

fn login(engine: &Engine) -> String {
    match &engine.auth {
        EngineAuth::None if engine.tls.client.is_some() => "a client certificate".to_owned(),
        EngineAuth::None => "none".to_owned(),
        EngineAuth::Basic(user, _) => format!("user {user}"),
        EngineAuth::ApiKey(_) => "an API key".to_owned(),
        EngineAuth::Bearer(_) => "a bearer token".to_owned(),
    }
}

/// How a receiver knows who sends.
fn signed(webhook: &Webhook) -> String {
    let mut ways = Vec::new();
    match webhook.secrets.len() {
        0 => {}
        1 => ways.push("signed".to_owned()),
        count => ways.push(format!("signed with {count} secrets")),
    }
    if webhook.tls.client.is_some() {
        ways.push("a client certificate".to_owned());
    }
    if !webhook.headers.is_empty() {
        let names: Vec<&str> = webhook.headers.iter().map(|header| header.name.as_str()).collect();
        ways.push(format!("headers {}", names.join(", ")));
    }
    if ways.is_empty() { "none".to_owned() } else { ways.join(", ") }
}

fn sent(webhook: &Webhook, most: usize) -> String {
    let what = match webhook.format {
        WebhookFormat::Standard => "messages of Standard Webhooks",
        WebhookFormat::CloudEvents => "CloudEvents",
        WebhookFormat::Document => "documents",
    };
    match most {
        1 => format!("{what} by {}, one in a request", webhook.method),
        most => format!("{what} by {}, up to {most} in an array", webhook.method),
    }
}

fn ruled(
    rules: &RuleFile,
    rule: &Rule,
    target: &model::Target,
    destination: &Destination,
) -> Ruled {
    let (place, namespace) = match &destination.place {
        Place::Engine(place) => (Some(place), None),
        Place::MongoDb(place) => {
            let exact = rule.namespaces.exact();
            let known = exact.and_then(|namespace| place.name_for(namespace, Some(&rule.name)));
            let template = place.namespace.as_ref().map_or("{db}.{collection}", Template::as_str);
            (None, Some(known.unwrap_or_else(|| template.to_owned())))
        }
        Place::Webhook | Place::File | Place::Stdout | Place::Own => (None, None),
    };
    let text = |template: &Option<Template>| template.as_ref().map(|text| text.as_str().to_owned());
    let since = rule.since().map(point);
    Ruled {
        name: rule.name.clone(),
        namespaces: rule.namespaces.include.iter().map(ToString::to_string).collect(),
        exclude: rule.namespaces.exclude.iter().map(ToString::to_string).collect(),
        events: rule.events.as_ref().map(|events| Events {
            operations: events.operations.iter().map(|op| op.as_str()).collect(),
            full_document: events.full_document.as_str(),
            pre_image: events.pre_image.as_str(),
            pipeline: events
                .pipeline
                .iter()
                .filter_map(|stage| fields(stage).into_iter().next())
                .collect(),
        }),
        copy: rule.copy.is_some(),
        changes: rule.changes.is_some(),
        since,
        filter: rule.filter.as_ref().map(filtered).unwrap_or_default(),
        project: rule.project.as_ref().map(projected),
        pipeline: rule
            .pipeline
            .iter()
            .filter_map(|stage| fields(stage).into_iter().next())
            .collect(),
        transform: rule.transform.as_ref().map(|script| Scripted {
            imports: script.imports().iter().map(|path| beside(&rules.path, path)).collect(),
        }),
        keeps_deleted: rule.on_delete == OnDelete::Keep,
        keeps_dropped: rule.on_drop == OnDrop::Keep,
        ddl: rule.ddl,
        on_rule_change: match rule.on_rule_change {
            OnRuleChange::Warn => "warn",
            OnRuleChange::Resync => "resync",
        },
        on_history_lost: match rule.on_history_lost {
            OnHistoryLost::Resync => "resync",
            OnHistoryLost::Stop => "stop",
            OnHistoryLost::Now => "now",
        },
        index: place.map(|place| index_name(rule, &place.index)),
        namespace,
        alias: place.is_some_and(|place| place.index.alias),
        settings: place.is_some_and(|place| place.index.settings.is_some()),
        mappings: place.is_some_and(|place| place.index.mappings.is_some()),
        id: place
            .filter(|_| rule.events.is_none())
            .map(|place| text(&place.id).unwrap_or_else(|| "{_id}".to_owned())),
        routing: place.and_then(|place| text(&place.routing)),
        ingest_pipeline: place.and_then(|place| text(&place.ingest_pipeline)),
        places_are_kept: places_are_kept(rule, target, destination),
    }
}

/// A cluster time; a whole second as a date.
pub(super) fn point(time: bson::Timestamp) -> String {
    let date = bson::DateTime::from_millis(i64::from(time.time) * 1000);
    match (time.increment, date.try_to_rfc3339_string()) {
        (0, Ok(date)) => date,
        _ => format!("{}.{}", time.time, time.increment),
    }
}

/// Whether a document's place is not a function of its key.
pub(super) fn places_are_kept(
    rule: &Rule,
    target: &model::Target,
    destination: &Destination,
) -> bool {
    // An event lies in one place for ever.
    if rule.events.is_some() {
        return false;
    }
    let moves = rule.transform.as_ref().is_some_and(|script| script.may_move());
    let by_document = match (&destination.place, &target.kind) {
        (Place::Engine(place), _) => [&place.id, &place.routing, &place.index.name]
            .into_iter()
            .flatten()
            .any(Template::depends_on_document),
        (Place::MongoDb(place), _) => {
            place.namespace.as_ref().is_some_and(Template::depends_on_document)
        }
        (Place::Webhook, TargetKind::Webhook(webhook)) => webhook.url.path.depends_on_document(),
        (Place::File, TargetKind::File(file)) => file.path.depends_on_document(),
        (Place::Webhook | Place::File | Place::Stdout | Place::Own, _) => false,
    };
    moves || by_document
}

fn index_name(rule: &Rule, index: &EngineIndex) -> String {
    let exact = rule.namespaces.exact();
    let known = exact.and_then(|namespace| index.name_for(namespace, Some(&rule.name)));
    let template = index.name.as_ref();
    known
        .or_else(|| template.and_then(|template| template.known(None, Some(&rule.name))))
        .unwrap_or_else(|| template.map_or("{db}-{collection}", Template::as_str).to_owned())
}

/// A path from the rule file's folder, where it lies there.
fn beside(file: &Path, path: &Path) -> String {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new(".")).canonicalize().unwrap_or_default();
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}

fn fields(document: &RawDocumentBuf) -> Vec<String> {
    document.iter().flatten().map(|(name, _)| name.to_string()).collect()
}

/// The fields that a query looks at, operators such as `$or` looked through.
fn filtered(query: &RawDocumentBuf) -> Vec<String> {
    fn gather(query: &bson::Document, found: &mut Vec<String>) {
        for (name, value) in query {
            let name = match name.as_str() {
                "$expr" | "$where" | "$jsonSchema" => "an expression".to_owned(),
                name if name.starts_with('$') => {
                    let parts = value.as_array().map(Vec::as_slice).unwrap_or_default();
                    for part in parts.iter().filter_map(bson::Bson::as_document) {
                        gather(part, found);
                    }
                    continue;
                }
                name => name.to_owned(),
            };
            if !found.contains(&name) {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    if let Ok(query) = bson::Document::try_from(query.as_ref()) {
        gather(&query, &mut found);
    }
    found
}

pub(super) fn projected(projection: &RawDocumentBuf) -> Projected {
    let out = |value: bson::RawBsonRef<'_>| match value {
        bson::RawBsonRef::Int32(number) => number == 0,
        bson::RawBsonRef::Int64(number) => number == 0,
        bson::RawBsonRef::Double(number) => number == 0.0,
        bson::RawBsonRef::Boolean(kept) => !kept,
        _ => false,
    };
    let own = projection.iter().flatten().filter(|(name, _)| name.as_str() != "_id");
    let fields: Vec<_> = own.map(|(name, value)| (name.to_string(), out(value))).collect();
    Projected {
        keeps: !fields.iter().any(|(_, out)| *out),
        fields: fields.into_iter().map(|(name, _)| name).collect(),
    }
}
