//! Where documents go: the contract that every target keeps, and a folder for each kind.
//!
//! A target decides nothing about retries, sleeping, batching or order; `delivery` does. It turns
//! operations into the bytes of a request, sends a request once, and says of each item what became
//! of it.

pub mod dry_run;
pub mod elasticsearch;
pub mod event;
pub mod file;
pub mod fill;
pub mod http;
pub mod json;
mod line;
pub mod mongodb;
pub mod open;
pub mod stdout;
pub mod webhook;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::Range,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bson::{RawDocument, Uuid, oid::ObjectId};
use bytes::Bytes;
use tokio::{sync::mpsc, time::Instant};

use crate::{
    change::{Cause, ClusterTime, Document, DocumentKey, Namespace, Phase, event::Happened},
    finding::Finding,
    source::namespaces::Defined,
    transform::Meta,
};

/// What a look at a target is told.
#[derive(Clone, Copy)]
pub struct Look<'a> {
    /// The target's name, for what is found.
    pub target: &'a str,
    /// What each rule reads now, by the rule's name; without those whose namespaces are not known.
    pub reads: &'a BTreeMap<String, Vec<Namespace>>,
    /// What else there is to know of the source and of the rule file; `None` where the source was not
    /// reached.
    pub origins: Option<&'a dyn Origins>,
}

/// One place in a target: where one delivered document lies. For an engine that is index, id and
/// routing.
///
/// Two places are the same exactly when they are equal; the bytes are the target's own encoding and
/// are what the checkpoint store keeps.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PlaceKey(pub Arc<[u8]>);

/// What is to be done in one place.
#[derive(Clone, Debug)]
pub enum Action {
    /// The place holds this document from now on.
    Put(Document),
    /// The place holds nothing from now on.
    Remove,
    /// This has happened: it is told, or appended, under the id that it has at every try. The place is
    /// the event's own, and of no other.
    Append(Box<Appended>),
}

/// What is told of an event (`events` delivery).
#[derive(Clone, Debug)]
pub struct Appended {
    /// The same at every try and after every restart; of nothing else that the rule tells.
    pub id: String,
    /// Where the document lives in the source.
    pub namespace: Namespace,
    /// Of which document.
    pub key: DocumentKey,
    /// The document's default id: `_id` as text that no other `_id` of the namespace has.
    pub document_id: String,
    /// The server's clock at the event; `None` in the copy.
    pub wall_time: Option<bson::DateTime>,
    /// What happened.
    pub event: Arc<Happened>,
    /// The document, as it was shaped; `None` where there is none.
    pub document: Option<Document>,
}

/// What a place is made from.
#[derive(Clone, Copy, Debug)]
pub struct Placing<'a> {
    /// Where the document lives in the source.
    pub namespace: &'a Namespace,
    /// Which document it is.
    pub key: &'a DocumentKey,
    /// The default id: `_id` as text that no other `_id` of the namespace has.
    pub id: &'a str,
    /// `put` or `remove`, or what has happened, for templates.
    pub op: &'a str,
    /// The shaped document; `None` for a removal, which only a fixed place can be made for, and for an
    /// event without one.
    pub document: Option<&'a RawDocument>,
    /// The id of what is told of an event, which has its place for itself.
    pub event: Option<&'a str>,
    /// What the transform set for this one delivery.
    pub meta: &'a Meta,
}

/// Where a document goes, and what goes with it.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Where.
    pub place: PlaceKey,
    /// See [`Operation::extra`].
    pub extra: Bytes,
}

/// One write, made by `delivery::shape` from a change.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Where.
    pub place: PlaceKey,
    /// What.
    pub action: Action,
    /// A lower bound of the time of the state that is written: the external version.
    pub time: ClusterTime,
    /// What brought it about.
    pub cause: Cause,
    /// What a single delivery may set beside its place, as the target's own encoding (for an engine
    /// the ingest pipeline); empty where there is nothing.
    pub extra: Bytes,
    /// For logs, dead letters and metrics.
    pub namespace: Namespace,
    /// Copy or changes.
    pub phase: Phase,
}

impl Operation {
    /// The time that is told with it: of its event, and of a copied document when the copy began.
    pub fn told_time(&self) -> ClusterTime {
        match self.cause {
            Cause::Event(time) => time,
            Cause::Copy(_) => self.time,
        }
    }
}

