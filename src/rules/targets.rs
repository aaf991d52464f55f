//! `targets:`: what is written to, and how.

use std::{path::PathBuf, time::Duration};

use super::{
    diagnostic::Span,
    keys::{self, Map},
    lines,
    model::{
        DeliverySettings, Engine, EngineAuth, EngineFlavor, MongoDb, OnRejected, Secret, Target,
        TargetKind, Tls,
    },
    node::{Entry, Node, Value},
    own,
    reader::{Fields, Reader, shown_key},
    uri::{self, NodeUrl},
    webhook, wording,
};

/// `on_rejected:` in a word.
pub const ON_REJECTED: [&str; 2] = ["dead_letter", "stop"];

/// A target's name, where it stands, and what it is where that could be read.
pub struct Named {
    /// What rules call it.
    pub name: String,
    /// The name as a message may repeat it.
    pub shown: String,
    /// Where the name stands.
    pub span: Span,
    /// `None` where something is wrong with it: its name is known all the same.
    pub target: Option<Target>,
}

/// `targets:`
pub fn targets(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<Named>> {
    let takes = "a map from a name to what it is";
    let fields = reader.any_fields(node, "`targets`", takes)?;
    if fields.entries().is_empty() && reader.own.is_empty() {
        reader.error(fields.owner, "`targets` is empty").help(
            "add what is written to: `search: { elasticsearch: { urls: [http://127.0.0.1:9200] } }`",
        );
        return None;
    }
    let mut targets = Vec::new();
    for entry in fields.entries() {
        let target = target(reader, entry);
        let (name, span) = (entry.key.to_string(), entry.key_span.clone());
        targets.push(Named { name, shown: shown_key(entry), span, target });
    }
    Some(targets)
}

fn target(reader: &mut Reader<'_>, entry: &Entry) -> Option<Target> {
    if entry.key.is_empty() || entry.key.contains(char::is_control) {
        reader.error(&entry.key_span, "a target needs a name that can be read");
        return None;
    }
    if let Some(own) = own::target(reader, entry) {
        return own;
    }
    let what = format!("the target {}", shown_key(entry));
    let kinds_of_target = keys::TARGET.names();
    let takes = format!("a map with {}", wording::choice(&kinds_of_target));
    let fields = reader.any_fields(&entry.value, &what, &takes)?;
    let kinds: Vec<&Entry> =
        fields.entries().iter().filter(|kind| keys::TARGET.has(&kind.key)).collect();
    let mut others = fields.entries().iter().filter(|kind| !keys::TARGET.has(&kind.key));
    match (kinds.as_slice(), others.next()) {
        ([kind], None) => {
            let (kind, delivery) = match &*kind.key {
                "webhook" => webhook::webhook(reader, &kind.value)?,
                "mongodb" => mongodb(reader, &kind.value)?,
                "file" => lines::file(reader, &kind.value)?,
                "stdout" => lines::stdout(reader, &kind.value)?,
                "opensearch" => engine(reader, &kind.value, EngineFlavor::OpenSearch)?,
                _ => engine(reader, &kind.value, EngineFlavor::Elasticsearch)?,
            };
            Some(Target { name: entry.key.to_string(), kind, delivery })
        }
        ([], None) => {
            reader
                .error(fields.owner, format!("{what} does not say what it is"))
                .help(format!("a target is one of {}", wording::list(&kinds_of_target)));
            None
        }
        ([first, second, ..], _) => {
            reader
                .error(&second.key_span, format!("{what} is two things at once"))
                .label("and this")
                .also(first.key_span.clone(), "this")
                .help("give each a name of its own under `targets`");
            None
        }
        (kinds, Some(other)) => {
            let key = shown_key(other);
            let maps =
                [&keys::ENGINE, &keys::MONGODB, &keys::WEBHOOK, &keys::LINE_FILE, &keys::STDOUT];
            if maps.iter().any(|kind| kind.has(&other.key)) {
                let error =
                    reader.error(&other.key_span, format!("{key} stands one level too high"));
                match kinds {
                    [kind] => error.help(format!("it belongs below `{}`", kind.key)),
                    _ => error.help(format!(
                        "it belongs below {}, below the target's name",
                        wording::choice(&kinds_of_target)
                    )),
                };
                return None;
            }
            let near =
                wording::near(&other.key, keys::TARGET.names()).filter(|_| other.written.is_none());
            let error = reader.error(&other.key_span, format!("there is no target of kind {key}"));
            if let Some(near) = near {
                error.label(format!("did you mean `{near}`?"));
            }
            match &*other.key == own::OWN {
                true => error.help(
                    "a program that has mongosync as a library may bring a target of its own; none of \
                     this name is brought here",
                ),
                false => {
                    error.help(format!("a target is one of {}", wording::list(&kinds_of_target)))
                }
            };
            None
        }
    }
}

fn engine(
    reader: &mut Reader<'_>,
    node: &Node,
    flavor: EngineFlavor,
) -> Option<(TargetKind, DeliverySettings)> {
    let what = format!("`{}`", flavor.as_str());
    let fields = reader.fields(node, &what, &keys::ENGINE)?;
    let urls = match fields.get("urls") {
        Some(node) => urls(reader, node),
        None => {
            if fields.lacks("urls") {
                reader
                    .error(fields.owner, format!("{what} has no `urls`"))
                    .help("add the nodes' addresses, such as `urls: [http://127.0.0.1:9200]`");
            }
            None
        }
    };
    let auth = fields.get("auth").map_or(Some(EngineAuth::None), |node| auth(reader, node));
    let tls = fields.get("tls").map_or(Some(Tls::default()), |node| tls(reader, node));
    let gzip = match fields.get("compression") {
        Some(node) => reader.word(node, "`compression`", &[("none", false), ("gzip", true)]),
        None => Some(false),
    };
    let extended_json = match fields.get("json") {
        Some(node) => reader.word(node, "`json`", &[("plain", false), ("extended", true)]),
        None => Some(false),
    };
    let tables = Keys { batch: &keys::BATCH, retry: &keys::RETRY };
    let delivery = delivery(reader, fields, DELIVERY, tables);
    let (urls, logins): (Vec<_>, Vec<_>) =
        urls?.into_iter().map(|url| (url.url, url.login)).unzip();
    let auth = login(reader, fields, auth?, logins)?;
    let engine =
        Engine { flavor, urls, auth, tls: tls?, gzip: gzip?, extended_json: extended_json? };
    Some((TargetKind::Engine(engine), delivery?))
}

fn mongodb(reader: &mut Reader<'_>, node: &Node) -> Option<(TargetKind, DeliverySettings)> {
    let fields = reader.fields(node, "`mongodb`", &keys::MONGODB)?;
    let uri = match fields.get("uri") {
        Some(node) => uri::mongodb(reader, node, "`uri`"),
        None => {
            if fields.lacks("uri") {
                reader.error(fields.owner, "`mongodb` has no `uri`").help(
                    "add a connection string, such as `uri: mongodb://127.0.0.1:27017/?replicaSet=rs1`",
                );
            }
            None
        }
    };
    let tables = Keys { batch: &keys::MONGODB_BATCH, retry: &keys::RETRY };
    let delivery = delivery(reader, fields, MONGODB_DELIVERY, tables);
    Some((TargetKind::MongoDb(MongoDb { uri: uri? }), delivery?))
}

fn urls(reader: &mut Reader<'_>, node: &Node) -> Option<Vec<NodeUrl>> {
    let nodes = reader.list(node, "`urls`", "URLs")?;
    let urls: Vec<_> = nodes.iter().map(|node| uri::node_url(reader, node)).collect();
    urls.into_iter().collect()
}

/// A login in the URLs is the target's, where there is no other.
fn login(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    auth: EngineAuth,
    logins: Vec<Option<(String, Secret)>>,
) -> Option<EngineAuth> {
    let urls = fields.get("urls")?;
    let Some(first) = logins.iter().find(|login| login.is_some()) else { return Some(auth) };
    if let Some(entry) = fields.entry("auth") {
        reader
            .error(&urls.span, "the login is in `urls` and in `auth`")
            .label("here")
            .also(entry.key_span.clone(), "and here")
            .help("keep `auth` and take the login out of the URLs");
        return None;
    }
    if logins.iter().any(|login| login != first) {
        reader
            .error(&urls.span, "the nodes of a target have one login")
            .label("not every URL has the same")
            .help("take it out of the URLs and put it below `auth`");
        return None;
    }
    let (user, password) = first.clone()?;
    Some(EngineAuth::Basic(user, password))
}

fn auth(reader: &mut Reader<'_>, node: &Node) -> Option<EngineAuth> {
    let help = "a login is `{ username: …, password: … }`, `{ api_key: … }` or `{ bearer: … }`";
    if !matches!(node.value, Value::Map(_) | Value::Poison) {
        reader.mismatch(node, "`auth`", "a map").help(help);
        return None;
    }
    let fields = reader.fields(node, "`auth`", &keys::AUTH)?;
    let given: Vec<&str> =
        keys::AUTH.names().into_iter().filter(|key| fields.get(key).is_some()).collect();
    let mut text = |key: &str| {
        let node = fields.get(key)?;
        reader.text(node, &format!("`{key}`"))
    };
    match given.as_slice() {
        ["username", "password"] => {
            let (username, password) = (text("username"), text("password"));
            Some(EngineAuth::Basic(username?, Secret::new(password?)))
        }
        ["api_key"] => text("api_key").map(|key| EngineAuth::ApiKey(Secret::new(key))),
        ["bearer"] => text("bearer").map(|token| EngineAuth::Bearer(Secret::new(token))),
        ["username"] => {
            reader.error(fields.owner, "`auth` has a `username` and no `password`");
            None
        }
        ["password"] => {
            reader.error(fields.owner, "`auth` has a `password` and no `username`");
            None
        }
        [] => {
            // A key that is unknown is told already.
            if fields.entries().is_empty() {
                reader.error(fields.owner, "`auth` is empty").help(help);
            }
            None
        }
        several => {
            let several = wording::list(several);
            reader.error(fields.owner, format!("{several} can't stand together")).help(help);
            None
        }
    }
}

/// `tls:`
pub(super) fn tls(reader: &mut Reader<'_>, node: &Node) -> Option<Tls> {
    let fields = reader.fields(node, "`tls`", &keys::TLS)?;
    let path = |reader: &mut Reader<'_>, key: &str| -> Option<Option<PathBuf>> {
        let Some(node) = fields.get(key) else { return Some(None) };
        let path = reader.text(node, &format!("`{key}`"))?;
        Some(Some(reader.folder.join(path)))
    };
    let ca = path(reader, "ca");
    let (cert, key) = (path(reader, "cert"), path(reader, "key"));
    let insecure = match fields.get("insecure") {
        Some(node) => reader.boolean(node, "`insecure`"),
        None => Some(false),
    };
    let client = match (cert?, key?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (cert, _) => {
            let (there, missing) = if cert.is_some() { ("cert", "key") } else { ("key", "cert") };
            reader.error(fields.owner, format!("`tls` has a `{there}` and no `{missing}`"));
            return None;
        }
    };
    Some(Tls { ca: ca?, client, insecure: insecure? })
}

