//! Everything that runs for one target: its stream, its copies, its lanes and its positions. So a
//! target that is down or slow never delays another.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use bson::Uuid;
use tokio::{
    sync::{Notify, OnceCell, Semaphore, mpsc, oneshot, watch},
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    change::ClusterTime,
    checkpoint::{
        keys,
        lease::Validity,
        records::{OwnerRecord, PausedRecord, PositionRecord, load, put, removal},
        store::Store,
        tracker::Tracker,
    },
    delivery::{
        Halt,
        contested::{Contested, Holder},
        dead_letters::DeadLetters,
        ids::{Decided, Ids},
        insist, insist_on_writing,
        places::Places,
        retry::{Backoff, pause},
        shape::{ShapedRule, Shaper},
        spots::Spots,
        writer::{Context, Grouping, Writer},
    },
    rules::model::{NamespacePattern, Rule, RuleFile, Target as TargetRules},
    source::{Source, budget::Budget},
    status::{RuleStatus, State, Status, TargetStatus},
    target::{Target, dry_run::DryRunTarget, open},
    transform::{Lookup, Script},
};

use super::{
    Error, Options, Summary,
    aligning::Aligning,
    copying::{CHUNKS_AT_ONCE, CHUNKS_OPEN, Copying},
    demand::Demand,
    events::EventLetters,
    following::{Answering, Following, Lanes},
    holders::HolderRequests,
    letters::Letters,
    lookups::SourceLookup,
    mending::{Mend, Mending},
    newcomers::Newcomers,
    orders::{Order, Ordered, Outcome},
    origins::FileOrigins,
    plan::{Plan, Planning, asked},
    reading::Reading,
    rule_set::{RuleSet, TargetRule},
    settling::{RuleCopies, Settling},
    succession::Succession,
    sweeping::Sweeping,
    targets::insist_on_target,
};

/// Bytes of copied documents that may lie in memory for one target, and as many of changed ones.
pub const BUDGET: usize = 12 << 20;
/// Bytes of keys that may wait for their read.
pub(super) const PENDING: usize = 16 << 20;
/// Definitions that the stream has shown and nobody has seen to yet; it waits then.
const DEFINED: usize = 1_000;
/// Pauses between plans that are made again and again.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_MOST: Duration = Duration::from_secs(10);
/// How long a clean stop lets what is under way finish.
const GRACE: Duration = Duration::from_secs(10);

/// One target's pipeline, before it runs.
pub struct TargetPipeline {
    /// The rule file.
    pub file: Arc<RuleFile>,
    /// Which of its targets.
    pub index: usize,
    /// What the command says.
    pub options: Options,
    /// The source.
    pub source: Source,
    /// The `events` rule that it tells of; `None` where it keeps the documents of all `documents` rules.
    pub events_of: Option<String>,
    /// Its rules in this run.
    pub rules: Arc<RuleSet>,
    /// Bytes of documents for its copies, and as many for its changes.
    pub budget: usize,
    /// What marks the target's documents as its own; all pipelines of a target have one.
    pub owner: Arc<OnceCell<String>>,
    /// Which `_id` types namespaces are taken to hold; all pipelines of all targets have one.
    pub id_types: Decided,
    /// Where positions are kept.
    pub store: Arc<dyn Store>,
    /// What is reported to.
    pub status: Arc<Status>,
    /// Whether this process still holds the name.
    pub validity: Validity,
    /// What it is told to do.
    pub orders: mpsc::Receiver<Ordered>,
}

/// What the tasks of one pipeline share.
struct Shared {
    reading: Arc<Reading>,
    lanes: Arc<Lanes>,
    tracker: Tracker<ClusterTime>,
    /// Pays for changed documents.
    changes: Arc<Budget>,
    /// Pays for copied documents.
    copies: Arc<Budget>,
    /// Tells that all of a copy is settled, or swept.
    ends: Arc<Notify>,
}

/// Why a pipeline ends without an error.
enum Ended {
    /// It was told to stop.
    Stopped,
    /// There is nothing left to do.
    Done,
    /// It goes on behind another plan.
    Again(Demand),
    /// It is told to do something else.
    Ordered(Ordered),
    /// The target can take no more in this run.
    Closed,
}

/// An order that has been followed once the pipeline has started again.
struct Followed {
    words: String,
    done: oneshot::Sender<Outcome>,
}

impl Followed {
    fn done(self) {
        // Nobody may wait for it any more.
        let _ = self.done.send(Ok(self.words));
    }
}

