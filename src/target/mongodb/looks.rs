//! What a MongoDB holds, and whose it is; nothing is written.

use std::collections::{BTreeMap, BTreeSet};

use bson::{Binary, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    options::{CollectionOptions, Hint, ReadConcern},
};
use tokio::sync::{OnceCell, mpsc};

use crate::{
    change::Namespace,
    finding::{Finding, Part},
    source::privileges::Privileges,
    target::{Listing, Look, Origins, PlaceKey, Pressure, Retry},
};

use super::{
    MongoTarget, answer, collections,
    collections::Asking,
    connection::{Connection, unusable},
    marker::{self, Asked, Markers, Whose},
    place::place_key,
    rights::{Written, missing},
};

/// Places in one page of a listing.
const PAGE: usize = 1_000;

impl MongoTarget {
    /// Every `_id` of the collection, whenever it was written. Nothing of one that this run has made: what
    /// it wrote there itself is not old, and no earlier process can have an insert under way to what was
    /// not there.
    pub(super) async fn list_all(
        &self,
        container: &str,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        let known = self.within.collections.known(container);
        if known.as_deref().and_then(OnceCell::get).is_some_and(|ready| ready.made) {
            return Ok(Listing::Whole);
        }
        let Some(namespace) = Namespace::parse(container) else { return Ok(Listing::Whole) };
        let connection = self.connect().await?;
        let failed = |error: mongodb::error::Error| answer::refusal(&error);
        let database = connection.client.database(namespace.database());
        let listed = collections::listed(&database, namespace.collection()).await?;
        // A view holds nothing of its own.
        let Some(listed) = listed.filter(|listed| listed.kind == "collection") else {
            return Ok(Listing::Whole);
        };
        match self.whose_is(connection, &namespace, listed.uuid.as_ref()).await? {
            Whose::Ours => {}
            Whose::Shared(why)
            | Whose::Taken(why)
            | Whose::Mixed(why)
            | Whose::Told(why)
            | Whose::Namesake(why) => return Ok(Listing::NotOurs(why)),
        }
        let options = CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
        let collection: Collection<RawDocumentBuf> =
            database.collection_with_options(namespace.collection(), options);
        let mut cursor = collection
            .find(doc! {})
            .projection(doc! { "_id": 1 })
            .hint(Hint::Keys(doc! { "_id": 1 }))
            .await
            .map_err(failed)?;
        // What the cursor reads is what was asked about only if nobody has put another in its place by
        // now. From here on the cursor ends with its collection.
        let now = collections::listed(&database, namespace.collection()).await?;
        if now.is_none_or(|now| now.uuid != listed.uuid) {
            return Err(Retry {
                reason: "replaced",
                message: format!("{namespace} was replaced while it was looked at"),
                after: None,
                pressure: Pressure::Same,
            });
        }
        let mut page = Vec::with_capacity(PAGE);
        while let Some(document) = cursor.try_next().await.map_err(failed)? {
            let id = document.get("_id").ok().flatten();
            let place = id.and_then(|id| place_key(container, id).ok());
            page.extend(place);
            if page.len() == PAGE && found.send(std::mem::take(&mut page)).await.is_err() {
                return Ok(Listing::Whole);
            }
        }
        if !page.is_empty() {
            // Whoever asked has gone.
            let _ = found.send(page).await;
        }
        Ok(Listing::Whole)
    }

    /// Why what the rules want would never end, or do harm to mongosync itself; `reads` is what they read
    /// now, beside what they name.
    pub(super) async fn loops(
        &self,
        origins: &dyn Origins,
        reads: &BTreeMap<String, Vec<Namespace>>,
    ) -> Result<Vec<String>, Retry> {
        let connection = self.connect().await?;
        let routes = &self.within.routes;
        let asking = Asking { connection, routes, origins: Some(origins), owner: &self.owner };
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for (_, _, own) in routes.known(reads) {
            if seen.insert(own.clone()) {
                found.extend(self.within.collections.loops(&asking, &own).await?);
            }
        }
        Ok(found)
    }

