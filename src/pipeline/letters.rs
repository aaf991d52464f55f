//! Dead letters on request: delivered again from the present state of their documents, through the
//! lanes like any change, or forgotten.

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    change::{DocumentKey, Namespace},
    checkpoint::{
        keys,
        records::{DeadLetterRecord, load_many},
        store::{RecordKey, Store, Table},
        tracker::Completion,
    },
    delivery::{Halt, dead_letters::DeadLetters, insist},
    rules::model::RuleFile,
};

use super::{
    following::{Asked, Lanes},
    orders::Outcome,
    rule_set::RuleSet,
};

/// Letters at once.
const PAGE: usize = 500;
/// So many of them are in memory with what is in them: a rule that told events once may have left events
/// of 8 MiB.
const READ_AT_ONCE: usize = 16;

/// The dead letters of one running target.
pub struct Letters {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// The rule file.
    pub file: Arc<RuleFile>,
    /// The target's name.
    pub name: String,
    /// Its rules.
    pub rules: Arc<RuleSet>,
    /// Where documents are asked for.
    pub lanes: Arc<Lanes>,
    /// What the lanes know of them.
    pub dead_letters: Arc<DeadLetters>,
    /// Ends every wait.
    pub stop: CancellationToken,
}

impl Letters {
    /// Delivers again what the letters are about, and waits for the outcome.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn retry(&self, wanted: &BTreeSet<String>) -> Result<Outcome, Halt> {
        let (mut tried, mut left_alone, mut refused) = (0, 0, 0);
        let mut after = None;
        while let Some(letters) = self.next(wanted, &mut after).await? {
            let (mine, others): (Vec<_>, Vec<_>) =
                letters.into_iter().partition(|(_, letter)| self.follows(letter));
            left_alone += others.len();
            tried += mine.len();
            let mut by_namespace: BTreeMap<Namespace, Vec<Asked>> = BTreeMap::new();
            let mut records = Vec::with_capacity(mine.len());
            for (key, letter) in mine {
                let namespace = Namespace::parse(&letter.namespace);
                let document = DocumentKey::from_document_key(&letter.key);
                if let (Some(namespace), Ok(document)) = (namespace, document) {
                    let (time, deleted) = (letter.cluster_time, letter.deleted);
                    let asked = Asked { key: document, time, deleted };
                    by_namespace.entry(namespace).or_default().push(asked);
                }
                records.push(key);
            }
            // What is owed is tried as often as any other.
            self.dead_letters.ask_for(&records, true);
            let asked = Completion::new();
            for (namespace, keys) in by_namespace {
                self.lanes.ask(&namespace, keys, &asked).await;
            }
            asked.close();
            tokio::select! {
                () = asked.done() => {}
                () = self.stop.cancelled() => return Err(Halt::Stopped),
            }
            self.dead_letters.ask_for(&records, false);
            let still = insist(&self.stop, || self.store.get_many(Table::DeadLetters, &records));
            refused += still.await?.iter().flatten().count();
        }
        let mut words = format!("{tried} delivered again, {refused} of them refused again");
        if left_alone > 0 {
            words.push_str(&format!(
                "; {left_alone} left alone, whose rules follow no changes or are not part of this run: \
                 `mongosync resync` copies those again"
            ));
        }
        Ok(Ok(words))
    }

    /// Forgets letters.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn purge(&self, wanted: &BTreeSet<String>) -> Result<Outcome, Halt> {
        let mut count = 0;
        let mut after = None;
        while let Some(letters) = self.next(wanted, &mut after).await? {
            count += letters.len();
            let keys = letters.into_iter().map(|(key, _)| key).collect();
            self.dead_letters.purge(keys, &self.stop).await?;
        }
        Ok(Ok(format!("{count} forgotten")))
    }

    fn is_of_events(&self, rule: &str) -> bool {
        let mut all = self.file.rules.iter();
        all.any(|own| own.name == rule && own.events.is_some())
    }

    fn follows(&self, letter: &DeadLetterRecord) -> bool {
        let mut rules = self.rules.iter();
        rules.any(|(_, rule)| rule.rule().name == letter.rule && rule.follows())
    }

    /// The next letters of the target that are wanted; perhaps none of a page. `None` at the end.
    async fn next(
        &self,
        wanted: &BTreeSet<String>,
        after: &mut Option<RecordKey>,
    ) -> Result<Option<Vec<(RecordKey, DeadLetterRecord)>>, Halt> {
        let prefix = keys::of_target(&self.name);
        let scan = || self.store.scan_keys(Table::DeadLetters, &prefix, after.as_ref(), PAGE);
        let mut found = insist(&self.stop, scan).await?;
        let Some(last) = found.last() else { return Ok(None) };
        *after = Some(last.clone());
        // Those of an `events` rule are its own pipeline's.
        found.retain(|key| !keys::rule_of(key).is_some_and(|rule| self.is_of_events(rule)));
        found.retain(|key| wanted.is_empty() || wanted.contains(&keys::letter_id(key)));
        let mut letters = Vec::with_capacity(found.len());
        for keys in found.chunks(READ_AT_ONCE) {
            let read =
                insist(&self.stop, || load_many::<DeadLetterRecord>(&*self.store, keys)).await?;
            for (key, letter) in keys.iter().zip(read) {
                // One that is gone by now was settled.
                let Some(mut letter) = letter else { continue };
                // It is the document's present state that is delivered.
                letter.event = None;
                letters.push((key.clone(), letter));
            }
        }
        Ok(Some(letters))
    }
}