/// Why an item or a request did not go through, and may later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The label in metrics: one of a small fixed set, such as `network`, `timeout`, `throttled`,
    /// `too_large`, `unavailable`, `unauthorized`, `blocked`.
    pub reason: &'static str,
    /// For a person: what happened, in the target's words, without secrets.
    pub message: String,
    /// What the target asked for (`Retry-After`).
    pub after: Option<Duration>,
    /// How what is sent should change.
    pub pressure: Pressure,
}

/// What a target's answer says about how much it can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Nothing.
    Same,
    /// Send less at a time (429).
    Less,
    /// The target refuses the request as a whole, and one of its items may be the cause: parts of it
    /// may go through.
    Split,
    /// The request's body is over the target's limit (413); alone in its request, the item is
    /// refused for good.
    TooLarge,
}

/// What became of one item of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, durably as far as the target can say.
    Applied,
    /// The place already holds something newer, or what was to be removed is not there.
    Superseded,
    /// Not done; the same item may go through later.
    Retry(Retry),
    /// Not done, for what another document holds: it may go through, as it is by then, once that one is
    /// as it is in the source. Whether it is still waited for is not the target's to say.
    Behind {
        /// The target's own words.
        words: String,
        /// Where the other one lies, where it was found.
        holder: Option<PlaceKey>,
    },
    /// Not done, for what is wrong where it lies and concerns nothing that lies elsewhere, such as a right
    /// that is missing there: others may go on before it.
    Held(Retry),
    /// Refused for good, with the target's own words.
    Rejected(String),
}

/// One item of a request: where its bytes lie in the body, and what it does.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its bytes in the body of the request it was encoded for.
    pub range: Range<usize>,
    /// Where it writes.
    pub place: PlaceKey,
}

/// A request that is ready to be sent, as often as it takes. Within one request every place occurs
/// once.
#[derive(Clone, Debug)]
pub struct Request {
    /// The encoded items, one after the other, in order.
    pub body: Bytes,
    /// In the order of the body; never empty.
    pub items: Vec<Item>,
    /// Whose request it is: requests of one lane come one after the other, and all that are about a
    /// place come from one lane.
    pub lane: usize,
    /// The right to send it; `None` where nobody else could have it.
    pub right: Option<Right>,
    /// Whether that is had at this moment, for targets that send a request as several messages, one after
    /// the other; `None` where nobody else could have it.
    pub standing: Option<Standing>,
}

/// The reason of what was not sent for the right to: it has had no try.
pub const LEASE: &str = "lease";

/// Why the rest of a request is not sent.
pub const NOT_HELD: &str =
    "the lease has not been renewed in time: nothing more is sent until it is";

/// Says whether this process has the right to write at this moment.
#[derive(Clone)]
pub struct Standing(Arc<dyn Fn() -> bool + Send + Sync>);

impl Standing {
    /// As this says.
    pub fn new(holds: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(holds))
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Standing").field(&(self.0)()).finish()
    }
}

/// The right to write, which ends and may pass to another process, by this one's monotonic clock.
///
/// A target whose writes carry no versions has them fail once it is over, where its server can tell
/// the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Right {
    /// It was asked for then, and counts from that moment.
    pub since: Instant,
    /// It ends then, unless it is renewed before.
    pub until: Instant,
    /// What whoever had it before sent with it is over then.
    pub alone: Instant,
}

impl Request {
    /// Whether one more message of it may be sent: another process may have taken over since it was begun.
    pub fn may_be_sent(&self) -> bool {
        self.standing.as_ref().is_none_or(|standing| (standing.0)())
    }

    /// A request of only some of the items, given by ascending index.
    pub fn only(&self, indices: &[usize]) -> Self {
        if indices.len() == self.items.len() {
            return self.clone();
        }
        self.copy(indices.iter().map(|&index| &self.items[index]))
    }

    /// The same request without bytes that belong to no item.
    #[must_use]
    pub fn compact(&self) -> Self {
        self.copy(self.items.iter())
    }

    fn copy<'a>(&self, items: impl Iterator<Item = &'a Item> + Clone) -> Self {
        let size = items.clone().map(|item| item.range.len()).sum();
        let mut body = Vec::with_capacity(size);
        let items = items
            .map(|item| {
                let start = body.len();
                body.extend_from_slice(&self.body[item.range.clone()]);
                Item { range: start..body.len(), place: item.place.clone() }
            })
            .collect();
        let standing = self.standing.clone();
        Self { body: body.into(), items, lane: self.lane, right: self.right, standing }
    }
}

