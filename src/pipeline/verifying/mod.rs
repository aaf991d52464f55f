//! Compares what the target holds with what the source says it should, while a run goes on or not: for
//! `mongosync verify`.
//!
//! The source is read as the copy reads it, by the rule's own read and transform, page by page; the target
//! is asked for the places that come of it (`comparing`). What differs is looked at closely, since it may
//! only be on its way (`judging`). What the target lists beside those places is extra (`extra`). Nothing
//! is written but requests, to whoever holds the name (`repairing`).

mod comparing;
mod extra;
mod judging;
mod pages;
mod repairing;
mod report;

use std::{cell::Cell, sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{ClusterTime, DocumentKey, Namespace, Phase, RuleIndex, id::IdTypes, key::KeyShape},
    checkpoint::{
        keys,
        open::{self, hidden_database},
        records::{
            CopyPlanRecord, CopyProgressRecord, DemandRecord, IdTypesRecord, OwnerRecord,
            ReplacementRecord, RuleRecord, load,
        },
        store::Store,
    },
    delivery::{
        ids::Probe,
        insist,
        places::Places,
        retry::Backoff,
        shape::{ShapedRule, Shaper},
    },
    rules::model::{self, RuleFile},
    source::{Source, budget::Budget, namespaces::Kind as NamespaceKind, scan::reply_documents},
    status::Status,
    target::{Contents, Retry, Target, open as open_target},
    transform::Lookup,
};

use self::{comparing::Verdict, extra::Seen, judging::Judged, pages::Pages};

use super::{
    Error,
    lookups::SourceLookup,
    plan::{namespaces, stored_names},
    reach_source,
    reading::Reading,
    rule_set::{RuleSet, TargetRule},
    views,
};

pub use report::{Difference, Kind, Progress, Report, RuleReport, TargetReport};

/// Documents that are looked at closely together.
const SUSPECTS: usize = 20_000;

/// What is to be compared.
#[derive(Clone, Debug)]
pub struct Verify {
    /// Only these rules; all where empty. The names have been checked.
    pub rules: Vec<String>,
    /// Only these targets; all where empty. The names have been checked.
    pub targets: Vec<String>,
    /// How long source and target may take to be reached, and an answer to a repair.
    pub wait: Duration,
    /// Differences of each kind that a target's report shows.
    pub limit: usize,
    /// Whether what differs is delivered again, or removed.
    pub repair: bool,
}

/// Compares source and targets.
///
/// # Errors
/// `NotReached` where the source or a target can't be reached within `wait`; `Refused` where one of them
/// can't be compared, such as one that nothing has been delivered to.
pub async fn verify(
    file: &Arc<RuleFile>,
    verify: &Verify,
    progress: &Progress,
) -> Result<Report, Error> {
    let stop = CancellationToken::new();
    let source = reach_source(file, verify.wait, &stop).await?;
    let store = open::open(file, Some(source.client())).await?;
    let views = views(file, &source, &stop).await?;
    let mut report = Report::default();
    for target in &file.targets {
        let chosen = |name: &String, names: &[String]| names.is_empty() || names.contains(name);
        let mut rules = file.deliveries(&target.name);
        if !chosen(&target.name, &verify.targets)
            || !rules.any(|(rule, _)| chosen(&rule.name, &verify.rules))
        {
            continue;
        }
        let hidden = hidden_database(file);
        let has_documents =
            |rule: &str| file.rules.iter().any(|own| own.name == rule && own.events.is_none());
        let is_view = |namespace: &Namespace| views.contains(namespace);
        let set = RuleSet::new(file, &target.name, hidden, has_documents, is_view);
        let verifying =
            Verifying::new(file, target, (verify, progress), Arc::new(set), (&source, &store));
        let found = verifying.await?.run().await?;
        report.targets.insert(target.name.clone(), found);
    }
    Ok(report)
}

/// One target.
struct Verifying<'a> {
    file: &'a RuleFile,
    name: &'a str,
    verify: &'a Verify,
    progress: &'a Progress,
    settings: &'a model::DeliverySettings,
    /// All rules that write to it: what one of them alone does is not what they do together.
    set: Arc<RuleSet>,
    target: Arc<dyn Target>,
    shaper: Arc<Shaper>,
    lookup: Arc<dyn Lookup>,
    reading: Reading,
    store: Arc<dyn Store>,
    places: Places,
    budget: Arc<Budget>,
    /// A position that has been seen not to move.
    still: Cell<Option<ClusterTime>>,
}

/// One namespace of one rule.
struct Part {
    rule: RuleIndex,
    namespace: Namespace,
    view: bool,
    shape: KeyShape,
    types: IdTypes,
    /// Documents in a reply.
    batch: u32,
    expected: u64,
    /// Whether its copy is not complete.
    copying: bool,
}