/// An engine's delivery where the file says nothing.
const DELIVERY: DeliverySettings = DeliverySettings {
    max_bytes: 8 << 20,
    max_actions: 5000,
    max_delay: Duration::from_millis(50),
    concurrency: 2,
    timeout: Duration::from_secs(60),
    retry_initial: Duration::from_millis(100),
    retry_max: Duration::from_secs(30),
    give_up_after: None,
    on_rejected: OnRejected::DeadLetter,
};

/// A MongoDB's.
const MONGODB_DELIVERY: DeliverySettings =
    DeliverySettings { max_actions: 1000, concurrency: 4, ..DELIVERY };

/// The tables of what a kind of target has below `batch` and `retry`.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    pub batch: &'static Map,
    pub retry: &'static Map,
}

/// The five keys that any target has; `settings` are the defaults of its kind.
pub(super) fn delivery(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    mut settings: DeliverySettings,
    keys: Keys,
) -> Option<DeliverySettings> {
    let batch = match fields.get("batch") {
        Some(node) => batch(reader, node, keys.batch, &mut settings),
        None => Some(()),
    };
    let timeout = match fields.get("timeout") {
        Some(node) => reader.time(node, "`timeout`", Duration::from_millis(1)),
        None => Some(settings.timeout),
    };
    let retry = match fields.get("retry") {
        Some(node) => retry(reader, node, keys.retry, &mut settings),
        None => Some(()),
    };
    let on_rejected = match fields.get("on_rejected") {
        Some(node) => on_rejected(reader, node),
        None => Some(OnRejected::DeadLetter),
    };
    let total = match fields.get("ordering") {
        Some(node) => reader.word(node, "`ordering`", &[("document", false), ("total", true)]),
        None => Some(false),
    }?;
    if total {
        let written = fields.get("batch").and_then(|batch| batch.get("concurrency"));
        if let Some(written) = written.filter(|_| settings.concurrency > 1) {
            reader
                .warning(&written.span, "`ordering: total` has one lane")
                .label("this has no effect");
        }
        settings.concurrency = 1;
    }
    batch?;
    retry?;
    Some(DeliverySettings { timeout: timeout?, on_rejected: on_rejected?, ..settings })
}