/// A collection of the source, as it was made.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// Its options, as `listCollections` tells them.
    pub options: bson::Document,
    /// Its indexes, as `listIndexes` tells them.
    pub indexes: Vec<bson::Document>,
    /// The server's own id of it.
    pub id: Option<Uuid>,
}

/// A MongoDB deployment, as far as a user without rights may know it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Deployment {
    /// The replica set's or cluster's own id, where it may be read.
    pub id: Option<ObjectId>,
    /// The server process that answered.
    pub process: Option<ObjectId>,
    /// Whether it is a mongos.
    pub sharded: bool,
    /// The replica set's name.
    pub set: Option<String>,
    /// Its members.
    pub hosts: Vec<String>,
}

impl Deployment {
    /// What a server says of itself in its answer to `hello`.
    pub fn of(hello: &bson::Document, id: Option<ObjectId>) -> Self {
        let process =
            hello.get_document("topologyVersion").and_then(|it| it.get_object_id("processId"));
        let hosts = hello.get_array("hosts").map(|hosts| {
            hosts.iter().filter_map(|host| host.as_str().map(str::to_owned)).collect()
        });
        Self {
            id,
            process: process.ok(),
            sharded: hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
            set: hello.get_str("setName").ok().map(str::to_owned),
            hosts: hosts.unwrap_or_default(),
        }
    }

    /// Whether two are one; `None` where that can't be told. Each was asked at its primary.
    pub fn is(&self, other: &Self) -> Option<bool> {
        let equal = |one: Option<ObjectId>, other: Option<ObjectId>| Some(one? == other?);
        let (ids, processes) = (equal(self.id, other.id), equal(self.process, other.process));
        if ids == Some(true) || processes == Some(true) {
            return Some(true);
        }
        match (self.sharded, other.sharded) {
            // Two sets may go by one name, and by the same names of hosts in two networks.
            (false, false) if ids.is_some() => ids,
            // Another member may have become the primary in between.
            (false, false) if self.set.is_some() && self.set == other.set => {
                let meet = self.hosts.iter().any(|host| other.hosts.contains(host));
                if meet { Some(true) } else { processes }
            }
            (false, false) => processes,
            // A cluster has many mongos.
            (true, true) => ids,
            // A replica set may be a shard.
            _ => None,
        }
    }
}

/// What a target may ask of the run that it writes for: of the source, and of the rule file.
///
/// Each call is one attempt.
#[async_trait]
pub trait Origins: Send + Sync {
    /// A collection of the source; `None` where there is no such, or it is a view.
    async fn collection(&self, namespace: &Namespace) -> Result<Option<Described>, Retry>;

    /// All that a rule's namespaces come to now, or the one of this name: views and time series too, which
    /// patterns do not read. As the primary has it.
    async fn definitions(
        &self,
        rule: &str,
        only: Option<&Namespace>,
    ) -> Result<Vec<Defined>, Retry>;

    /// What a rule reads now.
    async fn namespaces(&self, rule: &str) -> Result<Vec<Namespace>, Retry>;

    /// The source.
    async fn deployment(&self) -> Result<Deployment, Retry>;

    /// A rule that reads a namespace of the source and writes to a MongoDB, whichever target that is.
    fn reader(&self, namespace: &Namespace) -> Option<String>;

    /// The database that positions are kept in, where they are kept in a MongoDB.
    fn positions(&self) -> Option<&str>;

    /// Remembers, durably, that documents of a namespace lie in a container that has its name of that alone,
    /// for each of these: the next run tells the target by [`Target::holds`].
    async fn keep_names(&self, names: &[(&str, Namespace)]) -> Result<(), Retry>;
}

/// What [`Target::align`] is asked.
#[derive(Clone, Copy, Debug)]
pub struct Align<'a> {
    /// Of the source; `None` for all.
    pub namespace: Option<&'a Namespace>,
    /// Rules whose copy was not complete at the start: what they fill gets its indexes at its end.
    pub copying: &'a BTreeSet<String>,
    /// See [`Request::right`].
    pub right: Right,
}

/// See [`Target::keeps_order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepsOrder {
    /// Any item may be done while one before it is not.
    OfNothing,
    /// The items of one document keep theirs.
    OfDocuments,
    /// All items do.
    OfAll,
}

/// What became of listing a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Everything that was asked for has been sent.
    Whole,
    /// Others write there too, or it can't be told: nothing may be removed for being old. Why, for a
    /// person.
    NotOurs(String),
}

