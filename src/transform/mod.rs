//! Shapes documents with a script before they are delivered: source → transform → delivery.
//!
//! A [`Script`] is compiled once for a rule and run once a document, from any number of threads. It
//! sees `doc`, `event` and `meta`; what it leaves there is its [`Outcome`]. A document is not turned
//! into script values: the script works on a view of the raw bytes, and what it does not touch keeps
//! its exact bytes, type and place.
//!
//! Nothing here reads or writes beyond the imported files at compile time, retries or knows a target,
//! and nothing waits but a script that asks for other documents ([`Script::looks_up`]). A script that
//! fails is one failed document, never a failed run.
//!
//! Integers: the language has 64-bit integers alone. One that was read keeps the type it was stored
//! with (`doc.b = doc.a`, `+=`), one that is written over an Int64 is an Int64, and any other
//! becomes an Int32 where it fits and an Int64 where it does not.
//!
//! Order: fields keep their places, new ones go to the end in the order in which they were set, and
//! maps that the script writes out (`#{…}`) become documents with their names in the order of their
//! characters, because that is how the language keeps maps.
//!
//! Fields are values: `let a = doc.a` is a copy, and so is what a loop runs over or what `this` is in
//! a function of the script that is called on a field (`doc.a.tidy()`): such a function returns what
//! it made (`doc.a = tidy(doc.a)`).

mod decimal;
mod direct;
mod engine;
mod failure;
mod functions;
mod import;
mod lookup;
mod moves;
mod outcome;
mod raw;
mod scope;
#[cfg(test)]
mod tests;
mod value;
mod view;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use bson::RawBsonRef;

use crate::change::{ClusterTime, Document, Namespace, event::Happened};

pub use engine::Script;
pub use failure::ScriptError;
pub use functions::reference::{FUNCTIONS, Function};
pub use lookup::{Given, Lookup, Query, Reads, Unanswered};

/// What one run may use at most. A run that passes one fails, and with it that document alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Operations: statements, expressions and calls.
    pub operations: u64,
    /// How deep functions may call each other.
    pub call_depth: usize,
    /// Bytes of one text, or of all texts in one array or map.
    pub string: usize,
    /// Items of one array, those of arrays within it included.
    pub array: usize,
    /// Entries of one map, those of maps within it included; fields that one document may get.
    pub map: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations: 1_000_000,
            call_depth: 64,
            string: 16 << 20,
            array: 100_000,
            map: 100_000,
        }
    }
}

/// What a script is run on.
#[derive(Debug)]
pub struct Input<'a> {
    /// The document; `None` where there is none, and `doc` is `()`: a delete without pre-image.
    pub document: Option<&'a Document>,
    /// Why the document is looked at.
    pub event: Event<'a>,
    /// Answers `lookup()`; may be `None` where the script does not call it.
    pub reads: Option<&'a Reads>,
}

/// What a script can read as `event`.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// The name of the operation.
    pub op: &'a str,
    /// Where the document lives in the source.
    pub namespace: &'a Namespace,
    /// The `_id` of the document.
    pub id: RawBsonRef<'a>,
    /// When it changed, or was read.
    pub cluster_time: ClusterTime,
    /// The server's clock at that time.
    pub wall_time: Option<bson::DateTime>,
    /// Whether this is the copy rather than a change.
    pub copy: bool,
    /// What has happened, in `events` delivery: then what is delivered needs no `_id`, and lies in no
    /// place that it could leave.
    pub happened: Option<&'a Happened>,
}