/// What a running pipeline is made of.
pub(super) struct Running {
    pub reading: Arc<Reading>,
    pub lanes: Arc<Lanes>,
    pub context: Arc<Context>,
    /// The stream, the lookups, the copies, the sweep, and dead letters that are tried again.
    pub sources: JoinSet<Result<Option<Demand>, Error>>,
    pub writers: JoinSet<Result<(), Halt>>,
    pub settling: JoinSet<Result<(), Halt>>,
    pub copying: watch::Receiver<bool>,
    pub dead_letters: Arc<DeadLetters>,
    pub target: Arc<dyn Target>,
    pub read: CancellationToken,
    pub drain: CancellationToken,
    pub drained: CancellationToken,
    pub now: CancellationToken,
}

/// What any pipeline begins with.
pub(super) struct Begun {
    pub target: Arc<dyn Target>,
    pub reading: Arc<Reading>,
    pub status: Arc<TargetStatus>,
    /// Nothing more is read.
    pub read: CancellationToken,
    /// No new batch.
    pub drain: CancellationToken,
    /// All batches have ended: the position is stored a last time.
    pub drained: CancellationToken,
    /// Everything ends.
    pub now: CancellationToken,
}

/// What a start goes out from.
pub(super) struct Start {
    /// One that has been reached already; otherwise a new one is built.
    pub target: Option<Arc<dyn Target>>,
    /// What has to be copied again.
    pub demand: Demand,
}

impl TargetPipeline {
    pub(super) fn target(&self) -> &TargetRules {
        &self.file.targets[self.index]
    }

    pub(super) fn name(&self) -> &str {
        &self.target().name
    }

    fn target_status(&self) -> Arc<TargetStatus> {
        self.status.pipeline(self.name(), self.events_of.as_deref())
    }

    pub(super) fn rule_status(&self) -> Vec<Arc<RuleStatus>> {
        let target = self.target_status();
        self.rules.iter().map(|(_, rule)| target.rule(&rule.rule().name)).collect()
    }

    async fn build(&self, stop: &CancellationToken) -> Result<Arc<dyn Target>, Error> {
        let own = self.options.own.targets.get(self.name()).cloned();
        let rules = self.rules.iter().map(|(_, rule)| (rule.rule(), rule.destination()));
        let opened = match (&self.options.dry_run, own) {
            (None, Some(own)) => Ok(own),
            (None, None) => {
                let owner = self.owner(stop).await?;
                open::open(self.target(), &owner, Some(Arc::new(self.origins())), rules)
            }
            (Some(dry_run), own) => {
                let target = own.map_or_else(|| open::open_unconnected(self.target(), rules), Ok);
                target.map(|target| {
                    let show = dry_run.show.clone();
                    Arc::new(DryRunTarget::new(self.name(), target, show)) as Arc<dyn Target>
                })
            }
        };
        opened.map_err(|error| {
            Error::Refused(format!("target {} can't be used: {error}", self.name()))
        })
    }

    fn origins(&self) -> FileOrigins<Arc<RuleFile>> {
        FileOrigins {
            source: self.source.clone(),
            file: self.file.clone(),
            names: Some((self.store.clone(), self.name().to_owned())),
        }
    }

    /// What marks that this target's documents are its own: of this name in this checkpoint store,
    /// so that nobody who has forgotten what he wrote takes it for his.
    async fn owner(&self, stop: &CancellationToken) -> Result<String, Error> {
        // Two pipelines of a target that ask at once get one.
        self.owner.get_or_try_init(|| self.stored_owner(stop)).await.cloned()
    }

    async fn stored_owner(&self, stop: &CancellationToken) -> Result<String, Error> {
        let key = keys::owner(self.name());
        let known: Option<OwnerRecord> = insist(stop, || load(&*self.store, &key)).await?;
        let record = match known {
            Some(record) => record,
            None => {
                let record = OwnerRecord { id: Uuid::new() };
                insist_on_writing(&*self.store, vec![put(key, &record)], stop).await?;
                record
            }
        };
        Ok(format!("{} {}", self.file.name, record.id))
    }

