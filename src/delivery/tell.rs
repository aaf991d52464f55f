//! From an event to what is told of it: `events` delivery's part of shaping.
//!
//! Nothing is merged, removed or put in another's place: each event is an operation of its own (or
//! several, where a script makes an array of it), under an id that is the same at every try.

use std::sync::Arc;

use crate::{
    change::{Cause, Document, RuleIndex, State, event::Happened},
    target::{Action, Appended, Placing},
    transform::{self, Input, Meta, Outcome},
};

use super::{
    Halt,
    batch::Origin,
    dead_letters::{Letter, Stage},
    shape::{Given, Shaped, ShapedRule, Shaper, operation},
};

impl Shaper {
    /// What is told of one state under a rule that delivers events: an event of the stream, or a
    /// document that the copy has read.
    ///
    /// # Errors
    /// `Stopped` where a script was stopped as it waited for the source.
    pub(super) fn tell(
        &self,
        (index, rule): (RuleIndex, &ShapedRule),
        given: &Given<'_>,
        state: &State,
        shaped: &mut Shaped,
    ) -> Result<(), Halt> {
        let change = given.change;
        let origin = |event| {
            Arc::new(Origin {
                rule: index,
                namespace: change.namespace.clone(),
                key: change.key.clone(),
                phase: change.phase,
                time: change.time,
                since: change.since,
                deleted: false,
                event,
            })
        };
        let event = match state {
            State::Happened(event) => event.clone(),
            State::Present(document) => {
                let cause = cause_bytes(change.cause);
                let rule = (&*rule.name, cause.as_slice());
                let document = document.clone();
                Arc::new(Happened::copied(rule, &change.namespace, &change.key, document))
            }
            State::Failed(words) => {
                let letter = Letter::new(origin(None), Stage::Source, words.clone(), None);
                shaped.letters.push(letter);
                return Ok(());
            }
            // The copy of events tells of what is there.
            State::Unmatched | State::Gone | State::Dropped => return Ok(()),
        };
        let origin = origin(Some(event.clone()));
        let mut refuse = |stage, words| {
            shaped.letters.push(Letter::new(origin.clone(), stage, words, None));
        };
        if let Some(lacks) = event.lacks {
            refuse(Stage::Source, lacks.words().to_owned());
            return Ok(());
        }
        let (documents, meta) = match run(rule, given, &event) {
            Ok(Outcome::Unchanged(meta)) => (Made::One(event.document.clone()), meta),
            Ok(Outcome::Document(document, meta)) => (Made::One(Some(document)), meta),
            Ok(Outcome::Documents(documents, meta)) => (Made::Several(documents), meta),
            Ok(Outcome::Remove | Outcome::Skip) => {
                shaped.skipped.push(index);
                return Ok(());
            }
            Ok(Outcome::Stopped) => return Err(Halt::Stopped),
            Ok(Outcome::Failed(words)) => {
                refuse(Stage::Transform, words);
                return Ok(());
            }
            Err(error) => {
                refuse(Stage::Transform, error.to_string());
                return Ok(());
            }
        };
        let mut operations = Vec::new();
        for (id, document) in documents.with_ids(&event.id) {
            let placing = Placing {
                namespace: &change.namespace,
                key: &change.key,
                id: given.id,
                op: event.op.as_str(),
                document: document.as_ref().map(Document::raw),
                event: Some(&id),
                meta: &meta,
            };
            let placed = match self.target.place(&rule.name, &placing) {
                Ok(placed) => placed,
                Err(words) => {
                    refuse(Stage::Place, words);
                    return Ok(());
                }
            };
            let told = Appended {
                id,
                namespace: change.namespace.clone(),
                key: change.key.clone(),
                document_id: given.id.to_owned(),
                wall_time: change.since,
                event: event.clone(),
                document,
            };
            let action = Action::Append(Box::new(told));
            let operation = operation(change, placed.place, placed.extra, action);
            operations.push((operation, origin.clone()));
        }
        shaped.operations.append(&mut operations);
        Ok(())
    }
}

/// What the shaping of an event leaves.
enum Made {
    /// The event with one document or none.
    One(Option<Document>),
    /// A script has made these of it.
    Several(Vec<Document>),
}

impl Made {
    fn with_ids(self, id: &str) -> Vec<(String, Option<Document>)> {
        match self {
            Self::One(document) => vec![(id.to_owned(), document)],
            Self::Several(documents) => documents
                .into_iter()
                .enumerate()
                .map(|(at, document)| (format!("{id}:{at}"), Some(document)))
                .collect(),
        }
    }
}

fn run(
    rule: &ShapedRule,
    given: &Given<'_>,
    event: &Happened,
) -> Result<Outcome, transform::ScriptError> {
    let change = given.change;
    let Some(script) = &rule.script else { return Ok(Outcome::Unchanged(Meta::default())) };
    script.run(Input {
        document: event.document.as_ref(),
        event: transform::Event {
            op: event.op.as_str(),
            namespace: &change.namespace,
            id: change.key.id(),
            cluster_time: change.time,
            wall_time: change.since,
            copy: event.copy,
            happened: Some(event),
        },
        reads: given.reads,
    })
}

/// What tells one copy of a document from another.
fn cause_bytes(cause: Cause) -> Vec<u8> {
    match cause {
        Cause::Event(time) => time.0.to_be_bytes().to_vec(),
        Cause::Copy(plan) => plan.bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests;
