//! Which namespaces there are, and what a copy needs to know of each.

use bson::{Document, RawDocumentBuf, doc, rawdoc};

use crate::change::Namespace;

use super::{Source, error::Error};

/// What a namespace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An ordinary collection, capped and clustered ones too.
    Collection,
    /// A view: it can be read, but has no changes.
    View,
    /// A time-series collection: neither changes nor a unique `_id`.
    TimeSeries,
}

/// One namespace of the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its name.
    pub namespace: Namespace,
    /// What it is.
    pub kind: Kind,
}

/// About how large a collection is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Size {
    /// Documents, from the server's own count; an unclean shutdown makes it inexact.
    pub documents: u64,
    /// Bytes of all documents, uncompressed.
    pub bytes: u64,
}

impl Size {
    /// Bytes of a document, on average; never 0.
    pub fn average(&self) -> u64 {
        self.bytes.checked_div(self.documents).unwrap_or(0).max(1)
    }
}

impl Source {
    /// Every namespace of a database that the user may see.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn collections(&self, database: &str) -> Result<Vec<Found>, Error> {
        let command = rawdoc! {
            "listCollections": 1, "nameOnly": true, "authorizedCollections": true, "cursor": {},
        };
        let listed = self.all(&self.client.database(database), command).await?;
        Ok(listed
            .iter()
            .filter_map(|entry| {
                let kind = match entry.get_str("type").unwrap_or("collection") {
                    "view" => Kind::View,
                    "timeseries" => Kind::TimeSeries,
                    _ => Kind::Collection,
                };
                let namespace = Namespace::new(database, entry.get_str("name").ok()?);
                Some(Found { namespace, kind })
            })
            .collect())
    }

    /// Every database that the user may see, without `admin`, `config` and `local`.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn databases(&self) -> Result<Vec<String>, Error> {
        let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true };
        let reply = self.command(&self.client.database("admin"), command).await?;
        let listed = reply.get_array("databases").map_err(|_| Error::garbled("no databases"))?;
        Ok(listed
            .iter()
            .filter_map(|entry| entry.as_document()?.get_str("name").ok())
            .filter(|name| !matches!(*name, "admin" | "config" | "local"))
            .map(str::to_owned)
            .collect())
    }

    /// About how large a collection is; zeros for a view and for what does not exist.
    ///
    /// # Errors
    /// Whatever the driver returns, but for those two.
    pub async fn size(&self, namespace: &Namespace) -> Result<Size, Error> {
        let database = self.client.database(namespace.database());
        let command = rawdoc! {
            "aggregate": namespace.collection(),
            "pipeline": [
                { "$collStats": { "storageStats": {} } },
                { "$project": { "storageStats.count": 1, "storageStats.size": 1 } },
            ],
            "cursor": {},
        };
        let shards = match self.all(&database, command).await {
            Ok(shards) => shards,
            // NamespaceNotFound, CommandNotSupportedOnView
            Err(Error::Driver(error)) if matches!(code(&error), Some(26 | 166)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let sum = |field: &str| shards.iter().map(|shard| number(shard, field)).sum::<u64>();
        Ok(Size { documents: sum("count"), bytes: sum("size") })
    }

    /// The fields of the document key: `_id`, and on a sharded collection the shard key's after it.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn key_fields(&self, namespace: &Namespace) -> Result<Vec<String>, Error> {
        let mut fields = vec!["_id".to_owned()];
        if self.sharded {
            let command: RawDocumentBuf = rawdoc! {
                "find": "collections", "filter": { "_id": namespace.as_str() }, "limit": 1,
            };
            let found = self.all(&self.client.database("config"), command).await?;
            if let Some(key) = found.first().and_then(|entry| entry.get_document("key").ok()) {
                fields.extend(key.keys().filter(|name| *name != "_id").cloned());
            }
        }
        Ok(fields)
    }

    /// Which of the BSON types (by the server's type aliases) occur among the `_id`s of a
    /// collection: one index probe each.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn id_types(&self, namespace: &Namespace) -> Result<Vec<&'static str>, Error> {
        const TYPES: [&str; 17] = [
            "objectId",
            "string",
            "int",
            "long",
            "double",
            "decimal",
            "binData",
            "date",
            "bool",
            "null",
            "object",
            "timestamp",
            "regex",
            "symbol",
            "javascript",
            "minKey",
            "maxKey",
        ];
        let database = self.client.database(namespace.database());
        let mut found = Vec::new();
        for name in TYPES {
            let command = rawdoc! {
                "find": namespace.collection(), "filter": { "_id": { "$type": name } },
                "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
                "readConcern": { "level": "majority" },
            };
            if !self.all(&database, command).await?.is_empty() {
                found.push(name);
            }
        }
        Ok(found)
    }
}

/// The server's code, where it was a command that failed.
pub(super) fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

fn number(shard: &Document, field: &str) -> u64 {
    let value = shard.get_document("storageStats").ok().and_then(|stats| stats.get(field));
    match value {
        Some(bson::Bson::Int32(value)) => u64::try_from(*value).unwrap_or(0),
        Some(bson::Bson::Int64(value)) => u64::try_from(*value).unwrap_or(0),
        // Past 2^53 bytes the server's own figure is a float; a size needs no more digits.
        Some(bson::Bson::Double(value)) if *value > 0.0 => *value as u64,
        _ => 0,
    }
}
