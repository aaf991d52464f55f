//! What of a request is for one collection, written.

use bson::{RawDocument, RawDocumentBuf, doc, raw::cstr};
use mongodb::{Collection, Database};

use crate::{
    change::Namespace,
    target::{Outcome, PlaceKey, Pressure, Request, Retry},
};

use super::{
    MongoTarget,
    answer::{self, Answer, Conflict, Failed, Fate},
    collections::Ready,
    command::{self, Around, Write},
    connection::{Connection, unusable},
    contested::Way,
    fence::LaneSession,
    place::{MongoPlaceKey, place_key},
};

/// Items of one namespace, by their index in the request.
#[derive(Default)]
pub(super) struct Group {
    pub copied: Vec<usize>,
    pub changed: Vec<usize>,
    pub removed: Vec<usize>,
}

impl Group {
    pub fn only_removes(&self) -> bool {
        self.copied.is_empty() && self.changed.is_empty()
    }

    pub fn items(&self) -> impl Iterator<Item = usize> {
        self.copied.iter().chain(&self.changed).chain(&self.removed).copied()
    }
}

/// What of a request is for one namespace.
pub(super) struct Portion<'a> {
    pub target: &'a MongoTarget,
    pub connection: &'a Connection,
    pub namespace: Namespace,
    pub database: Database,
    pub request: &'a Request,
    pub ready: &'a Ready,
}

/// Items by their index in the request, each with what became of it.
type Fates = Vec<(usize, Fate)>;

