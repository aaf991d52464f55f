//! Placeholder

pub mod json;
