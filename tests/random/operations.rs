//! What is written to the source: operations of every kind, drawn from a seed, each printed as one
//! line and carried out as a client of MongoDB would.

use std::fmt;

use anyhow::Result;
use mongodb::{
    Client, ClientSession, Collection,
    bson::{Bson, DateTime, Document, Uuid, doc, oid::ObjectId},
    error::{ErrorKind, TRANSIENT_TRANSACTION_ERROR, WriteFailure},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Documents of a collection have `_id`s below this, so that the same ones come up again and again.
const IDS: u32 = 150;
/// What a document's `kind` may be.
pub const KINDS: [&str; 4] = ["red", "green", "draft", "split"];

/// Collections whose documents are alike, so that one may be renamed to another.
const ALIKE: [&str; 11] = [
    "plain", "filtered", "piped", "scripted", "moving", "left", "right", "glob_a", "glob_b",
    "glob_c", "staging",
];
/// Collections of the second database, which is dropped as a whole at times.
const SECOND: [&str; 3] = ["b.red", "b.blue", "b.green"];
/// Its `_id`s are of every type.
const MIXED: &str = "mixed";
/// A pattern excludes it.
const EXCLUDED: &str = "glob_tmp_a";

/// Kinds that find a defect that is known and not yet mended. They are drawn, so that a seed stays
/// what it is, and not carried out.
const LEFT_OUT: &[Kind] = &[];

/// Kinds of operations and how often each comes up.
const WEIGHTS: &[(Kind, u32)] = &[
    (Kind::Insert, 20),
    (Kind::InsertMany, 4),
    (Kind::Update, 40),
    (Kind::UpdateMany, 3),
    (Kind::Replace, 10),
    (Kind::Delete, 12),
    (Kind::DeleteMany, 2),
    (Kind::Again, 8),
    (Kind::AgainTogether, 5),
    (Kind::Transaction, 8),
    (Kind::Create, 1),
    (Kind::Rename, 1),
    (Kind::Drop, 1),
    (Kind::DropDatabase, 1),
    (Kind::Out, 1),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Insert,
    InsertMany,
    Update,
    UpdateMany,
    Replace,
    Delete,
    DeleteMany,
    Again,
    AgainTogether,
    Transaction,
    Create,
    Rename,
    Drop,
    DropDatabase,
    Out,
}

/// A collection, `b.` in front for the second database.
pub type Name = &'static str;

/// One operation.
#[derive(Clone, Debug)]
pub enum Operation {
    /// One or several new documents.
    Insert { to: Name, ids: Vec<u32>, content: u64 },
    /// One document.
    Update { of: Name, id: u32, change: Change },
    /// Every tenth or so.
    UpdateMany { of: Name, every: u32, change: Change },
    /// Inserted where it is not there.
    Replace { of: Name, id: u32, content: u64 },
    /// One document.
    Delete { of: Name, id: u32 },
    /// Every tenth or so.
    DeleteMany { of: Name, every: u32 },
    /// Deleted and inserted, perhaps in one transaction.
    Again { of: Name, id: u32, content: u64, together: bool },
    /// Several, in one transaction.
    Transaction(Vec<Self>),
    /// A collection without documents.
    Create(Name),
    /// What is at the new name is dropped.
    Rename { from: Name, to: Name },
    /// A collection.
    Drop(Name),
    /// The second database.
    DropDatabase,
    /// Half of a collection replaces another.
    Out { from: Name, to: Name },
}

/// What an update does.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    Set(u64),
    Increase(i32),
    Active(bool),
    UnsetActive,
    UnsetSecret,
    UnsetNumber,
    Kind(usize),
    Parts(i32),
    Push(i32),
    Rename,
    ByPipeline(i32),
}