impl Portion<'_> {
    fn document(&self, index: usize) -> Result<&RawDocument, Failed> {
        let bytes = &self.request.body[self.request.items[index].range.clone()];
        let document = RawDocument::from_bytes(&bytes[1..]);
        document.map_err(|_| broken("a document that was encoded can't be read"))
    }

    /// The `{_id}` that the document has, which may be of another type than that of its place.
    fn id(&self, index: usize) -> Result<RawDocumentBuf, Failed> {
        let id = self.document(index)?.get("_id").ok().flatten();
        let mut own = RawDocumentBuf::new();
        own.append(cstr!("_id"), id.ok_or_else(|| broken("a document without _id was encoded"))?);
        Ok(own)
    }

    fn place(&self, index: usize) -> Result<MongoPlaceKey<'_>, Failed> {
        let place = MongoPlaceKey::decode(&self.request.items[index].place);
        place.map_err(|error| broken(&error.to_string()))
    }

    /// Writes all of a group and tells the outcome of each item; after a failure, of those that are
    /// known.
    pub async fn write(
        &self,
        group: &Group,
        lane: &mut LaneSession,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Failed> {
        let mut changed = group.changed.clone();
        let mut met: Vec<(usize, Conflict)> = Vec::new();
        let mut odd = Vec::new();
        if self.ready.is_fresh() {
            let (mut plain, before) = (Vec::with_capacity(group.copied.len()), changed.len());
            for &index in &group.copied {
                match command::is_odd(self.document(index)?) {
                    true => changed.push(index),
                    false => plain.push(index),
                }
            }
            for (index, fate) in self.insert(&plain, lane).await? {
                match fate {
                    Fate::There => changed.push(index),
                    Fate::Contested(conflict) => met.push((index, conflict)),
                    fate => outcomes[index] = Some(known(fate)),
                }
            }
            if (changed.len() - before) * 2 > group.copied.len() {
                self.ready.is_filled();
            }
        } else {
            changed.extend(&group.copied);
        }
        for (index, fate) in self.put(&changed, lane).await? {
            match fate {
                Fate::Contested(conflict) => met.push((index, conflict)),
                Fate::There if self.ready.collated => met.push((index, self.collation(index)?)),
                Fate::OtherId => odd.push(index),
                fate => outcomes[index] = Some(known(fate)),
            }
        }
        for (index, fate) in self.anew(&odd, lane).await? {
            match fate {
                Fate::Contested(conflict) => met.push((index, conflict)),
                fate => outcomes[index] = Some(known(fate)),
            }
        }
        for (index, fate) in self.remove(&group.removed, lane).await? {
            outcomes[index] = Some(known(fate));
        }
        self.sort_out(met, lane, outcomes).await
    }

    /// Inserts what is most likely not there.
    async fn insert(&self, items: &[usize], lane: &mut LaneSession) -> Result<Fates, Failed> {
        let documents: Result<Vec<_>, Failed> =
            items.iter().map(|&index| Ok(Write::Insert(self.document(index)?))).collect();
        let fates = self.run(&documents?, lane).await?;
        Ok(items.iter().copied().zip(fates).collect())
    }

    /// Replaces what is there, and makes what is not. In the order of `items`, but for odd documents,
    /// which come last.
    async fn put(&self, items: &[usize], lane: &mut LaneSession) -> Result<Fates, Failed> {
        let (mut plain, mut odd) = (Vec::with_capacity(items.len()), Vec::new());
        for &index in items {
            match command::is_odd(self.document(index)?) {
                true => odd.push(index),
                false => plain.push(index),
            }
        }
        let ids: Vec<RawDocumentBuf> =
            plain.iter().map(|&i| self.id(i)).collect::<Result<_, _>>()?;
        let writes = |make: for<'a> fn(&'a RawDocument, &'a RawDocument) -> Write<'a>| {
            let pairs = plain.iter().zip(&ids);
            pairs.map(move |(&index, id)| Ok(make(id, self.document(index)?)))
        };
        let replaced: Vec<Write<'_>> =
            writes(|id, document| Write::Replace(id, document)).collect::<Result<_, Failed>>()?;
        let filled: Vec<Write<'_>> =
            writes(|id, document| Write::Fill(id, document)).collect::<Result<_, Failed>>()?;
        let mut fates = Vec::with_capacity(items.len());
        for part in parts(&replaced) {
            let answer = self.command(&replaced[part.clone()], lane).await?;
            let open: Vec<usize> = part
                .clone()
                .zip(&answer.fates)
                .filter(|(_, fate)| **fate == APPLIED)
                .map(|(at, _)| at)
                .collect();
            let mut answers = answer.fates;
            if answer.matched < open.len() {
                // Which of them were not there is not told.
                let missing: Vec<Write<'_>> = open.iter().map(|&at| filled[at]).collect();
                let second = self.run(&missing, lane).await?;
                let there = second.iter().filter(|fate| **fate == Fate::There).count();
                for (at, fate) in open.into_iter().zip(second) {
                    // Somebody else made one in between, unless they are as many as were replaced.
                    let replaced = fate == Fate::There && there <= answer.matched;
                    answers[at - part.start] = if replaced { APPLIED } else { fate };
                }
            }
            fates.extend(plain[part].iter().copied().zip(answers));
        }
        fates.extend(self.anew(&odd, lane).await?);
        Ok(fates)
    }

    /// Removes what is there, and then makes the documents.
    async fn anew(&self, items: &[usize], lane: &mut LaneSession) -> Result<Fates, Failed> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<RawDocumentBuf> =
            items.iter().map(|&i| self.id(i)).collect::<Result<_, _>>()?;
        let removals: Vec<Write<'_>> = ids.iter().map(|id| Write::Remove(id)).collect();
        let removed = self.run(&removals, lane).await?;
        let mut fills = Vec::with_capacity(items.len());
        let mut fates = Vec::with_capacity(items.len());
        for ((&index, id), fate) in items.iter().zip(&ids).zip(removed) {
            match fate {
                Fate::Known(Outcome::Applied) => {
                    fills.push((index, Write::Fill(id, self.document(index)?)));
                }
                fate => fates.push((index, fate)),
            }
        }
        let (indices, fills): (Vec<usize>, Vec<Write<'_>>) = fills.into_iter().unzip();
        fates.extend(indices.into_iter().zip(self.run(&fills, lane).await?));
        Ok(fates)
    }

    async fn remove(&self, items: &[usize], lane: &mut LaneSession) -> Result<Fates, Failed> {
        let removals: Result<Vec<_>, Failed> =
            items.iter().map(|&index| Ok(Write::Remove(self.place(index)?.id))).collect();
        let fates = self.run(&removals?, lane).await?;
        Ok(items.iter().copied().zip(fates).collect())
    }

    /// Carries out writes of one kind, in as many commands as it takes.
    async fn run(&self, writes: &[Write<'_>], lane: &mut LaneSession) -> Result<Vec<Fate>, Failed> {
        let mut fates = Vec::with_capacity(writes.len());
        for part in parts(writes) {
            fates.extend(self.command(&writes[part], lane).await?.fates);
        }
        Ok(fates)
    }

    async fn command(
        &self,
        writes: &[Write<'_>],
        lane: &mut LaneSession,
    ) -> Result<Answer, Failed> {
        let clock = &self.connection.clock;
        let build = |number| {
            let around = Around {
                collection: self.namespace.collection(),
                run: &self.connection.run,
                number,
                max_time_ms: i64::try_from(self.target.timeout.as_millis()).unwrap_or(i64::MAX),
                deadline: clock.deadline(self.request.right.as_ref()),
                collated: self.ready.collated,
            };
            command::command(&around, writes)
        };
        let answer = match lane.run(&self.database, build).await {
            Ok(answer) => answer,
            Err(error) if writes.len() == 1 && answer::is_refused_for_good(&error) => {
                let fates = vec![Fate::Known(Outcome::Rejected(answer::words(&error)))];
                return Ok(Answer { fates, matched: 0 });
            }
            Err(error) => {
                let failed = Failed::of(&error);
                if matches!(failed, Failed::All(_)) {
                    clock.doubt();
                }
                return Err(failed);
            }
        };
        let answer = answer::read(&answer, writes.len()).map_err(Failed::All)?;
        if answer.fates.contains(&Fate::Late) {
            clock.doubt();
        }
        Ok(answer)
    }

    /// See [`super::contested`].
    async fn sort_out(
        &self,
        met: Vec<(usize, Conflict)>,
        lane: &mut LaneSession,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Failed> {
        let mut cleared = Vec::new();
        for (index, conflict) in met {
            match self.target.contested.met(&self.request.items[index].place) {
                Way::Clear => cleared.push(index),
                Way::Again => outcomes[index] = Some(again("duplicate", conflict.words)),
            }
        }
        for (index, fate) in self.anew(&cleared, lane).await? {
            outcomes[index] = Some(match fate {
                Fate::Contested(conflict) => self.behind(index, conflict).await?,
                Fate::There if self.ready.collated => {
                    self.behind(index, self.collation(index)?).await?
                }
                fate => known(fate),
            });
        }
        Ok(())
    }

    /// That a document with another `_id` is there, which the collection's language takes for the same.
    fn collation(&self, index: usize) -> Result<Conflict, Failed> {
        let id = bson::Document::try_from(&*self.id(index)?);
        let words = "the collection's collation takes another _id for the same".to_owned();
        Ok(Conflict { words, holder: id.ok() })
    }

    /// A document waits for the one that holds what it claims.
    async fn behind(&self, index: usize, conflict: Conflict) -> Result<Outcome, Failed> {
        let Conflict { words, holder } = conflict;
        let holder = match holder {
            Some(values) => self.holder(values).await?,
            None => None,
        };
        let own = &self.request.items[index].place;
        Ok(Outcome::Behind { words, holder: holder.filter(|holder| holder != own) })
    }

    async fn holder(&self, values: bson::Document) -> Result<Option<PlaceKey>, Failed> {
        let name = self.namespace.collection();
        let collection: Collection<RawDocumentBuf> = self.database.collection(name);
        // A value may itself look like an operator.
        let values: bson::Document =
            values.into_iter().map(|(name, value)| (name, doc! { "$eq": value }.into())).collect();
        let found = collection.find_one(values).projection(doc! { "_id": 1 }).await;
        let found = found.map_err(|error| Failed::of(&error))?;
        let id = found.as_ref().and_then(|found| found.get("_id").ok().flatten());
        Ok(id.and_then(|id| place_key(self.namespace.as_str(), id).ok()))
    }
}

const APPLIED: Fate = Fate::Known(Outcome::Applied);

fn parts(writes: &[Write<'_>]) -> Vec<std::ops::Range<usize>> {
    let sizes: Vec<usize> = writes.iter().map(Write::size).collect();
    command::cut(&sizes)
}

fn broken(words: &str) -> Failed {
    Failed::All(unusable(words.to_owned()))
}

fn again(reason: &'static str, message: String) -> Outcome {
    Outcome::Retry(Retry { reason, message, after: None, pressure: Pressure::Same })
}

/// What is left of a fate once contested values have been seen to.
fn known(fate: Fate) -> Outcome {
    match fate {
        Fate::Known(outcome) => outcome,
        Fate::There | Fate::OtherId => again("collision", "two writes of one _id met".to_owned()),
        Fate::Contested(conflict) => again("duplicate", conflict.words),
        Fate::Late => again("late", "the write came too late, by the server's clock".to_owned()),
    }
}
