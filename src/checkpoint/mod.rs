//! What is settled, and where that is kept.
//!
//! The end of the way back. Acknowledgements settle claims ([`tracker`]); what the tracker says is
//! settled becomes records ([`records`]), which a [`store`] keeps in MongoDB ([`mongodb`]), in a
//! file ([`file`]), or, for a run that must leave no trace, in [`memory`]. The [`lease`] sees to it
//! that one process at a time does so under a name, and its epoch shuts out the one before; others
//! leave [`requests`] for it, and read what it leaves of itself ([`report`]) and what was refused ([`letters`]).
//!
//! Nothing here reads a source, writes to a target, or decides what settled is.

pub mod tracker;
pub mod store;
pub mod sort_key;
pub mod mongodb;
pub mod file;
pub mod memory;
pub mod chunks;
pub mod records;
pub mod keys;
pub mod lease;
pub mod requests;
pub mod letters;
pub mod report;
pub mod open;
