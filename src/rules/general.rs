//! `name`, `source`, `checkpoint` and `http`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use super::{
    keys,
    model::{Checkpoint, CheckpointStore, Http, Secret, Source},
    namespace::database_fault,
    node::{Node, Value},
    reader::{Reader, reason_for},
    uri,
    wording::shown_character,
};

const LONGEST_NAME: usize = 100;

/// `name:`, else the file's stem.
pub fn name(reader: &mut Reader<'_>, node: Option<&Node>, path: &Path) -> Option<String> {
    let Some(node) = node else {
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        return Some(stem.filter(|stem| name_fault(stem).is_none()).unwrap_or("mongosync".into()));
    };
    let name = reader.text(node, "`name`")?;
    if let Some(fault) = name_fault(&name) {
        let message = reason_for(node, format!("`name` {fault}"));
        reader.error(&node.span, message).help(
            "it names the positions in the checkpoint store: letters, digits, `-`, `_` and `.`",
        );
        return None;
    }
    Some(name)
}

fn name_fault(name: &str) -> Option<String> {
    if name.len() > LONGEST_NAME {
        return Some(format!("has at most {LONGEST_NAME} bytes"));
    }
    if matches!(name, "." | "..") {
        return Some("can't be a folder's name".to_owned());
    }
    name.chars()
        .find(|c| c.is_control() || matches!(c, '/' | '\\' | '$'))
        .map(|character| format!("can't hold {}", shown_character(character)))
}

/// `source:`
pub fn source(reader: &mut Reader<'_>, node: &Node) -> Option<Source> {
    const MAX_AWAIT: Duration = Duration::from_secs(1);
    const BATCH_SIZE: u32 = 2000;
    if let Value::Scalar(scalar) = &node.value
        && !scalar.absent
    {
        let uri = uri::mongodb(reader, node, "`source`")?;
        return Some(Source { uri, max_await: MAX_AWAIT, batch_size: BATCH_SIZE });
    }
    let fields = match &node.value {
        Value::Map(_) => reader.fields(node, "`source`", &keys::SOURCE)?,
        Value::Poison => return None,
        _ => {
            reader.mismatch(node, "`source`", "a connection string, or a map with `uri`");
            return None;
        }
    };
    let uri = match fields.get("uri") {
        Some(node) => uri::mongodb(reader, node, "`uri`"),
        None => {
            if fields.lacks("uri") {
                reader.error(fields.owner, "`source` has no `uri`");
            }
            None
        }
    };
    let max_await = match fields.get("max_await") {
        Some(node) => reader.time(node, "`max_await`", Duration::from_millis(1)),
        None => Some(MAX_AWAIT),
    };
    let batch_size = match fields.get("batch_size") {
        Some(node) => reader
            .whole(node, "`batch_size`", 1..=1_000_000)
            .and_then(|size| u32::try_from(size).ok()),
        None => Some(BATCH_SIZE),
    };
    Some(Source { uri: uri?, max_await: max_await?, batch_size: batch_size? })
}

/// `checkpoint:`; `name` is what a folder beside the rule file is named after.
pub fn checkpoint(
    reader: &mut Reader<'_>,
    node: Option<&Node>,
    name: Option<&str>,
) -> Option<Checkpoint> {
    let in_source = || CheckpointStore::MongoDb { uri: None, database: "mongosync".to_owned() };
    let every = Duration::from_secs(1);
    let Some(node) = node else { return Some(Checkpoint { every, store: in_source() }) };
    let fields = reader.fields(node, "`checkpoint`", &keys::CHECKPOINT)?;
    let every = match fields.get("every") {
        Some(node) => reader.time(node, "`every`", Duration::from_millis(10)),
        None => Some(every),
    };
    let store = match (fields.entry("mongodb"), fields.entry("file")) {
        (Some(mongodb), Some(file)) => {
            let (first, second) = if mongodb.key_span.start < file.key_span.start {
                (mongodb, file)
            } else {
                (file, mongodb)
            };
            reader
                .error(&second.key_span, "positions are kept in one place")
                .label("and here")
                .also(first.key_span.clone(), "here");
            None
        }
        (Some(entry), None) => mongodb_store(reader, &entry.value),
        (None, Some(entry)) => {
            let fields = reader.fields(&entry.value, "`file`", &keys::FILE_STORE)?;
            let path = match fields.get("path") {
                Some(node) => reader.text(node, "`path`"),
                None => name.map(|name| format!(".mongosync/{name}")),
            };
            path.map(|path| CheckpointStore::File { path: reader.folder.join(path) })
        }
        (None, None) => Some(in_source()),
    };
    Some(Checkpoint { every: every?, store: store? })
}

