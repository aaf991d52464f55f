//! From a change to the operations that make it true in a target.
//!
//! All rules of a target that read a namespace are evaluated together, so that one rule's removal
//! never takes away what another puts in the same place. Plain computing: nothing waits but a script
//! that looks other documents up.

use std::{collections::HashSet, sync::Arc};

use smallvec::{SmallVec, smallvec};

use crate::{
    change::{
        Change, Document, DocumentKey, KeyMap, Namespace, Phase, RuleIndex, State,
        id::{self, IdType, IdTypes},
    },
    rules::model::{OnDelete, Rule},
    target::{Action, Operation, PlaceKey, Placing, Target},
    transform::{Event, Input, Meta, Outcome, Reads, Script},
};

use super::{
    Halt,
    batch::Origin,
    dead_letters::{Letter, Stage},
    places::RulePlace,
};

/// A rule, as far as shaping goes.
pub struct ShapedRule {
    /// Its name.
    pub name: Arc<str>,
    /// Its script.
    pub script: Option<Arc<Script>>,
    /// Its `on_delete`.
    pub on_delete: OnDelete,
    /// Whether the place of each of its documents is a function of namespace and key alone; of an event
    /// no place is kept.
    pub fixed: bool,
    /// Whether it follows changes: its documents can be looked up at any time.
    pub follows: bool,
    /// Whether every change is told of, rather than the documents kept as they are.
    pub events: bool,
}

impl ShapedRule {
    /// A rule of the file, as it writes to a target.
    pub fn of(rule: &Rule, target: &dyn Target, follows: bool) -> Self {
        let moves = rule.transform.as_ref().is_some_and(|script| script.may_move());
        Self {
            name: rule.name.as_str().into(),
            script: rule.transform.clone(),
            on_delete: rule.on_delete,
            fixed: rule.events.is_some() || (!moves && target.place_is_fixed(&rule.name)),
            // What has happened can't be looked up.
            follows: follows && rule.events.is_none(),
            events: rule.events.is_some(),
        }
    }
}

/// Shapes the changes of one target.
pub struct Shaper {
    pub(super) target: Arc<dyn Target>,
    rules: Vec<ShapedRule>,
}

/// What a change comes to.
#[derive(Default)]
pub struct Shaped {
    /// To be done, each place once.
    pub operations: Vec<(Operation, Arc<Origin>)>,
    /// What was refused on the way.
    pub letters: Vec<Letter>,
    /// For documents whose places are stored: what they will be.
    pub places: Vec<RulePlace>,
    /// Documents that the target is not to hold, by rule, with or without an operation.
    pub gone: Vec<Arc<Origin>>,
    /// Places whose removals are tried once, and hold up nothing where they fail: what is owed, and
    /// what a script has turned away from.
    pub once: Vec<PlaceKey>,
    /// Rules that asked to leave the target as it is.
    pub skipped: Vec<RuleIndex>,
}

/// What all rules are asked about.
pub(super) struct Given<'a> {
    pub change: &'a Change,
    /// The default id.
    pub id: &'a str,
    types: &'a IdTypes,
    pub reads: Option<&'a Reads>,
}

/// So many places are looked through one by one, without a map.
const FEW: usize = 8;

/// What is put where, each place once. Nearly every change puts one document.
#[derive(Default)]
struct Puts {
    operations: Vec<(Operation, Arc<Origin>)>,
    /// Where the operations stand, once there are more than a few.
    by_place: KeyMap<PlaceKey, usize>,
}

impl Puts {
    /// The rule that puts something in this place.
    fn taken(&self, place: &PlaceKey) -> Option<RuleIndex> {
        let found = match self.by_place.is_empty() {
            true => self.operations.iter().position(|(other, _)| other.place == *place),
            false => self.by_place.get(place).copied(),
        };
        found.map(|at| self.operations[at].1.rule)
    }

    /// Its place is not taken.
    fn push(&mut self, operation: Operation, origin: Arc<Origin>) {
        let at = self.operations.len();
        if at == 0 {
            // Nearly always it stays the only one.
            self.operations.reserve_exact(1);
        }
        if at == FEW {
            let places = self.operations.iter().map(|(operation, _)| operation.place.clone());
            self.by_place = places.zip(0..).collect();
        }
        if at >= FEW {
            self.by_place.insert(operation.place.clone(), at);
        }
        self.operations.push((operation, origin));
    }

