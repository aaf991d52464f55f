//! What the target holds and no document of the source makes.
//!
//! Every place that the rules' documents take is noted as a number of eight bytes; what the target lists
//! and was not noted is looked at closely. Where there are more places than may lie in memory, only those
//! of a part of all numbers are noted, and the source is gone through again for the next part.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use tokio::sync::mpsc;

use crate::{
    change::{ClusterTime, DocumentKey, Namespace, Phase, RuleIndex, id::IdTypes},
    checkpoint::{
        keys,
        records::{PlacesRecord, page},
        store::RecordKey,
    },
    delivery::{insist, lane::Subject},
    rules::model::OnDelete,
    target::{Listing, PlaceKey},
};

use super::{Error, Part, Verifying, judging::Events, report::TargetReport};
use crate::pipeline::{containers, sweeping::FIRST};

/// Places that are noted at once: 64 MiB.
const MOST: usize = 8 << 20;
/// Places that are looked at closely together.
const BATCH: usize = 20_000;
/// Records at once.
const PAGE: usize = 1_000;
/// Pages of a listing that lie in memory.
const PAGES: usize = 2;
/// How often a place whose document changes all the time is looked at.
const ROUNDS: usize = 8;

/// The places that documents of the source take, as far as they lie in the part of all numbers that is
/// looked at now.
pub(super) struct Seen {
    hasher: RandomState,
    from: u64,
    /// The last one.
    to: u64,
    places: Vec<u64>,
    most: usize,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), from: 0, to: u64::MAX, places: Vec::new(), most: MOST }
    }

    /// Notes a place. Where there are too many, those of the upper half are left for later.
    pub(super) fn add(&mut self, place: &PlaceKey) {
        let number = self.hasher.hash_one(place);
        if !(self.from..=self.to).contains(&number) {
            return;
        }
        self.places.push(number);
        while self.places.len() > self.most {
            self.places.sort_unstable();
            self.places.dedup();
            if self.places.len() <= self.most / 2 || self.from == self.to {
                return;
            }
            self.to = self.from + (self.to - self.from) / 2;
            let to = self.to;
            self.places.retain(|number| *number <= to);
        }
    }

    /// To be called once all are noted, before any is asked for.
    pub(super) fn close(&mut self) {
        self.places.sort_unstable();
    }

    /// Whether a place belongs to the part that is looked at, and was not noted.
    pub(super) fn lacks(&self, place: &PlaceKey) -> bool {
        let number = self.hasher.hash_one(place);
        (self.from..=self.to).contains(&number) && self.places.binary_search(&number).is_err()
    }

    /// Goes on to the next part; false where that was the last.
    pub(super) fn go_on(&mut self) -> bool {
        self.places.clear();
        let Some(from) = self.to.checked_add(1) else { return false };
        (self.from, self.to) = (from, u64::MAX);
        true
    }
}

/// Where extra documents are looked for.
pub(super) struct Containers<'a> {
    /// By name, each with what lies there.
    listed: BTreeMap<String, Vec<&'a Part>>,
    /// Those whose places are stored.
    stored: Vec<&'a Part>,
}

/// A place that no document was found for.
struct Candidate {
    place: PlaceKey,
    rule: RuleIndex,
    /// The document that was there once, where it is known.
    document: Option<(Namespace, DocumentKey)>,
}

/// What is not to be there.
pub(super) struct Extra {
    pub place: PlaceKey,
    pub rule: RuleIndex,
    /// When it was written: what is newer is not meant.
    pub written: ClusterTime,
    pub document: Option<(Namespace, DocumentKey)>,
}

impl Containers<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.stored.is_empty()
    }
}

