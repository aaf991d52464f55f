//! A target as a test sees it.

use std::collections::BTreeMap;

use anyhow::Result;
use async_trait::async_trait;
use mongodb::bson::Document;
use serde_json::Value;

use crate::support::{
    checker::body,
    engine_kind,
    run::{RuleFile, Run},
    told::Told,
};

/// The kinds of targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Elasticsearch, or the engine that the tests are run with.
    Engine,
    MongoDb,
    Webhook,
    File,
    Stdout,
}

impl Kind {
    /// By the name of its tests.
    pub const fn of(name: &str) -> Self {
        match name.as_bytes() {
            b"engine" => Self::Engine,
            b"mongodb" => Self::MongoDb,
            b"webhook" => Self::Webhook,
            b"file" => Self::File,
            b"stdout" => Self::Stdout,
            _ => panic!("no kind of target"),
        }
    }

    /// Its column on the page.
    pub fn column(self) -> usize {
        match self {
            Self::Engine if engine_kind() == "opensearch" => 1,
            Self::Engine => 0,
            Self::MongoDb => 2,
            Self::Webhook => 3,
            Self::File => 4,
            Self::Stdout => 5,
        }
    }
}

/// Ways to be away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    Answers(u16),
    CutBefore,
    AnswerLost,
    NobodyListens,
    RequestsVanish,
    AnswersVanish,
    NotPrimary,
    NoMajority,
    FolderInTheWay,
    FileTaken,
    NobodyReads,
}

use Kind::{Engine, File, MongoDb, Stdout, Webhook};

/// Each with its words on the page, and the targets that can be in it.
pub const TROUBLES: &[(Trouble, &str, &str, &[Kind])] = &[
    (Trouble::Answers(503), "it answers 503", WRITES, &[Engine, Webhook]),
    (Trouble::Answers(500), "it answers 500", WRITES, &[Engine, Webhook]),
    (Trouble::Answers(429), "it answers 429", WRITES, &[Engine, Webhook]),
    (Trouble::Answers(408), "it answers 408", WRITES, &[Engine, Webhook]),
    (Trouble::Answers(404), "it answers 404", WRITES, &[Engine, Webhook]),
    (Trouble::Answers(401), "it answers 401", WRITES, &[Engine, Webhook]),
    (Trouble::Answers(301), "it answers 301", WRITES, &[Engine, Webhook]),
    (Trouble::CutBefore, "it closes connections", WRITES, &[Engine, MongoDb, Webhook]),
    (
        Trouble::AnswerLost,
        "it closes connections when all is done",
        "so that nobody is told",
        &[Engine],
    ),
    (
        Trouble::NobodyListens,
        "nobody listens at its address",
        "connections are reset, new ones refused",
        &[Engine, MongoDb, Webhook],
    ),
    (Trouble::RequestsVanish, "requests vanish", SWALLOWED, &[Engine, MongoDb, Webhook]),
    (Trouble::AnswersVanish, "answers vanish", SWALLOWED, &[Engine, MongoDb, Webhook]),
    (Trouble::NotPrimary, "it is no primary", FAIL_POINT, &[MongoDb]),
    (Trouble::NoMajority, "its writes get no majority", FAIL_POINT, &[MongoDb]),
    (
        Trouble::FolderInTheWay,
        "its folder is gone",
        "a file stands in its place, until the folder is back",
        &[File],
    ),
    (
        Trouble::FileTaken,
        "another process has its file",
        "it was put aside, and the new one is locked",
        &[File],
    ),
    (Trouble::NobodyReads, "nobody reads", "until the pipe is full, and for longer", &[Stdout]),
];

const WRITES: &str = "every request that writes";
const SWALLOWED: &str = "a proxy swallows them; connections stay open";
const FAIL_POINT: &str = "every command that writes, by MongoDB's own fail point";

/// A target that a rule file names, what it can be made to do, and what it holds.
#[async_trait]
pub trait Side: Send + Sync {
    /// What stands for it below `targets:`, with these settings.
    fn entry(&self, settings: &str) -> String;

    /// The same of one that nobody ever reaches.
    fn dead(&self) -> String;

    /// Starts the program.
    fn run(&self, file: &RuleFile) -> Result<Run> {
        file.run(&[])
    }

    /// What a document is expected to look like there, without `_id`.
    fn shown(&self, document: &Document) -> Value {
        body(document)
    }

    /// What it holds, by `_id`, without `_id`: of a log, what it comes to.
    async fn held(&self) -> Result<BTreeMap<String, Value>>;

    /// The states of documents as it came to know them, each with a number that no later one of the
    /// same document may go below: their field `n`, or a version.
    async fn seen(&self) -> Result<Vec<(String, i64)>>;

    /// The events that it was told, in order.
    async fn told(&self) -> Result<Vec<Told>>;

    /// Before its [`Side::entry`] is written: documents with [`Side::unfit`] are to be refused for good.
    async fn refuse_the_unfit(&mut self) -> Result<()>;

    /// What makes a document one that is refused, to be `$set`; without it, it fits.
    fn unfit(&self) -> Document;

    /// What it says to them.
    fn words(&self) -> &'static str;

    /// Whether the removal of such a document is refused too.
    fn refuses_removals(&self) -> bool {
        false
    }

    /// From now on it takes them.
    async fn take_the_unfit(&mut self) -> Result<()>;

    /// From now on it takes little at a time, or as much as it can.
    fn slow(&mut self, slow: bool);

    /// Something goes wrong for a moment, another thing each turn.
    async fn jolt(&mut self, turn: u32) -> Result<()>;

    /// No jolt is felt any more.
    async fn calm(&mut self) -> Result<()>;

    async fn begin(&mut self, trouble: Trouble) -> Result<()>;

    async fn end(&mut self, trouble: Trouble) -> Result<()>;
}
