//! The commands: from arguments to a pipeline and from its end to an exit code.
//!
//! Only this part writes to the terminal, listens to signals, or ends the process.

pub mod arguments;
pub mod console;
pub mod dead_letters;
pub mod exit;
pub mod progress;
pub mod requests;
pub mod run;
pub mod signals;
pub mod store;

pub use exit::{Error, Exit};
