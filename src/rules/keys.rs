//! Every key of a rule file: its name, what it takes, its default, and what it is for.
//!
//! The one place where a key is made known. Readers take the names of a map's keys from here, so that
//! a key that is not here is an unknown key; [`super::schema`] makes the JSON Schema for editors from
//! the same tables; and a test sets every key to values of every kind and holds readers and schema to
//! the same verdict.

use super::{
    query::{EVENT_STAGES, STAGES},
    targets::ON_REJECTED,
};

use Shape::{
    Bool, Collections, Document, Documents, Either, List, Named, Null, Object, Size, Stage, Text,
    Time, Whole, Words,
};

/// What a value looks like. The readers know more about some of them; nothing that a reader takes is
/// left out here.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Text that is not empty; numbers and booleans are taken as they are written.
    Text,
    /// `true` or `false`.
    Bool,
    /// `250ms`, `10s`, `5m`, `24h`.
    Time,
    /// `8MiB`, `500KB`, or a number of bytes.
    Size,
    /// A whole number between these two.
    Whole(u64, u64),
    /// One of these words.
    Words(&'static [&'static str]),
    /// A map with these keys.
    Object(&'static Map),
    /// A map from names to such values.
    Named(&'static Shape),
    /// A list of these, not empty.
    List(&'static Shape),
    /// A map in MongoDB's or the engine's own language.
    Document,
    /// A map with one of these keys, which is MongoDB's own.
    Stage(&'static [&'static str]),
    /// A list of documents, which may be empty.
    Documents,
    /// A map from namespaces to lists of documents.
    Collections,
    /// Nothing.
    Null,
    /// One of these.
    Either(&'static [Shape]),
}

impl Shape {
    /// Whether it is, or holds, a map with such a key.
    fn has_key(&self, name: &str) -> bool {
        match self {
            Object(map) => map.has(name),
            List(inner) => inner.has_key(name),
            Either(shapes) => shapes.iter().any(|shape| shape.has_key(name)),
            _ => false,
        }
    }
}

/// A map with keys of its own.
#[derive(Debug)]
pub struct Map {
    /// What the schema calls it.
    pub name: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
    /// Whether exactly one of the keys is there, rather than any of them.
    pub one: bool,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub takes: Shape,
    /// What it is for, for people.
    pub about: &'static str,
    /// Its default as it would be written; `None` where that is no single value.
    pub default: Option<&'static str>,
    /// A value that can be used, as it would be written.
    pub example: Option<&'static str>,
    /// Whether the map can't do without.
    pub required: bool,
}

/// An optional key without a default.
const fn key(name: &'static str, takes: Shape, about: &'static str) -> Key {
    Key { name, takes, about, default: None, example: None, required: false }
}

impl Key {
    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn example(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }

    const fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl Map {
    /// The names of its keys, for messages.
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// The key below which one of this name would stand: `batch` for `max_bytes`.
    pub fn owner_of(&self, name: &str) -> Option<&'static str> {
        let owner = self.keys.iter().find(|key| key.takes.has_key(name));
        owner.map(|key| key.name)
    }

    /// Whether a key of this name is one of them.
    pub fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }
}

const MAX: u64 = u64::MAX;

/// The whole file.
pub static FILE: Map = Map {
    name: "file",
    one: false,
    keys: &[
        key(
            "name",
            Text,
            "Names the stored positions and the lease. Default: the file's name without its \
             extension. A file with another name begins anew.",
        )
        .example("shop"),
        key("source", Either(&[Text, Object(&SOURCE)]), "The MongoDB that is read.")
            .example("mongodb://127.0.0.1:27017/?replicaSet=rs0")
            .required(),
        key(
            "checkpoint",
            Object(&CHECKPOINT),
            "Where positions, the progress of copies, the lease and dead letters are kept. Default: \
             the database `mongosync` in the source.",
        ),
        key(
            "http",
            Either(&[Words(&["off"]), Object(&HTTP)]),
            "The status server. Default: 127.0.0.1:7800, or a free port where that is taken.",
        )
        .example("off"),
        key(
            "targets",
            Named(&Object(&TARGET)),
            "What is written to: a name of yours, then what it is.",
        )
        .example("{ search: { elasticsearch: { urls: [http://127.0.0.1:9200] } } }")
        .required(),
        key("rules", List(&Object(&RULE)), "What is read, how it is shaped and where it goes.")
            .example("[{ namespace: shop.products, to: search }]")
            .required(),
        key("tests", List(&Object(&TEST)), "What `mongosync test` tries the rules' scripts on."),
    ],
};

/// `source:`
pub static SOURCE: Map = Map {
    name: "source",
    one: false,
    keys: &[
        key(
            "uri",
            Text,
            "A connection string of a replica set or a sharded cluster, with all options of MongoDB's \
             drivers.",
        )
        .example("mongodb://127.0.0.1:27017/?replicaSet=rs0")
        .required(),
        key("max_await", Time, "How long MongoDB holds an answer back while nothing changes.")
            .default("1s"),
        key("batch_size", Whole(1, 1_000_000), "Documents or events in one answer, at the most.")
            .default("2000"),
    ],
};

/// `checkpoint:`
pub static CHECKPOINT: Map = Map {
    name: "checkpoint",
    one: false,
    keys: &[
        key("every", Time, "How often positions are stored.").default("1s"),
        key("mongodb", Object(&MONGODB_STORE), "Keeps them in a MongoDB."),
        key(
            "file",
            Object(&FILE_STORE),
            "Keeps them in a folder, for a source that may only be read.",
        ),
    ],
};

/// `checkpoint.mongodb:`
pub static MONGODB_STORE: Map = Map {
    name: "mongodb_store",
    one: false,
    keys: &[
        key("uri", Text, "A connection string. Default: that of the source.")
            .example("mongodb://127.0.0.1:27018/?replicaSet=rs1"),
        key("database", Text, "The database's name.").default("mongosync"),
    ],
};

/// `checkpoint.file:`
pub static FILE_STORE: Map = Map {
    name: "file_store",
    one: false,
    keys: &[key(
        "path",
        Text,
        "A folder; a relative one starts at the rule file. Default: `.mongosync/NAME` beside it.",
    )
    .example(".mongosync/shop")],
};

/// `http:`
pub static HTTP: Map = Map {
    name: "http",
    one: false,
    keys: &[
        key(
            "listen",
            Text,
            "An IP address and a port. Default: 127.0.0.1:7800, or a free port where that is taken. \
             Beyond this machine it needs a `token`.",
        )
        .example("127.0.0.1:7801"),
        key("token", Text, "Sent by clients as `Authorization: Bearer TOKEN`.")
            .example("${STATUS_TOKEN}"),
    ],
};

/// An entry of `targets:`.
pub static TARGET: Map = Map {
    name: "target",
    one: true,
    keys: &[
        key("elasticsearch", Object(&ENGINE), "Elasticsearch 7.10 or later.")
            .example("{ urls: [http://127.0.0.1:9200] }"),
        key("opensearch", Object(&ENGINE), "OpenSearch 1 or later.")
            .example("{ urls: [http://127.0.0.1:9200] }"),
        key("mongodb", Object(&MONGODB), "MongoDB 4.4 or later.")
            .example("{ uri: \"mongodb://mirror:27017/?replicaSet=rs1\" }"),
        key("webhook", Object(&WEBHOOK), "A URL that every document is told to, as JSON.")
            .example("{ url: https://example.com/hook }"),
        key(
            "file",
            Object(&LINE_FILE),
            "Files that a line of JSON is appended to for each document.",
        )
        .example("{ path: \"out/{collection}.ndjson\" }"),
        key("stdout", Object(&STDOUT), "Standard output, a line of JSON for each document.")
            .example("{}"),
    ],
};

/// `elasticsearch:` and `opensearch:`
pub static ENGINE: Map = Map {
    name: "engine",
    one: false,
    keys: &[
        key("urls", List(&Text), "The nodes' addresses. A node that is down is passed over.")
            .example("[http://127.0.0.1:9200]")
            .required(),
        key("auth", Object(&AUTH), "How to log in.").example("{ api_key: \"${ES_API_KEY}\" }"),
        key("tls", Object(&TLS), "Certificates; paths start at the rule file."),
        key("compression", Words(&["none", "gzip"]), "How the bodies of bulk requests are sent.")
            .default("none"),
        key(
            "json",
            Words(&["plain", "extended"]),
            "How BSON becomes JSON: plain values, or canonical Extended JSON, which keeps every type.",
        )
        .default("plain"),
        key("batch", Object(&BATCH), "How much goes into one request."),
        key("timeout", Time, "How long one request may take.").default("60s"),
        key(
            "retry",
            Object(&RETRY),
            "The pauses between tries, for what can pass. It is tried for ever.",
        ),
        key(
            "on_rejected",
            Either(&[Words(&ON_REJECTED), Object(&REJECTED)]),
            "What happens when the target refuses a document for good: a dead letter, or the end of \
             the run.",
        )
        .default("dead_letter"),
        key(
            "ordering",
            Words(&["document", "total"]),
            "Changes keep their order per document, or all of them in one lane.",
        )
        .default("document"),
    ],
};

/// `mongodb:` of a target.
pub static MONGODB: Map = Map {
    name: "mongodb",
    one: false,
    keys: &[
        key("uri", Text, "A connection string, with all options of MongoDB's drivers.")
            .example("mongodb://mirror:27017/?replicaSet=rs1")
            .required(),
        key("batch", Object(&MONGODB_BATCH), "How much goes into one request."),
        key("timeout", Time, "How long one request may take.").default("60s"),
        key(
            "retry",
            Object(&RETRY),
            "The pauses between tries, for what can pass. It is tried for ever.",
        ),
        key(
            "on_rejected",
            Either(&[Words(&ON_REJECTED), Object(&REJECTED)]),
            "What happens when the target refuses a document for good: a dead letter, or the end of \
             the run.",
        )
        .default("dead_letter"),
        key(
            "ordering",
            Words(&["document", "total"]),
            "Changes keep their order per document, or all of them in one lane.",
        )
        .default("document"),
    ],
};

/// `batch:` of a MongoDB.
pub static MONGODB_BATCH: Map = Map {
    name: "mongodb_batch",
    one: false,
    keys: &[
        key("max_bytes", Size, "A request ends here; one larger document goes alone.")
            .default("8MiB"),
        key("max_actions", Whole(1, 1_000_000), "Or with so many documents.").default("1000"),
        key(
            "max_delay",
            Time,
            "How long to gather while a request is under way; an idle lane sends at once.",
        )
        .default("50ms"),
        key("concurrency", Whole(1, 256), "Lanes, each with one request at a time.").default("4"),
    ],
};

/// `auth:` of an engine.
pub static AUTH: Map = Map {
    name: "auth",
    one: false,
    keys: &[
        key("username", Text, "With `password`.").example("mongosync"),
        key("password", Text, "With `username`.").example("${ES_PASSWORD}"),
        key("api_key", Text, "An API key in the engine's base64 form.").example("${ES_API_KEY}"),
        key("bearer", Text, "A token.").example("${ES_TOKEN}"),
    ],
};

/// `tls:` of an engine.
pub static TLS: Map = Map {
    name: "tls",
    one: false,
    keys: &[
        key("ca", Text, "A PEM file of authorities to trust beside the system's own.")
            .example("ca.pem"),
        key("cert", Text, "The client's certificate, a PEM file. With `key`.")
            .example("client.pem"),
        key("key", Text, "The client's key, a PEM file. With `cert`.").example("client.key"),
        key("insecure", Bool, "Accepts any certificate.").default("false"),
    ],
};

/// `batch:` of a target.
pub static BATCH: Map = Map {
    name: "batch",
    one: false,
    keys: &[
        key("max_bytes", Size, "A request ends here; one larger document goes alone.")
            .default("8MiB"),
        key("max_actions", Whole(1, 1_000_000), "Or with so many documents.").default("5000"),
        key(
            "max_delay",
            Time,
            "How long to gather while a request is under way; an idle lane sends at once.",
        )
        .default("50ms"),
        key("concurrency", Whole(1, 256), "Lanes, each with one request at a time.").default("2"),
    ],
};

/// `retry:` of a target.
pub static RETRY: Map = Map {
    name: "retry",
    one: false,
    keys: &[
        key("initial", Time, "The first pause.").default("100ms"),
        key("max", Time, "The longest pause.").default("30s"),
    ],
};

/// `method:` of a webhook.
pub const WEBHOOK_METHODS: [&str; 3] = ["POST", "PUT", "PATCH"];

/// `webhook:`
pub static WEBHOOK: Map = Map {
    name: "webhook",
    one: false,
    keys: &[
        key(
            "url",
            Text,
            "Where documents are told to, a template behind the host. Values in it are encoded.",
        )
        .example("https://example.com/hooks/{collection}")
        .required(),
        key("method", Words(&WEBHOOK_METHODS), "The HTTP method of a document that is there.")
            .default("POST"),
        key("headers", Named(&Text), "Headers of one's own, from names to values; templates.")
            .example("{ X-Env: prod }"),
        key(
            "secret",
            Either(&[Text, List(&Text)]),
            "Signs by the Standard Webhooks specification; several while keys change.",
        )
        .example("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        key(
            "format",
            Words(&["standard", "cloudevents", "document"]),
            "What a message looks like: type, time and data; CloudEvents 1.0; or the document alone.",
        )
        .default("standard"),
        key("tls", Object(&TLS), "Certificates; paths start at the rule file."),
        key(
            "json",
            Words(&["plain", "extended"]),
            "How BSON becomes JSON: plain values, or canonical Extended JSON, which keeps every type.",
        )
        .default("plain"),
        key("batch", Object(&WEBHOOK_BATCH), "How much goes into one request."),
        key("timeout", Time, "How long one request may take.").default("15s"),
        key("retry", Object(&WEBHOOK_RETRY), "The pauses between tries, for what can pass."),
        key(
            "on_rejected",
            Either(&[Words(&ON_REJECTED), Object(&REJECTED)]),
            "What happens when the endpoint refuses a document for good: a dead letter, or the end of \
             the run.",
        )
        .default("dead_letter"),
        key(
            "ordering",
            Words(&["document", "total"]),
            "Changes keep their order per document, or all of them in one lane.",
        )
        .default("document"),
    ],
};

/// `batch:` of a webhook.
pub static WEBHOOK_BATCH: Map = Map {
    name: "webhook_batch",
    one: false,
    keys: &[
        key("max_bytes", Size, "A request ends here; one larger document goes alone.")
            .default("1MiB"),
        key(
            "max_actions",
            Whole(1, 1_000_000),
            "Documents in one request, at the most; with more than 1, its body is a JSON array.",
        )
        .default("1"),
        key(
            "max_delay",
            Time,
            "How long to gather while a request is under way; an idle lane sends at once.",
        )
        .default("0ms"),
        key("concurrency", Whole(1, 256), "Lanes, each with one request at a time.").default("8"),
    ],
};

/// `retry:` of a webhook.
pub static WEBHOOK_RETRY: Map = Map {
    name: "webhook_retry",
    one: false,
    keys: &[
        key("initial", Time, "The first pause.").default("500ms"),
        key("max", Time, "The longest pause.").default("5m"),
        key(
            "give_up_after",
            Time,
            "After so long a document becomes a dead letter. Default: it is tried for ever.",
        )
        .example("24h"),
    ],
};

/// `retry:` of a target on this machine.
pub static LOCAL_RETRY: Map = Map {
    name: "local_retry",
    one: false,
    keys: &[
        key("initial", Time, "The first pause.").default("100ms"),
        key("max", Time, "The longest pause.").default("1s"),
    ],
};

/// `file:` of `targets:`
pub static LINE_FILE: Map = Map {
    name: "line_file",
    one: false,
    keys: &[
        key(
            "path",
            Text,
            "The file that lines are appended to, a template; a relative one starts at the rule file.",
        )
        .example("out/{collection}.ndjson")
        .required(),
        key(
            "rotate",
            Size,
            "A file that would become larger is put aside as `orders.000001.ndjson`. Default: it only \
             grows.",
        )
        .example("1GiB"),
        key(
            "json",
            Words(&["plain", "extended"]),
            "How BSON becomes JSON: plain values, or canonical Extended JSON, which keeps every type.",
        )
        .default("plain"),
        key("batch", Object(&BATCH), "How much goes into one request."),
        key("timeout", Time, "How long one write may take before it counts as lost.")
            .default("60s"),
        key("retry", Object(&LOCAL_RETRY), "The pauses between tries. It is tried for ever."),
        key(
            "on_rejected",
            Either(&[Words(&ON_REJECTED), Object(&REJECTED)]),
            "What happens when a line of a document can't be written for good: a dead letter, or the \
             end of the run.",
        )
        .default("dead_letter"),
        key(
            "ordering",
            Words(&["document", "total"]),
            "Changes keep their order per document, or all of them in one lane.",
        )
        .default("document"),
    ],
};

/// `stdout:`
pub static STDOUT: Map = Map {
    name: "stdout",
    one: false,
    keys: &[
        key(
            "json",
            Words(&["plain", "extended"]),
            "How BSON becomes JSON: plain values, or canonical Extended JSON, which keeps every type.",
        )
        .default("plain"),
        key("batch", Object(&BATCH), "How much goes into one request."),
        key("timeout", Time, "How long the reader may take for one write.")
            .default("24h"),
        key("retry", Object(&LOCAL_RETRY), "The pauses between tries. It is tried for ever."),
        key(
            "on_rejected",
            Either(&[Words(&ON_REJECTED), Object(&REJECTED)]),
            "What happens when a line of a document can't be written for good: a dead letter, or the \
             end of the run.",
        )
        .default("dead_letter"),
        key(
            "ordering",
            Words(&["document", "total"]),
            "Changes keep their order per document, or all of them in one lane.",
        )
        .default("document"),
    ],
};

/// `own:`, which stands only in the file of a program that brings the target: the schema knows nothing
/// of it.
pub static OWN: Map = Map {
    name: "own",
    one: false,
    keys: &[
        key("batch", Object(&MONGODB_BATCH), "How much goes into one request."),
        key("timeout", Time, "How long one request may take.").default("60s"),
        key("retry", Object(&WEBHOOK_RETRY), "The pauses between tries, for what can pass."),
        key(
            "on_rejected",
            Either(&[Words(&ON_REJECTED), Object(&REJECTED)]),
            "What happens when the target refuses a document for good: a dead letter, or the end of \
             the run.",
        )
        .default("dead_letter"),
        key(
            "ordering",
            Words(&["document", "total"]),
            "Changes keep their order per document, or all of them in one lane.",
        )
        .default("document"),
    ],
};

/// `on_rejected:` as a map.
pub static REJECTED: Map = Map {
    name: "rejected",
    one: false,
    keys: &[key("stop_after", Whole(1, MAX), "So many refusals end the run.")
        .example("1000")
        .required()],
};

/// An entry of `rules:`.
pub static RULE: Map = Map {
    name: "rule",
    one: false,
    keys: &[
        key(
            "name",
            Text,
            "Unique in the file. Default: the namespace, where that is one exact name.",
        )
        .example("products"),
        key(
            "namespace",
            Either(&[Text, List(&Text)]),
            "What is read: `db.collection`, a glob such as `shop.*`, a regular expression between \
             slashes, or a list of these.",
        )
        .example("shop.products")
        .required(),
        key("exclude", Either(&[Text, List(&Text)]), "What of it is not read.")
            .example("[\"shop.tmp_*\"]"),
        key(
            "delivery",
            Words(&["documents", "events"]),
            "What is delivered: each document as it is now, or every single change. By default \
             `events` to a webhook and to standard output, `documents` to others.",
        ),
        key(
            "operations",
            List(&Words(&["insert", "update", "replace", "delete"])),
            "Of `delivery: events`, what is told of. Default: all of them.",
        )
        .example("[insert, delete]"),
        key(
            "copy",
            Either(&[Bool, Object(&COPY)]),
            "Whether what is there at the first run is copied, and how it is read. Of events, nothing is \
             copied unless this says so.",
        )
        .default("true"),
        key(
            "changes",
            Either(&[Bool, Object(&CHANGES)]),
            "Whether changes are followed, and from where.",
        )
        .default("true"),
        key(
            "filter",
            Document,
            "A MongoDB query. A document that no longer matches leaves the target.",
        )
        .example("{ active: true }"),
        key("project", Document, "A MongoDB projection; `_id` has to stay.")
            .example("{ internal: 0 }"),
        key(
            "pipeline",
            List(&Stage(&STAGES)),
            "A MongoDB aggregation of stages that keep one document one document.",
        )
        .example("[{ $set: { a: 1 } }]"),
        key(
            "transform",
            Either(&[Text, Object(&SCRIPT_FILE)]),
            "A Rhai script that runs once a document; what `doc` holds at its end is delivered.",
        )
        .example("doc.a = 1;"),
        key("limits", Object(&LIMITS), "What the script may use."),
        key(
            "ddl",
            Bool,
            "Whether a MongoDB that is written to follows what becomes of collections: made, changed, \
             indexed, dropped; views too.",
        )
        .default("false"),
        key(
            "on_delete",
            Words(&["remove", "keep"]),
            "What happens in the target to a document that is deleted in MongoDB.",
        )
        .default("remove"),
        key(
            "on_drop",
            Words(&["remove", "keep"]),
            "What happens in the target when the collection is dropped or renamed away.",
        )
        .default("remove"),
        key(
            "on_rule_change",
            Words(&["warn", "resync"]),
            "What happens when the rule has changed since it was copied.",
        )
        .default("warn"),
        key(
            "on_history_lost",
            Words(&["resync", "stop", "now"]),
            "What happens when the oplog no longer reaches back to the stored position. By default \
             `resync`; `stop` where nothing is copied, and for events.",
        ),
        key(
            "to",
            Either(&[Text, List(&Either(&[Text, Object(&TO)]))]),
            "The target's name, or a list of names and of maps that say where in a target.",
        )
        .example("search")
        .required(),
    ],
};

/// `copy:` as a map.
pub static COPY: Map = Map {
    name: "copy",
    one: false,
    keys: &[
        key("parallel", Whole(1, 64), "Chunks that are read at the same time.").default("4"),
        key("chunk", Size, "About so many bytes of documents in each.").default("32MiB"),
        key("allow_disk_use", Bool, "Whether MongoDB may sort on disk.").default("true"),
    ],
};

/// `changes:` as a map.
pub static CHANGES: Map = Map {
    name: "changes",
    one: false,
    keys: &[
        key(
            "since",
            Either(&[Text, Document]),
            "Where the first run begins when nothing is copied: `now`, a time, or `seconds.increment` \
             of MongoDB's own clock.",
        )
        .default("now")
        .example("2026-11-20T00:00:00Z"),
        key(
            "full_document",
            Words(&["update_lookup", "when_available", "required", "off"]),
            "Of `delivery: events`, which document an update brings: as it is when MongoDB answers, as \
             it was behind the change (where images are kept), or none.",
        )
        .default("update_lookup"),
        key(
            "pre_image",
            Words(&["off", "when_available", "required"]),
            "Of `delivery: events`, whether a change brings the document before it. `required` has \
             MongoDB keep images where it does not.",
        )
        .default("off"),
        key(
            "pipeline",
            List(&Stage(&EVENT_STAGES)),
            "Of `delivery: events`, stages of the change stream; fields are those of change events.",
        )
        .example("[{ $match: { \"updateDescription.updatedFields.status\": { $exists: true } } }]"),
    ],
};

/// `transform:` as a map.
pub static SCRIPT_FILE: Map = Map {
    name: "script_file",
    one: false,
    keys: &[key("file", Text, "A file with the script; a relative path starts at the rule file.")
        .example("transforms/orders.rhai")
        .required()],
};

/// `limits:`
pub static LIMITS: Map = Map {
    name: "limits",
    one: false,
    keys: &[
        key("operations", Whole(1, MAX), "Operations of one run.").default("1000000"),
        key("call_depth", Whole(1, 256), "How deep functions may call each other.").default("64"),
        key("string", Size, "Bytes of one text.").default("16MiB"),
        key("array", Whole(1, u32::MAX as u64), "Items of one array.").default("100000"),
        key("map", Whole(1, u32::MAX as u64), "Entries of one map.").default("100000"),
    ],
};

/// An entry of `to:`.
pub static TO: Map = Map {
    name: "to",
    one: false,
    keys: &[
        key("target", Text, "The target's name.").example("search").required(),
        key("id", Text, "The document's id, a template such as `{collection}-{_id}`.")
            .default("\"{_id}\""),
        key("routing", Text, "The routing value, a template.").example("\"{tenant}\""),
        key("ingest_pipeline", Text, "The name of an ingest pipeline, a template.")
            .example("clean-up"),
        key(
            "index",
            Either(&[Text, Object(&INDEX)]),
            "The index's name, a template, or a map. Default: `db-collection` in lower case.",
        )
        .example("products"),
        key(
            "namespace",
            Text,
            "In a MongoDB: where documents lie, a template. Default: the namespace that they have in \
             the source.",
        )
        .example("\"archive.{collection}\""),
    ],
};

/// `index:` as a map.
pub static INDEX: Map = Map {
    name: "index",
    one: false,
    keys: &[
        key("name", Text, "Its name, a template. Default: `db-collection` in lower case.")
            .example("products"),
        key(
            "alias",
            Bool,
            "Whether the name is an alias, with the documents in NAME-000001 behind it.",
        )
        .default("false"),
        key("settings", Document, "Settings of an index that mongosync makes, or `{ file: … }`.")
            .example("{ number_of_shards: 1 }"),
        key("mappings", Document, "Mappings of an index that mongosync makes, or `{ file: … }`.")
            .example("{ properties: { title: { type: text } } }"),
    ],
};

/// An entry of `tests:`.
pub static TEST: Map = Map {
    name: "test",
    one: false,
    keys: &[
        key("name", Text, "What it shows, in a few words.").example("kept").required(),
        key("rule", Text, "The rule's name.").example("shop.products").required(),
        key("target", Text, "The target that the delivery is made for. Default: the rule's first.")
            .example("search"),
        key("given", Object(&GIVEN), "What the rule is run on.")
            .example("{ document: { _id: 1 } }")
            .required(),
        key(
            "expect",
            Either(&[Words(&["removed", "skipped"]), Object(&EXPECT)]),
            "What is to come of it.",
        )
        .example("{ document: { _id: 1 } }")
        .required(),
    ],
};

/// `given:` of a test.
pub static GIVEN: Map = Map {
    name: "given",
    one: false,
    keys: &[
        key("document", Document, "The document, in Extended JSON, as it leaves `pipeline`.")
            .example("{ _id: 1 }"),
        key("event", Object(&GIVEN_EVENT), "Or, where the rule delivers events, what happened."),
        key("namespace", Text, "Where it lives. Default: the rule's one namespace.")
            .example("shop.products"),
        key("lookup", Collections, "What the script's `lookup()` and `lookup_all()` find."),
    ],
};

/// `event:` of a test.
pub static GIVEN_EVENT: Map = Map {
    name: "given_event",
    one: false,
    keys: &[
        key("op", Words(&["insert", "update", "replace", "delete"]), "What happened.")
            .example("delete")
            .required(),
        key("key", Document, "The document key. Default: the `_id` of `document` or `before`.")
            .example("{ _id: 1 }"),
        key("document", Document, "The document behind the change; of a delete its pre-image.")
            .example("{ _id: 1 }"),
        key("before", Document, "The document before the change.").example("{ _id: 1 }"),
        key("updated", Document, "The fields that have another value, by path.")
            .example("{ status: paid }"),
        key("removed", List(&Text), "The fields that are no more, by path.").example("[coupon]"),
        key("copy", Bool, "Whether it is a document of the copy.").default("false"),
    ],
};

/// `expect:` of a test.
pub static EXPECT: Map = Map {
    name: "expect",
    one: true,
    keys: &[
        key(
            "document",
            Either(&[Document, Null]),
            "The one document that is delivered; null where an event is told without one.",
        )
        .example("{ _id: 1 }"),
        key("documents", Documents, "The documents that are delivered."),
        key("meta", Object(&META), "Where it goes; what is not named may be anything.")
            .example("{ index: shop }"),
        key("error", Text, "A part of the error's text.").example("not a number"),
    ],
};

/// `meta:` of an expectation.
pub static META: Map = Map {
    name: "expected_meta",
    one: false,
    keys: &[
        key("id", Either(&[Text, Null]), "The engine's `_id`.").example("1"),
        key("index", Either(&[Text, Null]), "The index.").example("shop"),
        key("routing", Either(&[Text, Null]), "The routing.").example("1"),
        key("ingest_pipeline", Either(&[Text, Null]), "The ingest pipeline.").example("clean"),
        key("database", Either(&[Text, Null]), "The database.").example("archive"),
        key("collection", Either(&[Text, Null]), "The collection.").example("orders"),
        key("url", Either(&[Text, Null]), "A webhook's URL, without its query.")
            .example("https://example.com/hook"),
        key("method", Either(&[Text, Null]), "A webhook's HTTP method.").example("POST"),
        key("body", Either(&[Text, Null]), "The body that the script has set.").example("text"),
        key(
            "headers",
            Named(&Either(&[Text, Null])),
            "Headers of this one delivery, from names to values.",
        )
        .example("{ X-Tenant: acme }"),
    ],
};
