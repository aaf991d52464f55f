//! `resync`, `pause`, `resume`, `seek`: requests to the process that holds the rule file's name.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Error,
    arguments::{ResyncArguments, SeekArguments, TargetsArguments},
    console::Console,
    print,
    run::{known_rules, known_targets, load},
    store::open_store,
};
use crate::checkpoint::{
    requests::{self, Answer, Asked},
    store::Store,
};

/// `resync`
///
/// # Errors
/// See [`Error`].
pub async fn resync(arguments: ResyncArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    known_rules(&rules, &arguments.rules)?;
    let store = open_store(&rules).await?;
    ask_and_wait(&store, Asked::Resync { rules: arguments.rules }, arguments.wait, console).await
}

/// `pause`
///
/// # Errors
/// See [`Error`].
pub async fn pause(arguments: TargetsArguments, console: &Console) -> Result<(), Error> {
    of_targets(arguments, console, |targets| Asked::Pause { targets }).await
}

/// `resume`
///
/// # Errors
/// See [`Error`].
pub async fn resume(arguments: TargetsArguments, console: &Console) -> Result<(), Error> {
    of_targets(arguments, console, |targets| Asked::Resume { targets }).await
}

async fn of_targets(
    arguments: TargetsArguments,
    console: &Console,
    asked: impl FnOnce(Vec<String>) -> Asked,
) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    known_targets(&rules, &arguments.targets)?;
    let store = open_store(&rules).await?;
    ask_and_wait(&store, asked(arguments.targets), arguments.wait, console).await
}

/// `seek`
///
/// # Errors
/// See [`Error`].
pub async fn seek(arguments: SeekArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    let target = arguments.target;
    known_targets(&rules, std::slice::from_ref(&target))?;
    if requests::is_to_come(arguments.to, SystemTime::now()) {
        return Err(Error::Usage(
            "that time is yet to come: what changes until then would never be delivered".to_owned(),
        ));
    }
    let store = open_store(&rules).await?;
    let asked = Asked::Seek { target, to: arguments.to };
    ask_and_wait(&store, asked, arguments.wait, console).await
}

/// Leaves a request, and prints the answer if it comes in time. One that does not is no failure: the
/// request stays, and is carried out by whoever holds the name next.
///
/// # Errors
/// `Refused`, with the answer's words, and those of the store.
pub(super) async fn ask_and_wait(
    store: &Arc<dyn Store>,
    asked: Asked,
    wait: Duration,
    console: &Console,
) -> Result<(), Error> {
    let request = requests::ask(&**store, asked).await?;
    match requests::wait_for_answer(&**store, &request, wait).await? {
        Some(Answer { done: true, words }) => print(&format!("{words}\n")),
        Some(Answer { done: false, words }) => Err(Error::Refused(words)),
        None => {
            console.notice(NO_ANSWER);
            Ok(())
        }
    }
}

/// What is said where nobody has answered in time.
pub(super) const NO_ANSWER: &str = "no answer yet: the request stays, and is carried out by the \
                                    process that runs the rule file, or by the next one that does";
