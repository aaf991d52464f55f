//! Placeholder
/// Placeholder
#[derive(Debug)]
pub struct Script;
