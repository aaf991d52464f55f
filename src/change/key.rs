//! Placeholder
/// Placeholder
#[derive(Debug)]
pub struct DocumentKey;
