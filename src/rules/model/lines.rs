//! `file:` and `stdout:`

use std::path::PathBuf;

use crate::rules::template::Template;

/// `file:`
#[derive(Clone, Debug)]
pub struct LineFile {
    /// Where a relative path starts: the rule file's folder.
    pub folder: PathBuf,
    /// `path:`
    pub path: Template,
    /// Bytes after which a file is put aside and another one begun; `None` where it only grows.
    pub rotate: Option<u64>,
    /// `json: extended` writes canonical Extended JSON.
    pub extended_json: bool,
}

/// `stdout:`
#[derive(Clone, Copy, Debug)]
pub struct Stdout {
    /// `json: extended` writes canonical Extended JSON.
    pub extended_json: bool,
}
