//! Removes what a target holds of the time before a copy, once the copy is settled: documents that
//! were deleted, or left the rule, while nobody looked.
//!
//! Every document that the rules deliver has been written since the copy's start, by the copy or by a
//! change, with that time or a later one (`Lanes::floor`). So in a container of which every rule was
//! copied, whatever is older is gone from the source. The removal bears the last time before the
//! start: what is written beside it stays, whichever comes first.
//!
//! Which container a sweep is for was decided when the copies were planned, together with everything
//! that may lie there. What has changed since puts the sweep off, or ends it: a run that leaves
//! something out, a rule that writes elsewhere now, a rule that does not copy. What rules wrote that
//! have left the file, or was to be kept, is older than a time that is stored (`KeptRecord`).
//!
//! A target without versions tells the keys of what it holds, and each that the source no longer has is
//! asked for again through the lanes.
//!
//! Where a rule's places are stored, those tell which documents the target holds, and each is asked
//! for again through the lanes. Documents in the dead letters of the time before are asked for first,
//! and those that stay there are spared: what the target holds of them is the best that there is.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
    ops::Range,
    sync::Arc,
};

use bson::RawBsonRef;
use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, mpsc};

use crate::{
    change::{Cause, ClusterTime, DocumentKey, Namespace, Phase},
    checkpoint::{
        keys,
        records::{DeadLetterRecord, PlacesRecord, ReplacementRecord, page, removal},
        store::{RecordKey, Store, StoreError},
        tracker::{Completion, Tracker},
    },
    delivery::{
        Halt,
        batch::{Batch, Origin},
        insist, insist_on_writing,
        lane::Subject,
        request::{Course, deliver},
        retry::{Backoff, pause},
        writer::Context,
    },
    source::budget::Budget,
    target::{Action, Listing, Operation, PlaceKey, Retry},
};

use super::{
    Error, containers,
    copying::Copy,
    following::{Asked, Lanes},
    plan::Replacements,
    reading::{Fetched, Reading},
    rule_set::RuleSet,
    targets::insist_on_target,
};

/// Containers that are swept at once.
const AT_ONCE: usize = 4;
/// Records or keys at once.
const PAGE: usize = 1_000;
/// Pages of a listing that lie in memory.
const PAGES: usize = 2;
/// Dead letters that a sweep can spare; it remembers a number for each.
const MOST_SPARED: usize = 1_000_000;
/// Whose requests those are that no lane sends.
pub(super) const BESIDE_THE_LANES: usize = usize::MAX;
/// No cluster time is older: versions below are an engine's own counting.
pub const FIRST: ClusterTime = ClusterTime(1_000_000_000 << 32);

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
    /// All copies of this run.
    pub copies: Vec<Arc<Copy>>,
    /// Whether nothing that is copied into the target is left out of this run and incomplete.
    pub whole: bool,
    /// What is filled beside what is read.
    pub replacements: Replacements,
    /// Tells that all of a copy is settled; is told what is swept.
    pub ends: Arc<Notify>,
}

/// Copies that are swept together: all into one container, or one whose places are stored.
struct Group {
    container: Option<String>,
    copies: Vec<Arc<Copy>>,
    /// Whose documents may lie there too.
    beside: Vec<Arc<Copy>>,
    /// Whether the plans say that it is swept.
    swept: bool,
}

impl Group {
    fn is_settled(&self) -> bool {
        self.copies.iter().chain(&self.beside).all(|copy| copy.is_settled())
    }
}

