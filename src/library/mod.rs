//! mongosync in a program of one's own: rules from a file or built in code, a closure or a target of
//! one's own at their end, and a handle on what runs.
//!
//! It stands before `pipeline` as `cli` does, and adds nothing to what a run does: rules are read by
//! the same readers, orders go the way of `mongosync pause` and the like, through the checkpoint store
//! to whoever holds the name. No process is needed around it: nothing listens, no signal is taken, no
//! log is set up.

mod delivery;
mod each;
mod letters;
mod rules;
mod running;
mod text;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    checkpoint::store::{Store, StoreError},
    pipeline::{self, Options, Own},
    rules::{
        self as rule_files, Loaded, OwnTarget, Report,
        model::{CheckpointStore, DeliverySettings, RuleFile},
    },
    target::Target,
};

pub use delivery::{Delivery, Failure, Op};
pub use each::Typed;
pub use letters::{DeadLetter, DeadLetters};
pub use rules::{Rule, Rules};
pub use running::{Running, Troubles};

use each::Each;

/// How long the source may take to be reached at the start, unless something else is said.
const WAIT: Duration = Duration::from_secs(30);

/// A run that can be started: rules, and what the program brings itself.
///
/// ```no_run
/// # async fn example() -> Result<(), mongosync::Error> {
/// use mongosync::{Mongosync, Rule, Rules};
///
/// let uri = "mongodb://127.0.0.1:27017/?replicaSet=rs0";
/// let running = Mongosync::of(Rules::new("shop", uri).rule(Rule::of("shop.products").to("shown")))
///     .each("shown", |delivery| async move {
///         println!("{} {}: {:?}", delivery.op(), delivery.id_text(), delivery.document());
///         Ok(())
///     })
///     .start()?;
/// running.copied().await?;
/// running.stop().await?;
/// # Ok(())
/// # }
/// ```
pub struct Mongosync {
    origin: Origin,
    variables: Arc<Variables>,
    targets: Vec<(OwnTarget, Brought)>,
    store: Option<Arc<dyn Store>>,
    selected: Vec<String>,
    copy_only: bool,
    changes_only: bool,
    wait: Duration,
}

type Variables = dyn Fn(&str) -> Option<String> + Send + Sync;

/// What a program brings under a target's name.
enum Brought {
    Target(Arc<dyn Target>),
    Each(Each),
}

/// Where the rules come from.
enum Origin {
    File(PathBuf),
    Text(PathBuf, String),
    Code(Rules),
}

