//! What of a request is for one collection, written.

use std::{collections::HashMap, time::Duration};

use bson::{RawDocument, RawDocumentBuf, doc, raw::cstr};
use futures_util::TryStreamExt;
use mongodb::{Collection, Database};

use crate::{
    change::Namespace,
    target::{Contents, Outcome, PlaceKey, Pressure, Request, Retry},
};

use super::{
    APPENDED, MongoTarget,
    answer::{self, Answer, Conflict, Failed, Fate},
    collections::{Ready, all},
    command::{self, Around, Write},
    connection::{Connection, unusable},
    contested::Way,
    fence::LaneSession,
    indexes,
    marker::Whose,
    place::{MongoPlaceKey, place_key},
};

/// Items of one namespace, by their index in the request.
#[derive(Clone, Default)]
pub(super) struct Group {
    pub copied: Vec<usize>,
    pub changed: Vec<usize>,
    pub appended: Vec<usize>,
    pub removed: Vec<usize>,
}

impl Group {
    pub fn items(&self) -> impl Iterator<Item = usize> {
        let puts = self.copied.iter().chain(&self.changed).chain(&self.appended);
        puts.chain(&self.removed).copied()
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
    /// How much had been written to the collection when this began.
    pub before: usize,
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
        let own = own_id(self.document(index)?);
        own.ok_or_else(|| broken("a document without _id was encoded"))
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
                    fate => outcomes[index] = Some(self.known(index, fate, lane).await?),
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
                Fate::OtherId => met.push((index, self.collation(index)?)),
                fate => outcomes[index] = Some(self.known(index, fate, lane).await?),
            }
        }
        self.append(&group.appended, lane, outcomes).await?;
        for (index, fate) in self.remove(&group.removed, lane).await? {
            outcomes[index] = Some(self.known(index, fate, lane).await?);
        }
        self.sort_out(met, lane, outcomes).await
    }

    /// Inserts events. One that is there was inserted before. A value that another one holds in a unique
    /// index stays with that one for ever, so nothing is waited for.
    async fn append(
        &self,
        items: &[usize],
        lane: &mut LaneSession,
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), Failed> {
        for (index, fate) in self.insert(items, lane).await? {
            outcomes[index] = Some(match fate {
                Fate::There => Outcome::Superseded,
                // A server may name another index than that of `_id` for one that is there.
                Fate::Contested(_) if self.lies_there(index).await? => Outcome::Superseded,
                Fate::Contested(conflict) => Outcome::Rejected(conflict.words),
                fate => self.known(index, fate, lane).await?,
            });
        }
        Ok(())
    }

    /// Whether there is a document in the item's place.
    async fn lies_there(&self, index: usize) -> Result<bool, Failed> {
        let place = std::slice::from_ref(&self.request.items[index].place);
        match self.target.held(place).await.map_err(Failed::These)? {
            Contents::Held(held) => Ok(held.iter().any(Option::is_some)),
            Contents::Unreadable(_) => Ok(false),
        }
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

    /// Removes what is there, and then makes the documents. Where one is refused, what was there before
    /// is put back: it is the best that there is.
    async fn anew(&self, items: &[usize], lane: &mut LaneSession) -> Result<Fates, Failed> {
        let mut fates = Vec::with_capacity(items.len());
        for items in items.chunks(AT_ONCE) {
            let ids: Vec<RawDocumentBuf> =
                items.iter().map(|&i| self.id(i)).collect::<Result<_, _>>()?;
            let before = self.stored(&ids).await?;
            let removals: Vec<Write<'_>> = ids.iter().map(|id| Write::Remove(id)).collect();
            let removed = self.run(&removals, lane).await?;
            let mut fills = Vec::with_capacity(items.len());
            for ((&index, id), fate) in items.iter().zip(&ids).zip(removed) {
                match fate {
                    Fate::Known(Outcome::Applied) => {
                        fills.push((index, Write::Fill(id, self.document(index)?)));
                    }
                    fate => fates.push((index, fate)),
                }
            }
            let (indices, fills): (Vec<usize>, Vec<Write<'_>>) = fills.into_iter().unzip();
            let filled = self.run(&fills, lane).await?;
            let is_refused = |fate: &Fate| {
                matches!(
                    fate,
                    Fate::Known(Outcome::Rejected(_)) | Fate::Doubtful(_) | Fate::Alone(_)
                )
            };
            let old: Vec<(RawDocumentBuf, &RawDocumentBuf)> = indices
                .iter()
                .zip(&filled)
                .filter(|(_, fate)| is_refused(fate))
                .filter_map(|(index, _)| before.get(&self.request.items[*index].place))
                .filter_map(|old| Some((own_id(old)?, old)))
                .collect();
            let back: Vec<Write<'_>> = old.iter().map(|(id, old)| Write::Fill(id, old)).collect();
            self.run(&back, lane).await?;
            fates.extend(indices.into_iter().zip(filled));
        }
        Ok(fates)
    }

    /// What is stored under some of the `_id`s, by its place.
    async fn stored(
        &self,
        ids: &[RawDocumentBuf],
    ) -> Result<HashMap<PlaceKey, RawDocumentBuf>, Failed> {
        let wanted: Vec<bson::Bson> = ids
            .iter()
            .filter_map(|id| bson::Document::try_from(&**id).ok()?.remove("_id"))
            .collect();
        let collection: Collection<RawDocumentBuf> =
            self.database.collection(self.namespace.collection());
        let failed = |error: mongodb::error::Error| Failed::of(&error);
        let found = collection.find(doc! { "_id": { "$in": wanted } }).max_time(LOOK);
        let found: Vec<RawDocumentBuf> =
            found.await.map_err(failed)?.try_collect().await.map_err(failed)?;
        let place = |old: &RawDocumentBuf| {
            place_key(self.namespace.as_str(), old.get("_id").ok().flatten()?).ok()
        };
        Ok(found.into_iter().filter_map(|old| Some((place(&old)?, old))).collect())
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
            Err(error) => {
                let alone = answer::alone(&error).filter(|_| writes.len() == 1);
                if let Some(fate) = alone {
                    return Ok(Answer { fates: vec![fate], matched: 0 });
                }
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
        // A removal says nothing of what is put.
        if matches!(writes[0], Write::Insert(_) | Write::Replace(..) | Write::Fill(..)) {
            self.ready.count(answer.matched);
        }
        Ok(answer)
    }

    /// What is left of a fate once contested values have been seen to.
    async fn known(
        &self,
        index: usize,
        fate: Fate,
        lane: &mut LaneSession,
    ) -> Result<Outcome, Failed> {
        Ok(match fate {
            Fate::Known(outcome) => outcome,
            Fate::There | Fate::OtherId => {
                again("collision", "two writes of one _id met".to_owned())
            }
            Fate::Contested(conflict) => again("duplicate", conflict.words),
            Fate::Late => {
                again("late", "the write came too late, by the server's clock".to_owned())
            }
            Fate::Doubtful(words) => match self.takes_others(index, lane).await? {
                true => Outcome::Rejected(words),
                false => Outcome::Held(alone(&words)),
            },
            // The server has not come to look at the document: only others tell whether it takes any.
            Fate::Alone(words) => match self.others_tell(index, lane).await? {
                true => Outcome::Rejected(words),
                false => Outcome::Held(alone(&words)),
            },
        })
    }

    /// Whether the server writes to the collection as such: it has taken something of the same request, or
    /// takes a write that finds nothing.
    async fn takes_others(&self, index: usize, lane: &mut LaneSession) -> Result<bool, Failed> {
        if self.ready.written() > self.before {
            return Ok(true);
        }
        let write = Write::Nothing(self.place(index)?.id);
        match self.command(&[write], lane).await {
            Ok(answer) => Ok(answer.fates == [APPLIED]),
            // Who appends events needs no right to remove: others tell.
            Err(Failed::These(retry)) if retry.reason == "unauthorized" => {
                self.others_tell(index, lane).await
            }
            Err(failed) => Err(failed),
        }
    }

    /// Whether the server has taken others since it refused this one for the first time, or would. Where
    /// none comes behind an event in its lane, one that lies there is inserted once more: that changes
    /// nothing, and is refused for its `_id` by a server that has come to look at it. Of documents none is:
    /// another lane may be removing it.
    async fn others_tell(&self, index: usize, lane: &mut LaneSession) -> Result<bool, Failed> {
        let item = &self.request.items[index];
        if self.target.doubted.is_to_blame(&item.place, self.ready.written()) {
            return Ok(true);
        }
        if self.request.body.get(item.range.start) != Some(&APPENDED) {
            return Ok(false);
        }
        let collection: Collection<RawDocumentBuf> =
            self.database.collection(self.namespace.collection());
        // The whole of it: should it be gone by then, it lies there as it was.
        let found = collection.find_one(doc! {}).max_time(LOOK).await;
        let Some(found) = found.map_err(|error| Failed::of(&error))? else { return Ok(false) };
        match self.command(&[Write::Insert(&found)], lane).await {
            Ok(answer) => {
                Ok(matches!(&*answer.fates, [APPLIED | Fate::There | Fate::Contested(_)]))
            }
            Err(Failed::These(_)) => Ok(false),
            Err(failed) => Err(failed),
        }
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
            match self.target.contested.met(&self.request.items[index].place, &conflict.words) {
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
                fate => self.known(index, fate, lane).await?,
            });
        }
        Ok(())
    }

    /// That a document with another `_id` is there, which the collection's language takes for the same.
    fn collation(&self, index: usize) -> Result<Conflict, Failed> {
        let id = bson::Document::try_from(&*self.id(index)?);
        let words = "the collection's collation takes another _id for the same".to_owned();
        Ok(Conflict { words, index: None, holder: id.ok() })
    }

    /// A document waits for the one that holds what it claims.
    async fn behind(&self, index: usize, conflict: Conflict) -> Result<Outcome, Failed> {
        let Conflict { words, index: named, holder } = conflict;
        let holder = match holder {
            // What is not ours is not to be delivered as it is in the source: it would be removed.
            Some(values) if self.is_ours().await? => self.holder(named, values).await?,
            _ => None,
        };
        let own = &self.request.items[index].place;
        Ok(Outcome::Behind { words, holder: holder.filter(|holder| holder != own) })
    }

    /// Whether all that the collection holds is ours, as it is now.
    async fn is_ours(&self) -> Result<bool, Failed> {
        if !self.ready.own {
            return Ok(false);
        }
        let whose = self.target.whose(self.connection, &self.namespace).await;
        Ok(whose.map_err(Failed::These)? == Whose::Ours)
    }

    /// Where the document lies that has these values in an index, as far as the index alone tells: no
    /// collection is searched for it.
    async fn holder(
        &self,
        index: Option<String>,
        values: bson::Document,
    ) -> Result<Option<PlaceKey>, Failed> {
        // A value may itself look like an operator.
        let values: bson::Document =
            values.into_iter().map(|(name, value)| (name, doc! { "$eq": value }.into())).collect();
        let mut command = doc! {
            "find": self.namespace.collection(), "filter": values.clone(), "projection": { "_id": 1 },
            "limit": 1, "singleBatch": true, "maxTimeMS": i64::try_from(LOOK.as_millis()).unwrap_or(i64::MAX),
        };
        if let Some(name) = index {
            let known = indexes::all_of(&self.database, self.namespace.collection()).await;
            let known = known.map_err(Failed::These)?;
            let mut known = known.into_iter();
            let own = known.find(|own| own.get_str("name").is_ok_and(|own| own == name));
            let Some(own) = own else { return Ok(None) };
            // Another document may have them and not be in the index.
            if let Ok(filter) = own.get_document("partialFilterExpression") {
                command.insert("filter", doc! { "$and": [values, filter.clone()] });
            }
            let simple = || doc! { "locale": "simple" };
            let collation = own.get_document("collation").cloned().unwrap_or_else(|_| simple());
            command.insert("collation", collation);
            command.insert("hint", name);
        }
        let found = match all(&self.database, command).await {
            Ok(found) => found,
            Err(error) if answer::code(&error).is_some() => return Ok(None),
            Err(error) => return Err(Failed::of(&error)),
        };
        let found = found.first().and_then(|found| RawDocumentBuf::try_from(found).ok());
        let id = found.as_ref().and_then(|found| found.get("_id").ok().flatten());
        Ok(id.and_then(|id| place_key(self.namespace.as_str(), id).ok()))
    }
}

/// What is refused for no known reason, and beside which nothing else was written.
fn alone(words: &str) -> Retry {
    answer::unknown(format!(
        "{words}; nothing else was written there since, so whether it would be the same with others is not \
         known, and it is tried again"
    ))
}

/// So long a server may look for what is stored.
const LOOK: Duration = Duration::from_secs(5);
/// Documents that are removed and made anew together.
const AT_ONCE: usize = 100;

/// `{_id}` of a document.
fn own_id(document: &RawDocument) -> Option<RawDocumentBuf> {
    let mut own = RawDocumentBuf::new();
    own.append(cstr!("_id"), document.get("_id").ok().flatten()?);
    Some(own)
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
