//! What comes of one document under one rule, with nothing sent: for `mongosync test` and
//! `mongosync try`. Shaped, placed and encoded by what a run uses.

use std::sync::Arc;

use crate::{
    change::{Change, Document, id::IdTypes},
    rules::model::Rule,
    target::{Action, Target},
    transform::{Meta, Reads},
};

use super::{
    Halt,
    shape::{Shaped, ShapedRule, Shaper},
};

/// One rule and one of its targets.
pub struct Trial {
    target: Arc<dyn Target>,
    shaper: Shaper,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Made {
    /// What would be delivered, in order.
    pub puts: Vec<Put>,
    /// `remove()`: the request that takes it out, where the place is known without looking.
    pub removed: Option<Vec<u8>>,
    /// `skip()`
    pub skipped: bool,
    /// Why it would be a dead letter, or some of what was made of it.
    pub refused: Vec<String>,
}

/// One document to be delivered.
#[derive(Clone, PartialEq, Debug)]
pub struct Put {
    /// As it was shaped; `None` for an event that is told without one.
    pub document: Option<Document>,
    /// What is effective for it.
    pub meta: Meta,
    /// The bytes that the target would be sent for it.
    pub request: Vec<u8>,
}

impl Trial {
    /// The target has to know the rule.
    pub fn new(rule: &Rule, target: Arc<dyn Target>) -> Self {
        let shaper = Shaper::new(target.clone(), vec![ShapedRule::of(rule, &*target, false)]);
        Self { target, shaper }
    }

    /// Shapes a change that has one state, that of the rule, which is taken out of it. Waits where the script looks up.
    ///
    /// # Errors
    /// `Stopped` where the script was stopped as it waited.
    pub fn run(
        &self,
        change: &mut Change,
        types: &IdTypes,
        reads: Option<&Reads>,
    ) -> Result<Made, Halt> {
        let Shaped { operations, letters, gone, skipped, .. } =
            self.shaper.shape(change, types, &[], reads)?;
        let mut made = Made {
            skipped: !skipped.is_empty(),
            refused: letters.iter().map(|letter| letter.words().to_owned()).collect(),
            removed: (!gone.is_empty()).then(Vec::new),
            ..Made::default()
        };
        for (operation, _) in operations {
            let mut request = Vec::new();
            let encoded = self.target.encode(&operation, &mut request);
            let meta = self.target.meta(&operation);
            match (operation.action, encoded) {
                (Action::Put(document), Ok(())) => {
                    made.puts.push(Put { document: Some(document), meta, request });
                }
                (Action::Append(told), Ok(())) => {
                    made.puts.push(Put { document: told.document, meta, request });
                }
                (Action::Put(_) | Action::Append(_), Err(words)) => made.refused.push(words),
                // What can't be written was never there to be removed.
                (Action::Remove, _) => made.removed.get_or_insert_default().extend(request),
            }
        }
        Ok(made)
    }
}
