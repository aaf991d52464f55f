//! Whether what differs is a difference, or only on its way.
//!
//! Everything before the stored position is settled. So where the target, read after the position was,
//! holds something else than the source, and the change stream shows no event of the document from the
//! position until after both were read, no change can make up for it: it differs. Where it shows one,
//! the position is waited for and the document looked at again; where the position does not move,
//! nobody delivers now, and the change is not delivered yet. Nothing is concluded from clocks.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    change::{ClusterTime, DocumentKey, Namespace, Phase},
    checkpoint::{
        keys,
        lease::{self, Claim, Identity},
        records::{PositionRecord, ReplacementRecord, load, load_all},
        store::Table,
    },
    delivery::insist,
    source::{
        error::Remedy,
        stream::{ChangeStream, Event, Start},
    },
    target::PlaceKey,
};

use super::{
    Error, Part, Verifying,
    comparing::{Verdict, Wanted},
    report::Kind,
};
use crate::pipeline::reading::SourceBackoff;

/// How often a document that changes all the time is looked at.
const ROUNDS: usize = 8;
/// How long a position that does not move is watched, while somebody holds the name.
const STILL: Duration = Duration::from_secs(12);
/// How often the position is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long an idle reply of the change stream is waited for.
const AWAIT: Duration = Duration::from_millis(100);
/// Keys that are looked up at once.
const KEYS: usize = 1_000;

/// Something that differs for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Wrong {
    pub key: DocumentKey,
    pub place: PlaceKey,
    pub kind: Kind,
}

/// What came of looking closely.
#[derive(Default, Debug)]
pub(super) struct Judged {
    pub equal: u64,
    pub wrong: Vec<Wrong>,
    /// Not delivered yet.
    pub waiting: u64,
    /// Documents in the dead letters.
    pub lettered: u64,
}

impl Judged {
    /// Takes a document that has been looked at closely enough.
    pub(super) fn take(&mut self, wanted: Wanted, verdicts: &[Verdict]) {
        let (suspect, equal) = Suspect::of(wanted, verdicts);
        self.equal += equal;
        if let Some(Suspect { key, wrong }) = suspect {
            let wrong = wrong.into_iter();
            self.wrong.extend(wrong.map(|(place, kind)| Wrong { key: key.clone(), place, kind }));
        }
    }
}

/// A document of which some places are not as they should be.
struct Suspect {
    key: DocumentKey,
    wrong: Vec<(PlaceKey, Kind)>,
}

impl Suspect {
    /// The places that are not as they should be, if any; and how many are.
    fn of(wanted: Wanted, verdicts: &[Verdict]) -> (Option<Self>, u64) {
        let places = wanted.puts.into_iter().zip(verdicts);
        let wrong: Vec<_> = places
            .filter_map(|((place, _), verdict)| match verdict {
                Verdict::Equal => None,
                Verdict::Missing => Some((place, Kind::Missing)),
                Verdict::Different => Some((place, Kind::Different)),
            })
            .collect();
        let equal = (verdicts.len() - wrong.len()) as u64;
        let suspect = (!wrong.is_empty()).then_some(Self { key: wanted.key, wrong });
        (suspect, equal)
    }
}