    /// Runs until it is stopped, done, or can't go on.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(mut self, stop: CancellationToken) -> Result<Summary, Error> {
        let status = self.target_status();
        let mut followed = None;
        let result = self.work(&mut followed, &stop).await;
        if !matches!(&result, Ok(summary) if !summary.stopped) {
            // Before what was asked of it is let go of, which the next run is to do.
            stop.cancel();
        }
        drop(followed);
        if let Err(error) = &result
            && !matches!(error, Error::Stopped)
        {
            status.failed(&error.to_string());
        }
        match result {
            Err(Error::Stopped) => Ok(Summary { stopped: true, ..Summary::default() }),
            result => result,
        }
    }

    async fn work(
        &mut self,
        followed: &mut Option<Followed>,
        stop: &CancellationToken,
    ) -> Result<Summary, Error> {
        let mut reached = None;
        if self.options.copy_only {
            let target = self.build(stop).await?;
            self.reach(&*target, stop).await?;
            // What it has made by then it remembers.
            reached = Some(target);
        }
        let mut summary = Summary::default();
        let mut demand = Demand::default();
        let mut again = Backoff::new(AGAIN_FIRST, AGAIN_MOST);
        loop {
            self.while_paused(&mut demand, followed, stop).await?;
            let began = Instant::now();
            let start = Start { target: reached.take(), demand: std::mem::take(&mut demand) };
            let mut running = self.start(start, stop).await?;
            if let Some(followed) = followed.take() {
                followed.done();
            }
            let ended = self.watch(&mut running, stop).await;
            let stopped = self.wind_down(&mut running).await;
            summary.dead_letters += running.dead_letters.written();
            // What ended the run counts more than what ended because of it.
            let ended = ended?;
            stopped?;
            let copies = self.rule_status().into_iter().map(|rule| rule.copied());
            summary.copied +=
                copies.map(|copy| copy.documents.saturating_sub(copy.resumed)).sum::<u64>();
            match ended {
                Ended::Again(demanded) => {
                    demand = demanded;
                    if began.elapsed() > AGAIN_MOST {
                        again.reset();
                    }
                    if !pause(again.next(None), stop).await {
                        return Ok(Summary { stopped: true, ..summary });
                    }
                }
                Ended::Ordered(ordered) => {
                    *followed = self.take_up(ordered, &mut demand, false, stop).await?;
                }
                Ended::Done => return Ok(summary),
                Ended::Stopped | Ended::Closed => {
                    return Ok(Summary { stopped: true, ..summary });
                }
            }
        }
    }

    /// Waits while the target is paused. Orders that concern the next start are taken up meanwhile.
    async fn while_paused(
        &mut self,
        demand: &mut Demand,
        followed: &mut Option<Followed>,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let key = keys::paused(self.name());
        loop {
            let paused = insist(stop, || load::<PausedRecord>(&*self.store, &key)).await?;
            if paused.is_none() {
                return Ok(());
            }
            let status = self.target_status();
            status.set_state(State::Paused);
            // After a restart nothing else tells how far it falls behind, which is what to mind.
            if status.position_now().is_none() {
                let key = keys::Stream::new(self.name(), self.events_of.as_deref()).position();
                let stored = insist(stop, || load::<PositionRecord>(&*self.store, &key)).await?;
                if let Some(stored) = stored {
                    status.position(stored.time);
                }
            }
            if let Some(followed) = followed.take() {
                followed.done();
            }
            if self.options.copy_only {
                return Err(Error::Refused(format!(
                    "target {} is paused: `mongosync resume` it first",
                    self.name()
                )));
            }
            let ordered = tokio::select! {
                Some(ordered) = self.orders.recv() => ordered,
                () = stop.cancelled() => return Err(Error::Stopped),
            };
            if let Some(why) = self.refusal(&ordered.order).await {
                // Nobody may wait for it any more.
                let _ = ordered.done.send(Err(why));
                continue;
            }
            *followed = self.take_up(ordered, demand, true, stop).await?;
        }
    }

    /// Does what an order says as far as it can be done between two starts. What is returned is to be
    /// told once the next start has carried it out.
    async fn take_up(
        &self,
        Ordered { order, done }: Ordered,
        demand: &mut Demand,
        paused: bool,
        stop: &CancellationToken,
    ) -> Result<Option<Followed>, Error> {
        let key = keys::paused(self.name());
        let write = |record: Option<PausedRecord>| {
            let write = match record {
                Some(record) => put(key.clone(), &record),
                None => removal::<PausedRecord>(key.clone()),
            };
            insist_on_writing(&*self.store, vec![write], stop)
        };
        let words = match order {
            Order::Resync(rules) => {
                demand.rules.extend(rules);
                self.remember(demand, stop).await?;
                match paused {
                    true => "is copied again once it is resumed".to_owned(),
                    false => "is copied again".to_owned(),
                }
            }
            Order::Seek(time) => {
                demand.seek = Some(time);
                self.remember(demand, stop).await?;
                match paused {
                    true => format!("goes on from {time} once it is resumed"),
                    false => format!("goes on from {time}"),
                }
            }
            Order::Pause => {
                write(Some(PausedRecord { since: bson::DateTime::now() })).await?;
                "is paused".to_owned()
            }
            Order::Resume => {
                write(None).await?;
                "goes on".to_owned()
            }
            Order::RetryLetters(_) | Order::PurgeLetters(_) | Order::Mend(_) => {
                // Nobody may wait for it any more.
                let _ = done.send(Err("it is paused".to_owned()));
                return Ok(None);
            }
        };
        tracing::info!(target = self.name(), "the target {words}");
        Ok(Some(Followed { words, done }))
    }

    /// Stores what the next start is to do, so that it outlives this process.
    async fn remember(&self, demand: &Demand, stop: &CancellationToken) -> Result<(), Error> {
        let key = keys::Stream::new(self.name(), self.events_of.as_deref()).demand();
        let mut all = match insist(stop, || load(&*self.store, &key)).await? {
            Some(record) => Demand::of(record, &self.rule_names()),
            None => Demand::default(),
        };
        all.join(demand.clone());
        Ok(insist_on_writing(&*self.store, vec![put(key, &all.record())], stop).await?)
    }

    /// The names of all rules of the file that belong to this pipeline.
    fn rule_names(&self) -> BTreeSet<String> {
        let names = self.file.deliveries(self.name());
        let own = names.filter(|(rule, _)| match &self.events_of {
            Some(name) => rule.name == *name,
            None => rule.events.is_none(),
        });
        own.map(|(rule, _)| rule.name.clone()).collect()
    }

    /// Why an order can't be followed, if it can't.
    async fn refusal(&self, order: &Order) -> Option<String> {
        let all = self.rule_names().len();
        match order {
            Order::Resync(_) | Order::Seek(_) if self.rules.iter().count() < all => {
                Some("this run leaves rules out (--rule), and all are needed for that".to_owned())
            }
            Order::Resync(_) if self.options.changes_only => {
                Some("this run does not copy (--changes-only)".to_owned())
            }
            Order::Seek(time) => match self.source.oplog_first().await {
                Ok(Some(first)) if first > *time => {
                    Some(format!("the oplog reaches back to {first} only"))
                }
                Ok(_) => None,
                Err(error) => Some(format!("how far the oplog reaches back is not known: {error}")),
            },
            _ => None,
        }
    }

    /// Has the dead letters of an order seen to beside everything else.
    fn see_to_letters(&self, running: &mut Running, ordered: Ordered) {
        if let Some(rule) = &self.events_of {
            let letters = EventLetters {
                store: self.store.clone(),
                name: self.name().to_owned(),
                rule: rule.clone(),
                query: Arc::new(self.event_query()),
                lanes: running.lanes.clone(),
                dead_letters: running.dead_letters.clone(),
                stop: running.read.clone(),
            };
            running.sources.spawn(async move {
                let outcome = match &ordered.order {
                    Order::PurgeLetters(wanted) => letters.purge(wanted).await,
                    Order::RetryLetters(wanted) => letters.retry(wanted).await,
                    _ => return Ok(None),
                };
                answered(outcome, ordered.done)
            });
            return;
        }
        let letters = Letters {
            store: self.store.clone(),
            file: self.file.clone(),
            name: self.name().to_owned(),
            rules: self.rules.clone(),
            lanes: running.lanes.clone(),
            dead_letters: running.dead_letters.clone(),
            stop: running.read.clone(),
        };
        running.sources.spawn(async move {
            let outcome = match &ordered.order {
                Order::PurgeLetters(wanted) => letters.purge(wanted).await,
                Order::RetryLetters(wanted) => letters.retry(wanted).await,
                _ => return Ok(None),
            };
            answered(outcome, ordered.done)
        });
    }

    /// Has what `verify` found mended beside everything else.
    fn mend(&self, running: &mut Running, mend: Arc<Mend>, done: oneshot::Sender<Outcome>) {
        let mending = Mending {
            reading: running.reading.clone(),
            rules: self.rules.clone(),
            lanes: running.lanes.clone(),
            context: running.context.clone(),
            stop: running.read.clone(),
        };
        running.sources.spawn(async move {
            match mending.carry_out(&mend).await {
                Err(Halt::Stopped) => {}
                // Nobody may wait for it any more.
                outcome => drop(done.send(outcome?)),
            }
            Ok(None)
        });
    }

    /// A run that only copies has to reach its target in time; any other waits for it.
    async fn reach(&self, target: &dyn Target, stop: &CancellationToken) -> Result<(), Error> {
        let settings = &self.target().delivery;
        let mut backoff = Backoff::new(settings.retry_initial, settings.retry_max);
        let deadline = tokio::time::Instant::now() + self.options.wait;
        loop {
            let tried = tokio::select! {
                tried = target.prepare() => tried,
                () = stop.cancelled() => return Err(Error::Stopped),
            };
            let Err(retry) = tried else { return Ok(()) };
            let wait = backoff.next(retry.after);
            if tokio::time::Instant::now() + wait > deadline {
                return Err(Error::NotReached {
                    what: format!("target {}", self.name()),
                    wait: self.options.wait,
                    source: retry.message.into(),
                });
            }
            if !pause(wait, stop).await {
                return Err(Error::Stopped);
            }
        }
    }

    /// What any start begins with.
    pub(super) async fn begin(
        &self,
        target: Option<Arc<dyn Target>>,
        stop: &CancellationToken,
    ) -> Result<Begun, Error> {
        let target = match target {
            Some(target) => target,
            None => self.build(stop).await?,
        };
        let (read, status) = (stop.child_token(), self.target_status());
        let reading = Arc::new(Reading {
            source: self.source.clone(),
            status: status.clone(),
            stop: read.clone(),
        });
        let (drain, drained, now) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        Ok(Begun { target, reading, status, read, drain, drained, now })
    }

    /// What its lanes share.
    pub(super) fn context(
        &self,
        begun: &Begun,
        dead_letters: &Arc<DeadLetters>,
        grouping: Grouping,
        contested: Contested,
        spots: Spots,
    ) -> Arc<Context> {
        let Begun { target, reading, status, drain, now, .. } = begun;
        Arc::new(Context {
            grouping,
            shaper: Shaper::new(target.clone(), self.shaped_rules(&**target)),
            lookup: self.lookup(),
            ids: Ids::new(self.store.clone(), reading.clone(), self.id_types.clone()),
            places: Places::new(self.store.clone(), self.name()),
            spots,
            target: target.clone(),
            dead_letters: dead_letters.clone(),
            contested,
            settings: self.target().delivery.clone(),
            status: status.clone(),
            rules: self.rule_status(),
            validity: self.validity.clone(),
            drain: drain.clone(),
            stop: now.clone(),
        })
    }

    /// Whose the places of its documents are.
    pub(super) fn spots(&self, target: &Arc<dyn Target>) -> (Spots, mpsc::Receiver<Holder>) {
        let mut rules = self.rule_names();
        if !self.may_meet(&**target) {
            rules.clear();
        }
        Spots::new(self.store.clone(), self.name(), target.clone(), rules)
    }

    /// Whether two documents may be given one place that a rule chooses. Not where one rule alone does, and
    /// leaves the documents of one namespace their own ids.
    fn may_meet(&self, target: &dyn Target) -> bool {
        let rules = self.file.deliveries(self.name()).map(|(rule, _)| rule);
        let moves = |rule: &Rule| rule.transform.as_ref().is_some_and(|it| it.may_move());
        let mut chosen = rules.filter(|rule| {
            rule.events.is_none() && (moves(rule) || !target.place_is_fixed(&rule.name))
        });
        if !self.is_whole() {
            // The target knows nothing of those that this run leaves out.
            return true;
        }
        let Some(only) = chosen.next() else { return false };
        let reads_one = matches!(&*only.namespaces.include, [NamespacePattern::Exact(_)]);
        chosen.next().is_some() || moves(only) || !reads_one || !target.keeps_ids(&only.name)
    }

    async fn start(&self, start: Start, stop: &CancellationToken) -> Result<Running, Error> {
        match self.events_of {
            None => self.start_documents(start, stop).await,
            Some(_) => self.start_events(start, stop).await,
        }
    }

    async fn start_documents(
        &self,
        Start { target, demand }: Start,
        stop: &CancellationToken,
    ) -> Result<Running, Error> {
        let begun = self.begin(target, stop).await?;
        let Begun { target, reading, status, read, drain, drained, now } = &begun;
        // Before it is planned from when on something is copied.
        let source_time = asked(reading, "reading the time", || reading.source.now()).await?;
        let plan = Planning {
            reading,
            store: &self.store,
            name: self.name(),
            file: &self.file,
            target: &**target,
            rules: &self.rules,
            rule_status: &self.rule_status(),
            demand,
            all_rules: self.rule_names(),
            options: &self.options,
            stop: read,
        }
        .make()
        .await?;
        for (container, new) in &plan.replacements {
            target.replace(&new.rule, container, new.id, new.begun);
        }
        if self.aligns() {
            target.aligns();
        } else if self.options.dry_run.is_none()
            && self.rules.iter().any(|(_, rule)| rule.rule().ddl)
        {
            tracing::info!(
                target = self.name(),
                "this run leaves rules out, so what becomes of collections is not followed; the next one \
                 with all rules makes up for it"
            );
        }
        let dead_letters = self.dead_letters(read).await?;
        let settings = &self.target().delivery;
        let shared = Shared {
            reading: reading.clone(),
            lanes: Arc::new(Lanes::new(settings.concurrency, PENDING, plan.floor)),
            tracker: Tracker::new(),
            changes: Budget::new(self.budget),
            copies: Budget::new(self.budget),
            ends: Arc::new(Notify::new()),
        };
        let (contested, holders) = Contested::new();
        let (spots, met) = self.spots(target);
        spots.begin(source_time);
        let context = self.context(&begun, &dead_letters, Grouping::Any, contested, spots);
        context.spots.inherit(&context.places, read).await?;
        let mut writers = JoinSet::new();
        for (number, lane) in shared.lanes.iter().enumerate() {
            writers.spawn(Writer::new(number, lane.clone(), context.clone()).run());
        }
        let (copying, copies_run) = watch::channel(plan.copies.iter().any(|copy| !copy.2));
        status.set_state(if *copies_run.borrow() { State::Copying } else { State::Following });
        status.position(plan.start);
        let mut settling = JoinSet::new();
        settling.spawn(
            Settling {
                store: self.store.clone(),
                keys: keys::Stream::new(self.name(), None),
                target: target.clone(),
                settings: settings.clone(),
                tracker: shared.tracker.clone(),
                copies: self.rule_copies(&plan),
                source: plan.source,
                behind: plan.behind.clone(),
                every: self.file.checkpoint.every,
                status: status.clone(),
                budgets: vec![shared.changes.clone(), shared.copies.clone()],
                copying,
                ends: shared.ends.clone(),
            }
            .run(drained.clone(), now.clone()),
        );
        let lanes = shared.lanes.clone();
        let mut sources = self.read(shared, &context, plan, copies_run.clone());
        for (holders, by_place) in [(holders, true), (met, false)] {
            let (rules, context) = (self.rules.clone(), context.clone());
            let asking = HolderRequests { rules, context, by_place };
            sources.spawn(asking.run(lanes.clone(), holders, read.clone()));
        }
        let succession = Succession {
            lanes: lanes.clone(),
            rules: self.rules.clone(),
            context: context.clone(),
            is_whole: self.is_whole(),
        };
        sources.spawn(succession.run(read.clone()));
        sources.spawn(self.look_for_faults(target.clone(), read.clone()));
        let (read, drain, drained, now) =
            (read.clone(), drain.clone(), drained.clone(), now.clone());
        Ok(Running {
            reading: reading.clone(),
            lanes,
            context,
            sources,
            writers,
            settling,
            copying: copies_run,
            dead_letters,
            target: target.clone(),
            read,
            drain,
            drained,
            now,
        })
    }

    /// Ends the run where the target is not to be written to as the rules say. To be spawned beside what
    /// reads.
    pub(super) fn look_for_faults(
        &self,
        target: Arc<dyn Target>,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<Option<Demand>, Error>> + Send + use<> {
        let (name, status) = (self.name().to_owned(), self.target_status());
        let settings = self.target().delivery.clone();
        async move {
            let found = insist_on_target(&status, &settings, &stop, || target.fault()).await;
            let fault = found.flatten();
            fault.map_or(Ok(None), |it| Err(Error::Refused(format!("target {name}: {it}"))))
        }
    }

    /// Whether the target follows the definitions of collections. Not in a run that leaves rules out:
    /// they may write to the same ones. The next whole run makes up for it.
    fn aligns(&self) -> bool {
        self.options.dry_run.is_none()
            && self.rules.iter().any(|(_, rule)| rule.rule().ddl)
            && self.is_whole()
    }

    /// Whether the run leaves no rule out that writes to the target.
    fn is_whole(&self) -> bool {
        self.rules.iter().count() == self.rule_names().len()
    }

    pub(super) async fn dead_letters(
        &self,
        stop: &CancellationToken,
    ) -> Result<Arc<DeadLetters>, Error> {
        let rules = self.rules.iter().map(|(_, rule)| rule.rule().name.as_str().into()).collect();
        let policy = self.target().delivery.on_rejected;
        let letters =
            DeadLetters::load(self.store.clone(), self.name(), rules, policy, stop).await?;
        if letters.stored() > 0 {
            tracing::warn!(
                target = self.name(),
                count = letters.stored(),
                "there are dead letters; `mongosync dead-letters FILE list` shows them"
            );
        }
        Ok(Arc::new(letters))
    }

    fn lookup(&self) -> Option<Arc<dyn Lookup>> {
        let looks_up = |script: &Arc<Script>| script.looks_up();
        let mut rules = self.rules.iter();
        let wanted = rules.any(|(_, rule)| rule.rule().transform.as_ref().is_some_and(looks_up));
        wanted.then(|| {
            Arc::new(SourceLookup::new(self.source.clone(), self.target_status()))
                as Arc<dyn Lookup>
        })
    }

    fn shaped_rules(&self, target: &dyn Target) -> Vec<ShapedRule> {
        let shaped =
            |(_, rule): (_, &TargetRule)| ShapedRule::of(rule.rule(), target, rule.follows());
        self.rules.iter().map(shaped).collect()
    }

    fn rule_copies(&self, plan: &Plan) -> Vec<RuleCopies> {
        let status = self.rule_status();
        // `--changes-only`: nothing is to be copied in this run.
        for (index, _) in self.rules.iter() {
            if !plan.copies.iter().any(|(copied, ..)| *copied == index) {
                status[usize::from(index.0)].copy_complete();
            }
        }
        plan.copies
            .iter()
            .map(|(index, copies, complete)| {
                let status = status[usize::from(index.0)].clone();
                let resumed: u64 = copies.iter().map(|copy| copy.settled().documents).sum();
                status.copy_begins(resumed);
                status.copy_expected(copies.iter().map(|copy| copy.plan.expected).sum());
                if *complete && copies.is_empty() {
                    status.copy_complete();
                }
                let rule = self.rules.get(*index).rule().name.clone();
                RuleCopies::new(rule, status, copies.clone(), *complete)
            })
            .collect()
    }

    fn read(
        &self,
        shared: Shared,
        context: &Arc<Context>,
        plan: Plan,
        copying: watch::Receiver<bool>,
    ) -> JoinSet<Result<Option<Demand>, Error>> {
        let Shared { reading, lanes, tracker, changes, copies, ends } = shared;
        // Before any window is opened: what an earlier run settled will not be shown again, so
        // nothing may be read that is older.
        lanes.advance(plan.start);
        let mut tasks = JoinSet::new();
        let status = self.target_status();
        let (defined, shown) = match self.aligns() {
            true => {
                let (defined, shown) = mpsc::channel(DEFINED);
                (Some(defined), Some(shown))
            }
            false => (None, None),
        };
        if !self.rules.followed().is_empty() {
            let following = Following {
                reading: reading.clone(),
                rules: self.rules.clone(),
                lanes: lanes.clone(),
                tracker: tracker.clone(),
                target: self.name().to_owned(),
                status: status.clone(),
                rule_status: self.rule_status(),
                newcomers: Newcomers::new(
                    reading.clone(),
                    self.rules.clone(),
                    context.target.clone(),
                    self.name().to_owned(),
                    self.store.clone(),
                    plan.planned,
                ),
                defined,
            };
            tasks.spawn(following.run(plan.start, copying));
        }
        if let Some(defined) = shown {
            let incomplete = plan.copies.iter().filter(|(.., complete)| !complete);
            let aligning = Aligning {
                target: context.target.clone(),
                settings: self.target().delivery.clone(),
                status: status.clone(),
                validity: self.validity.clone(),
                copying: incomplete
                    .map(|(rule, ..)| self.rules.get(*rule).rule().name.clone())
                    .collect(),
                stop: reading.stop.clone(),
            };
            tasks.spawn(async move {
                aligning.run(defined).await;
                Ok(None)
            });
        }
        for lane in lanes.iter() {
            let answering = Answering {
                reading: reading.clone(),
                rules: self.rules.clone(),
                lane: lane.clone(),
                floor: lanes.floor(),
                budget: changes.clone(),
            };
            tasks.spawn(async move { Ok(answering.run().await.map(|()| None)?) });
        }
        let copies_to_sweep: Vec<_> =
            plan.copies.iter().flat_map(|(_, copies, _)| copies.iter().cloned()).collect();
        let sweeping = Sweeping {
            reading: reading.clone(),
            rules: self.rules.clone(),
            lanes: lanes.clone(),
            context: context.clone(),
            store: self.store.clone(),
            name: self.name().to_owned(),
            tracker,
            budget: copies.clone(),
            copies: copies_to_sweep,
            whole: plan.whole,
            replacements: plan.replacements,
            ends: ends.clone(),
        };
        tasks.spawn(async move { sweeping.run().await.map(|()| None) });
        let work = Arc::new(Copying {
            reading: reading.clone(),
            rules: self.rules.clone(),
            lanes: lanes.clone(),
            budget: copies,
            rule_status: self.rule_status(),
            windows: AtomicU64::new(0),
            slots: Arc::new(Semaphore::new(CHUNKS_AT_ONCE)),
            open: Arc::new(Semaphore::new(CHUNKS_OPEN)),
            ends,
        });
        let prepared = Arc::default();
        for (index, list, complete) in plan.copies {
            if complete {
                continue;
            }
            let rule = self.rules.get(index).rule();
            let work = CopyOfRule {
                copying: work.clone(),
                target: context.target.clone(),
                prepared: Arc::clone(&prepared),
                name: rule.name.clone(),
                parallel: rule.copy.map_or(1, |copy| copy.parallel),
                settings: self.target().delivery.clone(),
                status: status.clone(),
            };
            tasks.spawn(async move { work.run(&list).await.map(|()| None) });
        }
        tasks
    }

    /// Waits for the end.
    async fn watch(
        &mut self,
        running: &mut Running,
        stop: &CancellationToken,
    ) -> Result<Ended, Error> {
        // Where nothing is followed, the end of the copy is the end.
        let ends = self.options.copy_only || self.rules.followed().is_empty();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(Ended::Stopped),
                () = running.target.closed() => {
                    tracing::info!(target = self.name(), "nobody reads any more");
                    return Ok(Ended::Closed);
                }
                Some(ordered) = self.orders.recv() => {
                    if let Some(why) = self.refusal(&ordered.order).await {
                        // Nobody may wait for it any more.
                        let _ = ordered.done.send(Err(why));
                        continue;
                    }
                    match ordered.order {
                        Order::RetryLetters(_) | Order::PurgeLetters(_) => {
                            self.see_to_letters(running, ordered);
                        }
                        Order::Mend(mend) => self.mend(running, mend, ordered.done),
                        Order::Resume => {
                            // Nobody may wait for it any more.
                            let _ = ordered.done.send(Ok("is not paused".to_owned()));
                        }
                        _ => return Ok(Ended::Ordered(ordered)),
                    }
                }
                done = copies_done(&mut running.copying), if ends => {
                    if done {
                        return Ok(Ended::Done);
                    }
                }
                Some(done) = running.sources.join_next() => {
                    if let Some(demand) = joined(done)?? {
                        return Ok(Ended::Again(demand));
                    }
                }
                Some(done) = running.writers.join_next() => {
                    joined(done)??;
                    return Err(Error::Internal("a lane ended by itself".into()));
                }
                Some(done) = running.settling.join_next() => {
                    joined(done)??;
                    return Err(Error::Internal("storing positions ended by itself".into()));
                }
            }
        }
    }

    /// Stops in order: what reads, what writes once it has finished what is under way, and last what
    /// stores the position.
    async fn wind_down(&self, running: &mut Running) -> Result<(), Error> {
        running.read.cancel();
        let ended = async {
            while let Some(done) = running.sources.join_next().await {
                // What it says now is about being stopped.
                drop(joined(done)?);
            }
            Ok::<_, Error>(())
        };
        if let Ok(ended) = tokio::time::timeout(GRACE / 2, ended).await {
            ended?;
        }
        running.sources.shutdown().await;
        running.drain.cancel();
        let finish = async {
            while let Some(done) = running.writers.join_next().await {
                match joined(done)? {
                    Ok(()) | Err(Halt::Stopped) => {}
                    Err(halt) => return Err(Error::from(halt)),
                }
            }
            Ok(())
        };
        let finished = match tokio::time::timeout(GRACE, finish).await {
            Ok(finished) => finished,
            Err(_) => {
                tracing::warn!(
                    target = self.name(),
                    "what was under way did not finish in time; it will be delivered again"
                );
                Ok(())
            }
        };
        running.writers.shutdown().await;
        running.drained.cancel();
        let stored = tokio::time::timeout(GRACE, running.settling.join_next()).await;
        running.now.cancel();
        drop(running.reading.clone());
        finished?;
        match stored {
            Ok(Some(done)) => match joined(done)? {
                Ok(()) | Err(Halt::Stopped) => Ok(()),
                Err(halt) => Err(halt.into()),
            },
            Ok(None) => Ok(()),
            Err(_) => {
                tracing::warn!(target = self.name(), "the last position could not be stored");
                Ok(())
            }
        }
    }
}

