//! The commands: from arguments to a pipeline and from its end to an exit code.
//!
//! Only this part writes to the terminal, listens to signals, or ends the process.

pub mod arguments;
pub mod console;
pub mod dead_letters;
mod dry_run;
pub mod exit;
mod extended_json;
pub mod progress;
pub mod run;
pub mod signals;
pub mod store;
pub mod test_rules;
pub mod try_rule;

pub use exit::{Error, Exit};