impl Verifying<'_> {
    /// Looks at documents until it is known of each what it is.
    pub(super) async fn judge(
        &self,
        part: &Part,
        mut keys: Vec<DocumentKey>,
    ) -> Result<Judged, Error> {
        let mut judged = Judged::default();
        let follows = self.set.get(part.rule).follows();
        for _ in 0..ROUNDS {
            let position = if follows { Some(self.position(part).await?) } else { None };
            let after = position.unwrap_or_default();
            let (suspects, read) = self.suspects(part, keys, after, &mut judged).await?;
            if suspects.is_empty() {
                return Ok(judged);
            }
            let open =
                |suspects: &[Suspect]| suspects.iter().map(|it| it.wrong.len() as u64).sum::<u64>();
            if part.copying {
                judged.waiting += open(&suspects);
                return Ok(judged);
            }
            let Some(position) = position else {
                self.conclude(part, suspects, &mut judged).await?;
                return Ok(judged);
            };
            // Another member may lag behind the one that was read.
            let until = self.now().await?.max(read);
            let changed = self.changed(part, &suspects, (position, until)).await?;
            let (changed, settled): (Vec<_>, Vec<_>) =
                suspects.into_iter().partition(|suspect| changed.contains(&id_of(&suspect.key)));
            self.conclude(part, settled, &mut judged).await?;
            if changed.is_empty() {
                return Ok(judged);
            }
            if !self.reaches(part, until).await? {
                judged.waiting += open(&changed);
                return Ok(judged);
            }
            keys = changed.into_iter().map(|suspect| suspect.key).collect();
        }
        judged.waiting += keys.len() as u64;
        Ok(judged)
    }

    /// Those of some documents that are not as they should be now; and a time that nothing which was
    /// read of the source is newer than.
    async fn suspects(
        &self,
        part: &Part,
        mut keys: Vec<DocumentKey>,
        after: ClusterTime,
        judged: &mut Judged,
    ) -> Result<(Vec<Suspect>, ClusterTime), Error> {
        let (mut suspects, mut read) = (Vec::new(), after);
        while !keys.is_empty() {
            let asked: Vec<_> = keys.drain(..keys.len().min(KEYS)).collect();
            let (page, unread) = self.fetch(part, asked, after).await?;
            keys.extend(unread);
            read = read.max(page.read);
            // As the change stream delivers them; what the copy delivers has been looked at before.
            let wanted = self.shape(part, page, Phase::Changes).await?;
            let verdicts = self.look(&wanted).await?;
            for (wanted, verdicts) in wanted.into_iter().zip(verdicts) {
                judged.lettered += u64::from(wanted.refused);
                let (suspect, equal) = Suspect::of(wanted, &verdicts);
                judged.equal += equal;
                suspects.extend(suspect);
            }
        }
        Ok((suspects, read))
    }

    /// No change makes up for these: they are in the dead letters, or they differ.
    async fn conclude(
        &self,
        part: &Part,
        suspects: Vec<Suspect>,
        judged: &mut Judged,
    ) -> Result<(), Error> {
        // A copy that has begun meanwhile may go elsewhere, and changes with it.
        if !suspects.is_empty() && self.is_copied(part.rule, &part.namespace).await? {
            judged.waiting +=
                suspects.iter().map(|suspect| suspect.wrong.len() as u64).sum::<u64>();
            return Ok(());
        }
        let rule = self.set.get(part.rule).rule();
        let letters: Vec<_> = suspects
            .iter()
            .map(|suspect| {
                let key = suspect.key.canonical();
                keys::dead_letter(self.name, &rule.name, part.namespace.as_str(), key)
            })
            .collect();
        let stop = &self.reading.stop;
        let stored = insist(stop, || self.store.get_many(Table::DeadLetters, &letters)).await?;
        for (Suspect { key, wrong }, letter) in suspects.into_iter().zip(stored) {
            if letter.is_some() {
                judged.lettered += 1;
                continue;
            }
            for (place, kind) in wrong {
                // What has not changed since a rule without a copy began was never delivered.
                if kind == Kind::Missing && rule.copy.is_none() {
                    judged.waiting += 1;
                } else {
                    judged.wrong.push(Wrong { key: key.clone(), place, kind });
                }
            }
        }
        Ok(())
    }

    /// Which of some documents the change stream shows between two times, by their `_id`.
    async fn changed(
        &self,
        part: &Part,
        suspects: &[Suspect],
        (from, until): (ClusterTime, ClusterTime),
    ) -> Result<HashSet<DocumentKey>, Error> {
        let mut known: HashMap<DocumentKey, bool> =
            suspects.iter().map(|suspect| (id_of(&suspect.key), false)).collect();
        let mut events = Events::new(self, from, until);
        while let Some(changes) = events.next().await? {
            for (namespace, key) in changes {
                if namespace == part.namespace
                    && let Some(changed) = known.get_mut(&id_of(&key))
                {
                    *changed = true;
                }
            }
        }
        let all = events.all;
        Ok(known.into_iter().filter(|(_, changed)| all || *changed).map(|(key, _)| key).collect())
    }

    /// Up to where everything of a part's rule is settled.
    pub(super) async fn position(&self, part: &Part) -> Result<ClusterTime, Error> {
        self.position_of(&[&self.set.get(part.rule).rule().name]).await
    }

    /// Up to where everything of some rules is settled.
    pub(super) async fn position_of(&self, rules: &[&str]) -> Result<ClusterTime, Error> {
        let key = keys::position(self.name);
        let stop = &self.reading.stop;
        let record: Option<PositionRecord> = insist(stop, || load(&*self.store, &key)).await?;
        let Some(record) = record else {
            return Err(Error::Refused(format!(
                "nothing has been delivered to target {} yet: `mongosync run` does",
                self.name
            )));
        };
        let behind = rules.iter().filter_map(|rule| record.behind.get(*rule));
        Ok(behind.map(|time| ClusterTime::from(*time)).fold(record.time, ClusterTime::min))
    }

    /// Waits until a part's rule is settled up to a time. False where nobody works on it now.
    async fn reaches(&self, part: &Part, until: ClusterTime) -> Result<bool, Error> {
        self.reach_position(&[&self.set.get(part.rule).rule().name], until).await
    }

    /// Waits until some rules are settled up to a time. False where nobody works on that now.
    pub(super) async fn reach_position(
        &self,
        rules: &[&str],
        until: ClusterTime,
    ) -> Result<bool, Error> {
        let mut last = (ClusterTime::ZERO, Instant::now());
        loop {
            // Before the position, so that what was stored last is seen.
            let held = self.is_held().await?;
            let position = self.position_of(rules).await?;
            if position >= until {
                return Ok(true);
            }
            // It has been watched before, and has not moved since.
            if !held || self.still.get() == Some(position) {
                return Ok(false);
            }
            if position > last.0 {
                last = (position, Instant::now());
            } else if last.1.elapsed() > STILL {
                self.still.set(Some(position));
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether something is filled beside what is read: changes go there, and not to what is read.
    pub(super) async fn is_replaced(&self) -> Result<bool, Error> {
        let prefix = keys::replacements(self.name);
        let stop = &self.reading.stop;
        let all = insist(stop, || load_all::<ReplacementRecord>(&*self.store, &prefix)).await?;
        Ok(!all.is_empty())
    }

    /// Whether somebody may hold the name.
    async fn is_held(&self) -> Result<bool, Error> {
        let stop = &self.reading.stop;
        let lease = insist(stop, || lease::current(&*self.store)).await?;
        let me = Identity::of_this_process(&self.file.name, &self.file.path);
        Ok(lease.is_some_and(|lease| lease::claim(&lease, &me) != Claim::Free))
    }
}

/// A document by its `_id` alone: of a sharded collection too.
fn id_of(key: &DocumentKey) -> DocumentKey {
    DocumentKey::from_id(key.id()).unwrap_or_else(|_| key.clone())
}

/// What the change stream of the target's rules shows between two times.
pub(super) struct Events<'a> {
    verifying: &'a Verifying<'a>,
    stream: Option<ChangeStream>,
    from: ClusterTime,
    until: ClusterTime,
    ended: bool,
    /// Whether everything may have changed: a collection was dropped or replaced.
    pub all: bool,
}

impl<'a> Events<'a> {
    pub(super) fn new(verifying: &'a Verifying<'a>, from: ClusterTime, until: ClusterTime) -> Self {
        let ended = verifying.set.followed().is_empty();
        Self { verifying, stream: None, from, until, ended, all: false }
    }

    /// The next documents that changed, perhaps none; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<(Namespace, DocumentKey)>>, Error> {
        let Verifying { reading, set, .. } = self.verifying;
        let mut backoff = SourceBackoff::default();
        while !self.ended {
            let tried = async {
                if self.stream.is_none() {
                    let (scope, selectors) = (set.scope(), set.followed());
                    let from = Start::At(self.from);
                    let source = reading.source.patient(backoff.patience);
                    let opened = source.watch(&scope, &selectors, &from, Some(AWAIT), false);
                    self.stream = Some(opened.await?);
                }
                self.stream.as_mut().expect("it was opened just now").next().await
            };
            let error = match tried.await {
                Ok(batch) => {
                    self.from = self.from.max(batch.frontier);
                    // Not by where it was opened: events of that very time are still to come.
                    self.ended = batch.frontier >= self.until;
                    let mut changes = Vec::with_capacity(batch.events.len());
                    for event in batch.events {
                        match event {
                            Event::Changed { namespace, key, .. } => changes.push((namespace, key)),
                            // Of no document.
                            Event::Defined { .. } => {}
                            Event::Ended { .. } | Event::Invalidated { .. } => {
                                (self.all, self.ended) = (true, true);
                            }
                        }
                    }
                    return Ok(Some(changes));
                }
                Err(error) => error,
            };
            self.stream = None;
            match error.remedy() {
                Remedy::Retry => {
                    let held = reading.hold_back("change stream", &error, &mut backoff).await;
                    held.map_err(|()| Error::Stopped)?;
                }
                Remedy::HistoryLost => {
                    return Err(Error::Refused(format!(
                        "the oplog of the source no longer reaches back to {}, so that what is on its \
                         way to target {} can't be told from what differs: the next run sees to that",
                        self.from, self.verifying.name
                    )));
                }
                Remedy::Reject => {
                    return Err(Error::Refused(format!("changes can't be read: {error}")));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use bson::RawBsonRef;

    use super::*;

    #[test]
    fn a_document_is_suspect_in_the_places_that_are_wrong() {
        let place = |name: &'static str| PlaceKey(name.as_bytes().into());
        let wanted = || {
            let key = DocumentKey::from_id(RawBsonRef::Int32(1)).unwrap();
            Wanted::for_test(key, vec![place("a"), place("b"), place("c")])
        };
        let all_equal = [Verdict::Equal; 3];
        let (suspect, equal) = Suspect::of(wanted(), &all_equal);
        assert!(suspect.is_none());
        assert_eq!(equal, 3);
        let verdicts = [Verdict::Missing, Verdict::Equal, Verdict::Different];
        let (suspect, equal) = Suspect::of(wanted(), &verdicts);
        let wrong = suspect.unwrap().wrong;
        assert_eq!(wrong, [(place("a"), Kind::Missing), (place("c"), Kind::Different)]);
        assert_eq!(equal, 1);
    }
}
