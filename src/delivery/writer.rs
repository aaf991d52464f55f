//! The end of a lane: takes changes in order, shapes them, gathers them into batches, and has one
//! batch under way at a time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{Change, Namespace, id::IdTypes},
    checkpoint::lease::Validity,
    rules::model::DeliverySettings,
    status::{RuleStatus, Settled, TargetStatus},
    target::Target,
};

use super::{
    Halt,
    batch::Batch,
    dead_letters::DeadLetters,
    ids::Ids,
    lane::{Lane, Subject},
    places::{Move, Places, RulePlace},
    request::{Limits, deliver},
    shape::Shaper,
};

/// Changes that are shaped between two looks at what else there is to do.
const SLICE: usize = 256;
/// Changes that one batch may settle without sending anything.
const QUIET: usize = 50_000;

/// Refusals that one batch may hold.
const LETTERS: usize = 500;

/// What the lanes of a target share.
pub struct Context {
    /// Where it goes.
    pub target: Arc<dyn Target>,
    /// How changes become operations.
    pub shaper: Shaper,
    /// What ids are made of.
    pub ids: Ids,
    /// Places that are no function of the key.
    pub places: Places,
    /// What is refused.
    pub dead_letters: Arc<DeadLetters>,
    /// The target's `batch`, `retry` and `timeout`.
    pub settings: DeliverySettings,
    /// Of the target.
    pub status: Arc<TargetStatus>,
    /// Of each rule, by its index.
    pub rules: Vec<Arc<RuleStatus>>,
    /// Whether this process may write.
    pub validity: Validity,
    /// No new batch, and no more tries; what is under way is finished.
    pub drain: CancellationToken,
    /// Everything ends now.
    pub stop: CancellationToken,
}

/// One lane's writer.
pub struct Writer {
    lane: Arc<Lane>,
    context: Arc<Context>,
    batch: Batch,
    /// When the batch got its first change, and whether a request was under way then.
    begun: Option<(Instant, bool)>,
    under_way: JoinSet<Result<Limits, Halt>>,
    limits: Limits,
    types: Option<(Namespace, IdTypes)>,
}

impl Writer {
    /// A writer for one lane.
    pub fn new(lane: Arc<Lane>, context: Arc<Context>) -> Self {
        let limits = Limits::new(&context.settings);
        Self {
            lane,
            context,
            batch: Batch::default(),
            begun: None,
            under_way: JoinSet::new(),
            limits,
            types: None,
        }
    }

    /// Works until it is drained; then waits for the batch that is under way.
    ///
    /// # Errors
    /// See [`Halt`]. What is unsettled stays so.
    pub async fn run(mut self) -> Result<(), Halt> {
        let drain = self.context.drain.clone();
        loop {
            while !self.is_full() {
                let changes = self.lane.try_output(SLICE);
                if changes.is_empty() {
                    break;
                }
                self.gather(changes).await?;
            }
            if self.is_due() {
                self.start();
                continue;
            }
            let wait = self.due_at();
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                Some(done) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    self.limits = ended(done)?;
                }
                () = tokio::time::sleep_until(wait.unwrap_or_else(Instant::now)),
                    if wait.is_some() => {}
                () = self.lane.output_ready(), if !self.is_full() => {}
            }
        }
        while let Some(done) = self.under_way.join_next().await {
            ended(done)?;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= self.limits.actions()
            || self.batch.bytes() >= self.limits.bytes()
            || self.batch.claims.len() >= QUIET
            || self.batch.letters.len() >= LETTERS
    }

    /// An idle lane sends at once; behind a request that was under way, a batch gathers.
    fn is_due(&self) -> bool {
        if !self.under_way.is_empty() || self.batch.is_empty() {
            return false;
        }
        match self.begun {
            Some((_, false)) | None => true,
            Some((at, true)) => self.is_full() || at.elapsed() >= self.context.settings.max_delay,
        }
    }

    fn due_at(&self) -> Option<Instant> {
        if !self.under_way.is_empty() || self.batch.is_empty() {
            return None;
        }
        self.begun.map(|(at, _)| at + self.context.settings.max_delay)
    }

    fn start(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.begun = None;
        self.under_way.spawn(deliver(self.context.clone(), batch, self.limits));
    }

    async fn gather(&mut self, changes: Vec<Change>) -> Result<(), Halt> {
        if self.begun.is_none() {
            self.begun = Some((Instant::now(), !self.under_way.is_empty()));
        }
        let context = self.context.clone();
        let subjects: Vec<Subject> = changes
            .iter()
            .filter(|change| context.shaper.needs_places(change))
            .map(|change| Subject { namespace: change.namespace.clone(), key: change.key.clone() })
            .collect();
        let mut types = Vec::with_capacity(changes.len());
        for change in &changes {
            types.push(self.types_of(change).await?);
        }
        // Held only where there is something to widen: the next batch's trim waits for it.
        let mut opened = match subjects.is_empty() {
            true => None,
            false => Some(context.places.open(&subjects, &context.stop).await?),
        };
        let stored = opened.as_mut().map(|opened| std::mem::take(&mut opened.stored));
        let mut places: HashMap<Subject, Vec<RulePlace>> =
            subjects.into_iter().zip(stored.unwrap_or_default()).collect();
        let mut moves = Vec::new();
        let mut shaped_changes = Vec::with_capacity(changes.len());
        for (change, types) in changes.into_iter().zip(types) {
            let moving = context
                .shaper
                .needs_places(&change)
                .then(|| Subject { namespace: change.namespace.clone(), key: change.key.clone() });
            let old = moving.as_ref().and_then(|subject| places.get(subject)).cloned();
            let old = old.unwrap_or_default();
            let shaped = context.shaper.shape(&change, &types, &old);
            if let Some(subject) = moving {
                // A second change of the document in this slice finds what the first one leaves.
                let mut union = old.clone();
                union.extend(shaped.places.iter().filter(|place| !old.contains(place)).cloned());
                places.insert(subject.clone(), union);
                moves.push(Move { subject, old, new: shaped.places.clone() });
            }
            shaped_changes.push((shaped, change.phase, change.claims));
        }
        if let Some(opened) = opened {
            self.batch.places.extend(opened.widen(moves, &context.stop).await?);
        }
        for (shaped, phase, claims) in shaped_changes {
            for rule in shaped.skipped {
                context.rules[usize::from(rule.0)].count(phase, Settled::Skipped, 1);
            }
            self.batch.letters.extend(shaped.letters);
            self.batch.gone.extend(shaped.gone);
            for (operation, origin) in shaped.operations {
                self.batch.push(&*context.target, &operation, &origin);
            }
            self.batch.claims.extend(claims);
        }
        Ok(())
    }

    async fn types_of(&mut self, change: &Change) -> Result<IdTypes, Halt> {
        if let Some((namespace, types)) = &self.types
            && *namespace == change.namespace
        {
            return Ok(*types);
        }
        let context = &self.context;
        let types = context.ids.of(&change.namespace, change.key.id(), &context.stop).await?;
        self.types = Some((change.namespace.clone(), types));
        Ok(types)
    }
}

fn ended(done: Result<Result<Limits, Halt>, tokio::task::JoinError>) -> Result<Limits, Halt> {
    match done {
        Ok(result) => result,
        // A panic in the delivery goes on here, where the pipeline sees it.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Halt::Stopped),
    }
}

/// How long an answer may take before the request counts as lost: the target's own timeout is to
/// strike first, and names the cause better.
pub(super) fn deadline(settings: &DeliverySettings) -> Duration {
    settings.timeout + Duration::from_secs(5)
}
