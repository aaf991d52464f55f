//! What is settled, and where that is kept.

pub mod store;
pub mod tracker;
