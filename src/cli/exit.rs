//! How a command ends: every error has one exit code, and one way of being told.

use std::{error::Error as _, io, path::PathBuf, process::ExitCode};

use crate::{
    checkpoint::store::StoreError,
    finding::count as counted,
    pipeline,
    rules::Report,
    status::{ListenError, masked},
};

/// The exit codes. Scripts rely on them; a number never changes its meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped as told.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The arguments or the rule file.
    Usage = 2,
    /// The source (with `--copy-only` a target too) was not reached at the start.
    NotReached = 3,
    /// `test` or `verify` found differences.
    Different = 4,
    /// The oplog no longer reaches back.
    HistoryLost = 5,
    /// `--copy-only` ended with dead letters.
    DeadLetters = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rule file.
    #[error("the rule file has errors")]
    Rules(Report),
    /// Arguments that only the rule file shows to be wrong.
    #[error("{0}")]
    Usage(String),
    /// The process that was asked said no, in its words.
    #[error("{0}")]
    Refused(String),
    /// The run.
    #[error(transparent)]
    Pipeline(#[from] pipeline::Error),
    /// The status server.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The checkpoint store, for a command that reads it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system.
    #[error("{what}")]
    System {
        /// What could not be done.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A broken invariant; please report it.
    #[error("{0}")]
    Internal(String),
    /// What `check --online` found.
    #[error("{}", told(.errors, .not_reached))]
    Found {
        /// How many things would keep a run from what the file says.
        errors: usize,
        /// What was not reached, by name.
        not_reached: Vec<String>,
    },
    /// What was asked for is not there.
    #[error("{0}")]
    NotFound(String),
    /// Tests of the rule file have failed.
    #[error("{failed} of {total} tests failed")]
    TestsFailed {
        /// So many.
        failed: usize,
        /// Of so many.
        total: usize,
    },
    /// Source and targets differ.
    #[error("{}", different(*.differences, *.repair))]
    Different {
        /// In so many documents.
        differences: u64,
        /// Whether they were to be mended.
        repair: bool,
    },
    /// The copy is complete, but for these.
    #[error(
        "the copy is complete except for {}: see `mongosync dead-letters {} list`",
        counted(*.count, "dead letter"), .file.display()
    )]
    DeadLetters {
        /// How many this run wrote.
        count: u64,
        /// The rule file.
        file: PathBuf,
    },
    /// The copy would be complete, but for what has been shown.
    #[error("{} would become {}", counted(*.count, "document"), letters(*.count))]
    WouldBeDeadLetters {
        /// So many.
        count: u64,
    },
}

/// What a look at the servers came to.
fn told(errors: &usize, not_reached: &[String]) -> String {
    let away = not_reached.join(", ");
    match (*errors, not_reached.len()) {
        (0, _) => format!("not reached: {away}"),
        (1, 0) => "1 thing would keep a run from doing what the file says".to_owned(),
        (errors, 0) => format!("{errors} things would keep a run from doing what the file says"),
        (errors, _) => format!("not reached: {away}; and {errors} other errors"),
    }
}

/// What documents become, one or several.
fn letters(count: u64) -> &'static str {
    if count == 1 { "a dead letter" } else { "dead letters" }
}

/// What differs between source and targets.
fn different(differences: u64, repair: bool) -> String {
    let documents = match differences {
        1 => "1 document differs".to_owned(),
        differences => format!("{differences} documents differ"),
    };
    match repair {
        true => format!("{documents} still"),
        false => format!("{documents}: `--repair` has them mended"),
    }
}