impl<'a> Verifying<'a> {
    async fn new(
        file: &'a Arc<RuleFile>,
        target: &'a model::Target,
        (verify, progress): (&'a Verify, &'a Progress),
        set: Arc<RuleSet>,
        (source, store): (&Source, &Arc<dyn Store>),
    ) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let name = target.name.as_str();
        let status = Status::of(file, &[]).target(name);
        let key = keys::owner(name);
        let owner: Option<OwnerRecord> = insist(&stop, || load(&**store, &key)).await?;
        // As whoever runs it marks what is its own.
        let owner = owner.map_or_else(String::new, |owner| format!("{} {}", file.name, owner.id));
        let opened = open_target::open(target, &owner, None, file.deliveries(name));
        let opened = opened
            .map_err(|error| Error::Refused(format!("target {name} can't be used: {error}")))?;
        for (container, namespace) in stored_names(&**store, name, &stop).await? {
            opened.holds(&container, &namespace);
        }
        let shaped =
            set.iter().map(|(_, rule)| ShapedRule::of(rule.rule(), &*opened, true)).collect();
        Ok(Self {
            file,
            name,
            verify,
            progress,
            settings: &target.delivery,
            set,
            shaper: Arc::new(Shaper::new(opened.clone(), shaped)),
            target: opened,
            lookup: Arc::new(SourceLookup::new(source.clone(), status.clone())),
            reading: Reading { source: source.clone(), status, stop },
            places: Places::new(store.clone(), name),
            store: store.clone(),
            // What lies in memory at once is bounded by pages: nothing runs beside another.
            budget: Budget::new(usize::MAX),
            still: Cell::new(None),
        })
    }

    async fn run(&self) -> Result<TargetReport, Error> {
        let mut report = TargetReport::default();
        let readable = self.ask(|| async {
            self.target.reach().await?;
            self.target.read(&[]).await
        });
        if let Contents::Unreadable(why) = readable.await? {
            report.unreadable = Some(why);
            return Ok(report);
        }
        let mut told = self.events().filter(|rule| self.chosen(&rule.name)).peekable();
        if told.peek().is_some() && !self.set.iter().any(|(_, rule)| self.chosen(&rule.rule().name))
        {
            let why = "its rules deliver events: what was told is over, and has nothing to be compared with";
            report.unreadable = Some(why.to_owned());
            return Ok(report);
        }
        for rule in told {
            report.note(format!("rule {} delivers events, and was not compared", rule.name));
        }
        let parts = self.parts(&mut report).await?;
        let containers = self.containers(&parts, &mut report);
        let mut seen = Seen::new();
        let mut first = true;
        loop {
            let began = self.now().await?;
            for part in &parts {
                if first || !containers.is_empty() {
                    self.compare(part, began, &mut seen, (first, &mut report)).await?;
                }
            }
            seen.close();
            if !containers.is_empty() {
                self.extra(&containers, &seen, began, (first, &mut report)).await?;
            }
            first = false;
            if !seen.go_on() || containers.is_empty() {
                return Ok(report);
            }
        }
    }

    /// The rules that write to the target and deliver events.
    fn events(&self) -> impl Iterator<Item = &model::Rule> {
        let all = self.file.deliveries(self.name).map(|(rule, _)| rule);
        all.filter(|rule| rule.events.is_some())
    }

    fn chosen(&self, rule: &str) -> bool {
        self.verify.rules.is_empty() || self.verify.rules.iter().any(|chosen| chosen == rule)
    }

    /// Everything that the chosen rules read.
    async fn parts(&self, report: &mut TargetReport) -> Result<Vec<Part>, Error> {
        let mut parts = Vec::new();
        let stop = &self.reading.stop;
        for (index, rule) in self.set.iter().filter(|(_, rule)| self.chosen(&rule.rule().name)) {
            let rule = rule.rule();
            let key = keys::rule(self.name, &rule.name);
            let known: Option<RuleRecord> = insist(stop, || load(&*self.store, &key)).await?;
            let own = report.rules.entry(rule.name.clone()).or_default();
            own.stale = known.as_ref().is_some_and(|known| known.fingerprint != rule.fingerprint);
            for found in namespaces(&self.reading, &self.set, rule).await? {
                let view = found.kind == NamespaceKind::View;
                let part = self.part(index, found.namespace, view, known.is_none()).await?;
                own.copying |= part.copying;
                parts.push(part);
            }
        }
        Ok(parts)
    }

    async fn part(
        &self,
        rule: RuleIndex,
        namespace: Namespace,
        view: bool,
        new: bool,
    ) -> Result<Part, Error> {
        let Reading { source, .. } = &self.reading;
        let asked = |error: Option<crate::source::error::Error>| match error {
            None => Error::Stopped,
            Some(error) => Error::Refused(format!("the source can't be read: {error}")),
        };
        let size =
            self.reading.insist("reading the size of a collection", || source.size(&namespace));
        let size = size.await.map_err(asked)?;
        let shape = self.reading.insist("reading a shard key", || source.key_shape(&namespace));
        Ok(Part {
            shape: shape.await.map_err(asked)?,
            types: self.id_types(&namespace).await?,
            batch: reply_documents(size.average()),
            expected: size.documents,
            copying: new || self.is_copied(rule, &namespace).await?,
            rule,
            namespace,
            view,
        })
    }

    /// The types that ids are made by, as a run has stored them.
    async fn id_types(&self, namespace: &Namespace) -> Result<IdTypes, Error> {
        let key = keys::id_types(namespace.as_str());
        let stop = &self.reading.stop;
        let stored: Option<IdTypesRecord> = insist(stop, || load(&*self.store, &key)).await?;
        match stored {
            Some(record) => Ok(record.types),
            None => Ok(self.reading.id_types(namespace).await?),
        }
    }

    /// Whether a namespace is being copied, or is to be.
    async fn is_copied(&self, rule: RuleIndex, namespace: &Namespace) -> Result<bool, Error> {
        let (store, stop) = (&*self.store, &self.reading.stop);
        let (target, rule) = (self.name, &self.set.get(rule).rule().name);
        let key = keys::demand(target);
        let demand: Option<DemandRecord> = insist(stop, || load(store, &key)).await?;
        let demanded = demand.is_some_and(|demand| {
            let part = |part: &crate::checkpoint::records::DemandedPart| {
                part.rule == *rule && part.namespace == namespace.as_str()
            };
            demand.rules.contains(rule) || demand.parts.iter().any(part)
        });
        if demanded {
            return Ok(true);
        }
        if let Some(container) = self.target.container(rule, namespace) {
            let key = keys::replacement(target, &container);
            let replaced: Option<ReplacementRecord> = insist(stop, || load(store, &key)).await?;
            if replaced.is_some() {
                return Ok(true);
            }
        }
        let key = keys::copy_plan(target, rule, namespace.as_str());
        let plan: Option<CopyPlanRecord> = insist(stop, || load(store, &key)).await?;
        let Some(plan) = plan else { return Ok(false) };
        let key = keys::copy_progress(target, rule, namespace.as_str());
        let progress: Option<CopyProgressRecord> = insist(stop, || load(store, &key)).await?;
        let done = progress.is_some_and(|progress| {
            progress.plan == plan.id && progress.complete && (progress.swept || !plan.sweep)
        });
        Ok(!done)
    }

    /// Goes through one namespace: notes where its documents lie, and the first time compares them.
    async fn compare(
        &self,
        part: &Part,
        began: ClusterTime,
        seen: &mut Seen,
        (first, report): (bool, &mut TargetReport),
    ) -> Result<(), Error> {
        let rule = &self.set.get(part.rule).rule().name;
        self.progress.begin(format!("{rule}, {}", part.namespace), part.expected);
        let mut own = report.rules.remove(rule).unwrap_or_default();
        let mut pages = Pages::new(self, part, began);
        let mut suspects: Vec<DocumentKey> = Vec::new();
        while let Some(page) = pages.next().await? {
            self.progress.add(page.documents.len() as u64);
            let wanted = self.shape(part, page, Phase::Copy).await?;
            for wanted in &wanted {
                wanted.puts.iter().for_each(|(place, _)| seen.add(place));
                wanted.left.iter().for_each(|place| seen.add(place));
            }
            if !first {
                continue;
            }
            own.documents += wanted.len() as u64;
            let verdicts = self.look(&wanted).await?;
            let mut judged = Judged::default();
            for (wanted, verdicts) in wanted.into_iter().zip(verdicts) {
                let wrong = verdicts.iter().any(|verdict| *verdict != Verdict::Equal);
                // A view has no changes, and its documents can't be asked for by key.
                if part.view || !wrong {
                    judged.lettered += u64::from(wanted.refused);
                    judged.take(wanted, &verdicts);
                } else {
                    suspects.push(wanted.key);
                }
            }
            if part.copying {
                judged.waiting += judged.wrong.drain(..).count() as u64;
            }
            self.found_wrong(part, judged, (report, &mut own)).await?;
            if suspects.len() >= SUSPECTS {
                let judged = self.judge(part, std::mem::take(&mut suspects)).await?;
                self.found_wrong(part, judged, (report, &mut own)).await?;
            }
        }
        if !suspects.is_empty() {
            let judged = self.judge(part, suspects).await?;
            self.found_wrong(part, judged, (report, &mut own)).await?;
        }
        report.rules.insert(rule.clone(), own);
        Ok(())
    }

    /// Asks the target until it answers.
    ///
    /// # Errors
    /// `NotReached` where it does not within the time that the command gives it.
    async fn ask<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Retry>>,
    {
        let mut backoff = Backoff::new(self.settings.retry_initial, self.settings.retry_max);
        let deadline = Instant::now() + self.verify.wait;
        loop {
            let retry = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(retry) => retry,
            };
            let wait = backoff.next(retry.after);
            if Instant::now() + wait > deadline {
                return Err(Error::NotReached {
                    what: format!("target {}", self.name),
                    wait: self.verify.wait,
                    source: retry.message.into(),
                });
            }
            tokio::time::sleep(wait).await;
        }
    }
}