fn batch(
    reader: &mut Reader<'_>,
    node: &Node,
    map: &'static Map,
    settings: &mut DeliverySettings,
) -> Option<()> {
    let fields = reader.fields(node, "`batch`", map)?;
    let max_bytes = match fields.get("max_bytes") {
        Some(node) => reader.size(node, "`max_bytes`"),
        None => Some(settings.max_bytes),
    };
    let max_delay = match fields.get("max_delay") {
        Some(node) => reader.time(node, "`max_delay`", Duration::ZERO),
        None => Some(settings.max_delay),
    };
    let mut count = |key: &str, most: u64, otherwise: usize| match fields.get(key) {
        Some(node) => reader
            .whole(node, &format!("`{key}`"), 1..=most)
            .and_then(|count| usize::try_from(count).ok()),
        None => Some(otherwise),
    };
    let max_actions = count("max_actions", 1_000_000, settings.max_actions);
    let concurrency = count("concurrency", 256, settings.concurrency);
    settings.max_bytes = max_bytes?;
    settings.max_delay = max_delay?;
    settings.max_actions = max_actions?;
    settings.concurrency = concurrency?;
    Some(())
}

fn retry(
    reader: &mut Reader<'_>,
    node: &Node,
    map: &'static Map,
    settings: &mut DeliverySettings,
) -> Option<()> {
    let fields = reader.fields(node, "`retry`", map)?;
    let mut time = |key: &str, otherwise: Duration| match fields.get(key) {
        Some(node) => reader.time(node, &format!("`{key}`"), Duration::from_millis(1)),
        None => Some(otherwise),
    };
    let initial = time("initial", settings.retry_initial);
    let max = time("max", settings.retry_max);
    if map.has("give_up_after")
        && let Some(node) = fields.get("give_up_after")
    {
        settings.give_up_after =
            Some(reader.time(node, "`give_up_after`", Duration::from_millis(1))?);
    }
    (settings.retry_initial, settings.retry_max) = (initial?, max?);
    if settings.retry_initial > settings.retry_max {
        let node = fields.get("initial").or(fields.get("max")).unwrap_or(node);
        reader.error(&node.span, "the first wait, `initial`, is longer than the longest, `max`");
        return None;
    }
    Some(())
}

