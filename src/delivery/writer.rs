//! The end of a lane: takes changes in order, shapes them, gathers them into batches, and has one
//! batch under way at a time.

use std::{collections::HashMap, iter::repeat_n, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::{
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::{Change, KeySet, Namespace, id::IdTypes},
    checkpoint::{lease::Validity, tracker::Claim},
    rules::model::DeliverySettings,
    status::{RuleStatus, Settled, TargetStatus},
    target::{KeepsOrder, Retry, Target},
    transform::Lookup,
};

use super::{
    Halt,
    aside::Aside,
    batch::{Batch, Origin},
    contested::Contested,
    dead_letters::DeadLetters,
    ids::Ids,
    lane::{Lane, Noted, Subject},
    places::{Move, Places, RulePlace},
    request::{Course, Delivered, deliver},
    shape::Shaper,
    slice::{Settling, Slice},
    spots::Spots,
};

/// Changes that are shaped between two looks at what else there is to do.
const SLICE: usize = 256;
/// Namespaces whose types of `_id` a lane asks for at a time.
const NAMESPACES: usize = 8;
/// Changes that one batch may settle without sending anything.
const QUIET: usize = 50_000;

/// How long documents wait before they look again at places that are others'.
const OTHERS: Duration = Duration::from_millis(100);
/// The same where there are many of them.
const MANY_OTHERS: Duration = Duration::from_secs(1);
/// So many are many.
const MANY: usize = 100;

/// Refusals that one batch may hold.
const LETTERS: usize = 500;

/// How many changes of one document a batch may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Grouping {
    /// Any: of several the newest counts, or the target keeps their order within a request.
    Any,
    /// One: a later one would overtake it where it has to be sent again.
    OneOfEach,
    /// One change of all documents: nothing may overtake anything.
    One,
}

impl Grouping {
    /// Of events that go to a target in so many lanes.
    pub fn of_events(target: &dyn Target, lanes: usize) -> Self {
        match (target.keeps_order(), lanes) {
            (KeepsOrder::OfAll, _) => Self::Any,
            (_, 1) => Self::One,
            (KeepsOrder::OfDocuments, _) => Self::Any,
            (KeepsOrder::OfNothing, _) => Self::OneOfEach,
        }
    }
}

/// What the lanes of a target share.
pub struct Context {
    /// What may be sent together.
    pub grouping: Grouping,
    /// Where it goes.
    pub target: Arc<dyn Target>,
    /// How changes become operations.
    pub shaper: Shaper,
    /// Answers the scripts' lookups; `None` where no script has any.
    pub lookup: Option<Arc<dyn Lookup>>,
    /// What ids are made of.
    pub ids: Ids,
    /// Places that are no function of the key.
    pub places: Places,
    /// Whose those are.
    pub spots: Spots,
    /// What is refused.
    pub dead_letters: Arc<DeadLetters>,
    /// What waits for other documents.
    pub contested: Contested,
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
    number: usize,
    lane: Arc<Lane>,
    context: Arc<Context>,
    batch: Batch,
    /// Room of a body that was sent.
    spare: Vec<u8>,
    /// The documents that the batch holds changes of, where that matters.
    held: KeySet<Subject>,
    /// Whether what comes next has to wait for the batch.
    waits: bool,
    /// When the batch got its first change, and whether a request was under way then.
    begun: Option<(Instant, bool)>,
    under_way: JoinSet<Result<Delivered, Halt>>,
    course: Course,
    aside: Aside,
    /// Documents whose places are others', and since when the first of them waits.
    waiting: (Vec<Noted>, Option<Instant>),
    types: Option<(Namespace, IdTypes)>,
}

impl Writer {
    /// A writer for one lane; no other has its number.
    pub fn new(number: usize, lane: Arc<Lane>, context: Arc<Context>) -> Self {
        let course = Course::new(&context.settings);
        let aside = Aside::new(&context.settings);
        Self {
            number,
            lane,
            context,
            batch: Batch::default(),
            spare: Vec::new(),
            held: KeySet::default(),
            waits: false,
            begun: None,
            under_way: JoinSet::new(),
            course,
            aside,
            waiting: (Vec::new(), None),
            types: None,
        }
    }

