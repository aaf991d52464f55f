//! The commands: from arguments to a pipeline and from its end to an exit code.
//!
//! Only this part writes to the terminal, listens to signals, or ends the process.

pub mod arguments;
pub mod check;
pub mod completions;
pub mod console;
pub mod dead_letters;
mod dry_run;
pub mod exit;
mod extended_json;
mod http_commands;
pub mod init;
pub mod progress;
pub mod requests;
pub mod run;
pub mod schema;
pub mod signals;
pub mod status;
pub mod store;
pub mod test_rules;
pub mod try_rule;
pub mod verify;

pub use exit::{Error, Exit};

use std::io::{self, Write};

/// Writes what a command has to say to standard output. A reader that goes away is no error.
///
/// # Errors
/// Where it can't be written for another reason.
fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::System { what: "can't write to standard output", source: error })
        }
        _ => Ok(()),
    }
}