impl Verifying<'_> {
    /// Where extra documents can be told. Where they can't, the report says why.
    pub(super) fn containers<'a>(
        &self,
        parts: &'a [Part],
        report: &mut TargetReport,
    ) -> Containers<'a> {
        let mut containers = Containers { listed: BTreeMap::new(), stored: Vec::new() };
        for part in parts {
            let rule = self.set.get(part.rule).rule();
            let moves = rule.transform.as_ref().is_some_and(|script| script.may_move());
            let container = self.target.container(&rule.name, &part.namespace);
            match container.filter(|_| !moves) {
                Some(container) => {
                    let why = self.obstacle(&container, parts);
                    match why {
                        Some(why) => report.note(format!(
                            "what {container} holds beside the source can't be told: {why}"
                        )),
                        None => containers.listed.entry(container).or_default().push(part),
                    }
                }
                None => {
                    let skips = rule.transform.as_ref().is_some_and(|script| script.may_skip());
                    let why = match (rule.on_delete, skips, self.set.get(part.rule).follows()) {
                        (OnDelete::Keep, ..) => Some("it says `on_delete: keep`"),
                        (_, true, _) => Some("its transform may call `skip()`"),
                        (.., false) => Some("it follows no changes"),
                        _ => None,
                    };
                    match why {
                        Some(why) => report.note(format!(
                            "what the target holds of rule {} beside the source can't be told: {why}",
                            rule.name
                        )),
                        None => {
                            report.note(format!(
                                "where documents of rule {} lie depends on the documents: what is extra \
                                 is looked for in the places that are remembered of it, and nowhere else",
                                rule.name
                            ));
                            containers.stored.push(part);
                        }
                    }
                }
            }
        }
        containers
    }

    fn obstacle(&self, container: &str, parts: &[Part]) -> Option<String> {
        let reaches = |(_, rule): &(RuleIndex, &super::TargetRule)| {
            containers::may_reach(&*self.target, rule.rule(), container)
        };
        for (index, rule) in self.set.iter().filter(reaches) {
            let name = &rule.rule().name;
            if !self.chosen(name) {
                return Some(format!("rule {name} writes there too, and was not looked at"));
            }
            if !rule.follows() {
                return Some(format!("rule {name} follows no changes"));
            }
            if let Some(part) = parts.iter().find(|part| part.rule == index && part.copying) {
                return Some(format!("{} is still being copied", part.namespace));
            }
        }
        let mut events = self.events();
        let told = events.find(|rule| containers::may_reach(&*self.target, rule, container));
        if let Some(rule) = told {
            return Some(format!("rule {} puts events there", rule.name));
        }
        containers::obstacle(&*self.target, &self.set, container)
    }

    /// Looks for what was not noted, and takes it into the report; what is held is counted the first
    /// time. `began` is a time before the first document was noted.
    pub(super) async fn extra(
        &self,
        containers: &Containers<'_>,
        seen: &Seen,
        began: ClusterTime,
        (first, report): (bool, &mut TargetReport),
    ) -> Result<(), Error> {
        for (container, parts) in &containers.listed {
            self.progress.begin(format!("{container}, for what should not be there"), 0);
            let kept =
                insist(&self.reading.stop, || containers::kept(&*self.store, self.name, container));
            let kept = kept.await?.unwrap_or_default().max(FIRST);
            let (send, mut pages) = mpsc::channel(PAGES);
            let listed = async {
                let everything = kept..ClusterTime(u64::MAX);
                let listed = self.target.list(container, everything, &send).await;
                drop(send);
                listed
            };
            let found = async {
                let mut held = 0;
                let mut candidates = Vec::new();
                while let Some(places) = pages.recv().await {
                    held += places.len() as u64;
                    self.progress.add(places.len() as u64);
                    let lacking = places.into_iter().filter(|place| seen.lacks(place));
                    candidates.extend(lacking.map(|place| Candidate {
                        document: self.document_of(&place, parts),
                        place,
                        rule: parts[0].rule,
                    }));
                    if candidates.len() >= BATCH {
                        let batch = std::mem::take(&mut candidates);
                        self.judge_extra(batch, parts, began, report).await?;
                    }
                }
                self.judge_extra(candidates, parts, began, report).await?;
                Ok::<_, Error>(held)
            };
            let (listed, held) = tokio::join!(listed, found);
            let held = held?;
            match listed {
                Ok(Listing::Whole) if first => *report.held.get_or_insert(0) += held,
                Ok(Listing::Whole) => {}
                Ok(Listing::NotOurs(why)) => report
                    .note(format!("what {container} holds beside the source can't be told: {why}")),
                Err(retry) => {
                    return Err(Error::NotReached {
                        what: format!("target {}", self.name),
                        wait: self.verify.wait,
                        source: retry.message.into(),
                    });
                }
            }
        }
        for part in &containers.stored {
            self.extra_of_stored(part, seen, began, report).await?;
        }
        Ok(())
    }

    async fn extra_of_stored(
        &self,
        part: &Part,
        seen: &Seen,
        began: ClusterTime,
        report: &mut TargetReport,
    ) -> Result<(), Error> {
        let rule = &self.set.get(part.rule).rule().name;
        let prefix = keys::places(self.name, part.namespace.as_str());
        let mut after: Option<RecordKey> = None;
        loop {
            let stop = &self.reading.stop;
            let load = || page::<PlacesRecord>(&*self.store, &prefix, after.as_ref(), PAGE);
            let found = insist(stop, load).await?;
            let Some((last, _)) = found.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut candidates = Vec::new();
            for (_, record) in &found {
                let key = record.key.as_ref();
                let key = key.and_then(|key| DocumentKey::from_document_key(key).ok());
                let mine = record.places.iter().filter(|stored| stored.rule == *rule);
                let places = mine.map(|stored| PlaceKey(stored.place.bytes.clone().into()));
                candidates.extend(places.filter(|place| seen.lacks(place)).map(|place| {
                    let document = key.clone().map(|key| (part.namespace.clone(), key));
                    Candidate { place, rule: part.rule, document }
                }));
            }
            self.judge_extra(candidates, &[part], began, report).await?;
        }
    }

    /// Looks closely at places that no document was found for, as `judging` does at documents.
    async fn judge_extra(
        &self,
        mut candidates: Vec<Candidate>,
        parts: &[&Part],
        began: ClusterTime,
        report: &mut TargetReport,
    ) -> Result<(), Error> {
        let names: Vec<&str> = self.set.iter().map(|(_, rule)| rule.rule().name.as_str()).collect();
        for _ in 0..ROUNDS {
            if candidates.is_empty() {
                return Ok(());
            }
            let position = self.position_of(&names).await?;
            let mut still = self.still_there(candidates, began).await?;
            if !self.target.is_versioned() {
                still = self.not_made(still, parts, position).await?;
            }
            if still.is_empty() {
                return Ok(());
            }
            let until = self.now().await?;
            let changed = self.changed_places(&still, (position, until)).await?;
            let (changed, extra): (Vec<_>, Vec<_>) =
                still.into_iter().partition(|extra| changed.contains(&extra.place));
            match self.is_replaced().await? {
                true => report.extra_not_delivered += extra.len() as u64,
                false => self.found_extra(extra, report).await?,
            }
            if changed.is_empty() {
                return Ok(());
            }
            if !self.reach_position(&names, until).await? {
                report.extra_not_delivered += changed.len() as u64;
                return Ok(());
            }
            let again = |Extra { place, rule, document, .. }| Candidate { place, rule, document };
            candidates = changed.into_iter().map(again).collect();
        }
        report.extra_not_delivered += candidates.len() as u64;
        Ok(())
    }

    /// Those places that hold something from before a time. What is newer was written while the source
    /// was gone through.
    async fn still_there(
        &self,
        candidates: Vec<Candidate>,
        began: ClusterTime,
    ) -> Result<Vec<Extra>, Error> {
        let mut still = Vec::new();
        let mut candidates = candidates.into_iter().peekable();
        while candidates.peek().is_some() {
            // What they hold is not known, nor how large it is.
            let group: Vec<_> = candidates.by_ref().take(50).collect();
            let places: Vec<PlaceKey> = group.iter().map(|it| it.place.clone()).collect();
            let held = self.held(&places).await?;
            for (Candidate { place, rule, document }, held) in group.into_iter().zip(held) {
                if let Some(held) = held.filter(|held| held.written < began) {
                    still.push(Extra { place, rule, document, written: held.written });
                }
            }
        }
        Ok(still)
    }

    /// The source's document that a place of a target without versions is of: only the source tells
    /// whether what is there is old.
    fn document_of(&self, place: &PlaceKey, parts: &[&Part]) -> Option<(Namespace, DocumentKey)> {
        match self.target.is_versioned() {
            true => None,
            false => Some((parts[0].namespace.clone(), self.target.key(place)?)),
        }
    }

    /// Those that no document of the source makes now: it may have come since it was gone through.
    async fn not_made(
        &self,
        mut extra: Vec<Extra>,
        parts: &[&Part],
        after: ClusterTime,
    ) -> Result<Vec<Extra>, Error> {
        for part in parts {
            let known = extra.iter().filter_map(|extra| extra.document.as_ref());
            let mut keys: Vec<DocumentKey> = known.map(|(_, key)| key.clone()).collect();
            let mut made = HashSet::new();
            while !keys.is_empty() {
                let asked: Vec<_> = keys.drain(..keys.len().min(PAGE)).collect();
                let (page, unread) = self.fetch(part, asked, after).await?;
                keys.extend(unread);
                for wanted in self.shape(part, page, Phase::Changes).await? {
                    made.extend(wanted.puts.into_iter().map(|(place, _)| place));
                    made.extend(wanted.left);
                }
            }
            extra.retain(|extra| !made.contains(&extra.place));
        }
        Ok(extra)
    }

    /// Which of some places belong to documents that the change stream shows between two times.
    async fn changed_places(
        &self,
        extra: &[Extra],
        (from, until): (ClusterTime, ClusterTime),
    ) -> Result<HashSet<PlaceKey>, Error> {
        let known: HashSet<&PlaceKey> = extra.iter().map(|extra| &extra.place).collect();
        let mut changed = HashSet::new();
        let mut types: BTreeMap<Namespace, IdTypes> = BTreeMap::new();
        let mut events = Events::new(self, from, until);
        while let Some(changes) = events.next().await? {
            let mut moving = Vec::new();
            for (namespace, key) in changes {
                let rules = self.set.following(&namespace);
                let types = match types.get(&namespace) {
                    Some(types) => *types,
                    None => {
                        let found = self.id_types(&namespace).await?;
                        types.insert(namespace.clone(), found);
                        found
                    }
                };
                let standing = |rule| self.shaper.standing(rule, &namespace, &key, &types);
                changed.extend(rules.iter().filter_map(|rule| standing(*rule)));
                if rules.iter().any(|rule| !self.shaper.is_fixed(*rule)) {
                    moving.push(Subject { namespace, key });
                }
            }
            let stored = self.places.load(&moving, &self.reading.stop).await?;
            changed.extend(stored.into_iter().flatten().map(|place| place.place));
            changed.retain(|place| known.contains(place));
        }
        if events.all {
            changed.extend(known.into_iter().cloned());
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(number: u32) -> PlaceKey {
        PlaceKey(number.to_be_bytes().to_vec().into())
    }

    /// However few may be noted at once: each place belongs to one part, and is missed there if it was
    /// not noted.
    #[test]
    fn parts_leave_nothing_out() {
        for most in [4, 50, 1_000, 100_000] {
            let mut seen = Seen { most, ..Seen::new() };
            let mut lacking = Vec::new();
            let mut parts = 0;
            loop {
                parts += 1;
                // Some twice, as where two rules put documents there.
                (0..2_000).filter(|it| it % 10 != 0).for_each(|it| seen.add(&place(it)));
                (0..200).filter(|it| it % 10 != 0).for_each(|it| seen.add(&place(it)));
                seen.close();
                lacking.extend((0..2_000).filter(|it| seen.lacks(&place(*it))));
                if !seen.go_on() {
                    break;
                }
            }
            lacking.sort_unstable();
            let expected: Vec<_> = (0..2_000).filter(|it| it % 10 == 0).collect();
            assert_eq!(lacking, expected, "{most}");
            assert_eq!(parts == 1, most == 100_000, "{most}");
        }
    }
}
