//! `mongosync run`: a pipeline with everything around it that a process needs.

use std::{
    io::{self, IsTerminal},
    path::Path,
    sync::Arc,
};

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    Error, arguments::RunArguments, console::Console, dry_run, http_commands::HttpCommands,
    progress, signals::Signals,
};
use crate::{
    pipeline,
    rules::{
        self,
        model::{self, RuleFile, TargetKind},
    },
    status::{Server, Status},
};

/// Runs the command until the pipeline ends.
///
/// # Errors
/// See [`Error`].
pub async fn run(arguments: RunArguments, console: &Console) -> Result<(), Error> {
    let signals = Signals::listen()
        .map_err(|source| Error::System { what: "can't listen to signals", source })?;
    let rules = load(&arguments.file, console)?;
    known_rules(&rules, &arguments.rules)?;
    // A dry run may go on beside a run, whose port it is.
    let server = match &rules.http {
        Some(http) if !arguments.dry_run => Some(Server::bind(http).await?),
        _ => None,
    };

    let rules = Arc::new(rules);
    let status = Status::of(&rules, &arguments.rules);
    let stop = CancellationToken::new();
    // The server and the bars show the end of the pipeline too, so they end after it.
    let end = CancellationToken::new();
    let mut around = JoinSet::new();
    around.spawn(with_no_error(signals.watch(stop.clone(), end.clone(), console.clone())));
    let dry_run =
        arguments.dry_run.then(|| dry_run::prepare(&rules, &arguments.rules, stop.clone()));
    // Where lines are shown on the same screen, by this program or behind a pipe, there is no room for
    // bars.
    let is_stdout = |target: &model::Target| matches!(target.kind, TargetKind::Stdout(_));
    let shows_lines = match arguments.dry_run {
        true => io::stdout().is_terminal(),
        false => rules.targets.iter().any(is_stdout),
    };
    if !shows_lines {
        around.spawn(with_no_error(progress::show(status.clone(), console.clone(), end.clone())));
    }
    if let Some(server) = server {
        let server = server.with_commands(Arc::new(HttpCommands::new(rules.clone())));
        around.spawn(server.serve(status.clone(), end.clone()));
    }

    let options = pipeline::Options {
        copy_only: arguments.copy_only,
        changes_only: arguments.changes_only,
        rules: arguments.rules,
        wait: arguments.wait,
        dry_run: dry_run.as_ref().map(|(dry_run, _)| dry_run.clone()),
        own: pipeline::Own::default(),
    };
    let pipeline = pipeline::run(rules, options, status, stop.clone());
    let result = supervise(pipeline, &mut around, &stop).await;
    end.cancel();
    while around.join_next().await.is_some() {}

    if let Some((_, store)) = &dry_run {
        dry_run::tell_letters(&**store, console).await?;
    }
    let summary = result?;
    let pipeline::Summary { copied, dead_letters, stopped } = summary;
    tracing::info!(copied, dead_letters, "{}", if stopped { "stopped" } else { "done" });
    if arguments.copy_only && !stopped && dead_letters > 0 {
        if dry_run.is_some() {
            return Err(Error::WouldBeDeadLetters { count: dead_letters });
        }
        return Err(Error::DeadLetters { count: dead_letters, file: arguments.file });
    }
    Ok(())
}

/// Waits for the pipeline. A task around it that ends before it is a fault: the pipeline is stopped,
/// and the fault is the result.
async fn supervise(
    pipeline: impl Future<Output = Result<pipeline::Summary, pipeline::Error>>,
    around: &mut JoinSet<std::io::Result<()>>,
    stop: &CancellationToken,
) -> Result<pipeline::Summary, Error> {
    let mut pipeline = std::pin::pin!(pipeline);
    tokio::select! {
        result = &mut pipeline => Ok(result?),
        Some(ended) = around.join_next() => {
            let fault = fault(ended);
            stop.cancel();
            pipeline.await?;
            Err(fault)
        }
    }
}

