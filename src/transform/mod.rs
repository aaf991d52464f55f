//! Placeholder

use crate::change::{ClusterTime, Document, Namespace};

/// Placeholder
#[derive(Debug)]
pub struct Script;

/// Placeholder
#[derive(Clone, Default, Debug)]
pub struct Meta {
    /// x
    pub id: Option<String>,
    /// x
    pub index: Option<String>,
    /// x
    pub routing: Option<String>,
    /// x
    pub ingest_pipeline: Option<String>,
}
/// x
pub struct Input<'a> {
    /// x
    pub document: Option<&'a Document>,
    /// x
    pub event: Event<'a>,
}
/// x
pub struct Event<'a> {
    /// x
    pub op: &'a str,
    /// x
    pub namespace: &'a Namespace,
    /// x
    pub id: bson::RawBsonRef<'a>,
    /// x
    pub cluster_time: ClusterTime,
    /// x
    pub wall_time: Option<bson::DateTime>,
    /// x
    pub copy: bool,
}
/// x
pub enum Outcome {
    /// x
    Unchanged(Meta),
    /// x
    Document(Document, Meta),
    /// x
    Documents(Vec<Document>, Meta),
    /// x
    Remove,
    /// x
    Skip,
    /// x
    Failed(String),
}
/// x
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct ScriptError;

impl Script {
    /// x
    pub fn run(&self, _input: Input<'_>) -> Result<Outcome, ScriptError> {
        Err(ScriptError)
    }
    /// x
    pub fn may_move(&self) -> bool {
        true
    }
}