impl Operation {
    /// The next ones.
    pub fn drawn(random: &mut StdRng, count: usize) -> Vec<Self> {
        let drawn = (0..count).map(|_| Self::one(random)).collect::<Vec<_>>();
        drawn.into_iter().filter(|(kind, _)| !LEFT_OUT.contains(kind)).map(|(_, one)| one).collect()
    }

    fn one(random: &mut StdRng) -> (Kind, Self) {
        let total: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut place = random.random_range(0..total);
        let kind = WEIGHTS.iter().find(|(_, weight)| {
            let here = place < *weight;
            place = place.saturating_sub(*weight);
            here
        });
        let &(kind, _) = kind.expect("a place below the sum");
        let (of, id, content) = (collection(random), random.random_range(0..IDS), random.random());
        let operation = match kind {
            Kind::Insert => Self::Insert { to: of, ids: vec![id], content },
            Kind::InsertMany => {
                let ids = (0..random.random_range(2..30)).map(|_| random.random_range(0..IDS));
                Self::Insert { to: of, ids: ids.collect(), content }
            }
            Kind::Update => Self::Update { of, id, change: Change::drawn(random) },
            Kind::UpdateMany => {
                let every = random.random_range(5..40);
                Self::UpdateMany { of, every, change: Change::drawn(random) }
            }
            Kind::Replace => Self::Replace { of, id, content },
            Kind::Delete => Self::Delete { of, id },
            Kind::DeleteMany => Self::DeleteMany { of, every: random.random_range(5..40) },
            Kind::Again => Self::Again { of, id, content, together: false },
            Kind::AgainTogether => Self::Again { of, id, content, together: true },
            Kind::Transaction => {
                let count = random.random_range(2..8);
                Self::Transaction((0..count).map(|_| Self::for_transaction(random)).collect())
            }
            Kind::Create => Self::Create(of),
            Kind::Drop => Self::Drop(of),
            Kind::DropDatabase => Self::DropDatabase,
            Kind::Rename | Kind::Out => {
                let from = ALIKE[random.random_range(0..ALIKE.len())];
                let to = ALIKE[random.random_range(0..ALIKE.len())];
                match kind {
                    Kind::Rename => Self::Rename { from, to },
                    _ => Self::Out { from, to },
                }
            }
        };
        (kind, operation)
    }

    /// One that does not end its transaction where a document is there already.
    fn for_transaction(random: &mut StdRng) -> Self {
        let (of, id, content) = (collection(random), random.random_range(0..IDS), random.random());
        match random.random_range(0..4) {
            0 => Self::Update { of, id, change: Change::drawn(random) },
            1 => Self::Delete { of, id },
            2 => Self::Again { of, id, content, together: true },
            _ => Self::Replace { of, id, content },
        }
    }

    /// What it is called in the counts.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Insert { ids, .. } if ids.len() > 1 => "insertMany",
            Self::Insert { .. } => "insert",
            Self::Update { change: Change::ByPipeline(_), .. } => "update by a pipeline",
            Self::Update { .. } => "update",
            Self::UpdateMany { .. } => "updateMany",
            Self::Replace { .. } => "replace",
            Self::Delete { .. } => "delete",
            Self::DeleteMany { .. } => "deleteMany",
            Self::Again { together: true, .. } => "delete and insert in one transaction",
            Self::Again { .. } => "delete and insert",
            Self::Transaction(_) => "transaction",
            Self::Create(_) => "create",
            Self::Rename { .. } => "rename",
            Self::Drop(_) => "drop",
            Self::DropDatabase => "dropDatabase",
            Self::Out { .. } => "$out",
        }
    }
}

impl Change {
    fn drawn(random: &mut StdRng) -> Self {
        match random.random_range(0..13) {
            0..=2 => Self::Set(random.random()),
            3 => Self::Increase(random.random_range(-50..50)),
            4 => Self::Active(random.random()),
            5 => Self::UnsetActive,
            6 => Self::UnsetSecret,
            7 => Self::UnsetNumber,
            8 => Self::Kind(random.random_range(0..KINDS.len())),
            9 => Self::Parts(random.random_range(0..5)),
            10 => Self::Push(random.random_range(0..100)),
            11 => Self::Rename,
            _ => Self::ByPipeline(random.random_range(0..100)),
        }
    }

