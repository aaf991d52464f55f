//! Placeholder

pub mod model;
pub mod template;

/// Placeholder
#[derive(Debug)]
pub struct Loaded {
    /// Placeholder
    pub rules: model::RuleFile,
    /// Placeholder
    pub warnings: Report,
}

/// Placeholder
#[derive(Debug)]
pub struct Report;

impl Report {
    /// Placeholder
    pub fn render(&self, _colour: bool) -> String {
        String::new()
    }
}

/// Placeholder
pub fn load(
    _path: &std::path::Path,
    _env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    Err(Report)
}