fn on_rejected(reader: &mut Reader<'_>, node: &Node) -> Option<OnRejected> {
    if let Value::Map(_) = node.value {
        let fields = reader.fields(node, "`on_rejected`", &keys::REJECTED)?;
        let Some(after) = fields.get("stop_after") else {
            reader.error(
                fields.owner,
                "`on_rejected` takes `dead_letter`, `stop` or \
                 `{ stop_after: … }`",
            );
            return None;
        };
        return reader.whole(after, "`stop_after`", 1..=u64::MAX).map(OnRejected::StopAfter);
    }
    let [dead_letter, stop] = ON_REJECTED;
    let words = [(dead_letter, OnRejected::DeadLetter), (stop, OnRejected::Stop)];
    if let Value::Scalar(scalar) = &node.value
        && scalar.text == "stop_after"
    {
        reader
            .error(&node.span, "`stop_after` needs a number")
            .help("write `on_rejected: { stop_after: 1000 }`");
        return None;
    }
    if let Value::List(_) | Value::Scalar(_) = &node.value
        && !node.scalar().is_some_and(|scalar| words.iter().any(|(word, _)| *word == scalar.text))
    {
        reader.mismatch(node, "`on_rejected`", "`dead_letter`, `stop` or `{ stop_after: … }`");
        return None;
    }
    reader.word(node, "`on_rejected`", &words)
}