    fn update(self) -> mongodb::options::UpdateModifications {
        match self {
            Self::Set(content) => {
                let mut random = StdRng::seed_from_u64(content);
                doc! { "$set": { "name": text(&mut random), "n": random.random_range(-100..100) } }
            }
            Self::Increase(by) => doc! { "$inc": { "n": by } },
            Self::Active(active) => doc! { "$set": { "active": active } },
            Self::UnsetActive => doc! { "$unset": { "active": "" } },
            Self::UnsetSecret => doc! { "$unset": { "secret": "", "nested.deep": "" } },
            Self::UnsetNumber => doc! { "$unset": { "n": "" } },
            Self::Kind(kind) => doc! { "$set": { "kind": KINDS[kind] } },
            Self::Parts(parts) => doc! { "$set": { "parts": parts } },
            Self::Push(tag) => {
                let tags = doc! { "$each": [format!("t{tag}")], "$slice": -5 };
                doc! { "$push": { "nested.tags": tags } }
            }
            Self::Rename => doc! { "$rename": { "name": "nested.name" } },
            Self::ByPipeline(number) => {
                let sum = doc! { "$add": [{ "$ifNull": ["$n", 0] }, number] };
                return vec![doc! { "$set": { "n": sum } }, doc! { "$unset": "secret" }].into();
            }
        }
        .into()
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insert { to, ids, content } => write!(f, "insert {to} {ids:?} #{content:x}"),
            Self::Update { of, id, change } => write!(f, "update {of} {id} {change:?}"),
            Self::UpdateMany { of, every, change } => write!(f, "update {of} %{every} {change:?}"),
            Self::Replace { of, id, content } => write!(f, "replace {of} {id} #{content:x}"),
            Self::Delete { of, id } => write!(f, "delete {of} {id}"),
            Self::DeleteMany { of, every } => write!(f, "delete {of} %{every}"),
            Self::Again { of, id, content, together } => {
                let how = if *together { "together" } else { "apart" };
                write!(f, "delete and insert {of} {id} #{content:x} {how}")
            }
            Self::Transaction(operations) => {
                let parts: Vec<_> = operations.iter().map(ToString::to_string).collect();
                write!(f, "transaction [{}]", parts.join("; "))
            }
            Self::Create(name) => write!(f, "create {name}"),
            Self::Rename { from, to } => write!(f, "rename {from} to {to}"),
            Self::Drop(name) => write!(f, "drop {name}"),
            Self::DropDatabase => f.write_str("drop database b"),
            Self::Out { from, to } => write!(f, "$out {from} to {to}"),
        }
    }
}

fn collection(random: &mut StdRng) -> Name {
    match random.random_range(0..20) {
        0 => EXCLUDED,
        1 | 2 => MIXED,
        3 | 4 => SECOND[random.random_range(0..SECOND.len())],
        _ => ALIKE[random.random_range(0..ALIKE.len())],
    }
}

/// All collections that there may be.
pub fn names() -> impl Iterator<Item = Name> {
    ALIKE.into_iter().chain(SECOND).chain([MIXED, EXCLUDED])
}

fn text(random: &mut StdRng) -> String {
    let length = random.random_range(3..30);
    (0..length).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect()
}

