//! What a lane gathers for one delivery: the encoded items, and what waits for them.

use std::{
    collections::{HashSet, hash_map},
    ops::Range,
    sync::Arc,
};

use crate::{
    change::{ClusterTime, DocumentKey, KeyMap, Namespace, Phase, RuleIndex, event::Happened},
    checkpoint::tracker::Claims,
    target::{Action, Item, Operation, PlaceKey, Request, Target},
};

use super::{
    dead_letters::{Letter, Stage},
    lane::Subject,
};

/// Where an item comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Whose rule.
    pub rule: RuleIndex,
    /// Of which namespace.
    pub namespace: Namespace,
    /// Which document.
    pub key: DocumentKey,
    /// Copy or changes.
    pub phase: Phase,
    /// The change's cluster time; of a copied document the copy's start.
    pub time: ClusterTime,
    /// The server's clock at the oldest event that it answers.
    pub since: Option<bson::DateTime>,
    /// Whether an event said that the document is no more.
    pub deleted: bool,
    /// The event itself, in `events` delivery.
    pub event: Option<Arc<Happened>>,
}

/// One item of a batch.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its bytes in the body.
    range: Range<usize>,
    /// Where it writes.
    pub place: PlaceKey,
    /// Whether it removes.
    pub removes: bool,
    /// Whether it is tried once: where that fails it is a letter, and holds up nothing.
    pub once: bool,
    /// Whether the document has not been put there before, for all that is known.
    pub fresh: bool,
    /// Where it comes from.
    pub origin: Arc<Origin>,
}

/// Gathered changes of one lane, settled together.
///
/// Every place occurs once: a later operation on a place makes an earlier one void, which is right
/// since both come from one lane in order and each carries a whole state. It goes to the end: what the
/// same document does to another place is not overtaken. Unless it is the older by its time: a copied
/// document bears the time of the copy's start, and follows a change of the same document where its
/// chunk was begun after that. It adds nothing to the change, and sent in its stead it would be refused
/// for what an earlier batch has written.
#[derive(Default, Debug)]
pub struct Batch {
    body: Vec<u8>,
    /// What was made void is `None`.
    entries: Vec<Option<Entry>>,
    /// Where the others stand.
    by_place: KeyMap<PlaceKey, usize>,
    /// Whose letters there are, and who waits.
    open: HashSet<Lettered>,
    /// Refused before they were sent; stored before anything of the batch is settled.
    pub letters: Vec<Letter>,
    /// Documents that the target is not to hold and does not: nothing is sent for them.
    pub gone: Vec<Arc<Origin>>,
    /// Documents that come back, since a place is still another's: what else goes through of them is no
    /// success.
    pub waiting: Vec<Arc<Origin>>,
    /// Settled when the batch is. What its changes hold back between them, each thing once.
    pub claims: Claims,
    /// Changes that are settled with the batch.
    pub changes: usize,
    /// Keys whose stored places are trimmed to these once the batch is settled.
    pub places: Vec<super::places::Trim>,
}

impl Batch {
    /// An empty one behind another. It has room for what is in the last one and a little more: what
    /// grows from nothing is copied over and over, and takes twice its size meanwhile. The room may be
    /// that of a body that was sent (`spare`), which costs no new pages.
    pub fn after(last: &Self, spare: Vec<u8>) -> Self {
        let (actions, bytes) = (last.by_place.len(), last.body.len() + last.body.len() / 8);
        let mut by_place = KeyMap::default();
        by_place.reserve(actions);
        // One that is far too large belongs to a load that is over.
        let fits = spare.capacity() >= bytes && spare.capacity() / 4 <= bytes;
        let body = if fits { spare } else { Vec::with_capacity(bytes) };
        Self { body, entries: Vec::with_capacity(actions), by_place, ..Self::default() }
    }