/// Why something can't be done, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The rules can't be used; every error is told at its place.
    #[error("{0}")]
    Rules(Report),
    /// What the program brings does not fit the rules.
    #[error("{0}")]
    Unfit(String),
    /// The run has failed.
    #[error(transparent)]
    Run(#[from] pipeline::Error),
    /// The run has ended before what was waited for. The words say why, where it has failed.
    #[error("the run has ended before{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Ended(Option<String>),
    /// What was asked of the run can't be done.
    #[error("{0}")]
    Refused(String),
    /// The checkpoint store can't be used. What was asked of the run may have come to it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Mongosync {
    /// By a rule file.
    pub fn from_file(path: impl Into<PathBuf>) -> Self {
        Self::by(Origin::File(path.into()))
    }

    /// By the text of a rule file, as if it stood at `path`: relative paths in it start from that
    /// folder, and without a `name` it is called as that file is.
    pub fn from_text(path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self::by(Origin::Text(path.into(), text.into()))
    }

    /// By rules that are built in code. Relative paths in them start from the current folder.
    pub fn of(rules: Rules) -> Self {
        Self::by(Origin::Code(rules))
    }

    fn by(origin: Origin) -> Self {
        Self {
            origin,
            variables: Arc::new(|name: &str| std::env::var(name).ok()),
            targets: Vec::new(),
            store: None,
            selected: Vec::new(),
            copy_only: false,
            changes_only: false,
            wait: WAIT,
        }
    }

    /// What `${…}` in a rule file stands for, in the stead of the environment's variables.
    #[must_use]
    pub fn variables(
        mut self,
        variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.variables = Arc::new(variables);
        self
    }

    /// Brings a target of one's own, which rules name in `to`. One value serves all rules that write to
    /// it and all starts of its pipelines, so that its `send` may be called for one lane of each rule
    /// that delivers events, and one of all others together, at a time.
    #[must_use]
    pub fn target(self, name: impl Into<String>, target: impl Target) -> Self {
        self.own(name.into(), OwnTarget::DELIVERY, Brought::Target(Arc::new(target)))
    }

    /// Brings a closure, which rules name in `to` like a target: it is called for each document, or with
    /// `delivery: events` for each event, that they deliver.
    ///
    /// - At least once: what was not answered when the process ended, or within the target's `timeout`
    ///   (60 s), is delivered again. A call that takes longer is dropped.
    /// - In order for each document: the next delivery of a document comes once the one before it was
    ///   taken. Calls for different documents run side by side, as many as `batch.concurrency` says (8).
    /// - [`Failure`] says what becomes of what was not taken.
    /// - A panic in it ends the run.
    #[must_use]
    pub fn each<F, R>(self, name: impl Into<String>, call: F) -> Self
    where
        F: Fn(Delivery) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.own(name.into(), Each::DELIVERY, Brought::Each(Each::new(call)))
    }

    /// The same with each document as a type of one's own. One that does not fit the type becomes a dead
    /// letter that names the path of what does not, and the closure is not called.
    #[must_use]
    pub fn each_as<T, F, R>(self, name: impl Into<String>, call: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Typed<T>) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.own(name.into(), Each::DELIVERY, Brought::Each(Each::typed(call)))
    }

    fn own(mut self, name: String, delivery: DeliverySettings, brought: Brought) -> Self {
        self.targets.push((OwnTarget { name, delivery }, brought));
        self
    }

    /// Keeps positions, copy progress, places and dead letters here, in the stead of the rules'
    /// `checkpoint`. The handle is this run's alone.
    #[must_use]
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Only these rules, by their names.
    #[must_use]
    pub fn only(mut self, rules: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.selected.extend(rules.into_iter().map(Into::into));
        self
    }

    /// Ends once the copy is settled.
    #[must_use]
    pub fn copy_only(mut self) -> Self {
        self.copy_only = true;
        self
    }

    /// Copies nothing: goes on from the stored position, or from now.
    #[must_use]
    pub fn changes_only(mut self) -> Self {
        self.changes_only = true;
        self
    }

    /// How long the source (with [`Self::copy_only`] a target too) may take to be reached at the start;
    /// 30 s unless it is said.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Reads the rules and starts nothing: what they say, and what is probably not meant.
    ///
    /// # Errors
    /// `Rules` and `Unfit`.
    pub fn check(&self) -> Result<Loaded, Error> {
        let own: Vec<OwnTarget> = self.targets.iter().map(|(own, _)| own.clone()).collect();
        let twice = own.iter().enumerate().find(|(number, target)| {
            own[..*number].iter().any(|earlier| earlier.name == target.name)
        });
        if let Some((_, target)) = twice {
            return Err(Error::Unfit(format!("two targets are called {:?}", target.name)));
        }
        let variables = &*self.variables;
        let loaded = match &self.origin {
            Origin::File(path) => rule_files::load_with(path, &variables, &own),
            Origin::Text(path, text) => rule_files::parse_with(text, path, &variables, &own),
            Origin::Code(rules) => {
                let path = PathBuf::from(format!("{} (in code)", rules.name()));
                rule_files::parse_with(&rules.text(), &path, &variables, &own)
            }
        };
        let mut loaded = loaded.map_err(Error::Rules)?;
        if let Some(idle) =
            own.iter().find(|own| loaded.rules.deliveries(&own.name).next().is_none())
        {
            let known =
                known(loaded.rules.rules.iter().flat_map(|rule| &rule.to).map(|to| &to.target));
            return Err(Error::Unfit(format!(
                "no rule writes to the target {:?}: they write to {known}",
                idle.name
            )));
        }
        if let Some(unknown) = self.selected.iter().find(|name| !has_rule(&loaded.rules, name)) {
            let known = known(loaded.rules.rules.iter().map(|rule| &rule.name));
            return Err(Error::Unfit(format!(
                "there is no rule {unknown:?}: the rules are {known}"
            )));
        }
        if self.store.is_some() {
            loaded.rules.checkpoint.store = CheckpointStore::Own;
        }
        Ok(loaded)
    }

    /// Starts it. What comes back is a handle on what runs from now on: the source may not have been
    /// reached yet, and another process may hold the name.
    ///
    /// # Errors
    /// `Rules` and `Unfit`; whatever else can be wrong ends the run, and [`Running`] tells.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(self) -> Result<Running, Error> {
        let Loaded { rules, warnings } = self.check()?;
        let warnings = warnings.render(false);
        if !warnings.is_empty() {
            tracing::warn!(name = rules.name, warnings, "the rules are probably not meant so");
        }
        let made = |(own, brought): (OwnTarget, Brought)| {
            let target: Arc<dyn Target> = match brought {
                Brought::Target(target) => target,
                Brought::Each(each) => {
                    let read = rules.targets.iter().find(|target| target.name == own.name);
                    Arc::new(
                        each.within(read.map_or(own.delivery, |it| it.delivery.clone()).timeout),
                    )
                }
            };
            (own.name, target)
        };
        let targets: BTreeMap<_, _> = self.targets.into_iter().map(made).collect();
        let options = Options {
            copy_only: self.copy_only,
            changes_only: self.changes_only,
            rules: self.selected,
            wait: self.wait,
            dry_run: None,
            own: Own { targets, store: self.store },
        };
        Ok(Running::start(Arc::new(rules), options))
    }
}

fn has_rule(rules: &RuleFile, name: &str) -> bool {
    rules.rules.iter().any(|rule| rule.name == name)
}

fn known<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

impl fmt::Debug for Mongosync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets: Vec<_> = self.targets.iter().map(|(own, _)| &own.name).collect();
        f.debug_struct("Mongosync").field("targets", &targets).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