    fn places(&self) -> impl Iterator<Item = &PlaceKey> {
        self.operations.iter().map(|(operation, _)| &operation.place)
    }
}

/// What one rule wants.
enum Verdict {
    Put(SmallVec<[(PlaceKey, bytes::Bytes, Document); 1]>),
    Remove,
    Leave,
}

impl Shaper {
    /// A rule's place in `rules` is its [`RuleIndex`].
    pub fn new(target: Arc<dyn Target>, rules: Vec<ShapedRule>) -> Self {
        Self { target, rules }
    }

    fn rule(&self, index: RuleIndex) -> &ShapedRule {
        &self.rules[usize::from(index.0)]
    }

    /// Whether a rule's documents can be looked up at any time.
    pub fn follows(&self, rule: RuleIndex) -> bool {
        self.rule(rule).follows
    }

    /// Whether the places of a rule's documents are functions of their keys.
    pub fn is_fixed(&self, rule: RuleIndex) -> bool {
        self.rule(rule).fixed
    }

    /// Where a rule's document lies whatever it holds; `None` where its places are stored, or it can't
    /// lie anywhere.
    pub fn standing(
        &self,
        rule: RuleIndex,
        namespace: &Namespace,
        key: &DocumentKey,
        types: &IdTypes,
    ) -> Option<PlaceKey> {
        let rule = self.rule(rule);
        let place = || self.fixed_place(rule, namespace, key, &id::text(key, types));
        rule.fixed.then(place).flatten()
    }

    /// Whether the stored places of the change's document are needed to shape it.
    pub fn needs_places(&self, change: &Change) -> bool {
        change.states.iter().any(|(index, _)| !self.rule(*index).fixed)
    }

    /// Whether a script that is run on the change may read the source.
    pub fn looks_up(&self, change: &Change) -> bool {
        change.states.iter().any(|(index, state)| {
            let script = self.rule(*index).script.as_ref();
            matches!(state, State::Present(_) | State::Happened(_))
                && script.is_some_and(|script| script.looks_up())
        })
    }