    /// Whether there is nothing at all in it, claims included.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.changes == 0 && self.letters.is_empty()
    }

    /// Takes what a change holds back.
    pub fn hold(&mut self, claims: Claims) {
        self.changes += 1;
        claims.into_iter().for_each(|claim| claim.join(&mut self.claims));
    }

    /// Items that will be sent.
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Bytes of the body so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// Encodes an operation into the body, to be tried `once` or until it goes through. What the target
    /// refuses becomes a letter of the batch.
    pub fn push(
        &mut self,
        target: &dyn Target,
        operation: Operation,
        origin: Arc<Origin>,
        once: bool,
    ) {
        let start = self.body.len();
        let removes = matches!(operation.action, Action::Remove);
        if let Err(words) = target.encode(&operation, &mut self.body) {
            self.body.truncate(start);
            if removes {
                let Origin { namespace, key, .. } = &*origin;
                self.places.iter_mut().for_each(|trim| trim.owe(namespace, key, &operation.place));
            }
            let place = target.describe(&operation.place);
            let letter = Letter::new(origin, Stage::Target, words, Some(place));
            self.refuse(vec![letter.owed(once)]);
            return;
        }
        if self.body.len() == start {
            self.gone.push(origin);
            return;
        }
        let last = self.entries.len();
        let mut fresh = false;
        match self.by_place.entry(operation.place.clone()) {
            hash_map::Entry::Occupied(mut index) => {
                let known = &mut self.entries[*index.get()];
                if known.as_ref().is_some_and(|known| known.origin.time > origin.time) {
                    self.body.truncate(start);
                    return;
                }
                // What was not sent has put nothing there.
                let same = |known: &Entry| {
                    known.origin.key == origin.key && known.origin.namespace == origin.namespace
                };
                fresh = known.take().is_some_and(|known| known.fresh && same(&known));
                index.insert(last);
            }
            hash_map::Entry::Vacant(place) => {
                place.insert(last);
            }
        }
        let (range, place) = (start..self.body.len(), operation.place);
        self.entries.push(Some(Entry { range, place, removes, once, fresh, origin }));
    }

    /// The document of the last operation has not been put in this place before, for all that is known.
    pub fn is_fresh(&mut self, place: &PlaceKey) {
        if let Some(Some(entry)) = self.entries.last_mut()
            && entry.place == *place
        {
            entry.fresh = true;
        }
    }

    /// The removals of these places are tried once: a batch ahead has made letters of them.
    pub fn try_once(&mut self, places: &[PlaceKey]) {
        for place in places {
            let entry = self.by_place.get(place).and_then(|&at| self.entries[at].as_mut());
            if let Some(entry) = entry {
                entry.once |= entry.removes;
            }
        }
    }

    /// Drops the letters of documents that a later change of the same batch delivers after all: once
    /// stored they would stay, since what settles a letter is a success after it. Nor does it matter then
    /// that they waited: whoever has come back meanwhile does not come back once more.
    pub fn outdate<'a>(&mut self, later: impl Iterator<Item = &'a Origin>) {
        if self.open.is_empty() {
            return;
        }
        for later in later {
            let subject = lettered(later);
            if self.open.remove(&subject) {
                self.letters.retain(|letter| lettered(letter.origin()) != subject);
                self.waiting.retain(|waiting| lettered(waiting) != subject);
            }
        }
    }

    /// Takes letters of documents that were refused before they were sent.
    pub fn refuse(&mut self, letters: Vec<Letter>) {
        self.open.extend(letters.iter().map(|letter| lettered(letter.origin())));
        self.letters.extend(letters);
    }

    /// Takes documents that come back, since a place is still another's.
    pub fn wait(&mut self, waiting: Vec<Arc<Origin>>) {
        self.open.extend(waiting.iter().map(|waiting| lettered(waiting)));
        self.waiting.extend(waiting);
    }

    /// Ends the gathering: the request, and the entries in the request's order. `None` where there
    /// is nothing to send.
    pub fn seal(&mut self) -> Option<(Request, Vec<Entry>)> {
        let all = std::mem::take(&mut self.entries);
        let replaced = all.len() > self.by_place.len();
        let entries: Vec<Entry> = all.into_iter().flatten().collect();
        let body = std::mem::take(&mut self.body);
        self.by_place.clear();
        if entries.is_empty() {
            return None;
        }
        let items = entries
            .iter()
            .map(|entry| Item { range: entry.range.clone(), place: entry.place.clone() })
            .collect();
        let request = Request { body: body.into(), items, lane: 0, right: None, standing: None };
        // Bytes of what was replaced still stand in the body; copying what counts leaves them out.
        let request = if replaced { request.compact() } else { request };
        Some((request, entries))
    }
}

