//! The collections that are written to: made as they are in the source before the first document
//! comes, and marked as ours where they were empty.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bson::{Binary, Bson, Document, RawDocumentBuf, doc, spec::BinarySubtype};
use futures_util::TryStreamExt;
use mongodb::Database;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;
use tracing::warn;

use crate::{
    change::Namespace,
    rules::namespace::written_fault,
    target::{Deployment, Described, Origins, Retry},
};

use super::{
    answer,
    connection::{Connection, unusable},
    definition::{fits, plain, unversioned},
    marker::{self, Asked, Markers, Whose},
    routes::Routes,
};

/// NamespaceExists
const EXISTS: i32 = 48;
/// What no waiting mends when a collection is made: BadValue, InvalidNamespace, DatabaseDifferCase and
/// others that are about names and options, up to one that the server has never heard of.
const NOT_TO_BE_MADE: [i32; 8] = [2, 9, 72, 73, 13297, 40414, 40415, 5_087_400];
/// Options of a collection that are the same in the target. A capped one is not: documents come in
/// another order than the source wrote them, so others would be left over.
const OPTIONS: [&str; 5] =
    ["collation", "validator", "validationLevel", "validationAction", "clusteredIndex"];
/// What removes documents by itself, and is left out where the target keeps them.
pub(super) const EXPIRES: &str = "expireAfterSeconds";

/// A collection that can be written to, or why not.
#[derive(Debug)]
pub(super) struct Ready {
    /// Why nothing may be written there.
    pub refused: Option<String>,
    /// The server's own id of it.
    pub uuid: Option<Binary>,
    /// Whether it compares texts by a language.
    pub collated: bool,
    /// Whether all that it holds is ours.
    pub own: bool,
    /// Whether it was made here, in this run.
    pub made: bool,
    /// Whether a copied document is most likely not there yet.
    fresh: AtomicBool,
    /// How many documents were written since.
    written: AtomicUsize,
}

impl Ready {
    fn refused(words: String) -> Self {
        Self { refused: Some(words), ..Self::found(false) }
    }

    /// One that is there, and of which nothing else is known.
    fn found(collated: bool) -> Self {
        let (fresh, written) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { refused: None, uuid: None, collated, own: false, made: false, fresh, written }
    }

    /// So many documents more have been written.
    pub fn count(&self, documents: usize) {
        self.written.fetch_add(documents, Ordering::Relaxed);
    }

    /// How many have been.
    pub fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    pub fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed)
    }

    /// Most of the documents are there already.
    pub fn is_filled(&self) {
        self.fresh.store(false, Ordering::Relaxed);
    }
}

/// A collection as the target lists it.
pub(super) struct Listed {
    /// `collection`, `view` or `timeseries`.
    pub kind: String,
    /// The server's own id of a collection; a view's definition as a hash.
    pub uuid: Option<Binary>,
    pub options: Document,
}

impl Listed {
    fn is_collated(&self) -> bool {
        self.options.contains_key("collation")
    }
}

/// Who asks for a collection.
pub(super) struct Asking<'a> {
    pub connection: &'a Connection,
    pub routes: &'a Routes,
    pub origins: Option<&'a dyn Origins>,
    pub owner: &'a str,
}

/// What is about to be written to a collection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept<'a> {
    /// Documents of a namespace; `None` where only the routes can tell which.
    Documents(Option<&'a Namespace>),
    /// Events, of whatever namespaces.
    Events,
}

/// The collections of one MongoDB.
pub(super) struct Collections {
    ready: Mutex<HashMap<String, Arc<OnceCell<Ready>>>>,
    /// What removals have found, by namespace and by where what they remove came from.
    left: Mutex<HashMap<(String, Namespace), Arc<Ready>>>,
    /// Whether the target is the source; `None` within where nobody can tell.
    same: OnceCell<Option<bool>>,
}

impl Collections {
    pub fn new() -> Self {
        Self { ready: Mutex::default(), left: Mutex::default(), same: OnceCell::new() }
    }

