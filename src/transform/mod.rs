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
/// Placeholder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Placeholder
    pub operations: u64,
    /// Placeholder
    pub call_depth: usize,
    /// Placeholder
    pub string: usize,
    /// Placeholder
    pub array: usize,
    /// Placeholder
    pub map: usize,
}

/// Placeholder
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ScriptError {
    /// Placeholder
    pub message: String,
    /// Placeholder
    pub line: usize,
    /// Placeholder
    pub column: usize,
}

impl Script {
    /// Placeholder
    pub fn compile(
        text: &str,
        limits: Limits,
        import_folder: Option<&std::path::Path>,
    ) -> Result<Self, ScriptError> {
        let _ = (text, limits, import_folder);
        Ok(Self)
    }
    /// x
    pub fn run(&self, _input: Input<'_>) -> Result<Outcome, ScriptError> {
        Ok(Outcome::Unchanged(Meta::default()))
    }
    /// x
    pub fn may_move(&self) -> bool {
        false
    }
}