    /// The operations for a change, whose states are taken out of it. `old` are the stored places of its
    /// document; `reads` answers the scripts' lookups, after the time of the change's own read.
    ///
    /// # Errors
    /// `Stopped` where a script was stopped as it waited for the source.
    pub fn shape(
        &self,
        change: &mut Change,
        types: &IdTypes,
        old: &[RulePlace],
        reads: Option<&Reads>,
    ) -> Result<Shaped, Halt> {
        let states = std::mem::take(&mut change.states);
        let change = &*change;
        let reads = reads.map(|reads| Reads { after: change.read, ..reads.clone() });
        let id = id::text(&change.key, types);
        let mut shaped = Shaped::default();
        let mut puts = Puts::default();
        let mut removes: Vec<(bool, PlaceKey, Arc<Origin>)> = Vec::new();
        let mut left: Vec<PlaceKey> = Vec::new();
        // Places of rules that were not asked (removed from the file, or not part of this copy).
        shaped.places.extend(
            old.iter()
                .filter(|place| {
                    !states.iter().any(|(index, _)| self.rule(*index).name == place.rule)
                })
                .cloned(),
        );
        for (index, state) in states {
            let rule = self.rule(index);
            if rule.events {
                let given = Given { change, id: &id, types, reads: reads.as_ref() };
                self.tell((index, rule), &given, &state, &mut shaped)?;
                continue;
            }
            let origin = Arc::new(Origin {
                rule: index,
                namespace: change.namespace.clone(),
                key: change.key.clone(),
                phase: change.phase,
                time: change.time,
                since: change.since,
                deleted: change.deleted,
                event: None,
            });
            let mine = old.iter().filter(|place| place.rule == rule.name);
            let given = Given { change, id: &id, types, reads: reads.as_ref() };
            let is_over = matches!(state, State::Gone | State::Dropped);
            let verdict = self.verdict(rule, &given, state, &origin, &mut shaped)?;
            // A copy asks one rule alone, which can't know whether another put its document in this
            // place. What one rule takes back after a change is decided with all of them.
            let alone = change.phase == Phase::Copy && self.rules.len() > 1;
            let verdict = match verdict {
                Verdict::Remove if alone => Verdict::Leave,
                verdict => verdict,
            };
            match verdict {
                Verdict::Leave => {
                    // What was never put anywhere is not kept either.
                    if is_over && !rule.fixed && mine.clone().next().is_none() {
                        shaped.gone.push(origin.clone());
                    }
                    shaped.places.extend(mine.clone().cloned());
                    left.extend(mine.map(|place| place.place.clone()));
                    if rule.fixed {
                        left.extend(self.fixed_place(rule, &change.namespace, &change.key, &id));
                    }
                }
                Verdict::Remove => {
                    if !rule.fixed {
                        shaped.gone.push(origin.clone());
                    }
                    let known = mine.map(|it| (it.owed, it.place.clone(), origin.clone()));
                    removes.extend(known);
                    if rule.fixed {
                        match self.fixed_place(rule, &change.namespace, &change.key, &id) {
                            Some(place) => removes.push((false, place, origin.clone())),
                            // Where it can't lie it does not: a letter that says so is outdated.
                            None => shaped.gone.push(origin.clone()),
                        }
                    }
                }
                Verdict::Put(documents) => {
                    removes.extend(mine.map(|it| {
                        let once = it.owed || self.target.is_scripted(&it.place);
                        (once, it.place.clone(), origin.clone())
                    }));
                    for (place, extra, document) in documents {
                        if let Some(other) = puts.taken(&place) {
                            let words = match other == index {
                                true => {
                                    format!("rule {} puts two documents in this place", rule.name)
                                }
                                false => format!(
                                    "rules {} and {} put two documents in this place",
                                    self.rule(other).name,
                                    rule.name
                                ),
                            };
                            let described = Some(self.target.describe(&place));
                            shaped.letters.push(Letter::new(
                                origin.clone(),
                                Stage::Place,
                                words,
                                described,
                            ));
                            continue;
                        }
                        if !rule.fixed {
                            let (rule, place) = (rule.name.clone(), place.clone());
                            shaped.places.push(RulePlace { rule, place, owed: false });
                        }
                        let operation = operation(change, place, extra, Action::Put(document));
                        puts.push(operation, origin.clone());
                    }
                }
            }
        }
        self.remove(change, &id, removes, puts.places().chain(&left), &mut shaped);
        match shaped.operations.is_empty() {
            true => shaped.operations = puts.operations,
            false => shaped.operations.extend(puts.operations),
        }
        Ok(shaped)
    }

