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
use crate::{
    checkpoint::{
        lease::{self, Identity},
        requests::{self, Answer, Asked},
        store::{Store, StoreError},
    },
    rules::model::RuleFile,
};

/// `resync`
///
/// # Errors
/// See [`Error`].
pub async fn resync(arguments: ResyncArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    known_rules(&rules, &arguments.rules)?;
    let store = open_store(&rules).await?;
    let asked = Asked::Resync { rules: arguments.rules };
    ask_and_wait(&store, &rules, asked, arguments.wait, console).await
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
    ask_and_wait(&store, &rules, asked(arguments.targets), arguments.wait, console).await
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
    ask_and_wait(&store, &rules, asked, arguments.wait, console).await
}

/// Leaves a request, and prints the answer if it comes in time. One that does not is no failure: the
/// request stays, and is carried out by whoever holds the name next.
///
/// # Errors
/// `Refused`, with the answer's words, and those of the store.
pub(super) async fn ask_and_wait(
    store: &Arc<dyn Store>,
    rules: &RuleFile,
    asked: Asked,
    wait: Duration,
    console: &Console,
) -> Result<(), Error> {
    let request = requests::ask(&**store, asked).await?;
    // A process that has begun meanwhile finds it.
    if is_nobodys(&**store, rules).await? {
        console.notice(NOBODY);
        return Ok(());
    }
    match requests::wait_for_answer(&**store, &request, wait).await? {
        Some(Answer { done: true, words }) => print(&format!("{words}\n")),
        Some(Answer { done: false, words }) => Err(Error::Refused(words)),
        None => {
            console.notice(NO_ANSWER);
            Ok(())
        }
    }
}

/// Whether it is known that no process runs the rule file.
///
/// # Errors
/// Those of the store.
async fn is_nobodys(store: &dyn Store, rules: &RuleFile) -> Result<bool, StoreError> {
    let me = Identity::of_this_process(&rules.name, &rules.path);
    let lease = lease::current(store).await?;
    Ok(lease.is_none_or(|lease| lease::is_over(&lease, &me)))
}

/// What is said where nobody is there to answer.
const NOBODY: &str = "no process runs the rule file: the request stays, and is carried out by the next \
                      one that does";

/// What is said where nobody has answered in time.
pub(super) const NO_ANSWER: &str = "no answer yet: the request stays, and is carried out by the \
                                    process that runs the rule file, or by the next one that does";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{lease::LeaseRecord, memory::MemoryStore},
        status::fixture,
    };

    #[tokio::test(start_paused = true)]
    async fn where_no_process_runs_none_is_waited_for() {
        let rules = fixture::rules();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&rules.name));
        let ask = async || {
            let began = tokio::time::Instant::now();
            let asked = Asked::Pause { targets: Vec::new() };
            let wait = Duration::from_secs(30);
            ask_and_wait(&store, &rules, asked, wait, &Console::hidden()).await.expect("in memory");
            began.elapsed()
        };
        assert_eq!(ask().await, Duration::ZERO);
        let lease = |released| LeaseRecord { released, ..LeaseRecord::sample() };
        let put = async |lease: &LeaseRecord| {
            let write = crate::checkpoint::records::put(crate::checkpoint::keys::lease(), lease);
            store.write(vec![write]).await.expect("in memory");
        };
        put(&lease(true)).await;
        assert_eq!(ask().await, Duration::ZERO);
        put(&lease(false)).await;
        assert!(ask().await > Duration::from_secs(29), "its holder may be alive");
        let left = requests::pending(&*store).await.expect("in memory");
        assert_eq!(left.len(), 3, "all of them stay");
    }
}
