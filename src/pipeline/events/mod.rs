//! The pipeline of one `events` rule and one target: a stream, a position and lanes of its own, so that
//! it delays no other and no other delays it. What it shares with the pipeline of the `documents` rules
//! (lanes, writers, the copy, storing what is settled) stands in `target_pipeline`.

mod course;
mod following;
mod images;
mod letters;
mod plan;
mod position;

use std::sync::{Arc, atomic::AtomicU64};

use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::{
    checkpoint::{keys, tracker::Tracker},
    delivery::{
        contested::Contested,
        writer::{Context, Grouping, Writer},
    },
    rules::model::EventSettings,
    source::{budget::Budget, events::EventQuery},
    status::State,
};

use super::{
    Error,
    copying::{CHUNKS_AT_ONCE, CHUNKS_OPEN, Copying},
    following::Lanes,
    settling::{Place, RuleCopies, Settling},
    target_pipeline::{Begun, CopyOfRule, PENDING, Running, Start, TargetPipeline},
};

use following::EventFollowing;
use images::Images;
use plan::{EventPlan, EventPlanning, RULE};

pub use letters::EventLetters;
pub use plan::forget_removed_rules;

impl TargetPipeline {
    /// How the events of the pipeline's rule are asked for.
    pub(super) fn event_query(&self) -> EventQuery {
        let rule = self.rules.get(RULE).rule();
        let settings = rule.events.clone().unwrap_or_default();
        EventQuery::new(rule, &settings)
    }

    /// Starts the pipeline of an `events` rule.
    pub(super) async fn start_events(
        &self,
        Start { target, demand }: Start,
        stop: &CancellationToken,
    ) -> Result<Running, Error> {
        let begun = self.begin(target, stop).await?;
        let Begun { target, reading, status, read, drain, drained, now } = &begun;
        let rule = self.rules.get(RULE).rule();
        let required = rule.events.as_ref().is_some_and(EventSettings::needs_images);
        let images = Arc::new(Images::new(reading.clone(), &rule.name, required));
        let plan = EventPlanning {
            reading,
            store: &self.store,
            name: self.name(),
            rules: &self.rules,
            images: &images,
            options: &self.options,
            demand,
            stop: read,
        };
        let EventPlan { position, source, copies, complete } = plan.make().await?;
        let dead_letters = self.dead_letters(read).await?;
        let settings = &self.target().delivery;
        let lanes = Arc::new(Lanes::of_events(settings.concurrency, PENDING));
        let tracker = Tracker::new();
        let (changes, copied) = (Budget::new(self.budget), Budget::new(self.budget));
        let grouping = Grouping::of_events(&**target, settings.concurrency);
        let context: Arc<Context> =
            self.context(&begun, &dead_letters, grouping, Contested::new().0, self.spots(target).0);
        let mut writers = JoinSet::new();
        for (number, lane) in lanes.iter().enumerate() {
            writers.spawn(Writer::new(number, lane.clone(), context.clone()).run());
        }
        let (copying, copies_run) = watch::channel(!complete);
        status.set_state(if complete { State::Following } else { State::Copying });
        status.position(position.time());
        let rule_status = status.rule(&rule.name);
        rule_status.copy_begins(copies.iter().map(|copy| copy.settled().documents).sum());
        rule_status.copy_expected(copies.iter().map(|copy| copy.plan.expected).sum());
        if copies.is_empty() {
            rule_status.copy_complete();
        }
        let all = RuleCopies::new(rule.name.clone(), rule_status.clone(), copies.clone(), complete);
        let ends = Arc::new(Notify::new());
        let mut settling = JoinSet::new();
        settling.spawn(
            Settling {
                store: self.store.clone(),
                keys: keys::Stream::new(self.name(), Some(&rule.name)),
                target: target.clone(),
                settings: settings.clone(),
                tracker: tracker.clone(),
                copies: if copies.is_empty() { Vec::new() } else { vec![all] },
                source,
                behind: Default::default(),
                every: self.file.checkpoint.every,
                status: status.clone(),
                budgets: vec![changes.clone(), copied.clone()],
                copying,
                ends: ends.clone(),
            }
            .run(drained.clone(), now.clone()),
        );
        // Before any window is opened: what an earlier run settled will not be shown again.
        position.told(&lanes);
        let mut sources = JoinSet::new();
        sources.spawn(self.look_for_faults(target.clone(), read.clone()));
        if self.rules.get(RULE).follows() {
            let following = EventFollowing {
                reading: reading.clone(),
                rules: self.rules.clone(),
                query: Arc::new(self.event_query()),
                lanes: lanes.clone(),
                tracker,
                target: self.name().to_owned(),
                status: status.clone(),
                rule_status,
                budget: changes,
                images,
            };
            sources.spawn(following.run(position, copies_run.clone()));
        }
        if !complete {
            let work = CopyOfRule {
                copying: Arc::new(Copying {
                    reading: reading.clone(),
                    rules: self.rules.clone(),
                    lanes: lanes.clone(),
                    budget: copied,
                    rule_status: self.rule_status(),
                    windows: AtomicU64::new(0),
                    slots: Arc::new(Semaphore::new(CHUNKS_AT_ONCE)),
                    open: Arc::new(Semaphore::new(CHUNKS_OPEN)),
                    ends,
                }),
                target: target.clone(),
                prepared: Arc::default(),
                name: rule.name.clone(),
                parallel: rule.copy.map_or(1, |copy| copy.parallel),
                settings: settings.clone(),
                status: status.clone(),
            };
            sources.spawn(async move { work.run(&copies).await.map(|()| None) });
        }
        let (read, drain, drained, now) =
            (read.clone(), drain.clone(), drained.clone(), now.clone());
        let (reading, target) = (reading.clone(), target.clone());
        Ok(Running {
            reading,
            context,
            target,
            lanes,
            sources,
            writers,
            settling,
            copying: copies_run,
            dead_letters,
            read,
            drain,
            drained,
            now,
        })
    }
}