/// What a script set for this one delivery; `None` leaves the rule's own setting.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The id in the target.
    pub id: Option<String>,
    /// The index.
    pub index: Option<String>,
    /// The routing value.
    pub routing: Option<String>,
    /// The ingest pipeline.
    pub ingest_pipeline: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// The collection.
    pub collection: Option<String>,
    /// A webhook's URL.
    pub url: Option<String>,
    /// A webhook's HTTP method.
    pub method: Option<String>,
    /// What a webhook sends in the place of the document.
    pub body: Option<String>,
    /// Headers of a webhook, beside the target's own; names in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Meta {
    /// What its fields are called that are texts.
    pub const FIELDS: [&str; 9] = [
        "id",
        "index",
        "routing",
        "ingest_pipeline",
        "database",
        "collection",
        "url",
        "method",
        "body",
    ];
    /// What the one is called that is a map.
    pub const HEADERS: &str = "headers";

    /// The field of that name, a header's as `headers.x-name`; `None` too where there is no such field.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "id" => self.id.as_deref(),
            "index" => self.index.as_deref(),
            "routing" => self.routing.as_deref(),
            "ingest_pipeline" => self.ingest_pipeline.as_deref(),
            "database" => self.database.as_deref(),
            "collection" => self.collection.as_deref(),
            "url" => self.url.as_deref(),
            "method" => self.method.as_deref(),
            "body" => self.body.as_deref(),
            _ => {
                let header = name.strip_prefix(Self::HEADERS)?.strip_prefix('.')?;
                self.headers.get(header).map(String::as_str)
            }
        }
    }
}

/// The names of all functions that a script can call, the language's own among them.
pub fn function_names() -> impl Iterator<Item = &'static str> {
    let own = FUNCTIONS.iter().map(|function| function.name);
    own.chain(functions::standard::NAMES)
}

/// A call of a function that nobody has: the script fails where a run comes to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownCall {
    /// What is called.
    pub name: String,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The character in the line, from 1.
    pub column: Option<usize>,
}

/// What a script decided.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// Deliver the input byte for byte.
    Unchanged(Meta),
    /// Deliver this instead; it has an `_id`, unless it is told of an event.
    Document(Document, Meta),
    /// Deliver these instead, each with an `_id` as above; possibly none.
    Documents(Vec<Document>, Meta),
    /// `remove()`: take it out of the target.
    Remove,
    /// `skip()`: leave the target as it is.
    Skip,
    /// `fail("why")`: to the dead letters.
    Failed(String),
    /// Nothing was decided: it was stopped while it waited for the source.
    Stopped,
}

impl Script {
    /// Compiles a script and the files that it imports, which lie in `import_folder` or below.
    ///
    /// # Errors
    /// Where the script or an imported file can't be parsed, names a variable that is not there, or
    /// imports what does not exist, lies elsewhere or imports itself.
    pub fn compile(
        text: &str,
        limits: Limits,
        import_folder: Option<&Path>,
    ) -> Result<Self, ScriptError> {
        engine::compile(text, limits, import_folder)
    }

    /// Runs it on one document. It may be called from several threads at a time. One that
    /// [`looks_up`](Self::looks_up) may wait for the source, on the thread that calls.
    ///
    /// # Errors
    /// Where the script throws, passes a limit, or leaves something that is not a document: that
    /// document is to become a dead letter. Running it again fails in the same way.
    pub fn run(&self, input: Input<'_>) -> Result<Outcome, ScriptError> {
        engine::run(self, input)
    }

    /// The imported files, each once, in the order in which they were needed.
    pub fn imports(&self) -> &[PathBuf] {
        self.imported()
    }

    /// Whether the script, or a file that it imports, calls this function; `name()` asks for a call
    /// without arguments.
    pub fn calls(&self, name: &str) -> bool {
        self.called().contains(name)
    }

    /// Calls in the script itself, not in what it imports, of functions that there are not, as far as
    /// names tell.
    pub fn unknown_calls(&self) -> &[UnknownCall] {
        self.unknown()
    }

    /// Whether a run may call `lookup()`. Never falsely false: such a call would be refused.
    pub fn looks_up(&self) -> bool {
        self.reads_source()
    }

    /// Whether a run may give the document another place than its key says: another `_id`, several
    /// documents, or a `meta` of its own. Never falsely false, which [`run`](Self::run) enforces.
    pub fn may_move(&self) -> bool {
        self.moves()
    }

    /// Whether a run may end with [`Outcome::Skip`]. Never falsely false.
    pub fn may_skip(&self) -> bool {
        self.skips()
    }
}
