//! Removes what a target holds of the time before a copy, once the copy is settled: documents that
//! were deleted, or left the rule, while nobody looked.
//!
//! Every document that the rules deliver has been written since the copy's start, by the copy or by a
//! change, with that time or a later one (`Lanes::floor`). So in a container of which every rule was
//! copied, whatever is older is gone from the source. The removal bears the last time before the
//! start: what is written beside it stays, whichever comes first.
//!
//! Where a rule's places are stored, those tell which documents the target holds, and each is asked
//! for again through the lanes. Documents in the dead letters of the time before are asked for first,
//! and those that stay there are spared: what the target holds of them is the best that there is.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use bson::RawBsonRef;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    change::{ClusterTime, DocumentKey, Phase},
    checkpoint::{
        keys,
        records::{DeadLetterRecord, PlacesRecord, page},
        store::{RecordKey, Store, StoreError},
        tracker::{Completion, Tracker},
    },
    delivery::{
        Halt,
        batch::{Batch, Origin},
        insist,
        lane::Subject,
        request::{Limits, deliver},
        retry::{Backoff, pause},
        writer::Context,
    },
    rules::model::OnDelete,
    source::budget::Budget,
    target::{Action, Listing, Operation, PlaceKey},
};

use super::{
    Error,
    copying::Copy,
    following::Lanes,
    reading::{Fetched, Reading},
    rule_set::RuleSet,
};

/// How often the end of the copies is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// Records or keys at once.
const PAGE: usize = 1_000;
/// Pages of a listing that lie in memory.
const PAGES: usize = 2;
/// Dead letters that a sweep can spare; it remembers a number for each.
const MOST_SPARED: usize = 1_000_000;
/// No cluster time is older: versions below are an engine's own counting.
const FIRST: ClusterTime = ClusterTime(1_000_000_000 << 32);

/// Sweeps one target.
pub struct Sweeping {
    /// The source.
    pub reading: Arc<Reading>,
    /// The target's rules.
    pub rules: Arc<RuleSet>,
    /// Where documents are asked for.
    pub lanes: Arc<Lanes>,
    /// How the target is written to.
    pub context: Arc<Context>,
    /// Where dead letters and places are.
    pub store: Arc<dyn Store>,
    /// The target's name.
    pub name: String,
    /// What the stream has settled.
    pub tracker: Tracker<ClusterTime>,
    /// Pays for what is read.
    pub budget: Arc<Budget>,
    /// The copies that are to be swept.
    pub copies: Vec<Arc<Copy>>,
}

/// Copies whose documents may lie in one place.
struct Group {
    container: Option<String>,
    copies: Vec<Arc<Copy>>,
}