impl Sweeping {
    /// Sweeps each container once all copies into it are settled; ends when all are swept.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run(self) -> Result<(), Error> {
        let mut groups = self.groups();
        let stop = self.reading.stop.clone();
        let mut under_way = FuturesUnordered::new();
        loop {
            let end = self.ends.notified();
            tokio::pin!(end);
            end.as_mut().enable();
            let mut waiting = Vec::with_capacity(groups.len());
            for group in groups {
                match under_way.len() < AT_ONCE && group.is_settled() {
                    true => under_way.push(self.sweep(group)),
                    false => waiting.push(group),
                }
            }
            groups = waiting;
            let swept = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(swept) = under_way.next() => swept,
                () = end, if !groups.is_empty() => Ok(()),
                else => return Ok(()),
            };
            match swept {
                Err(Halt::Stopped) => return Ok(()),
                swept => swept?,
            }
        }
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_container: BTreeMap<String, Vec<Arc<Copy>>> = BTreeMap::new();
        for copy in self.copies.iter().filter(|copy| !copy.is_swept()) {
            if !self.whole {
                self.put_off(copy);
                continue;
            }
            match copy.plan.container.clone() {
                Some(container) => by_container.entry(container).or_default().push(copy.clone()),
                None => groups.push(Group {
                    container: None,
                    copies: vec![copy.clone()],
                    beside: Vec::new(),
                    swept: true,
                }),
            }
        }
        if self.whole {
            // Also what is no longer swept, or of which nothing is left, has to be swapped in.
            for container in self.replacements.keys() {
                by_container.entry(container.clone()).or_default();
            }
        }
        groups.extend(by_container.into_iter().map(|(container, copies)| {
            let lies_there = |copy: &&Arc<Copy>| {
                copy.is_swept() && self.container(copy).is_none_or(|own| own == container)
            };
            let beside = self.copies.iter().filter(lies_there).cloned().collect();
            let swept = !copies.is_empty();
            Group { container: Some(container), copies, beside, swept }
        }));
        groups
    }

    fn put_off(&self, copy: &Copy) {
        tracing::warn!(
            target = self.name,
            rule = self.rules.get(copy.rule).rule().name,
            namespace = %copy.namespace,
            "what is gone from the source stays in the target until a run without --rule and \
             --changes-only removes it"
        );
        copy.defer_sweep();
    }

    /// Where a copy's documents lie now, whatever they hold.
    fn container(&self, copy: &Copy) -> Option<String> {
        let rule = self.rules.get(copy.rule).rule();
        let moves = rule.transform.as_ref().is_some_and(|script| script.may_move());
        self.context.target.container(&rule.name, &copy.namespace).filter(|_| !moves)
    }

    /// Sweeps, or says why not. Afterwards nothing of the group is left to be swept.
    async fn sweep(&self, group: Group) -> Result<(), Halt> {
        // What the stream had shown when the copy ended may still be on its way to the target.
        self.catch_up().await;
        for copy in &group.copies {
            self.ask_for_letters(copy).await?;
            if !self.context.shaper.is_fixed(copy.rule) {
                self.ask_for_places(copy).await?;
            }
        }
        let fixed = group.copies.iter().any(|copy| self.context.shaper.is_fixed(copy.rule));
        let mut everything = !group.swept;
        if let Some(container) = group.container.as_ref().filter(|_| fixed) {
            match self.obstacle(container, &group) {
                Some(why) => {
                    everything = true;
                    self.leave(container, &why);
                }
                None => self.sweep_container(container, &group).await?,
            }
        }
        if let Some(container) = &group.container
            && self.replacements.contains_key(container)
        {
            self.swap(container, everything).await?;
        }
        group.copies.iter().for_each(|copy| copy.swept());
        self.ends.notify_waiters();
        Ok(())
    }

    fn leave(&self, container: &str, why: &str) {
        tracing::warn!(
            target = self.name,
            container,
            why,
            "what is gone from the source stays in the target"
        );
    }

    /// Why being old says nothing about what lies in a container.
    fn obstacle(&self, container: &str, group: &Group) -> Option<String> {
        let moved = group
            .copies
            .iter()
            .find(|copy| self.container(copy).is_none_or(|now| now != container));
        if let Some(copy) = moved {
            let rule = &self.rules.get(copy.rule).rule().name;
            return Some(format!("rule {rule} writes to another place than when it was copied"));
        }
        if !self.context.target.is_versioned() {
            let all = || group.copies.iter().chain(&group.beside);
            let silent = all().map(|copy| self.rules.get(copy.rule)).find(|rule| !rule.follows());
            if let Some(rule) = silent {
                return Some(format!("rule {} follows no changes", rule.rule().name));
            }
            if all().any(|copy| copy.namespace != group.copies[0].namespace) {
                return Some("documents of several namespaces lie there".to_owned());
            }
            // Their documents can't be told by the source's keys.
            let chooses = self.rules.iter().find(|(index, rule)| {
                !self.context.shaper.is_fixed(*index)
                    && containers::may_reach(&*self.context.target, rule.rule(), container)
            });
            if let Some((_, rule)) = chooses {
                let name = &rule.rule().name;
                return Some(format!("rule {name} chooses where its documents lie"));
            }
        }
        containers::obstacle(&*self.context.target, &self.rules, container)
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

    /// Has the documents of a copy that lie in the dead letters since before it tried again: the copy
    /// did not find them.
    async fn ask_for_letters(&self, copy: &Copy) -> Result<(), Halt> {
        let asked = Completion::new();
        let mut after = None;
        let rule = self.rules.get(copy.rule);
        let prefix = keys::dead_letters_of(&self.name, &rule.rule().name, copy.namespace.as_str());
        while rule.follows() {
            let Some(letters) = self.letters(&prefix, &mut after).await? else { break };
            let old = letters.into_iter().filter(|(_, time)| *time < copy.plan.started);
            let old = old.map(|(subject, time)| Asked { key: subject.key, time, deleted: true });
            self.lanes.ask(&copy.namespace, old, &asked).await;
        }
        asked.close();
        asked.done().await;
        Ok(())
    }

    /// The next documents in the dead letters, with the time of what was refused. `None` at the end.
    async fn letters(
        &self,
        prefix: &RecordKey,
        after: &mut Option<RecordKey>,
    ) -> Result<Option<Vec<(Subject, ClusterTime)>>, Halt> {
        let stop = &self.reading.stop;
        let found =
            insist(stop, || page::<DeadLetterRecord>(&*self.store, prefix, after.as_ref(), PAGE))
                .await?;
        let Some((last, _)) = found.last() else { return Ok(None) };
        *after = Some(last.clone());
        let subject = |(_, letter): &(RecordKey, DeadLetterRecord)| {
            let key = self.key(&letter.key)?;
            let namespace = Namespace::parse(&letter.namespace).ok_or_else(|| {
                let what = format!("holds a dead letter of no namespace: {}", letter.namespace);
                Halt::Store(StoreError::broken(self.store.place(), what))
            })?;
            Ok((Subject { namespace, key }, letter.cluster_time))
        };
        found.iter().map(subject).collect::<Result<_, _>>().map(Some)
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
        let reads = self.rules.reads(rule.rule(), &copy.namespace);
        if !rule.follows() || !reads {
            let says = if reads { "follows no changes" } else { "does not read it any more" };
            let why = format!(
                "rule {} {says}, and its transform or templates choose where documents lie",
                rule.rule().name
            );
            self.leave(copy.namespace.as_str(), &why);
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
            let time = copy.plan.started;
            let gone = keys.into_iter().map(|key| Asked { key, time, deleted: true });
            self.lanes.ask(&copy.namespace, gone, &asked).await;
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
        let read = &self.rules.get(copy.rule).read.presence();
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

    /// Puts what was filled in the stead of what is read. What the copy does not bring and has to stay
    /// is taken over before: what the target holds of documents in the dead letters, which is the best
    /// that there is; what was put there by hand, and bears no time; and everything where being old says
    /// nothing.
    async fn swap(&self, container: &str, everything: bool) -> Result<(), Halt> {
        let target = &self.context.target;
        let mut refused = Refused::default();
        while let Some(places) = self.next_refused(container, &mut refused).await? {
            self.insist(|| target.take_over(container, &places)).await?;
        }
        let kept = self.kept(container).await?.is_some();
        if everything || kept || !self.take_over(container, ClusterTime::default()..FIRST).await? {
            self.take_over(container, ClusterTime::default()..ClusterTime(u64::MAX)).await?;
        }
        self.insist(|| target.swap(container)).await?;
        let key = keys::replacement(&self.name, container);
        let forget = vec![removal::<ReplacementRecord>(key)];
        insist_on_writing(&*self.store, forget, &self.reading.stop).await
    }

    async fn insist<F>(&self, ask: impl Fn() -> F) -> Result<(), Halt>
    where
        F: Future<Output = Result<(), Retry>>,
    {
        let Context { status, settings, validity, .. } = &*self.context;
        let stop = &self.reading.stop;
        let ask = || async {
            // A process that was paused may have lost its lease without knowing yet.
            validity.valid().await;
            ask().await
        };
        insist_on_target(status, settings, stop, ask).await.ok_or(Halt::Stopped)
    }

    /// Takes over what was written to the container that is replaced at these times. False where more
    /// than that has to be.
    async fn take_over(&self, container: &str, written: Range<ClusterTime>) -> Result<bool, Halt> {
        let Context { target, status, settings, .. } = &*self.context;
        let mut backoff = Backoff::new(settings.retry_initial, settings.retry_max);
        loop {
            let (send, mut pages) = mpsc::channel(PAGES);
            let listed = async {
                let listed = target.list_replaced(container, written.clone(), &send).await;
                drop(send);
                listed
            };
            let taken = async {
                while let Some(places) = pages.recv().await {
                    for places in places.chunks(PAGE) {
                        self.insist(|| target.take_over(container, places)).await?;
                    }
                }
                Ok::<_, Halt>(())
            };
            let (listed, taken) = tokio::join!(listed, taken);
            taken?;
            match listed {
                Ok(Listing::Whole) => return Ok(true),
                Ok(Listing::NotOurs(why)) => {
                    self.leave(container, &why);
                    return Ok(false);
                }
                Err(retry) => {
                    status.waiting(&retry.message);
                    status.retry(retry.reason);
                    if !pause(backoff.next(retry.after), &self.reading.stop).await {
                        return Err(Halt::Stopped);
                    }
                }
            }
        }
    }

    /// What was written before this stays.
    async fn kept(&self, container: &str) -> Result<Option<ClusterTime>, Halt> {
        let stop = &self.reading.stop;
        insist(stop, || containers::kept(&*self.store, &self.name, container)).await
    }

    /// The places of documents in the dead letters; `None` where there are too many.
    async fn spared(&self, container: &str) -> Result<Option<Spared>, Halt> {
        let mut spared = Spared::default();
        let mut refused = Refused::default();
        while let Some(places) = self.next_refused(container, &mut refused).await? {
            places.iter().for_each(|place| spared.add(place));
            if spared.places.len() > MOST_SPARED {
                return Ok(None);
            }
        }
        Ok(Some(spared))
    }

    /// The next places of documents in the dead letters of the rules that may write to a container.
    /// `None` at the end.
    async fn next_refused(
        &self,
        container: &str,
        refused: &mut Refused,
    ) -> Result<Option<Vec<PlaceKey>>, Halt> {
        let stop = &self.reading.stop;
        loop {
            let Some((index, rule)) = self.rules.iter().nth(refused.rules) else { return Ok(None) };
            let rule = rule.rule();
            let reaches = containers::may_reach(&*self.context.target, rule, container);
            let prefix = keys::dead_letters(&self.name, &rule.name);
            let found = match reaches {
                true => self.letters(&prefix, &mut refused.after).await?,
                false => None,
            };
            let Some(letters) = found else {
                *refused = Refused { rules: refused.rules + 1, after: None };
                continue;
            };
            let subjects: Vec<Subject> = letters.into_iter().map(|(subject, _)| subject).collect();
            let mut places = Vec::with_capacity(subjects.len());
            for Subject { namespace, key } in &subjects {
                let types = self.context.ids.of(namespace, key.id(), stop).await?;
                places.extend(self.context.shaper.standing(index, namespace, key, &types));
            }
            for stored in self.context.places.load(&subjects, stop).await? {
                places.extend(stored.iter().map(|place| place.place.clone()));
            }
            return Ok(Some(places));
        }
    }

    async fn sweep_container(&self, container: &str, group: &Group) -> Result<(), Halt> {
        let Some(started) = group.copies.iter().map(|copy| copy.plan.started).min() else {
            return Ok(());
        };
        let kept = self.kept(container).await?.unwrap_or_default();
        let written = kept.max(FIRST)..started;
        if kept > FIRST {
            self.leave(
                container,
                "what was written before a rule left the file, or before a collection was dropped \
                 whose documents are kept, can't be told apart",
            );
        }
        // What bears no time can't be told apart at all.
        if written.is_empty() || (kept > FIRST && !self.context.target.is_versioned()) {
            return Ok(());
        }
        let Some(spared) = self.spared(container).await? else {
            self.leave(
                container,
                "there are too many dead letters to tell what may be removed: settle them, then copy \
                 the rule again",
            );
            return Ok(());
        };
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
                    count += match self.context.target.is_versioned() {
                        true => self.remove(&group.copies[0], old, started).await?,
                        false => self.ask_for_old(group, old).await?,
                    };
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
                    // Of what has never been copied nothing is gone. What could be listed, but for what
                    // others wrote there, may hold more.
                    let again = group.copies.iter().any(|copy| copy.plan.asked);
                    if again || self.context.target.can_list() {
                        self.leave(container, &why);
                    }
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
    ) -> Result<usize, Halt> {
        let time = started.before();
        let count = places.len();
        let mut places = places.into_iter().peekable();
        while places.peek().is_some() {
            let course = Course::new(&self.context.settings);
            let limits = course.limits;
            let mut batch = Batch::default();
            while batch.len() < limits.actions() && batch.bytes() < limits.bytes() {
                let Some(place) = places.next() else { break };
                let origin = Arc::new(self.origin(copy, &place, time));
                let operation = Operation {
                    place,
                    action: Action::Remove,
                    time,
                    cause: Cause::Copy(copy.plan.id),
                    extra: Bytes::new(),
                    namespace: copy.namespace.clone(),
                    phase: Phase::Copy,
                };
                batch.push(&*self.context.target, operation, origin, false);
            }
            deliver(self.context.clone(), BESIDE_THE_LANES, batch, course)
                .await?
                .settle(&self.context)
                .await?;
        }
        Ok(count)
    }

    /// Asks the lanes for what lies in these places and is gone from the source, and waits until it is
    /// settled. Returns how many there are.
    ///
    /// Nothing tells how old a document is in a target without versions, but the source tells which of
    /// them there are; the lanes put what they then find behind all that is under way. Where no rule
    /// reads the namespace any more, no lane would find anything, and none writes there.
    async fn ask_for_old(&self, group: &Group, places: Vec<PlaceKey>) -> Result<usize, Halt> {
        let copy = &group.copies[0];
        if self.rules.following(&copy.namespace).is_empty() {
            return self.remove(copy, places, copy.plan.started).await;
        }
        let mut keys: Vec<DocumentKey> =
            places.iter().filter_map(|place| self.context.target.key(place)).collect();
        let several = self.rules.iter().count() > 1;
        for copy in group.copies.iter().chain(&group.beside) {
            let rule = self.rules.get(copy.rule).rule();
            // One that does not read it any more has nothing there; for the others see
            // `ask_for_places`.
            let reads = self.rules.reads(rule, &copy.namespace);
            if !reads || (several && rule.transform.is_some()) {
                continue;
            }
            keys = self.absent(copy, keys).await?;
        }
        let asked = Completion::new();
        let count = keys.len();
        let time = copy.plan.started;
        let gone = keys.into_iter().map(|key| Asked { key, time, deleted: true });
        self.lanes.ask(&copy.namespace, gone, &asked).await;
        asked.close();
        asked.done().await;
        Ok(count)
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
            deleted: true,
            event: None,
        }
    }
}

/// How far the dead letters have been read.
#[derive(Default)]
struct Refused {
    /// Rules whose letters have all been read.
    rules: usize,
    after: Option<RecordKey>,
}

/// Places that are not swept, as hashes: a wrong match spares one more.
#[derive(Default)]
struct Spared {
    places: HashSet<u64>,
    hasher: RandomState,
}

impl Spared {
    fn add(&mut self, place: &PlaceKey) {
        self.places.insert(self.hasher.hash_one(place));
    }

    fn holds(&self, place: &PlaceKey) -> bool {
        self.places.contains(&self.hasher.hash_one(place))
    }
}
