//! Dead letters of an `events` rule on request: the very events are told again, or forgotten.

use std::{collections::BTreeSet, sync::Arc};

use smallvec::smallvec;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{Cause, Change, Phase, State},
    checkpoint::{
        keys,
        records::{DeadLetterRecord, page},
        store::{RecordKey, Store, Table},
        tracker::Completion,
    },
    delivery::{Halt, dead_letters::DeadLetters, insist},
    source::events::{EventQuery, Seen},
};

use super::{
    super::{following::Lanes, orders::Outcome},
    plan::RULE,
};

/// Letters at once: each may hold an event of 8 MiB.
const PAGE: usize = 4;

/// The dead letters of one running `events` rule.
pub struct EventLetters {
    /// Where they are.
    pub store: Arc<dyn Store>,
    /// The target's name.
    pub name: String,
    /// The rule's name.
    pub rule: String,
    /// How events are read.
    pub query: Arc<EventQuery>,
    /// Where they go.
    pub lanes: Arc<Lanes>,
    /// What the lanes know of them.
    pub dead_letters: Arc<DeadLetters>,
    /// Ends every wait.
    pub stop: CancellationToken,
}

impl EventLetters {
    /// Tells the events again, under the ids that they had, and waits for the outcome. What has happened
    /// to their documents since was told before: they come late, and say when they happened.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn retry(&self, wanted: &BTreeSet<String>) -> Result<Outcome, Halt> {
        let (mut tried, mut left_alone, mut refused) = (0, 0, 0);
        let mut after = None;
        while let Some(letters) = self.next(wanted, &mut after).await? {
            let told = Completion::new();
            let mut records = Vec::with_capacity(letters.len());
            for (key, letter) in letters {
                let seen = letter.event.as_deref().and_then(|event| self.query.kept(event));
                let Some(seen) = seen else {
                    left_alone += 1;
                    continue;
                };
                let index = self.lanes.index(&seen.namespace, &seen.key);
                let change = change(seen, &told);
                if let Some(lane) = self.lanes.iter().nth(index) {
                    lane.output_room().await;
                    lane.append(vec![change]);
                }
                records.push(key);
            }
            tried += records.len();
            told.close();
            tokio::select! {
                () = told.done() => {}
                () = self.stop.cancelled() => return Err(Halt::Stopped),
            }
            let still = insist(&self.stop, || self.store.get_many(Table::DeadLetters, &records));
            refused += still.await?.iter().flatten().count();
        }
        let mut words = format!("{tried} told again, {refused} of them refused again");
        if left_alone > 0 {
            words.push_str(&format!(
                "; {left_alone} left alone, whose event is not kept: `mongosync dead-letters FILE show ID` \
                 says which document it was about"
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

    /// The next letters of the rule that are wanted; perhaps none of a page. `None` at the end.
    async fn next(
        &self,
        wanted: &BTreeSet<String>,
        after: &mut Option<RecordKey>,
    ) -> Result<Option<Vec<(RecordKey, DeadLetterRecord)>>, Halt> {
        let prefix = keys::dead_letters(&self.name, &self.rule);
        let mut found: Vec<(RecordKey, DeadLetterRecord)> =
            insist(&self.stop, || page(&*self.store, &prefix, after.as_ref(), PAGE)).await?;
        let Some((last, _)) = found.last() else { return Ok(None) };
        *after = Some(last.clone());
        found.retain(|(key, _)| wanted.is_empty() || wanted.contains(&keys::letter_id(key)));
        Ok(Some(found))
    }
}

fn change(seen: Seen, told: &Completion) -> Change {
    let Seen { namespace, key, time, wall_time, event, .. } = seen;
    Change {
        namespace,
        key,
        time,
        cause: Cause::Event(time),
        read: time,
        // How long it took says nothing any more; when it happened does.
        since: wall_time,
        deleted: false,
        phase: if event.copy { Phase::Copy } else { Phase::Changes },
        states: smallvec![(RULE, State::Happened(Arc::new(event)))],
        claims: smallvec![told.claim()],
    }
}