impl Sweeping {
    /// Sweeps each container once all copies into it are settled; ends when all are swept.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self) -> Result<(), Error> {
        let mut groups = self.groups();
        let stop = self.reading.stop.clone();
        while !groups.is_empty() {
            let (ready, rest): (Vec<_>, Vec<_>) = groups
                .into_iter()
                .partition(|group| group.copies.iter().all(|copy| copy.is_settled()));
            groups = rest;
            for group in ready {
                let swept = tokio::select! {
                    swept = self.sweep(&group) => swept,
                    () = stop.cancelled() => return Ok(()),
                };
                match swept {
                    Err(Halt::Stopped) => return Ok(()),
                    swept => swept?,
                }
                group.copies.iter().for_each(|copy| copy.swept());
            }
            if !groups.is_empty() && !pause(LOOK, &stop).await {
                return Ok(());
            }
        }
        Ok(())
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_container: BTreeMap<String, Vec<Arc<Copy>>> = BTreeMap::new();
        for copy in self.copies.iter().filter(|copy| !copy.is_swept()) {
            let rule = self.rules.get(copy.rule).rule();
            let moves = rule.transform.as_ref().is_some_and(|script| script.may_move());
            let container = self.context.target.container(&rule.name, &copy.namespace);
            match container.filter(|_| !moves) {
                Some(container) => by_container.entry(container).or_default().push(copy.clone()),
                None => groups.push(Group { container: None, copies: vec![copy.clone()] }),
            }
        }
        groups.extend(
            by_container
                .into_iter()
                .map(|(container, copies)| Group { container: Some(container), copies }),
        );
        groups
    }

    async fn sweep(&self, group: &Group) -> Result<(), Halt> {
        // What the stream had shown when the copy ended may still be on its way to the target.
        self.catch_up().await;
        for copy in &group.copies {
            self.ask_for_letters(copy).await?;
            if !self.context.shaper.is_fixed(copy.rule) {
                self.ask_for_places(copy).await?;
            }
        }
        let Some(container) = &group.container else { return Ok(()) };
        if group.copies.iter().all(|copy| !self.context.shaper.is_fixed(copy.rule)) {
            return Ok(());
        }
        if let Some(why) = self.spares_all(group) {
            tracing::info!(target = self.name, container, why, "what is old is not swept");
            return Ok(());
        }
        let Some(spared) = self.spared(group).await? else {
            tracing::warn!(
                target = self.name,
                container,
                "there are too many dead letters to tell what may be removed: what is gone from the \
                 source stays in the target. Settle them, then copy the rule again"
            );
            return Ok(());
        };
        self.sweep_container(container, group, &spared).await
    }

    /// Waits until everything that the stream has shown by now is settled.
    async fn catch_up(&self) {
        if self.rules.followed().is_empty() {
            return;
        }
        let frontier = *self.lanes.frontier().borrow();
        let mut settled = self.tracker.settled();
        while settled.is_none_or(|settled| settled < frontier) {
            settled = Some(self.tracker.settled_past(settled.as_ref()).await);
        }
    }

    /// Why being old says nothing about the documents of these rules.
    fn spares_all(&self, group: &Group) -> Option<String> {
        group.copies.iter().find_map(|copy| {
            let rule = self.rules.get(copy.rule).rule();
            let skips = rule.transform.as_ref().is_some_and(|script| script.may_skip());
            let why = match (rule.on_delete, skips) {
                (OnDelete::Keep, _) => "says `on_delete: keep`",
                (_, true) => "has a transform that may call `skip()`",
                _ => return None,
            };
            Some(format!("rule {} {why}", rule.name))
        })
    }

    /// Has the documents of a copy that lie in the dead letters since before it tried again: the copy
    /// did not find them.
    async fn ask_for_letters(&self, copy: &Copy) -> Result<(), Halt> {
        let asked = Completion::new();
        let mut after = None;
        if self.rules.get(copy.rule).follows() {
            while let Some(keys) = self.letters(copy, copy.plan.started, &mut after).await? {
                self.lanes.ask(&copy.namespace, keys, &asked).await;
            }
        }
        asked.close();
        asked.done().await;
        Ok(())
    }

    /// The next keys of a copy that lie in the dead letters since before a time; perhaps none of a
    /// page. `None` at the end.
    async fn letters(
        &self,
        copy: &Copy,
        before: ClusterTime,
        after: &mut Option<RecordKey>,
    ) -> Result<Option<Vec<DocumentKey>>, Halt> {
        let rule = &self.rules.get(copy.rule).rule().name;
        let prefix = keys::dead_letters_of(&self.name, rule, copy.namespace.as_str());
        let stop = &self.reading.stop;
        let found =
            insist(stop, || page::<DeadLetterRecord>(&*self.store, &prefix, after.as_ref(), PAGE))
                .await?;
        let Some((last, _)) = found.last() else { return Ok(None) };
        *after = Some(last.clone());
        found
            .iter()
            .filter(|(_, letter)| letter.cluster_time < before)
            .map(|(_, letter)| self.key(&letter.key))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    fn key(&self, stored: &bson::RawDocument) -> Result<DocumentKey, Halt> {
        DocumentKey::from_document_key(stored).map_err(|error| {
            let what = format!("holds a document key that can't be read: {error}");
            Halt::Store(StoreError::broken(self.store.place(), what))
        })
    }

    /// Asks for every document of a copy whose stored places say that the target holds it, and that
    /// the rule's read does not return.
    async fn ask_for_places(&self, copy: &Copy) -> Result<(), Halt> {
        let rule = self.rules.get(copy.rule);
        if !rule.follows() {
            return Ok(());
        }
        // In the copy a script's `remove()` leaves the target as it is where other rules might put
        // the document in the same place.
        let all = rule.rule().transform.is_some() && self.rules.iter().count() > 1;
        let prefix = keys::places(&self.name, copy.namespace.as_str());
        let stop = &self.reading.stop;
        let asked = Completion::new();
        let mut after = None;
        loop {
            let found =
                insist(stop, || page::<PlacesRecord>(&*self.store, &prefix, after.as_ref(), PAGE))
                    .await?;
            let Some((last, _)) = found.last() else { break };
            after = Some(last.clone());
            let mine = found.iter().filter(|(_, record)| {
                record.places.iter().any(|place| place.rule == rule.rule().name)
            });
            let keys: Vec<DocumentKey> = mine
                .filter_map(|(_, record)| record.key.as_ref())
                .map(|key| self.key(key))
                .collect::<Result<_, _>>()?;
            let keys = if all { keys } else { self.absent(copy, keys).await? };
            self.lanes.ask(&copy.namespace, keys, &asked).await;
        }
        asked.close();
        asked.done().await;
        Ok(())
    }

    async fn absent(
        &self,
        copy: &Copy,
        mut keys: Vec<DocumentKey>,
    ) -> Result<Vec<DocumentKey>, Halt> {
        let read = &self.rules.get(copy.rule).read;
        let mut absent = Vec::new();
        while !keys.is_empty() {
            self.budget.available().await;
            let answer = self
                .reading
                .fetch(&copy.namespace, read, &keys, self.lanes.floor(), &self.budget)
                .await?;
            let mut unread = Vec::new();
            for (key, fetched) in keys.into_iter().zip(answer.fetched) {
                match fetched {
                    Fetched::Absent => absent.push(key),
                    Fetched::Unread => unread.push(key),
                    Fetched::Present(_) | Fetched::Failed(_) => {}
                }
            }
            keys = unread;
        }
        Ok(absent)
    }

    /// The places of documents in the dead letters; `None` where there are too many.
    async fn spared(&self, group: &Group) -> Result<Option<Spared>, Halt> {
        let mut spared = Spared::default();
        let stop = &self.reading.stop;
        for copy in &group.copies {
            let mut after = None;
            let any = ClusterTime(u64::MAX);
            while let Some(keys) = self.letters(copy, any, &mut after).await? {
                if spared.places.len() > MOST_SPARED {
                    return Ok(None);
                }
                let subjects: Vec<Subject> = keys
                    .iter()
                    .map(|key| Subject { namespace: copy.namespace.clone(), key: key.clone() })
                    .collect();
                for key in &keys {
                    let types = self.context.ids.of(&copy.namespace, key.id(), stop).await?;
                    let shaper = &self.context.shaper;
                    spared.add(shaper.standing(copy.rule, &copy.namespace, key, &types).as_ref());
                }
                for places in self.context.places.load(&subjects, stop).await? {
                    places.iter().for_each(|place| spared.add(Some(&place.place)));
                }
            }
        }
        Ok(Some(spared))
    }

    async fn sweep_container(
        &self,
        container: &str,
        group: &Group,
        spared: &Spared,
    ) -> Result<(), Halt> {
        let started = group.copies.iter().map(|copy| copy.plan.started).min();
        let kept = group.copies.iter().map(|copy| copy.plan.kept).max();
        let (Some(started), Some(kept)) = (started, kept) else { return Ok(()) };
        let written = kept.max(FIRST)..started;
        if written.is_empty() {
            return Ok(());
        }
        let settings = &self.context.settings;
        let mut backoff = Backoff::new(settings.retry_initial, settings.retry_max);
        loop {
            let (send, mut pages) = mpsc::channel(PAGES);
            let listed = async {
                let listed = self.context.target.list(container, written.clone(), &send).await;
                drop(send);
                listed
            };
            let removed = async {
                let mut count = 0;
                while let Some(places) = pages.recv().await {
                    let old: Vec<PlaceKey> =
                        places.into_iter().filter(|place| !spared.holds(place)).collect();
                    count += old.len();
                    self.remove(&group.copies[0], old, started).await?;
                }
                Ok::<_, Halt>(count)
            };
            let (listed, removed) = tokio::join!(listed, removed);
            let removed = removed?;
            match listed {
                Ok(Listing::Whole) if removed == 0 => return Ok(()),
                Ok(Listing::Whole) => {
                    tracing::info!(
                        target = self.name,
                        container,
                        documents = removed,
                        "removed what is gone from the source"
                    );
                    return Ok(());
                }
                Ok(Listing::NotOurs(why)) => {
                    tracing::warn!(
                        target = self.name,
                        container,
                        why,
                        "what is gone from the source stays in the target"
                    );
                    return Ok(());
                }
                Err(retry) => {
                    self.context.status.waiting(&retry.message);
                    self.context.status.retry(retry.reason);
                    if !pause(backoff.next(retry.after), &self.reading.stop).await {
                        return Err(Halt::Stopped);
                    }
                }
            }
        }
    }

    /// Removes what is in these places unless it is as new as the copy.
    async fn remove(
        &self,
        copy: &Copy,
        places: Vec<PlaceKey>,
        started: ClusterTime,
    ) -> Result<(), Halt> {
        let time = started.before();
        let mut places = places.into_iter().peekable();
        while places.peek().is_some() {
            let limits = Limits::new(&self.context.settings);
            let mut batch = Batch::default();
            while batch.len() < limits.actions() && batch.bytes() < limits.bytes() {
                let Some(place) = places.next() else { break };
                let origin = Arc::new(self.origin(copy, &place, time));
                let operation = Operation {
                    place,
                    action: Action::Remove,
                    time,
                    extra: Bytes::new(),
                    namespace: copy.namespace.clone(),
                    phase: Phase::Copy,
                };
                batch.push(&*self.context.target, &operation, &origin);
            }
            deliver(self.context.clone(), batch, limits).await?.settle(&self.context).await?;
        }
        Ok(())
    }

    /// Which document it was is not known, only where it lies.
    fn origin(&self, copy: &Copy, place: &PlaceKey, time: ClusterTime) -> Origin {
        let words = self.context.target.describe(place);
        Origin {
            rule: copy.rule,
            namespace: copy.namespace.clone(),
            key: DocumentKey::from_id(RawBsonRef::String(&words)).expect("a text makes a key"),
            phase: Phase::Copy,
            time,
            since: None,
        }
    }
}

/// Places that are not swept, as hashes: a wrong match spares one more.
#[derive(Default)]
struct Spared {
    places: HashSet<u64>,
    hasher: RandomState,
}

impl Spared {
    fn add(&mut self, place: Option<&PlaceKey>) {
        self.places.extend(place.map(|place| self.hasher.hash_one(place)));
    }

    fn holds(&self, place: &PlaceKey) -> bool {
        self.places.contains(&self.hasher.hash_one(place))
    }
}