    /// One that has been seen to.
    pub fn known(&self, name: &str) -> Option<Arc<OnceCell<Ready>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Has it seen to again: it is another one now, or none.
    pub fn forget(&self, name: &str) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|(known, _), _| known != name);
    }

    /// Sees to a collection before anything is written to it. Its cell is always set afterwards.
    pub async fn ready(
        &self,
        asking: &Asking<'_>,
        name: &str,
        kept: Kept<'_>,
    ) -> Result<Arc<OnceCell<Ready>>, Retry> {
        let cell = match self.known(name) {
            Some(cell) => cell,
            None => {
                let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
                ready.entry(name.to_owned()).or_default().clone()
            }
        };
        cell.get_or_try_init(|| self.see_to(asking, name, kept)).await?;
        Ok(cell)
    }

    /// Looks at a collection that something is removed from. It makes nothing and claims nothing: where
    /// things lie that the store remembers, another namespace's documents may come to lie. `None` where
    /// there is no such collection.
    pub async fn left(
        &self,
        asking: &Asking<'_>,
        name: &str,
        from: &Namespace,
    ) -> Result<Option<Arc<Ready>>, Retry> {
        let key = (name.to_owned(), from.clone());
        let known = || self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = known().get(&key) {
            return Ok(Some(ready.clone()));
        }
        let found = self.look_at(asking, name, from).await?.map(Arc::new);
        if let Some(ready) = &found {
            known().insert(key, ready.clone());
        }
        Ok(found)
    }

    async fn look_at(
        &self,
        asking: &Asking<'_>,
        name: &str,
        from: &Namespace,
    ) -> Result<Option<Ready>, Retry> {
        let namespace = match named(name) {
            Ok(namespace) => namespace,
            Err(refused) => return Ok(Some(refused)),
        };
        if let Some(words) = self.loops(asking, &namespace).await? {
            return Ok(Some(Ready::refused(words)));
        }
        if let Some(words) = sharding(asking.connection, &namespace).await? {
            return Ok(Some(Ready::refused(words)));
        }
        let database = asking.connection.client.database(namespace.database());
        let Some(found) = listed(&database, namespace.collection()).await? else {
            return Ok(None);
        };
        let collated = found.is_collated();
        let Listed { kind, uuid, .. } = found;
        if kind != "collection" {
            return Ok(Some(Ready::refused(no_collection(name, &kind))));
        }
        if let (Some(uuid), Some(_)) = (uuid, asking.origins) {
            let owner = asking.owner;
            let asked = Asked { namespace: &namespace, uuid: &uuid, owner, telling: None };
            let markers = Markers::new(&asking.connection.client);
            let whose = markers.look(asked, Some(from)).await?;
            if let Some(Whose::Taken(other) | Whose::Mixed(other)) = whose {
                return Ok(Some(Ready::refused(taken(&other, name, from.as_str()))));
            }
        }
        Ok(Some(Ready::found(collated)))
    }

    async fn see_to(
        &self,
        asking: &Asking<'_>,
        name: &str,
        kept: Kept<'_>,
    ) -> Result<Ready, Retry> {
        let namespace = match named(name) {
            Ok(namespace) => namespace,
            Err(refused) => return Ok(refused),
        };
        let known = asking.routes.source_of(name);
        let (from, events) = match kept {
            Kept::Documents(from) => (from.cloned(), false),
            Kept::Events => (None, true),
        };
        let from = from.or(known).unwrap_or_else(|| namespace.clone());
        if let Some(words) = self.loops(asking, &namespace).await? {
            // What the rule file says ends the run. What a document says is that document's own fault.
            return match asking.routes.leads(&from, name) {
                true => Err(unusable(words)),
                false => Ok(Ready::refused(words)),
            };
        }
        if let Some(words) = sharding(asking.connection, &namespace).await? {
            return Ok(Ready::refused(words));
        }
        let database = asking.connection.client.database(namespace.database());
        let mut found = listed(&database, namespace.collection()).await?;
        let made = found.is_none();
        let mut of = None;
        if made {
            let like = (!events).then_some(&from);
            match create(asking, &database, &namespace, like).await? {
                Created::Refused(words) => return Ok(Ready::refused(words)),
                Created::Of(origin) => of = origin,
            }
            found = listed(&database, namespace.collection()).await?;
        }
        let Some(found) = found else {
            return Err(unusable(format!("{name} was made and is not there")));
        };
        let collated = found.is_collated();
        let Listed { kind, uuid, options } = found;
        if kind != "collection" {
            return Ok(Ready::refused(no_collection(name, &kind)));
        }
        let collection = database.collection::<RawDocumentBuf>(namespace.collection());
        let first = collection.find_one(doc! {}).projection(doc! { "_id": 1 }).await;
        let empty = first.map_err(|error| answer::refusal(&error))?.is_none();
        // Made by a run that ended before it could remember from what.
        if let (true, None, Some(origins)) = (empty && !events, &of, asking.origins)
            && let Some(described) = origins.collection(&from).await?
            && fits(&described.options, &options)
        {
            of = described.id.map(Binary::from);
        }
        let own = match (&uuid, asking.origins) {
            (Some(uuid), Some(origins)) => {
                let telling = match events {
                    true => Some(asking.routes.telling(name, origins).await?),
                    false => None,
                };
                let telling = telling.as_ref();
                let asked = Asked { namespace: &namespace, uuid, owner: asking.owner, telling };
                let markers = Markers::new(&asking.connection.client);
                let from = if events { marker::EVENTS } else { from.as_str() };
                let whose = markers.claim(asked, from, empty, of).await?;
                // Also where it was made by a try that did not come so far.
                if !events && asking.routes.follows(name) {
                    markers.made(&namespace, asking.owner).await?;
                }
                match whose {
                    Some(Whose::Ours) => true,
                    Some(Whose::Taken(other)) => {
                        return Ok(Ready::refused(taken(&other, name, from)));
                    }
                    Some(Whose::Mixed(other)) => {
                        return not_among(asking, name, taken(&other, name, from));
                    }
                    Some(Whose::Told(words)) => return not_among(asking, name, words),
                    Some(Whose::Namesake(words)) => {
                        warn!(namespace = name, "{words}");
                        false
                    }
                    Some(Whose::Shared(_)) if events => false,
                    Some(Whose::Shared(why)) => {
                        warn!(
                            namespace = name,
                            why,
                            "what is gone from the source while nobody looks stays in the \
                             collection, and it gets no indexes"
                        );
                        false
                    }
                    None if events => {
                        warn!(
                            namespace = name,
                            "the user may not write to the target's database mongosync, so that events \
                             lie in the collection can't be remembered: no rule that keeps documents is \
                             to write there"
                        );
                        false
                    }
                    None => {
                        warn!(
                            namespace = name,
                            "the user may not write to the target's database mongosync, so whose \
                             collections are can't be remembered: what is gone from the source \
                             while nobody looks stays, and they get no indexes"
                        );
                        false
                    }
                }
            }
            _ => false,
        };
        Ok(Ready { uuid, own, made, fresh: AtomicBool::new(empty), ..Ready::found(collated) })
    }

    /// Why writing there would never end, or would do harm to mongosync itself.
    pub async fn loops(
        &self,
        asking: &Asking<'_>,
        namespace: &Namespace,
    ) -> Result<Option<String>, Retry> {
        let positions = asking.origins.and_then(Origins::positions);
        if namespace.database() == marker::DATABASE || Some(namespace.database()) == positions {
            return Ok(Some(format!("the database {} is mongosync's own", namespace.database())));
        }
        let Some(origins) = asking.origins else { return Ok(None) };
        let Some(reader) = origins.reader(namespace) else { return Ok(None) };
        let same = self.same.get_or_try_init(|| async {
            let source: Deployment = origins.deployment().await?;
            Ok::<_, Retry>(source.is(&asking.connection.deployment().await?))
        });
        let words = match same.await? {
            Some(false) => return Ok(None),
            Some(true) => "the target is the source",
            None => "whether the target is the source can't be told",
        };
        Ok(Some(format!(
            "{words}, and rule {reader} reads {namespace}: what is written there would be read again \
             for ever; write to a database that no rule reads, with a `namespace` below `to`"
        )))
    }
}

