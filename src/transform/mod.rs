//! Placeholder: what the rule file needs of the script engine until it is there.

use std::path::Path;

/// Placeholder
#[derive(Debug)]
pub struct Script;

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
#[derive(Debug)]
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
        import_folder: Option<&Path>,
    ) -> Result<Self, ScriptError> {
        let _ = (limits, import_folder);
        match rhai::Engine::new_raw().compile(text) {
            Ok(_) => Ok(Self),
            Err(error) => Err(ScriptError {
                message: error.err_type().to_string(),
                line: error.position().line().unwrap_or(0),
                column: error.position().position().unwrap_or(0),
            }),
        }
    }
}
