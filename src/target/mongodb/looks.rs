//! What a MongoDB holds, and whose it is; nothing is written.

use std::collections::BTreeSet;

use bson::{RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::{
    Collection,
    options::{CollectionOptions, Hint, ReadConcern},
};
use tokio::sync::{OnceCell, mpsc};

use crate::{
    change::Namespace,
    finding::{Finding, Part},
    target::{Listing, Look, PlaceKey, Retry},
};

use super::{
    MongoTarget, answer, collections,
    connection::Connection,
    marker::{Asked, Markers, Whose},
    place::place_key,
};

/// Places in one page of a listing.
const PAGE: usize = 1_000;

impl MongoTarget {
    /// Every `_id` of the collection, whenever it was written. Nothing of one that was empty when this
    /// run came: what it wrote there itself is not old.
    pub(super) async fn list_all(
        &self,
        container: &str,
        found: &mpsc::Sender<Vec<PlaceKey>>,
    ) -> Result<Listing, Retry> {
        let known = self.within.collections.known(container);
        if known.as_deref().and_then(OnceCell::get).is_some_and(|ready| ready.empty) {
            return Ok(Listing::Whole);
        }
        let Some(namespace) = Namespace::parse(container) else { return Ok(Listing::Whole) };
        let connection = self.connect().await?;
        if let Whose::Shared(why) | Whose::Taken(why) = self.whose(connection, &namespace).await? {
            return Ok(Listing::NotOurs(why));
        }
        let failed = |error: mongodb::error::Error| answer::refusal(&error);
        let database = connection.client.database(namespace.database());
        let options = CollectionOptions::builder().read_concern(ReadConcern::majority()).build();
        let collection: Collection<RawDocumentBuf> =
            database.collection_with_options(namespace.collection(), options);
        let mut cursor = collection
            .find(doc! {})
            .projection(doc! { "_id": 1 })
            .hint(Hint::Keys(doc! { "_id": 1 }))
            .await
            .map_err(failed)?;
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

    /// What can't be written to of what the rules want.
    pub(super) async fn look_at_collections(&self, look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        let connection = self.connect().await?;
        let part = || Part::Target(look.target.to_owned());
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
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
                let listed = collections::listed(&database, own.collection()).await?;
                if let Some(listed) = listed.filter(|listed| listed.kind != "collection") {
                    let words = format!("{name} is a {}, and can't be written to", listed.kind);
                    found.push(
                        Finding::error("not_a_collection", part(), words)
                            .help("name another with `namespace:` under `to:`"),
                    );
                }
            }
        }
        Ok(found)
    }

    /// Whether all that a container holds is ours, as it is now.
    async fn whose(&self, connection: &Connection, namespace: &Namespace) -> Result<Whose, Retry> {
        let database = connection.client.database(namespace.database());
        let uuid = collections::listed(&database, namespace.collection()).await?;
        let Some(uuid) = uuid.and_then(|listed| listed.uuid) else { return Ok(Whose::Ours) };
        let asked = Asked { namespace, uuid: &uuid, owner: &self.owner };
        let whose = Markers::new(&connection.client).look(asked).await?;
        Ok(whose.unwrap_or_else(|| {
            Whose::Shared("nothing in the target says that mongosync made it".to_owned())
        }))
    }
}