    /// The removals (whether each is tried once, where, and of what) of what nothing else stays in the
    /// stead of: neither what is `wanted` nor another removal.
    fn remove<'a>(
        &self,
        change: &Change,
        id: &str,
        mut removes: Vec<(bool, PlaceKey, Arc<Origin>)>,
        wanted: impl Iterator<Item = &'a PlaceKey>,
        shaped: &mut Shaped,
    ) {
        if removes.is_empty() {
            return;
        }
        let mut things: HashSet<PlaceKey> = wanted.map(|place| self.target.thing(place)).collect();
        // Of two removals of one thing, the one that is not given up at once.
        removes.sort_by_key(|(once, ..)| *once);
        for (once, place, origin) in removes {
            if !things.insert(self.target.thing(&place)) {
                // It is another one's now, and its own letter says nothing any more.
                if self.rule(origin.rule).fixed {
                    shaped.gone.push(origin);
                }
                continue;
            }
            if once {
                shaped.once.push(place.clone());
            }
            let meta = Meta::default();
            let placing = Placing {
                namespace: &change.namespace,
                key: &change.key,
                id,
                op: "remove",
                document: None,
                event: None,
                meta: &meta,
            };
            let extra = self.target.removal(&self.rule(origin.rule).name, &place, &placing);
            let operation = operation(change, place, extra, Action::Remove);
            shaped.operations.push((operation, origin));
        }
    }

    fn verdict(
        &self,
        rule: &ShapedRule,
        given: &Given<'_>,
        state: State,
        origin: &Arc<Origin>,
        shaped: &mut Shaped,
    ) -> Result<Verdict, Halt> {
        let mut refuse = |stage, words| {
            shaped.letters.push(Letter::new(origin.clone(), stage, words, None));
            Ok(Verdict::Leave)
        };
        let document = match state {
            State::Present(document) => document,
            State::Unmatched => return Ok(Verdict::Remove),
            State::Gone if rule.on_delete == OnDelete::Keep => return Ok(Verdict::Leave),
            State::Gone => return Ok(Verdict::Remove),
            // An event comes to no rule that keeps documents.
            State::Dropped | State::Happened(_) => return Ok(Verdict::Leave),
            State::Failed(words) => return refuse(Stage::Source, words),
        };
        let (documents, meta): (SmallVec<[Document; 1]>, Meta) =
            match self.transform(rule, given, &document) {
                Ok(Outcome::Unchanged(meta)) => (smallvec![document], meta),
                Ok(Outcome::Document(document, meta)) => (smallvec![document], meta),
                Ok(Outcome::Documents(documents, meta)) => (documents.into(), meta),
                Ok(Outcome::Remove) => return Ok(Verdict::Remove),
                Ok(Outcome::Skip) => {
                    shaped.skipped.push(origin.rule);
                    return Ok(Verdict::Leave);
                }
                Ok(Outcome::Stopped) => return Err(Halt::Stopped),
                Ok(Outcome::Failed(words)) => return refuse(Stage::Transform, words),
                Err(error) => return refuse(Stage::Transform, error.to_string()),
            };
        let mut placed = SmallVec::with_capacity(documents.len());
        for document in documents {
            match self.place(rule, given, &document, &meta) {
                Ok((place, extra)) => placed.push((place, extra, document)),
                Err(words) => return refuse(Stage::Place, words),
            }
        }
        Ok(Verdict::Put(placed))
    }

    fn transform(
        &self,
        rule: &ShapedRule,
        given: &Given<'_>,
        document: &Document,
    ) -> Result<Outcome, crate::transform::ScriptError> {
        let Given { change, reads, .. } = *given;
        let Some(script) = &rule.script else { return Ok(Outcome::Unchanged(Meta::default())) };
        script.run(Input {
            document: Some(document),
            event: Event {
                op: "put",
                namespace: &change.namespace,
                id: change.key.id(),
                cluster_time: change.time,
                wall_time: change.since,
                copy: change.phase == Phase::Copy,
                happened: None,
            },
            reads,
        })
    }

    fn place(
        &self,
        rule: &ShapedRule,
        given: &Given<'_>,
        document: &Document,
        meta: &Meta,
    ) -> Result<(PlaceKey, bytes::Bytes), String> {
        let Given { change, id, types, .. } = *given;
        // Only a script can change an _id, and only a rule whose places are stored has such a one.
        let unreadable = |error| format!("the document's _id can't be read: {error}");
        let own = match rule.fixed {
            true => None,
            false => document.raw().get("_id").map_err(|error| unreadable(error.to_string()))?,
        };
        let own = own.map(|own| DocumentKey::from_id(own).map_err(|it| unreadable(it.to_string())));
        let own = own.transpose()?;
        // A text that a script gives is no news of the collection: it stays as it is, unless it reads like
        // an id of another type.
        let types_of = |key: &DocumentKey| match IdType::of(key.id()) {
            IdType::String if key != &change.key => types.with(IdType::String),
            _ => *types,
        };
        let own_types = own.as_ref().map(types_of);
        let own = own.as_ref().zip(own_types.as_ref()).map(|(key, types)| id::text(key, types));
        let placed = self.target.place(
            &rule.name,
            &Placing {
                namespace: &change.namespace,
                key: &change.key,
                id: own.as_deref().unwrap_or(id),
                op: "put",
                document: Some(document.raw()),
                event: None,
                meta,
            },
        )?;
        Ok((placed.place, placed.extra))
    }

    /// Where a rule's document lies whatever it holds. `None` where it can't lie anywhere, such as
    /// under an id over the target's limit: then there is nothing to remove.
    fn fixed_place(
        &self,
        rule: &ShapedRule,
        namespace: &Namespace,
        key: &DocumentKey,
        id: &str,
    ) -> Option<PlaceKey> {
        let meta = Meta::default();
        let placing =
            Placing { namespace, key, id, op: "remove", document: None, event: None, meta: &meta };
        self.target.place(&rule.name, &placing).ok().map(|placed| placed.place)
    }
}

pub(super) fn operation(
    change: &Change,
    place: PlaceKey,
    extra: bytes::Bytes,
    action: Action,
) -> Operation {
    Operation {
        place,
        action,
        time: change.time,
        cause: change.cause,
        extra,
        namespace: change.namespace.clone(),
        phase: change.phase,
    }
}

#[cfg(test)]
mod tests;