/// Tells the outcome of an order to the one who waits for it.
fn answered(
    outcome: Result<Outcome, Halt>,
    done: oneshot::Sender<Outcome>,
) -> Result<Option<Demand>, Error> {
    match outcome {
        Err(Halt::Stopped) => {}
        // Nobody may wait for it any more.
        outcome => drop(done.send(outcome?)),
    }
    Ok(None)
}

/// The copy of one rule, from telling the target to the last chunk.
pub(super) struct CopyOfRule {
    pub copying: Arc<Copying>,
    pub target: Arc<dyn Target>,
    /// A pipeline prepares its target once for the copies of all its rules: what all of them write is looked
    /// for then.
    pub prepared: Arc<OnceCell<()>>,
    pub name: String,
    pub parallel: usize,
    pub settings: crate::rules::model::DeliverySettings,
    pub status: Arc<TargetStatus>,
}

impl CopyOfRule {
    pub(super) async fn run(&self, copies: &[Arc<super::copying::Copy>]) -> Result<(), Error> {
        let stop = &self.copying.reading.stop;
        let told = insist_on_target(&self.status, &self.settings, stop, || self.tell());
        if told.await.is_none() {
            return Ok(());
        }
        self.status.recovered();
        self.copying.run(copies, self.parallel).await
    }

    async fn tell(&self) -> Result<(), crate::target::Retry> {
        self.prepared.get_or_try_init(|| self.target.prepare()).await?;
        self.target.copy_begins(&self.name).await
    }
}

async fn copies_done(copying: &mut watch::Receiver<bool>) -> bool {
    copying.wait_for(|copying| !copying).await.is_ok()
}

fn joined<T>(done: Result<T, JoinError>) -> Result<T, Error> {
    done.map_err(|error| {
        Error::Internal(match error.is_panic() {
            true => "a task has panicked; this is a defect, please report it".into(),
            false => "a task was aborted".into(),
        })
    })
}
