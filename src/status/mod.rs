//! Placeholder
/// Placeholder
#[derive(Debug)]
pub struct Status;
