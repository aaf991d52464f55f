//! What is asked of a process over HTTP goes the way of `mongosync pause` and the like: through the
//! checkpoint store, to whoever holds the name. So it does not matter which process is asked, and one
//! that stands by passes it on.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    Error,
    requests::NO_ANSWER,
    run::{known_rules, known_targets},
};
use crate::{
    checkpoint::{
        requests::{Answer, Asked, Requests},
        store::StoreError,
    },
    rules::model::RuleFile,
    status::{self, Commands, Outcome},
};

/// How long an answer is waited for: shorter than browsers and proxies wait.
const WAIT: Duration = Duration::from_secs(10);

/// Asks through the store of the rule file.
pub(super) struct HttpCommands {
    rules: Arc<RuleFile>,
    requests: Requests,
}

impl HttpCommands {
    pub(super) fn new(rules: Arc<RuleFile>) -> Self {
        Self { requests: Requests::of(rules.clone()), rules }
    }

    async fn pass_on(&self, asked: Asked) -> Result<Option<Answer>, StoreError> {
        let request = self.requests.leave(asked).await?;
        self.requests.answer(&request, WAIT).await
    }
}

#[async_trait]
impl Commands for HttpCommands {
    async fn carry_out(&self, asked: status::Asked) -> Outcome {
        let (known, kind, names): (_, _, Vec<&String>) = match &asked {
            status::Asked::Pause { targets } | status::Asked::Resume { targets } => (
                known_targets(&self.rules, targets),
                "targets",
                self.rules.targets.iter().map(|target| &target.name).collect(),
            ),
            status::Asked::Resync { rules } => (
                known_rules(&self.rules, rules),
                "rules",
                self.rules.rules.iter().map(|rule| &rule.name).collect(),
            ),
        };
        if let Err(error) = known {
            let known = names.into_iter().cloned().collect();
            return Outcome::Unknown { words: error.to_string(), kind, known };
        }
        let asked = match asked {
            status::Asked::Pause { targets } => Asked::Pause { targets },
            status::Asked::Resume { targets } => Asked::Resume { targets },
            status::Asked::Resync { rules } => Asked::Resync { rules },
        };
        match self.pass_on(asked).await {
            Ok(Some(Answer { done: true, words })) => Outcome::Done(words),
            Ok(Some(Answer { done: false, words })) => Outcome::Refused(words),
            Ok(None) => Outcome::Pending(NO_ANSWER.to_owned()),
            Err(error) => {
                let told = Error::Store(error).render(false);
                Outcome::Unavailable(told.trim_start_matches("error: ").to_owned())
            }
        }
    }
}