/// Whose letter is a letter of this: the document's under its rule, or the event's own.
pub(super) type Lettered = (RuleIndex, Subject, Option<Arc<str>>);

/// See [`Lettered`].
pub(super) fn lettered(origin: &Origin) -> Lettered {
    let subject = Subject { namespace: origin.namespace.clone(), key: origin.key.clone() };
    (origin.rule, subject, origin.event.as_ref().map(|event| event.id.clone()))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bson::rawdoc;
    use bytes::Bytes;

    use super::*;
    use crate::{
        change::Cause,
        target::{Outcome, Placed, Placing, Retry},
    };

    /// Encodes an operation as its time.
    struct Times;

    #[async_trait]
    impl Target for Times {
        fn place(&self, _: &str, _: &Placing<'_>) -> Result<Placed, String> {
            unreachable!("a batch asks for no place")
        }

        fn place_is_fixed(&self, _: &str) -> bool {
            true
        }

        fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
            body.extend_from_slice(operation.time.to_string().as_bytes());
            Ok(())
        }

        async fn send(&self, _: &Request) -> Result<Vec<Outcome>, Retry> {
            unreachable!("a batch sends nothing")
        }

        async fn prepare(&self) -> Result<(), Retry> {
            Ok(())
        }

        fn meta(&self, _: &Operation) -> crate::transform::Meta {
            crate::transform::Meta::default()
        }

        fn describe(&self, _: &PlaceKey) -> String {
            String::new()
        }
    }

    /// What is left in one place of operations with these times.
    fn left(times: &[u64]) -> String {
        let mut batch = Batch::default();
        for &time in times {
            let namespace = Namespace::new("shop", "products");
            let key = DocumentKey::from_document_key(&rawdoc! { "_id": 1 }).expect("a key");
            let (time, phase) = (ClusterTime(time << 32), Phase::Changes);
            let origin = Origin {
                rule: RuleIndex(0),
                namespace: namespace.clone(),
                key,
                phase,
                time,
                since: None,
                deleted: true,
                event: None,
            };
            let operation = Operation {
                place: PlaceKey((*b"place").into()),
                action: Action::Remove,
                time,
                cause: Cause::Event(time),
                extra: Bytes::new(),
                namespace,
                phase,
            };
            batch.push(&Times, operation, Arc::new(origin), false);
        }
        let (request, entries) = batch.seal().expect("an item");
        assert_eq!((request.items.len(), entries.len()), (1, 1));
        String::from_utf8(request.body[request.items[0].range.clone()].to_vec()).expect("text")
    }

    #[test]
    fn a_body_takes_the_room_of_one_that_was_sent_where_that_fits() {
        let last = Batch { body: vec![0; 800], ..Batch::default() };
        for (spare, taken) in [(0, false), (899, false), (900, true), (3_600, true), (3_604, false)]
        {
            let spare = Vec::with_capacity(spare);
            let room = (spare.as_ptr(), spare.capacity());
            let next = Batch::after(&last, spare);
            assert_eq!((next.body.as_ptr(), next.body.capacity()) == room, taken, "{room:?}");
            assert!(next.body.is_empty() && next.body.capacity() >= 900);
        }
        let nothing = Batch::after(&Batch::default(), Vec::with_capacity(8 << 20));
        assert_eq!(nothing.body.capacity(), 0);
    }

    #[test]
    fn a_place_occurs_once_with_the_newest_of_its_operations() {
        for (times, expected) in [
            (&[3][..], "3.0"),
            (&[3, 4], "4.0"),
            (&[3, 3], "3.0"),
            // A copied document behind a change.
            (&[3, 1], "3.0"),
            (&[1, 3, 1, 4, 1], "4.0"),
        ] {
            assert_eq!(left(times), expected, "{times:?}");
        }
    }
}
