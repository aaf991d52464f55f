//! Placeholder
/// Placeholder
#[derive(Debug)]
pub struct Claim;
