//! Pre- and post-images: MongoDB keeps them for a collection that says so.

use bson::{Bson, doc, rawdoc};

use crate::change::Namespace;

use super::{Patience, Source, error::Error, namespaces};

/// The server's codes for a collection that is not there, and for a view.
const NOT_A_COLLECTION: [i32; 2] = [26, 166];

impl Source {
    /// Whether MongoDB keeps images of a collection's documents; `None` where there is no such
    /// collection, or that may not be asked.
    ///
    /// # Errors
    /// Whatever else the driver returns.
    pub async fn keeps_images(&self, namespace: &Namespace) -> Result<Option<bool>, Error> {
        let command = rawdoc! {
            "listCollections": 1, "filter": { "name": namespace.collection() }, "cursor": {},
        };
        let listed = match self.all(&self.client.database(namespace.database()), command).await {
            Err(error) if error.is_denied() => return Ok(None),
            listed => listed?,
        };
        let keeps = |entry: &bson::Document| {
            let images = entry.get_document("options").ok()?;
            let images = images.get_document("changeStreamPreAndPostImages").ok()?;
            images.get_bool("enabled").ok()
        };
        Ok(listed.first().map(|entry| keeps(entry).unwrap_or_default()))
    }

    /// Has MongoDB keep images of a collection's documents from now on. Nothing where there is no such
    /// collection.
    ///
    /// # Errors
    /// Whatever else the driver returns; [`Error::is_denied`] where the login may not do that.
    pub async fn keep_images(&self, namespace: &Namespace) -> Result<(), Error> {
        let command = doc! {
            "collMod": namespace.collection(),
            "changeStreamPreAndPostImages": { "enabled": Bson::Boolean(true) },
        };
        // A write: no read preference of the source's URI is for it.
        let database = self.client.database(namespace.database());
        let change = async { Ok(database.run_command(command).await?) };
        let changed = Patience::FIRST.wait("collMod", change).await;
        match changed {
            Err(Error::Driver(error))
                if namespaces::code(&error)
                    .is_some_and(|code| NOT_A_COLLECTION.contains(&code)) =>
            {
                Ok(())
            }
            changed => changed.map(drop),
        }
    }
}