impl Error {
    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Rules(_) | Self::Usage(_) => Exit::Usage,
            Self::Pipeline(error) => match error {
                pipeline::Error::NotReached { .. } => Exit::NotReached,
                pipeline::Error::HistoryLost { .. } => Exit::HistoryLost,
                pipeline::Error::Refused(_)
                | pipeline::Error::TooManyRejected { .. }
                | pipeline::Error::Checkpoint(_)
                | pipeline::Error::Lease(_)
                | pipeline::Error::Stopped
                | pipeline::Error::Internal(_) => Exit::Failed,
            },
            Self::Refused(_)
            | Self::Listen(_)
            | Self::Store(_)
            | Self::System { .. }
            | Self::NotFound(_)
            | Self::Internal(_) => Exit::Failed,
            Self::Found { not_reached, .. } if !not_reached.is_empty() => Exit::NotReached,
            Self::Found { .. } => Exit::Failed,
            Self::TestsFailed { .. } | Self::Different { .. } => Exit::Different,
            Self::DeadLetters { .. } | Self::WouldBeDeadLetters { .. } => Exit::DeadLetters,
        }
    }

    /// What a person reads: `error:` and the text, then each cause once, passwords masked. The
    /// errors of a rule file are rendered with its lines instead.
    pub fn render(&self, colour: bool) -> String {
        if let Self::Rules(report) = self {
            return report.render(colour);
        }
        let label = console::style("error:").for_stderr().force_styling(colour).red().bold();
        let mut said = self.to_string();
        let mut text = format!("{label} {said}");
        let mut cause = self.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !said.contains(&words) {
                text.push_str("\n  caused by: ");
                text.push_str(&words);
                said = words;
            }
            cause = error.source();
        }
        masked(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn unavailable(source: &str) -> StoreError {
        StoreError::Unavailable { place: "mongosync at h".into(), source: source.into() }
    }

    fn every_error() -> Vec<(Error, u8)> {
        let pipeline = Error::Pipeline;
        vec![
            (Error::Usage("no".into()), 2),
            (
                pipeline(pipeline::Error::NotReached {
                    what: "the source at h:27017".into(),
                    wait: Duration::from_secs(30),
                    source: Box::new(io::Error::other("connection refused")),
                }),
                3,
            ),
            (pipeline(pipeline::Error::Refused("not a replica set".into())), 1),
            (
                pipeline(pipeline::Error::HistoryLost {
                    target: "search".into(),
                    position: crate::change::ClusterTime(1 << 32),
                    another_source: false,
                }),
                5,
            ),
            (
                pipeline(pipeline::Error::HistoryLost {
                    target: "search".into(),
                    position: crate::change::ClusterTime(1 << 32),
                    another_source: true,
                }),
                5,
            ),
            (pipeline(pipeline::Error::TooManyRejected { target: "search".into(), count: 3 }), 1),
            (pipeline(pipeline::Error::Checkpoint(unavailable("timed out"))), 1),
            (pipeline(pipeline::Error::Internal("a lane has vanished".into())), 1),
            (Error::Store(StoreError::LostLease { name: "shop".into() }), 1),
            (Error::Store(unavailable("timed out")), 1),
            (
                Error::Store(StoreError::Broken {
                    place: "in .mongosync/shop".into(),
                    what: "was written by a later version".into(),
                }),
                1,
            ),
            (Error::System { what: "can't listen to signals", source: io::Error::other("no") }, 1),
            (Error::Internal("the status server ended with a panic".into()), 1),
            (Error::Refused("target search: it is paused".into()), 1),
            (Error::Found { errors: 0, not_reached: vec!["source".into(), "target a".into()] }, 3),
            (Error::Found { errors: 2, not_reached: vec!["target a".into()] }, 3),
            (Error::Found { errors: 1, not_reached: Vec::new() }, 1),
            (Error::NotFound("there is no such document".into()), 1),
            (Error::TestsFailed { failed: 1, total: 3 }, 4),
            (Error::Different { differences: 1, repair: false }, 4),
            (Error::Different { differences: 12, repair: true }, 4),
            (Error::DeadLetters { count: 2, file: "shop.yaml".into() }, 6),
            (Error::WouldBeDeadLetters { count: 2 }, 6),
            (Error::DeadLetters { count: 1, file: "shop.yaml".into() }, 6),
            (Error::WouldBeDeadLetters { count: 1 }, 6),
        ]
    }

    #[test]
    fn a_rule_file_that_is_not_there_is_a_usage_error() {
        let report = crate::rules::load("no-such-file.yaml".as_ref(), &|_| None).err();
        let error = Error::Rules(report.expect("there is no such file"));
        assert_eq!(error.exit(), Exit::Usage);
    }

    #[test]
    fn exit_codes() {
        for (error, code) in every_error() {
            assert_eq!(error.exit() as u8, code, "{error}");
        }
        assert_eq!(Exit::Done as u8, 0);
    }

    #[tokio::test]
    async fn a_taken_port_is_a_failure() {
        let taken = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut http = crate::status::fixture::http(None);
        http.listen = taken.local_addr().unwrap();
        let error = Error::from(crate::status::Server::bind(&http).await.unwrap_err());
        assert_eq!(error.exit(), Exit::Failed);
        assert!(error.render(false).contains("caused by: Address already in use"));
    }

    #[test]
    fn rendered() {
        let all: Vec<_> = every_error().iter().map(|(error, _)| error.render(false)).collect();
        insta::assert_snapshot!(all.join("\n"));
    }

    #[test]
    fn each_cause_is_told_once_and_no_password() {
        #[derive(Debug, thiserror::Error)]
        #[error("server selection failed: {0}")]
        struct Outer(#[source] io::Error);

        let inner = io::Error::other("mongodb://me:hunter2@h/ refused");
        let error = Error::Store(StoreError::Unavailable {
            place: "mongosync at h".into(),
            source: Box::new(Outer(inner)),
        });
        assert_eq!(
            error.render(false),
            "error: the checkpoint store mongosync at h can't be used now\n  \
             caused by: server selection failed: mongodb://me:…@h/ refused"
        );
    }

    #[test]
    fn coloured_where_asked() {
        let error = Error::Usage("no".into());
        assert!(error.render(true).starts_with("\u{1b}["));
        assert_eq!(error.render(false), "error: no");
    }
}