/// The document with this number and content, the same in every collection but that of mixed ids.
pub fn document(of: Name, number: u32, content: u64) -> Document {
    let random = &mut StdRng::seed_from_u64(content ^ u64::from(number));
    let (n, parts) = (random.random_range(-100..100), random.random_range(0..5));
    let mut document = doc! {
        "_id": id(of, number),
        "k": format!("k{number}"),
        "kind": KINDS[random.random_range(0..KINDS.len())],
        "name": text(random),
        "n": n,
        "parts": parts,
        "half": f64::from(n) / 2.0,
        "at": DateTime::from_millis(1_700_000_000_000 + i64::from(n)),
        "nested": { "tags": ["a", text(random)], "deep": { "list": [{ "x": n }, {}] } },
    };
    if random.random_bool(0.8) {
        document.insert("active", random.random_bool(0.8));
    }
    if random.random_bool(0.7) {
        document.insert("secret", text(random));
    }
    document
}

/// Numbers, and where ids are mixed each number in a type of its own; some texts read like another
/// type's.
fn id(of: Name, number: u32) -> Bson {
    let n = i64::from(number);
    let bytes = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let bytes = bytes.to_be_bytes();
    match (of, number % 8) {
        (MIXED, 0) => Bson::String((n + 1).to_string()),
        (MIXED, 1) => Bson::Int32(i32::try_from(number).expect("a small number")),
        (MIXED, 2) => Bson::ObjectId(ObjectId::from_bytes(bytes[..12].try_into().expect("12"))),
        (MIXED, 3) => Uuid::from_bytes(bytes).into(),
        (MIXED, 4) => Bson::Document(doc! { "a": n }),
        (MIXED, 5) => Bson::Double(f64::from(number) + 0.5),
        (MIXED, 6) => Bson::DateTime(DateTime::from_millis(n)),
        (MIXED, _) => Bson::String(format!(r#"{{"a":{}}}"#, n - 3)),
        _ => Bson::Int64(n),
    }
}

/// Carries operations out.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    database: String,
}

impl Writer {
    /// The first database; the second one's name has `_b` behind.
    pub fn new(client: Client, database: String) -> Self {
        Self { client, database }
    }

    /// Database and collection.
    pub fn namespace(&self, name: Name) -> (String, &'static str) {
        match name.strip_prefix("b.") {
            Some(collection) => (format!("{}_b", self.database), collection),
            None => (self.database.clone(), name),
        }
    }

    /// The collection of a name.
    pub fn collection(&self, name: Name) -> Collection<Document> {
        let (database, collection) = self.namespace(name);
        self.client.database(&database).collection(collection)
    }

    /// Does it. What the state of the source does not allow is not done: a document that is there
    /// already, a collection that is not.
    ///
    /// # Errors
    /// Where the source is away or fails. Whether it was done is then open.
    pub async fn carry_out(&self, operation: &Operation) -> Result<()> {
        match self.tried(operation).await {
            Err(error) if is_state(&error) => Ok(()),
            done => Ok(done?),
        }
    }

    async fn tried(&self, operation: &Operation) -> mongodb::error::Result<()> {
        match operation {
            Operation::Insert { to, ids, content } => {
                let documents = ids.iter().map(|id| document(to, *id, *content));
                self.collection(to).insert_many(documents).ordered(false).await?;
            }
            Operation::Update { of, id: number, change } => {
                self.collection(of).update_one(by_id(of, *number), change.update()).await?;
            }
            Operation::UpdateMany { of, every, change } => {
                self.collection(of).update_many(part(*every), change.update()).await?;
            }
            Operation::Replace { of, id: number, content } => {
                let document = document(of, *number, *content);
                let collection = self.collection(of);
                collection.replace_one(by_id(of, *number), document).upsert(true).await?;
            }
            Operation::Delete { of, id: number } => {
                self.collection(of).delete_one(by_id(of, *number)).await?;
            }
            Operation::DeleteMany { of, every } => {
                self.collection(of).delete_many(part(*every)).await?;
            }
            Operation::Again { of, id: number, content, together: false } => {
                self.collection(of).delete_one(by_id(of, *number)).await?;
                self.collection(of).insert_one(document(of, *number, *content)).await?;
            }
            Operation::Again { .. } => self.transaction(std::slice::from_ref(operation)).await?,
            Operation::Transaction(operations) => self.transaction(operations).await?,
            Operation::Create(name) => {
                let (database, collection) = self.namespace(name);
                self.client.database(&database).create_collection(collection).await?;
            }
            Operation::Rename { from, to } => {
                let full = |name| {
                    let (database, collection) = self.namespace(name);
                    format!("{database}.{collection}")
                };
                let (from, to) = (full(from), full(to));
                let command = doc! { "renameCollection": from, "to": to, "dropTarget": true };
                self.client.database("admin").run_command(command).await?;
            }
            Operation::Drop(name) => self.collection(name).drop().await?,
            Operation::DropDatabase => {
                self.client.database(&format!("{}_b", self.database)).drop().await?;
            }
            Operation::Out { from, to } => {
                let half = doc! { "$match": { "n": { "$gte": 0 } } };
                let out = doc! { "$out": self.namespace(to).1 };
                self.collection(from).aggregate([half, out]).await?;
            }
        }
        Ok(())
    }

    /// All of it, again as often as the server asks for that, within reason.
    async fn transaction(&self, operations: &[Operation]) -> mongodb::error::Result<()> {
        let mut session = self.client.start_session().await?;
        let mut tries = 0;
        loop {
            tries += 1;
            session.start_transaction().await?;
            let done = match self.within(operations, &mut session).await {
                Ok(()) => session.commit_transaction().await,
                failed => failed,
            };
            let Err(error) = done else { return Ok(()) };
            session.abort_transaction().await.ok();
            if tries == 20 || !error.contains_label(TRANSIENT_TRANSACTION_ERROR) {
                return Err(error);
            }
        }
    }

    async fn within(
        &self,
        operations: &[Operation],
        session: &mut ClientSession,
    ) -> mongodb::error::Result<()> {
        for operation in operations {
            let (Operation::Update { of, id: number, .. }
            | Operation::Delete { of, id: number }
            | Operation::Replace { of, id: number, .. }
            | Operation::Again { of, id: number, .. }) = operation
            else {
                unreachable!("{operation} is not drawn for a transaction")
            };
            let (collection, by_id) = (self.collection(of), by_id(of, *number));
            let session = &mut *session;
            match operation {
                Operation::Update { change, .. } => {
                    collection.update_one(by_id, change.update()).session(session).await?;
                }
                Operation::Replace { content, .. } => {
                    let document = document(of, *number, *content);
                    let replace = collection.replace_one(by_id, document).upsert(true);
                    replace.session(session).await?;
                }
                Operation::Again { content, .. } => {
                    let document = document(of, *number, *content);
                    collection.delete_one(by_id).session(&mut *session).await?;
                    collection.insert_one(document).session(session).await?;
                }
                _ => {
                    collection.delete_one(by_id).session(session).await?;
                }
            }
        }
        Ok(())
    }
}

fn by_id(of: Name, number: u32) -> Document {
    doc! { "_id": { "$eq": id(of, number) } }
}

fn part(every: u32) -> Document {
    let rest = i64::from(every) / 2;
    doc! { "_id": { "$type": "number", "$mod": [i64::from(every), rest] } }
}

/// Whether an operation was not done because of what the source holds, and not because it failed.
fn is_state(error: &mongodb::error::Error) -> bool {
    // NamespaceNotFound, NamespaceExists, IllegalOperation (a rename to itself), DuplicateKey.
    let is_state = |code: i32| [26, 48, 20, 11000].contains(&code);
    match error.kind.as_ref() {
        ErrorKind::Command(error) => is_state(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => is_state(error.code),
        ErrorKind::InsertMany(error) => {
            let errors = error.write_errors.as_deref().unwrap_or_default();
            error.write_concern_error.is_none()
                && !errors.is_empty()
                && errors.iter().all(|error| is_state(error.code))
        }
        _ => false,
    }
}
