//! mongosync copies MongoDB collections into Elasticsearch, OpenSearch, MongoDB, webhooks and files, and
//! keeps them true by following the change streams; or calls a closure for each change.
//!
//! A program of one's own begins at [`Mongosync`]; `docs/library.md` shows the way, `examples/` four
//! programs. Meant to be used are what stands at this root, [`target::Target`] and
//! [`checkpoint::store::Store`] with what their signatures name, [`target::json`], [`status`],
//! [`change::Namespace`] and [`change::ClusterTime`]. The rest is public for the program and its tests, and
//! may change with any version.
//!
//! The modules stand in the order in which data flows: rules → source → transform → delivery →
//! target. Only acknowledgements come back, to checkpoint.

pub mod rules;
pub mod client;
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
pub mod library;
pub mod cli;

pub use library::{
    DeadLetter, DeadLetters, Delivery, Error, Failure, Mongosync, Op, Rule, Rules, Running,
    Troubles, Typed,
};