fn mongodb_store(reader: &mut Reader<'_>, node: &Node) -> Option<CheckpointStore> {
    let fields = reader.fields(node, "`mongodb`", &keys::MONGODB_STORE)?;
    let uri: Option<Option<Secret>> = match fields.get("uri") {
        Some(node) => uri::mongodb(reader, node, "`uri`").map(Some),
        None => Some(None),
    };
    let database = match fields.get("database") {
        Some(node) => {
            let database = reader.text(node, "`database`")?;
            if let Some(fault) = database_fault(&database) {
                reader.error(&node.span, reason_for(node, fault));
                return None;
            }
            if matches!(database.as_str(), "admin" | "config" | "local") {
                reader
                    .error(&node.span, "this database belongs to MongoDB itself")
                    .help("name one that is mongosync's own, such as `mongosync`");
                return None;
            }
            Some(database)
        }
        None => Some("mongosync".to_owned()),
    };
    Some(CheckpointStore::MongoDb { uri: uri?, database: database? })
}

/// `http:`: the outer `None` is a fault, the inner one `off`.
pub fn http(reader: &mut Reader<'_>, node: Option<&Node>) -> Option<Option<Http>> {
    let default = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7800);
    let Some(node) = node else {
        return Some(Some(Http { listen: default, listen_written: false, token: None }));
    };
    if let Value::Scalar(scalar) = &node.value
        && scalar.text == "off"
    {
        return Some(None);
    }
    if !matches!(node.value, Value::Map(_) | Value::Poison) {
        reader.mismatch(node, "`http`", "`off`, or a map with `listen` and `token`");
        return None;
    }
    let fields = reader.fields(node, "`http`", &keys::HTTP)?;
    let token = match fields.get("token") {
        Some(node) => reader.text(node, "`token`").map(|token| Some(Secret::new(token))),
        None => Some(None),
    };
    let listen = match fields.get("listen") {
        Some(node) => listen(reader, node),
        None => Some(default),
    }?;
    // A token that is there and wrong is told already.
    if !listen.ip().is_loopback() && fields.get("token").is_none() {
        let span = fields.get("listen").map_or(fields.owner, |node| &node.span);
        reader
            .error(span, "`http` needs a `token` where it listens beyond this machine")
            .label("this address can be reached from elsewhere")
            .help("add `token:` below, such as \"${STATUS_TOKEN}\", or listen on 127.0.0.1");
        return None;
    }
    Some(Some(Http { listen, listen_written: fields.get("listen").is_some(), token: token? }))
}

fn listen(reader: &mut Reader<'_>, node: &Node) -> Option<SocketAddr> {
    let text = reader.text(node, "`listen`")?;
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.clone(),
    };
    if let Ok(address) = numeric.parse() {
        return Some(address);
    }
    let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
    let port = text.strip_prefix(':').unwrap_or(&text);
    let meant = if port.parse::<u16>().is_ok() {
        Some(format!("127.0.0.1:{port}"))
    } else {
        text.parse::<IpAddr>().ok().map(|address| SocketAddr::new(address, 7800).to_string())
    };
    let error = reader.error(&node.span, "`listen` takes an IP address and a port");
    match meant.filter(|_| !substituted) {
        Some(meant) => error.label(format!("did you mean `{meant}`?")),
        None => error.label("expected an address such as `127.0.0.1:7800`"),
    };
    None
}
