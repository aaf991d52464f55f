//! mongosync copies MongoDB collections into Elasticsearch and OpenSearch, and keeps them
//! true by following the change streams.
//!
//! The modules stand in the order in which data flows: rules → source → transform → delivery →
//! target. Only acknowledgements come back, to checkpoint.

pub mod rules;
pub mod source;
pub mod change;
pub mod finding;
pub mod transform;
pub mod delivery;
pub mod target;
pub mod checkpoint;
pub mod pipeline;
pub mod status;
pub mod check;
pub mod draft;
pub mod cli;