/// What a place holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// As JSON; `None` where the target keeps what it was sent in no form that can be compared.
    pub content: Option<Vec<u8>>,
    /// The time that it was written with, or what an engine counts where somebody else wrote it.
    pub written: ClusterTime,
}

/// What places hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// One entry a place, in order; `None` where it holds nothing.
    Held(Vec<Option<Held>>),
    /// The target can't be read. Why, for a person.
    Unreadable(String),
}

/// A place that is written to.
///
/// # Contract
/// - `encode` is plain computing: no waiting, no state that a later call depends on.
/// - `send` is called for one request of a lane at a time, and concurrently for different lanes. It
///   tries once. It may be dropped at any moment; the fate of the request is then unknown, and it
///   will be sent again.
/// - An `Ok` answer has exactly one outcome for each item, in order. `Err` means that the fate of
///   the whole request is unknown or that none of it was done; all of it will be sent again.
/// - Writes are idempotent under `time`: an item that arrives twice or late changes nothing that is
///   newer, or the target says in its documentation what it can't do.
/// - One value may serve several pipelines at once, where a program brings it: each has its lanes, and
///   what is said of a lane holds for those of one pipeline. Two pipelines share no place.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// Where a document of a rule lies, from the rule's templates and what the transform set.
    ///
    /// # Errors
    /// What is wrong with this one document, in words: it becomes a dead letter.
    fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String>;

    /// Whether the place of every document of the rule is a function of namespace and document key
    /// alone, as far as templates go. Only then `place` is asked about removals.
    fn place_is_fixed(&self, rule: &str) -> bool;

    /// What goes with the removal of a place of a rule's document beside the place itself
    /// ([`Operation::extra`]). `placing` has no document.
    fn removal(&self, _rule: &str, _place: &PlaceKey, _placing: &Placing<'_>) -> Bytes {
        Bytes::new()
    }

    /// What lies in a place, whichever rule put it there: by default the place itself. Of two rules of
    /// which one puts a document where another would remove it, the first one counts.
    fn thing(&self, place: &PlaceKey) -> PlaceKey {
        place.clone()
    }

    /// What no two documents may share, of those that are put to places which rules choose: by default
    /// the thing that lies there.
    fn spot(&self, place: &PlaceKey) -> PlaceKey {
        self.thing(place)
    }

    /// Whether no two documents of one namespace are given one spot by a rule, as far as templates go:
    /// whatever they choose, the id is the document's own.
    fn keeps_ids(&self, _rule: &str) -> bool {
        false
    }

    /// Whether a script has chosen the whole of a place, so that nothing says that it is still there
    /// once the script chooses another one.
    fn is_scripted(&self, _place: &PlaceKey) -> bool {
        false
    }

    /// Whose items keep their order within a request, also where some are to be sent again: what comes
    /// behind such a one is not done either. It decides how many events stand in a request together.
    fn keeps_order(&self) -> KeepsOrder {
        KeepsOrder::OfNothing
    }

    /// How long a request may take before it counts as lost, where the other side may take `timeout` for each
    /// answer: longer where it is asked several times for one request, one after the other, so that what is
    /// slow takes none of the time of what comes behind it.
    fn longest(&self, timeout: Duration) -> Duration {
        timeout
    }

    /// Appends the bytes of one operation to a request's body; nothing where nothing is to be sent for
    /// it. `Err` refuses the operation for good, with the reason; the body is then as it was. A removal
    /// too: what can't have been written is not to be refused.
    fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String>;

    /// Sends a request once.
    async fn send(&self, request: &Request) -> Result<Vec<Outcome>, Retry>;

    /// Reaches the target and makes what has to be there before the first write. Called before the
    /// copies, again where it has failed, and harmless to repeat.
    async fn prepare(&self) -> Result<(), Retry> {
        Ok(())
    }

    /// Why nothing is to be written as the rules say, for as long as a person changes nothing: a loop, or
    /// what others have written and would meet it.
    /// Asked at the start, once the target can be reached; it ends the run.
    async fn fault(&self) -> Result<Option<String>, Retry> {
        Ok(None)
    }

    /// Called when the copy of a rule begins, and again when a process resumes in the middle of
    /// one: the target may arrange itself for bulk writes.
    async fn copy_begins(&self, _rule: &str) -> Result<(), Retry> {
        Ok(())
    }

    /// Called once everything that the copy of a rule delivered is settled, and again at a start
    /// that finds the copy complete: makes what was written visible, and takes back what
    /// `copy_begins` arranged.
    async fn copy_complete(&self, _rule: &str) -> Result<(), Retry> {
        Ok(())
    }

    /// From now on nothing is written before [`align`](Self::align) has once gone through all. To be called
    /// before the first write; without it the definitions of collections are not followed.
    fn aligns(&self) {}

    /// Makes collections, indexes and views what they are in the source now, where rules say `ddl` and they
    /// are the target's own: the one of this namespace of the source, or all. Collections that the source
    /// has no longer are dropped the first time that all are asked for, before anything is written: never
    /// beside documents that are on their way.
    ///
    /// What the target refuses is told in the log, and is no error. Harmless to repeat and to drop.
    async fn align(&self, _asked: Align<'_>) -> Result<(), Retry> {
        Ok(())
    }

    /// Where all documents of a rule from a namespace lie together, whatever they hold: an index, a
    /// collection. Documents can meet in one place only where the containers are equal. `None` where
    /// it depends on the document; the places of such a rule are stored. (What a transform sets is
    /// not asked here.)
    fn container(&self, _rule: &str, _namespace: &Namespace) -> Option<String> {
        None
    }

    /// Has a rule's documents from a namespace lie where nothing but the namespace's name puts them. Of
    /// namespaces that would lie in one place there, the first has it.
    ///
    /// # Errors
    /// Why it can't, where another one has it: in words, with the way out.
    fn settle(&self, _rule: &str, _namespace: &Namespace) -> Result<(), String> {
        Ok(())
    }

    /// What was settled in an earlier run, as [`Origins::keep_names`] was told. To be called before
    /// [`Target::settle`].
    fn holds(&self, _container: &str, _namespace: &Namespace) {}

    /// In which containers documents of a rule may lie, whatever namespaces it comes to read: names,
    /// with `*` for any text. (What a transform sets is not asked here.)
    fn containers(&self, _rule: &str) -> Vec<String> {
        vec!["*".to_owned()]
    }

    /// Whether documents bear the time of what they were made from, and removals are refused by it.
    /// What such a target holds of old is found by its time; of another, by asking the source.
    fn is_versioned(&self) -> bool {
        true
    }

    /// Whether there are containers that [`Target::list`] lists.
    fn can_list(&self) -> bool {
        false
    }

    /// The source's key of the document in a place, where it follows from the place.
    fn key(&self, _place: &PlaceKey) -> Option<DocumentKey> {
        None
    }

    /// Sends every place of a container whose document this rule file wrote with a time in
    /// `written` (all of them, where the target is not versioned), page by page and in any order. What is written meanwhile may be sent or not. To be
    /// called again from the start after a failure.
    async fn list(
        &self,
        _container: &str,
        _written: Range<ClusterTime>,
        _found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        Ok(Listing::NotOurs("the target can't list what it holds".to_owned()))
    }

    /// What a place holds once a put is done, as JSON, to be compared with what [`read`](Self::read)
    /// finds there. `None` where that can't be told beforehand, as behind an ingest pipeline.
    ///
    /// # Errors
    /// As those of `encode`.
    fn expected(&self, _operation: &Operation) -> Result<Option<Vec<u8>>, String> {
        Ok(None)
    }

    /// What lies in these places now, with whatever was acknowledged before.
    async fn read(&self, _places: &[PlaceKey]) -> Result<Contents, Retry> {
        Ok(Contents::Unreadable("what it was sent can't be read back".to_owned()))
    }

    /// Whether a container of a rule can be filled anew beside the one that is read, and then swapped
    /// in.
    fn is_replaceable(&self, _rule: &str, _container: &str) -> bool {
        false
    }

    /// From now on everything that goes to a container of a rule goes to the replacement of this id
    /// instead, and `list` lists that. To be called before the first write of a run, again in every
    /// run until it is swapped in. `begun` says whether an earlier run has written to it: it is there
    /// then, or lost.
    fn replace(&self, _rule: &str, _container: &str, _id: Uuid, _begun: bool) {}

    /// Sends the places of what a replacement replaces, as `list` does. `NotOurs` where others write
    /// there, or part of it is not what mongosync made; unless everything is asked for.
    async fn list_replaced(
        &self,
        _container: &str,
        _written: Range<ClusterTime>,
        _found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        Ok(Listing::Whole)
    }

    /// Takes documents over into the replacement of a container, from what it replaces, unless it
    /// holds them or newer ones, or has been told that they are gone. An error too where it does not
    /// take one of them.
    async fn take_over(&self, _container: &str, _places: &[PlaceKey]) -> Result<(), Retry> {
        Ok(())
    }

    /// Puts the replacement of a container in the stead of what is read, at one stroke, and removes
    /// what it replaces where that is this target's own. Harmless to repeat. Everything that goes to
    /// the container goes to the replacement from then on, whenever it was encoded.
    async fn swap(&self, _container: &str) -> Result<(), Retry> {
        Ok(())
    }

    /// Whether the target answers, be it with a refusal; writes nothing.
    async fn reach(&self) -> Result<(), Retry> {
        Ok(())
    }

    /// Waits until the target can take nothing more in this run, as a pipe whose reader is gone: then
    /// the whole run ends, and that is no error. What has not been answered by then counts as not
    /// written.
    async fn closed(&self) {
        std::future::pending().await
    }

    /// What only the target can tell of what its rules want of it, all in one go; writes nothing,
    /// and tries once. What it can't tell, for want of a right or of a way to ask, is left out.
    async fn inspect(&self, _look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        Ok(Vec::new())
    }

    /// What is effective for an operation, as a transform would write it into `meta`: the templates
    /// filled in, the defaults taken.
    fn meta(&self, _operation: &Operation) -> Meta {
        Meta::default()
    }

    /// A place in words, for dead letters and logs.
    fn describe(&self, place: &PlaceKey) -> String;
}