fn fault(ended: Result<std::io::Result<()>, JoinError>) -> Error {
    match ended {
        Ok(Ok(())) => Error::Internal("a task ended before the pipeline did".into()),
        Ok(Err(source)) => Error::System { what: "the status server has failed", source },
        Err(panic) => Error::Internal(format!("a task around the pipeline ended: {panic}")),
    }
}

async fn with_no_error(task: impl Future<Output = ()>) -> std::io::Result<()> {
    task.await;
    Ok(())
}

/// Reads a rule file and shows its warnings.
///
/// # Errors
/// All errors of the file, in one.
pub(super) fn load(file: &Path, console: &Console) -> Result<RuleFile, Error> {
    let loaded = rules::load(file, &|name| std::env::var(name).ok()).map_err(Error::Rules)?;
    console.warnings(&loaded.warnings);
    Ok(loaded.rules)
}

/// How alike two names must be, from 0 to 1, for one to be taken for a slip of the other.
const ALIKE: f64 = 0.8;

/// Says which of the asked rules the file does not have.
///
/// # Errors
/// `Usage`, with the name that is near.
pub(super) fn known_rules(rules: &RuleFile, asked: &[String]) -> Result<(), Error> {
    known(rules, "rule", rules.rules.iter().map(|rule| rule.name.as_str()).collect(), asked)
}

/// Says which of the asked targets the file does not have.
///
/// # Errors
/// `Usage`, with the name that is near.
pub(super) fn known_targets(rules: &RuleFile, asked: &[String]) -> Result<(), Error> {
    let names = rules.targets.iter().map(|target| target.name.as_str()).collect();
    known(rules, "target", names, asked)
}

fn known(file: &RuleFile, what: &str, names: Vec<&str>, asked: &[String]) -> Result<(), Error> {
    let Some(unknown) = asked.iter().find(|name| !names.contains(&name.as_str())) else {
        return Ok(());
    };
    let alike = names
        .iter()
        .map(|name| (strsim::jaro_winkler(name, unknown), name))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let guess = alike.map(|(_, name)| format!("; did you mean {name:?}?")).unwrap_or_default();
    Err(Error::Usage(format!(
        "{} has no {what} {unknown:?}{guess}\n  its {what}s are: {}",
        file.path.display(),
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixture;

    #[test]
    fn an_unknown_name_is_told_with_the_known_ones() {
        let rules = fixture::rules();
        let check = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            known_rules(&rules, &names).map_err(|error| error.render(false))
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["orders", "products"]), Ok(()));
        assert_eq!(
            check(&["orders", "prodcts"]).unwrap_err(),
            "error: shop.yaml has no rule \"prodcts\"; did you mean \"products\"?\n  \
             its rules are: products, orders"
        );
        assert_eq!(
            check(&["xyz"]).unwrap_err(),
            "error: shop.yaml has no rule \"xyz\"\n  its rules are: products, orders"
        );
        let target = known_targets(&rules, &["serch".to_owned()]).map_err(|it| it.render(false));
        assert_eq!(
            target.unwrap_err(),
            "error: shop.yaml has no target \"serch\"; did you mean \"search\"?\n  \
             its targets are: search, mirror"
        );
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_pipeline() {
        let stop = CancellationToken::new();
        let mut around = JoinSet::new();
        around.spawn(async { panic!("the page has a hole") });
        let pipeline = async {
            stop.cancelled().await;
            Ok(pipeline::Summary { stopped: true, ..Default::default() })
        };
        let error = supervise(pipeline, &mut around, &stop).await.unwrap_err();
        assert!(matches!(&error, Error::Internal(text) if text.contains("the page has a hole")));
    }

    #[tokio::test]
    async fn the_pipelines_own_end_is_the_result() {
        let stop = CancellationToken::new();
        let mut around = JoinSet::new();
        around.spawn(std::future::pending());
        let pipeline = async { Ok(pipeline::Summary { copied: 3, ..Default::default() }) };
        assert_eq!(supervise(pipeline, &mut around, &stop).await.unwrap().copied, 3);
    }
}
