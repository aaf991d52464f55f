//! Checkpoint

pub mod tracker;