/// Whether a container is one of those that a pattern of [`Target::containers`] names.
pub fn names(pattern: &str, container: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = container.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_containers() {
        for (pattern, container, expected) in [
            ("products", "products", true),
            ("products", "products-2", false),
            ("products", "my-products", false),
            ("*", "anything", true),
            ("shop-*", "shop-orders", true),
            ("shop-*", "shops-orders", false),
            ("*-orders", "shop-orders", true),
            ("*-*", "shop-orders", true),
            ("*-*", "orders", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(names(pattern, container), expected, "{pattern} {container}");
        }
    }

    /// `set hosts process id`, `-` for what is not told; `mongos` for the set.
    fn deployment(text: &str) -> Deployment {
        let told = |part: &str| (part != "-").then(|| part.to_owned());
        let number = |part: &str| part.parse().ok().map(|byte| ObjectId::from_bytes([byte; 12]));
        let parts: Vec<&str> = text.split(' ').collect();
        Deployment {
            id: number(parts[3]),
            process: number(parts[2]),
            sharded: parts[0] == "mongos",
            set: told(parts[0]).filter(|set| set != "mongos"),
            hosts: parts[1].split(',').filter_map(told).collect(),
        }
    }

    #[test]
    fn two_deployments_are_one_or_not_or_nobody_knows() {
        for (one, other, expected) in [
            ("rs0 a,b 1 -", "rs0 a,b 1 -", Some(true)),
            // Another primary, and other hosts in the URI.
            ("rs0 a,b 1 -", "rs0 b,c 2 -", Some(true)),
            ("rs0 a 1 -", "rs0 b 2 -", Some(false)),
            ("rs0 a 1 7", "rs1 b 2 7", Some(true)),
            ("rs0 a 1 -", "rs1 b 2 -", Some(false)),
            ("rs0 a - 7", "rs1 b - 8", Some(false)),
            // Two clusters that were set up alike.
            ("rs0 a 1 7", "rs0 a 2 8", Some(false)),
            ("rs0 a - 7", "rs0 a - 8", Some(false)),
            ("rs0 a - 7", "rs0 a - -", Some(true)),
            ("rs0 a - -", "rs1 b - -", None),
            ("mongos - 1 -", "mongos - 1 -", Some(true)),
            ("mongos - 1 7", "mongos - 2 7", Some(true)),
            ("mongos - 1 7", "mongos - 2 8", Some(false)),
            ("mongos - 1 -", "mongos - 2 -", None),
            // One of its shards, for all that anybody knows.
            ("mongos - 1 7", "rs0 a 2 8", None),
        ] {
            let (one, other) = (deployment(one), deployment(other));
            assert_eq!(one.is(&other), expected, "{one:?} {other:?}");
            assert_eq!(other.is(&one), expected, "{other:?} {one:?}");
        }
    }
}
