//! Asks the source, the checkpoint store and the targets, each as long as it may take to be reached,
//! and tells all that they say in one go.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    delivery::retry::Backoff,
    finding::{Finding, NOT_REACHED, Part},
    pipeline::origins::FileOrigins,
    rules::model::{self, RuleFile},
    target::{self, Look, Origins, Retry, Target},
};

use super::{checkpoint, source};

/// How long the servers may take to be reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    wait: Duration,
    deadline: Instant,
}

impl Patience {
    /// What is left of it; never nothing.
    pub fn left(&self) -> Duration {
        (self.deadline - Instant::now()).max(Duration::from_secs(1))
    }

    /// Calls until something other than a failure that passes comes of it, or the time is over.
    pub async fn reach<T, E, F>(
        &self,
        passes: impl Fn(&E) -> bool,
        mut call: impl FnMut() -> F,
    ) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
        loop {
            let tried = call().await;
            let wait = backoff.next(None);
            match tried {
                Err(error) if passes(&error) && Instant::now() + wait < self.deadline => {}
                tried => return tried,
            }
            sleep(wait).await;
        }
    }

    /// That something was not reached.
    pub fn over(&self, part: Part, words: impl std::fmt::Display) -> Finding {
        let seconds = self.wait.as_secs_f64();
        Finding::error(NOT_REACHED, part, format!("not reached within {seconds} s: {words}"))
    }
}

/// What only the servers can tell of a rule file. Nothing is written to the source or to a target.
///
/// `wait` is how long each server may take to be reached.
pub async fn online(rules: &RuleFile, wait: Duration) -> Vec<Finding> {
    let patience = Patience { wait, deadline: Instant::now() + wait };
    let targets = rules
        .targets
        .iter()
        .filter(|target| rules.deliveries(&target.name).next().is_some())
        .map(|target| reach(rules, target, patience));
    let ((mut found, seen), targets) =
        tokio::join!(source::look(rules, patience), join_all(targets));
    found.extend(checkpoint::look(rules, seen.as_ref(), patience).await);
    let nothing = BTreeMap::new();
    let reads = seen.as_ref().map_or(&nothing, |seen| &seen.reads);
    let origins = seen.as_ref().map(|seen| FileOrigins {
        source: seen.source.clone(),
        file: rules,
        names: None,
    });
    let origins = origins.as_ref().map(|origins| origins as &dyn Origins);
    let looks = targets.into_iter().map(|reached| async move {
        match reached {
            Reached::Target(name, target) => {
                let look = Look { target: name, reads, origins };
                target.inspect(look).await.unwrap_or_else(|retry| {
                    vec![patience.over(Part::Target(name.to_owned()), retry.message)]
                })
            }
            Reached::Not(finding) => vec![finding],
        }
    });
    found.extend(join_all(looks).await.into_iter().flatten());
    found
}

enum Reached<'r> {
    Target(&'r str, std::sync::Arc<dyn Target>),
    Not(Finding),
}

async fn reach<'r>(
    rules: &'r RuleFile,
    settings: &'r model::Target,
    patience: Patience,
) -> Reached<'r> {
    let name = settings.name.as_str();
    let part = Part::Target(name.to_owned());
    let target = match target::open::open(settings, &rules.name, None, rules.deliveries(name)) {
        Ok(target) => target,
        Err(error) => {
            return Reached::Not(Finding::error("settings", part, causes(&error)));
        }
    };
    let reached = patience.reach(
        |_: &Retry| true,
        || {
            // A target that takes a connection and never answers is not reached either.
            let left = patience.left();
            let target = target.clone();
            async move {
                tokio::time::timeout(left, target.reach()).await.unwrap_or_else(|_| {
                    Err(Retry {
                        reason: "timeout",
                        message: "no answer in time".to_owned(),
                        after: None,
                        pressure: target::Pressure::Same,
                    })
                })
            }
        },
    );
    match reached.await {
        Ok(()) => Reached::Target(name, target),
        Err(retry) => Reached::Not(patience.over(part, retry.message)),
    }
}

/// An error with its causes, each once.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let own = error.to_string();
        if !words.contains(&own) {
            words.push_str(": ");
            words.push_str(&own);
        }
        next = error.source();
    }
    words
}