    /// Works until it is drained; then waits for the batch that is under way. What is being shaped
    /// then, and waits for the source, is left.
    ///
    /// # Errors
    /// See [`Halt`]. What is unsettled stays so.
    pub async fn run(mut self) -> Result<(), Halt> {
        let drain = self.context.drain.clone();
        'work: loop {
            while !self.is_full() {
                // Not more than a request takes: what a batch holds is settled together.
                let room = self.course.limits.actions().saturating_sub(self.batch.len());
                let bytes = self.course.limits.bytes().saturating_sub(self.batch.bytes());
                let changes = self.take(SLICE.min(room.max(1)), bytes);
                if changes.is_empty() {
                    break;
                }
                match self.gather(changes).await {
                    Err(Halt::Stopped) if drain.is_cancelled() => break 'work,
                    gathered => gathered?,
                }
            }
            if self.is_due() {
                self.start();
                continue;
            }
            let wait = self.due_at();
            let aside = self.aside.due();
            let pause = if self.waiting.0.len() < MANY { OTHERS } else { MANY_OTHERS };
            let waiting = self.waiting.1.map(|since| since + pause);
            tokio::select! {
                biased;
                () = drain.cancelled() => break,
                () = tokio::time::sleep_until(aside.unwrap_or_else(Instant::now)),
                    if aside.is_some() => self.lane.asked(self.aside.take()),
                () = tokio::time::sleep_until(waiting.unwrap_or_else(Instant::now)),
                    if waiting.is_some() => {
                        let (waiting, _) = std::mem::take(&mut self.waiting);
                        self.lane.asked(waiting);
                    }
                Some(done) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    self.conclude(done).await?;
                }
                () = tokio::time::sleep_until(wait.unwrap_or_else(Instant::now)),
                    if wait.is_some() => {}
                () = self.lane.hurried(), if wait.is_some() => {}
                () = self.lane.output_ready(), if !self.is_full() => {}
            }
        }
        while let Some(done) = self.under_way.join_next().await {
            self.conclude(done).await?;
        }
        Ok(())
    }

    async fn conclude(
        &mut self,
        done: Result<Result<Delivered, Halt>, JoinError>,
    ) -> Result<(), Halt> {
        let mut delivered = ended(done)?;
        self.course = delivered.course;
        self.spare = std::mem::take(&mut delivered.spare);
        self.batch.try_once(&delivered.owed);
        let behind = std::mem::take(&mut delivered.behind);
        let late = std::mem::take(&mut delivered.late);
        let held = std::mem::take(&mut delivered.held);
        let claims = delivered.trim(&self.context).await?;
        // Each holds a share of what the batch stood for until it is written.
        let again: Vec<Noted> = behind
            .iter()
            .flat_map(|origin| {
                let shares: Vec<Claim> = claims.iter().map(Claim::share).collect();
                shares.into_iter().map(|claim| noted(origin, claim))
            })
            .collect();
        for origin in late {
            self.wait(&origin, &claims);
        }
        self.stand_aside(held, &claims);
        Claim::settle_all(claims);
        if self.begun.is_none() {
            // Nothing was gathered meanwhile: the load is over, for now, and what its bodies took is
            // given back.
            (self.batch, self.spare) = Default::default();
        }
        if self.aside.is_over() {
            self.context.status.held(self.number, None);
        }
        self.lane.asked(again);
        Ok(())
    }

    /// Has a document looked up once more, as it is then.
    fn wait(&mut self, origin: &Origin, claims: &[Claim]) {
        let time = origin.time.max(self.context.spots.newest());
        let noted = claims.iter().map(|claim| Noted { time, ..noted(origin, claim.share()) });
        self.waiting.0.extend(noted);
        self.waiting.1.get_or_insert_with(Instant::now);
    }

    fn stand_aside(&mut self, held: Vec<(Arc<Origin>, Retry)>, claims: &[Claim]) {
        let status = &self.context.status;
        if let Some((_, retry)) = held.first() {
            status.retry(retry.reason);
            status.held(self.number, Some(&retry.message));
        }
        for (origin, retry) in held {
            for claim in claims.iter().map(Claim::share).chain([self.aside.claim()]) {
                self.aside.put(noted(&origin, claim), retry.after);
            }
        }
    }

    /// Up to `most` changes, of about so many `bytes`, from the lane that may stand in the batch.
    fn take(&mut self, most: usize, bytes: usize) -> Vec<Change> {
        match self.context.grouping {
            Grouping::Any => self.lane.try_output(most, bytes),
            Grouping::OneOfEach => {
                let (changes, waits) = self.lane.try_output_apart(most, &mut self.held);
                self.waits = waits;
                changes
            }
            Grouping::One => self.lane.try_output(1, bytes),
        }
    }

    fn is_full(&self) -> bool {
        let alone = self.context.grouping == Grouping::One && matches!(self.batch.len(), 1..);
        alone
            || self.waits
            || self.batch.len() >= self.course.limits.actions()
            || self.batch.bytes() >= self.course.limits.bytes()
            || self.batch.changes >= QUIET
            || self.batch.letters.len() >= LETTERS
    }

    /// An idle lane sends at once; behind a request that was under way, a batch gathers.
    fn is_due(&self) -> bool {
        if !self.under_way.is_empty() || self.batch.is_empty() {
            return false;
        }
        match self.begun {
            Some((_, false)) | None => true,
            Some((at, true)) => {
                self.is_full()
                    || self.lane.is_hurried()
                    || at.elapsed() >= self.context.settings.max_delay
            }
        }
    }

    fn due_at(&self) -> Option<Instant> {
        if !self.under_way.is_empty() || self.batch.is_empty() {
            return None;
        }
        self.begun.map(|(at, _)| at + self.context.settings.max_delay)
    }

    fn start(&mut self) {
        let next = Batch::after(&self.batch, std::mem::take(&mut self.spare));
        let batch = std::mem::replace(&mut self.batch, next);
        self.lane.calm();
        self.held.clear();
        self.waits = false;
        self.begun = None;
        self.course.aside = self.aside.room();
        self.under_way.spawn(deliver(self.context.clone(), self.number, batch, self.course));
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
        let found = context.places.load(&subjects, &context.stop).await?;
        let mut places: HashMap<Subject, Vec<RulePlace>> =
            subjects.into_iter().zip(found).collect();
        // What is owed is forgotten with its letter.
        let mut forgotten: HashMap<Subject, Vec<RulePlace>> = HashMap::new();
        for (subject, places) in &mut places {
            let is_forgotten =
                |it: &mut RulePlace| it.owed && !context.dead_letters.has(&it.rule, subject);
            let found: Vec<_> = places.extract_if(.., is_forgotten).collect();
            if !found.is_empty() {
                forgotten.insert(subject.clone(), found);
            }
        }
        let types = self.types_of(&changes).await?;
        let slice = Slice { changes, types, places };
        let mut changes = slice.shape(&context).await?;
        for moved in changes.iter_mut().filter_map(|it| it.moved.as_mut()) {
            let Move { subject, old, .. } = &mut **moved;
            old.extend(forgotten.get(subject).into_iter().flatten().cloned());
        }
        let Context { shaper, spots, places, stop, .. } = &*context;
        let position = context.status.position_now();
        let mut looked = spots.look(&mut changes, shaper, places, position, stop).await?;
        let moves =
            changes.iter_mut().filter_map(|change| change.moved.take()).map(|it| *it).collect();
        let trims = places.widen(moves, std::mem::take(&mut looked.writes), stop).await?;
        self.batch.places.extend(trims);
        let (letters, waits) = spots.decided(looked, shaper, stop).await?;
        for (at, letter) in letters {
            changes[at].shaped.letters.push(letter);
        }
        for (at, origin) in waits {
            self.wait(&origin, &changes[at].claims);
            changes[at].waiting.push(origin);
        }
        for Settling { shaped, phase, claims, fresh, waiting, .. } in changes {
            for rule in shaped.skipped {
                context.rules[usize::from(rule.0)].count(phase, Settled::Skipped, 1);
            }
            // What is gone needs no letter either, with nothing to be removed.
            let later = shaped.operations.iter().map(|(_, origin)| origin).chain(&shaped.gone);
            self.batch.outdate(later.map(|origin| &**origin));
            self.batch.refuse(shaped.letters);
            self.batch.wait(waiting);
            self.batch.gone.extend(shaped.gone);
            for (operation, origin) in shaped.operations {
                let once = shaped.once.contains(&operation.place);
                let place = fresh.iter().find(|place| **place == operation.place);
                self.batch.push(&*context.target, operation, origin, once);
                if let Some(place) = place {
                    self.batch.is_fresh(place);
                }
            }
            self.batch.hold(claims);
        }
        Ok(())
    }

    /// Of each change, the types of its namespace. Several that are not known yet are asked for together:
    /// small collections come many at a time.
    async fn types_of(&mut self, changes: &[Change]) -> Result<Vec<IdTypes>, Halt> {
        let Context { ids, stop, .. } = &*self.context;
        let last = &self.types;
        let groups = changes.chunk_by(|one, next| one.namespace == next.namespace);
        let asked = groups.map(|own| async move {
            let Change { namespace, key, .. } = &own[0];
            let types = match last {
                Some((known, types)) if known == namespace => *types,
                _ => ids.of(namespace, key.id(), stop).await?,
            };
            Ok::<_, Halt>((namespace, types, own.len()))
        });
        let asked: Vec<_> = asked.collect();
        // None is broken off for another's sake: it may be writing what it has decided.
        let found: Vec<_> = stream::iter(asked).buffered(NAMESPACES).collect().await;
        let found: Vec<_> = found.into_iter().collect::<Result<_, _>>()?;
        if let Some(&(namespace, types, _)) = found.last() {
            self.types = Some((namespace.clone(), types));
        }
        Ok(found.into_iter().flat_map(|(_, types, count)| repeat_n(types, count)).collect())
    }
}

/// A document that is to be looked up again.
fn noted(origin: &Origin, claim: Claim) -> Noted {
    Noted {
        subject: Subject { namespace: origin.namespace.clone(), key: origin.key.clone() },
        time: origin.time,
        since: origin.since,
        deleted: origin.deleted,
        claim,
    }
}

fn ended(done: Result<Result<Delivered, Halt>, JoinError>) -> Result<Delivered, Halt> {
    match done {
        Ok(result) => result,
        // A panic in the delivery goes on here, where the pipeline sees it.
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Halt::Stopped),
    }
}

/// How long a request may take before it counts as lost: the target's own timeout is to strike first, and
/// names the cause better.
pub(super) fn deadline(target: &dyn Target, settings: &DeliverySettings) -> Duration {
    target.longest(settings.timeout) + Duration::from_secs(5)
}

#[cfg(test)]
mod tests;