    /// Why what the rules want would lie among what others have written: events of one target among
    /// another's documents, and events under ids that another rule file tells. `reads` as in
    /// [`Self::loops`].
    pub(super) async fn clashes(
        &self,
        origins: &dyn Origins,
        reads: &BTreeMap<String, Vec<Namespace>>,
    ) -> Result<Vec<String>, Retry> {
        let connection = self.connect().await?;
        let routes = &self.within.routes;
        let markers = Markers::new(&connection.client);
        // Of thousands of collections with documents none is looked at one by one.
        let logs = markers.logs().await?;
        let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
        for (rule, namespace, own) in routes.known(reads) {
            let events = routes.appends(rule);
            if (!events && !logs.contains(own.as_str())) || !seen.insert((own.clone(), events)) {
                continue;
            }
            let database = connection.client.database(own.database());
            let uuid = match collections::listed(&database, own.collection()).await {
                Ok(listed) => listed.and_then(|listed| listed.uuid),
                // That is told where it is written to.
                Err(retry) if retry.reason == "unauthorized" => None,
                Err(retry) => return Err(retry),
            };
            let Some(uuid) = uuid else { continue };
            let telling = match events {
                true => Some(routes.telling(own.as_str(), origins).await?),
                false => None,
            };
            let (telling, owner) = (telling.as_ref(), self.owner.as_str());
            let asked = Asked { namespace: &own, uuid: &uuid, owner, telling };
            let from = if events { marker::EVENTS } else { namespace.as_str() };
            match markers.clash(asked, from).await? {
                Some(Whose::Mixed(other)) => {
                    found.push(collections::taken(&other, own.as_str(), from));
                }
                Some(Whose::Told(words)) => found.push(words),
                _ => {}
            }
        }
        Ok(found)
    }

    /// What can't be written to of what the rules want.
    pub(super) async fn look_at_collections(&self, look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        let connection = self.connect().await?;
        let part = || Part::Target(look.target.to_owned());
        let mut found = Vec::new();
        if let Some(origins) = look.origins {
            let loops = self.loops(origins, look.reads).await?;
            found.extend(loops.into_iter().map(|words| Finding::error("loop", part(), words)));
            let clashes = self.clashes(origins, look.reads).await?;
            found.extend(clashes.into_iter().map(|words| Finding::error("taken", part(), words)));
        }
        let mut seen = BTreeSet::new();
        let mut wanted = Vec::new();
        for (rule, namespaces) in look.reads {
            for namespace in namespaces {
                let Some(name) = self.within.routes.container(rule, namespace) else { continue };
                let Some(own) = Namespace::parse(&name).filter(|_| seen.insert(name.clone()))
                else {
                    continue;
                };
                if let Some(words) = collections::sharding(connection, &own).await? {
                    found.push(Finding::error("sharded", part(), words));
                }
                let database = connection.client.database(own.database());
                let listed = match collections::listed(&database, own.collection()).await {
                    Ok(listed) => listed,
                    // That is told with the other rights.
                    Err(retry) if retry.reason == "unauthorized" => None,
                    Err(retry) => return Err(retry),
                };
                let there = listed.is_some();
                let (follows, appends) =
                    (self.within.routes.follows(&name), self.within.routes.appends(rule));
                wanted.push(Written { namespace: own, there, follows, appends });
                if let Some(listed) = listed.filter(|listed| listed.kind != "collection") {
                    let words = format!("{name} is a {}, and can't be written to", listed.kind);
                    found.push(
                        Finding::error("not_a_collection", part(), words)
                            .help("name another with `namespace:` under `to:`"),
                    );
                }
            }
        }
        let privileges = Privileges::of(&connection.client).await;
        let privileges = privileges.map_err(|error| unusable(error.to_string()))?;
        found.extend(missing(&privileges, &wanted).into_iter().map(|lack| lack.finding(part())));
        Ok(found)
    }

    /// Whether all that a container holds is ours, as it is now.
    pub(super) async fn whose(
        &self,
        connection: &Connection,
        namespace: &Namespace,
    ) -> Result<Whose, Retry> {
        let database = connection.client.database(namespace.database());
        let listed = collections::listed(&database, namespace.collection()).await?;
        let uuid = listed.and_then(|listed| listed.uuid);
        self.whose_is(connection, namespace, uuid.as_ref()).await
    }

    /// The same of the collection with this id.
    async fn whose_is(
        &self,
        connection: &Connection,
        namespace: &Namespace,
        uuid: Option<&Binary>,
    ) -> Result<Whose, Retry> {
        let Some(uuid) = uuid else { return Ok(Whose::Ours) };
        let asked = Asked { namespace, uuid, owner: &self.owner, telling: None };
        let whose = Markers::new(&connection.client).look(asked, None).await?;
        Ok(whose.unwrap_or_else(|| {
            Whose::Shared("nothing in the target says that mongosync made it".to_owned())
        }))
    }
}
