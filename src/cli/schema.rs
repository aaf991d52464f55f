//! `mongosync schema`: the JSON Schema of rule files.

use super::{Error, print};
use crate::rules;

/// Runs the command.
///
/// # Errors
/// Where standard output can't be written.
pub fn run() -> Result<(), Error> {
    print(&format!("{:#}\n", rules::schema()))
}