fn named(name: &str) -> Result<Namespace, Ready> {
    match (Namespace::parse(name), written_fault(name)) {
        (Some(namespace), None) => Ok(namespace),
        (_, fault) => {
            let fault = fault.unwrap_or_else(|| "it has no dot".to_owned());
            Err(Ready::refused(format!("{name:?} is no namespace: {fault}")))
        }
    }
}

fn no_collection(name: &str, kind: &str) -> String {
    format!(
        "{name} is a {kind}, and can't be written to: name another with `namespace:` under `to:`, or \
         remove it and start again"
    )
}

/// What is not to lie among what others have written: where the rule file leads there the run ends, and it
/// is waited for that; what a document chose is that document's own fault.
fn not_among(asking: &Asking<'_>, name: &str, words: String) -> Result<Ready, Retry> {
    match asking.routes.is_named(name) {
        true => Err(unusable(words)),
        false => Ok(Ready::refused(words)),
    }
}

pub(super) fn taken(other: &str, name: &str, from: &str) -> String {
    let among = |lie: &str, would: &str| {
        format!(
            "{lie} lie in {name}, and {would} would lie among them: choose a `namespace:` that differs, \
             or remove the collection and start again"
        )
    };
    if other == marker::EVENTS {
        return among("events", &format!("documents of {from}"));
    }
    if from == marker::EVENTS {
        return among(&format!("documents of {other}"), "events");
    }
    format!(
        "documents of {other} lie in {name}, and those of {from} would fall on them: choose a \
         `namespace:` that differs, such as \"{{db}}.{{collection}}\""
    )
}

