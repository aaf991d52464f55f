//! Opens the store that a rule file names.

use std::{sync::Arc, time::Duration};

use ::mongodb::Client;

use crate::{
    client,
    rules::model::{CheckpointStore, RuleFile, Secret},
};

use super::{
    file::FileStore,
    mongodb::MongoStore,
    store::{Store, StoreError},
};

/// The store of `checkpoint:`, without the lease: to read, until it is fenced.
///
/// `source` is the source's own client where there is one already.
///
/// # Errors
/// `Broken` where the connection string can't be used; a MongoDB that is away is noticed at the
/// first call.
pub async fn open(rules: &RuleFile, source: Option<&Client>) -> Result<Arc<dyn Store>, StoreError> {
    match &rules.checkpoint.store {
        CheckpointStore::File { path } => Ok(Arc::new(FileStore::open(path, &rules.name).await?)),
        CheckpointStore::MongoDb { uri, database } => {
            let client = match (uri, source) {
                (None, Some(client)) => client.clone(),
                (None, None) => connect(&rules.source.uri, database).await?,
                (Some(uri), _) => connect(uri, database).await?,
            };
            Ok(Arc::new(MongoStore::open(&client, database, &rules.name)))
        }
        CheckpointStore::Own => Err(StoreError::broken("of the program", "is not at hand here")),
    }
}

/// A client of the MongoDB that a store is in; `database` is for messages.
///
/// # Errors
/// Where the connection string can't be used.
pub async fn connect(uri: &Secret, database: &str) -> Result<Client, StoreError> {
    let place = format!("in database {database}");
    let unusable = |error| StoreError::unavailable(&place, error);
    let mut options = client::options(uri).await.map_err(unusable)?;
    options.server_selection_timeout.get_or_insert(Duration::from_secs(10));
    Client::with_options(options).map_err(unusable)
}

/// The database of the source that is mongosync's own, where its store lives there: patterns pass
/// over it.
pub fn hidden_database(rules: &RuleFile) -> Option<String> {
    match &rules.checkpoint.store {
        CheckpointStore::MongoDb { database, .. } => Some(database.clone()),
        CheckpointStore::File { .. } | CheckpointStore::Own => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::store::Table;

    /// Rules that read them are refused, by these names.
    #[test]
    fn the_collections_of_a_store_are_known_to_rule_files() {
        let tables = Table::ALL.into_iter().map(Table::as_str).chain([MongoStore::FENCES]);
        assert_eq!(tables.collect::<Vec<_>>(), CheckpointStore::COLLECTIONS);
    }
}