/// What came of making a collection.
enum Created {
    /// It is there. What is to be remembered of the one that it was made from, where that is known.
    Of(Option<Binary>),
    /// Why it can't be, where no waiting helps.
    Refused(String),
}

/// Makes a collection as another one is in the source; `None` for a plain one.
async fn create(
    asking: &Asking<'_>,
    database: &Database,
    namespace: &Namespace,
    from: Option<&Namespace>,
) -> Result<Created, Retry> {
    let described = match (asking.origins, from) {
        (Some(origins), Some(from)) => origins.collection(from).await?,
        _ => None,
    };
    let name = namespace.as_str();
    let follows = from.filter(|from| {
        asking.origins.is_some() && asking.routes.follows(name) && asking.routes.leads(from, name)
    });
    let of = match &described {
        Some(described) => described.id.map(Binary::from),
        // Its documents are on their way, and it is gone. What comes in its stead is another one.
        None => follows.map(|_| marker::nothing()),
    };
    let markers = Markers::new(&asking.connection.client);
    if let Some(from) = follows {
        // Before it is there: one that is not remembered would be nobody's for good.
        markers.makes(namespace, asking.owner, (from, of.clone())).await?;
    }
    let Described { mut options, .. } = described.unwrap_or_default();
    unversioned(&mut options);
    if options.contains_key("capped") {
        warn!(
            source = from.map(Namespace::as_str),
            namespace = namespace.as_str(),
            "the collection is capped in the source, and is not in the target: what the source drops \
             for want of room stays"
        );
    }
    let mut command = doc! { "create": namespace.collection() };
    let keeps = asking.routes.keeps(namespace.as_str());
    if keeps && options.contains_key(EXPIRES) {
        warn!(namespace = namespace.as_str(), "the target keeps documents: none expires there");
    }
    let copied = |name: &str| OPTIONS.contains(&name) || (name == EXPIRES && !keeps);
    command.extend(options.into_iter().filter(|(name, _)| copied(name)));
    command.insert("writeConcern", doc! { "w": "majority" });
    match database.run_command(command).await {
        Ok(_) => Ok(Created::Of(of)),
        Err(error) => match answer::code(&error) {
            Some(EXISTS) => Ok(Created::Of(None)),
            Some(code) if NOT_TO_BE_MADE.contains(&code) => {
                if follows.is_some() {
                    markers.made(namespace, asking.owner).await?;
                }
                Ok(Created::Refused(format!(
                    "{namespace} can't be made in the target: {}",
                    answer::words(&error)
                )))
            }
            _ => Err(answer::refusal(&error)),
        },
    }
}

/// What a name stands for in a database; `None` where there is no such thing.
pub(super) async fn listed(database: &Database, name: &str) -> Result<Option<Listed>, Retry> {
    let command = doc! { "listCollections": 1, "filter": { "name": name } };
    let found = all(database, command).await.map_err(|error| answer::refusal(&error))?;
    let Some(mut found) = found.into_iter().next() else { return Ok(None) };
    let kind = found.get_str("type").unwrap_or("collection").to_owned();
    let options = match found.remove("options") {
        Some(Bson::Document(options)) => options,
        _ => Document::new(),
    };
    let uuid = match (own_id(&found), kind.as_str()) {
        (None, "view") => Some(view_id(&options)),
        (None, "timeseries") => {
            let buckets = format!("system.buckets.{name}");
            let command = doc! { "listCollections": 1, "filter": { "name": buckets } };
            let found = all(database, command).await.map_err(|error| answer::refusal(&error))?;
            found.first().and_then(own_id)
        }
        (id, _) => id,
    };
    Ok(Some(Listed { kind, uuid, options }))
}

fn own_id(listed: &Document) -> Option<Binary> {
    match listed.get_document("info").ok()?.get("uuid")? {
        Bson::Binary(uuid) => Some(uuid.clone()),
        _ => None,
    }
}

/// A view has no id, so what it shows stands for it: one that somebody changes is not ours any more.
pub(super) fn view_id(options: &Document) -> Binary {
    let mut hash = Sha256::new();
    for option in ["viewOn", "pipeline"] {
        hash.update(plain(options.get(option)).unwrap_or_default());
    }
    Binary { subtype: BinarySubtype::Generic, bytes: hash.finalize()[..16].to_vec() }
}

pub(super) async fn all(
    database: &Database,
    command: Document,
) -> Result<Vec<Document>, mongodb::error::Error> {
    database.run_cursor_command(command).await?.try_collect().await
}

/// Why a sharded collection can't be written to: a removal knows the `_id` alone. Who may not read how
/// collections are sharded is told by the server, write by write.
pub(super) async fn sharding(
    connection: &Connection,
    namespace: &Namespace,
) -> Result<Option<String>, Retry> {
    if !connection.sharded {
        return Ok(None);
    }
    let collections = connection.client.database("config").collection::<Document>("collections");
    match collections.find_one(doc! { "_id": namespace.as_str() }).await {
        Ok(found) => {
            Ok(found.and_then(|found| key_fault(namespace, found.get_document("key").ok()?)))
        }
        Err(error) if answer::code(&error).is_some_and(answer::is_denied) => Ok(None),
        Err(error) => Err(answer::refusal(&error)),
    }
}

fn key_fault(namespace: &Namespace, key: &Document) -> Option<String> {
    (key.len() != 1 || !key.contains_key("_id")).then(|| {
        format!("{namespace} is sharded by {key} in the target, and can be written to only by _id")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_key_is_the_id_or_nothing() {
        let namespace = Namespace::new("shop", "items");
        for (key, fault) in [
            (doc! { "_id": 1 }, false),
            (doc! { "_id": "hashed" }, false),
            (doc! { "tenant": 1 }, true),
            (doc! { "_id": 1, "tenant": 1 }, true),
        ] {
            assert_eq!(key_fault(&namespace, &key).is_some(), fault, "{key}");
        }
    }
}
