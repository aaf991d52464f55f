//! Which namespaces there are, and what a copy needs to know of each.

use std::{collections::HashMap, time::Duration};

use bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, Uuid, doc, rawdoc};
use futures_util::future::try_join_all;
use mongodb::options::{ReadPreference, SelectionCriteria};

use crate::change::{
    Namespace,
    id::{IdType, IdTypes},
    key::KeyShape,
};

use super::{Source, error::Error};

/// Within this what the stream has shown is among what commands list, too. What has come to be is committed
/// a little before it is listed: MongoDB 6.0.5 on busy processors has left out one collection of some 3,000,
/// for less than 10 ms.
pub const LISTED_WITHIN: Duration = Duration::from_millis(500);

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

/// A namespace, and how it is defined.
#[derive(Clone, PartialEq, Debug)]
pub struct Defined {
    /// Its name.
    pub namespace: Namespace,
    /// What it is.
    pub kind: Kind,
    /// Its options, as the server lists them.
    pub options: Document,
    /// The server's own id; another one where it was dropped and made again. Views have none.
    pub id: Option<Uuid>,
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
    /// Asks the primary whatever it is that documents are read from: a list of what there is bears no
    /// time, and of a member that lags it may be older than the stream's start. What it leaves out then
    /// would never be copied.
    fn of_primary(&self) -> Self {
        let criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        Self { criteria, ..self.clone() }
    }

    /// Every namespace of a database that the user may see, as the primary has them.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn collections(&self, database: &str) -> Result<Vec<Found>, Error> {
        self.listed(database, rawdoc! {}).await
    }

    /// The one of this name, if the user may see it. Rules by the hundred name one each, and the whole list
    /// is as long.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn named(&self, namespace: &Namespace) -> Result<Option<Found>, Error> {
        let only = rawdoc! { "name": namespace.collection() };
        Ok(self.listed(namespace.database(), only).await?.pop())
    }

    async fn listed(&self, database: &str, filter: RawDocumentBuf) -> Result<Vec<Found>, Error> {
        let command = rawdoc! {
            "listCollections": 1, "filter": filter, "nameOnly": true, "authorizedCollections": true,
            "cursor": {},
        };
        let named = self.client.database(database);
        let listed = self.of_primary().all(&named, command).await?;
        Ok(listed
            .iter()
            .filter_map(|entry| {
                let kind = kind(entry.get_str("type").unwrap_or("collection"));
                let namespace = Namespace::new(database, entry.get_str("name").ok()?);
                Some(Found { namespace, kind })
            })
            .collect())
    }

    /// The server's own id of each collection of a database: one that was dropped and made again has
    /// another. `None` where the user may not ask for it.
    ///
    /// # Errors
    /// Whatever the driver returns, but for that.
    pub async fn collection_ids(
        &self,
        database: &str,
    ) -> Result<Option<HashMap<Namespace, Uuid>>, Error> {
        let command = rawdoc! {
            "listCollections": 1, "filter": { "type": "collection" }, "cursor": {},
        };
        let named = self.client.database(database);
        let listed = match self.of_primary().all(&named, command).await {
            Ok(listed) => listed,
            Err(error) if error.is_denied() => return Ok(None),
            Err(error) => return Err(error),
        };
        let id = |entry: &Document| {
            let name = Namespace::new(database, entry.get_str("name").ok()?);
            let Bson::Binary(id) = entry.get_document("info").ok()?.get("uuid")? else {
                return None;
            };
            Some((name, id.to_uuid().ok()?))
        };
        Ok(Some(listed.iter().filter_map(id).collect()))
    }

    /// Every namespace of a database, or the one of this name, and how it is defined, as the primary has
    /// it.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn definitions(
        &self,
        database: &str,
        name: Option<&str>,
    ) -> Result<Vec<Defined>, Error> {
        let command = match name {
            Some(name) => {
                rawdoc! { "listCollections": 1, "filter": { "name": name }, "cursor": {} }
            }
            None => rawdoc! { "listCollections": 1, "cursor": {} },
        };
        let named = self.client.database(database);
        let listed = self.of_primary().all(&named, command).await?;
        let defined = |entry: &Document| {
            let id = match entry.get_document("info").ok().and_then(|info| info.get("uuid")) {
                Some(Bson::Binary(id)) => id.to_uuid().ok(),
                _ => None,
            };
            Some(Defined {
                namespace: Namespace::new(database, entry.get_str("name").ok()?),
                kind: kind(entry.get_str("type").unwrap_or("collection")),
                options: entry.get_document("options").cloned().unwrap_or_default(),
                id,
            })
        };
        Ok(listed.iter().filter_map(defined).collect())
    }

    /// Every database that the user may see, without `admin`, `config` and `local`.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn databases(&self) -> Result<Vec<String>, Error> {
        let command = doc! { "listDatabases": 1, "nameOnly": true, "authorizedDatabases": true };
        let admin = self.client.database("admin");
        let reply = self.of_primary().command(&admin, command).await?;
        let listed = reply.get_array("databases").map_err(|_| Error::garbled("no databases"))?;
        Ok(listed
            .iter()
            .filter_map(|entry| entry.as_document()?.get_str("name").ok())
            .filter(|name| !matches!(*name, "admin" | "config" | "local"))
            .map(str::to_owned)
            .collect())
    }

    /// The options and the indexes of a collection, as the server lists them; `None` for a view and
    /// for what does not exist.
    ///
    /// # Errors
    /// Whatever the driver returns, but for those two.
    pub async fn described(
        &self,
        namespace: &Namespace,
    ) -> Result<Option<(Defined, Vec<Document>)>, Error> {
        let database = self.client.database(namespace.database());
        let listed = self.definitions(namespace.database(), Some(namespace.collection())).await?;
        let Some(found) = listed.into_iter().next() else { return Ok(None) };
        if found.kind != Kind::Collection {
            return Ok(None);
        }
        let command = rawdoc! { "listIndexes": namespace.collection(), "cursor": {} };
        match self.of_primary().all(&database, command).await {
            Ok(indexes) => Ok(Some((found, indexes))),
            // NamespaceNotFound
            Err(Error::Driver(error)) if code(&error) == Some(26) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// About how large a collection is; zeros for a view and for what does not exist.
    ///
    /// `dataSize` with `estimate` answers from what the server counts along; a collection's statistics,
    /// which hold the same two figures, take it milliseconds of work to gather.
    ///
    /// # Errors
    /// Whatever the driver returns, but for those two.
    pub async fn size(&self, namespace: &Namespace) -> Result<Size, Error> {
        let database = self.client.database(namespace.database());
        let command = doc! { "dataSize": namespace.as_str(), "estimate": true };
        match self.command(&database, command).await {
            Ok(counted) => Ok(Size {
                documents: number(&counted, "numObjects"),
                bytes: number(&counted, "size"),
            }),
            // NamespaceNotFound, CommandNotSupportedOnView
            Err(Error::Driver(error)) if matches!(code(&error), Some(26 | 166)) => {
                Ok(Size::default())
            }
            Err(Error::Driver(error)) if code(&error).is_some_and(|it| UNKNOWN.contains(&it)) => {
                self.stored_size(namespace).await
            }
            Err(error) => Err(error),
        }
    }

    async fn stored_size(&self, namespace: &Namespace) -> Result<Size, Error> {
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
        let stats = || shards.iter().filter_map(|shard| shard.get_document("storageStats").ok());
        let sum = |field: &str| stats().map(|stats| number(stats, field)).sum::<u64>();
        Ok(Size { documents: sum("count"), bytes: sum("size") })
    }

    /// Which fields make the document key.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn key_shape(&self, namespace: &Namespace) -> Result<KeyShape, Error> {
        if !self.sharded {
            return Ok(KeyShape::default());
        }
        let command: RawDocumentBuf = rawdoc! {
            "find": "collections", "filter": { "_id": namespace.as_str() }, "limit": 1,
        };
        let found = self.all(&self.client.database("config"), command).await?;
        let key = found.first().and_then(|entry| entry.get_document("key").ok());
        Ok(key.map_or_else(KeyShape::default, |key| KeyShape::sharded(key.keys().cloned())))
    }

    /// Which types occur among the `_id`s of a collection. An index orders values by the brackets of
    /// their types: where both its ends are of one, all are. Otherwise there is one look for each. All
    /// numbers are in one bracket, and strings with symbols: a look for one of them alone would go
    /// through all the others.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn id_types(&self, namespace: &Namespace) -> Result<IdTypes, Error> {
        let database = self.client.database(namespace.database());
        let ends = [1, -1].map(async |direction| {
            let command = rawdoc! {
                "find": namespace.collection(), "sort": { "_id": direction },
                "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
                "readConcern": { "level": "majority" },
            };
            let _turn = self.together.acquire().await.expect("nobody closes it");
            let found = self.all(&database, command).await?;
            Ok::<_, Error>(found.first().map(|found| bracket(found.get("_id"))))
        });
        match try_join_all(ends).await?[..] {
            [None, None] => return Ok(IdTypes::default()),
            [Some(Some(first)), Some(Some(last))] if first == last => {
                return Ok(first.1.iter().copied().collect());
            }
            _ => {}
        }
        let probes = PROBES.iter().map(async |(aliases, types)| {
            let all: RawArrayBuf = aliases.iter().copied().collect();
            let command = rawdoc! {
                "find": namespace.collection(), "filter": { "_id": { "$type": all } },
                "projection": { "_id": 1 }, "limit": 1, "singleBatch": true,
                "readConcern": { "level": "majority" },
            };
            let _turn = self.together.acquire().await.expect("nobody closes it");
            let is_there = !self.all(&database, command).await?.is_empty();
            Ok::<_, Error>(if is_there { *types } else { &[] })
        });
        Ok(try_join_all(probes).await?.concat().into())
    }
}

/// CommandNotFound, CommandNotSupported, APIStrictError, AtlasError: what is sold as a MongoDB need not know
/// every command.
const UNKNOWN: [i32; 4] = [59, 115, 323, 8000];

/// What a server calls these.
fn kind(name: &str) -> Kind {
    match name {
        "view" => Kind::View,
        "timeseries" => Kind::TimeSeries,
        _ => Kind::Collection,
    }
}

/// A bracket of types: the server's names of them, and what they are here.
type Bracket = (&'static [&'static str], &'static [IdType]);

/// Those that can hold an `_id`.
const PROBES: &[Bracket] = &[
    (&["objectId"], &[IdType::ObjectId]),
    (&["string", "symbol"], &[IdType::String]),
    (&["number"], &[IdType::Number]),
    (&["binData"], &[IdType::Uuid, IdType::Binary]),
    (&["date"], &[IdType::Date]),
    (&["bool"], &[IdType::Bool]),
    (&["null"], &[IdType::Null]),
    (&["object"], &[IdType::Document]),
    (&["timestamp"], &[IdType::Timestamp]),
    (&["javascript"], &[IdType::JavaScript]),
    (&["minKey"], &[IdType::MinKey]),
    (&["maxKey"], &[IdType::MaxKey]),
];

/// The bracket of a value; `None` of one that a view makes up, or leaves out.
fn bracket(id: Option<&Bson>) -> Option<Bracket> {
    let name = match id? {
        Bson::ObjectId(_) => "objectId",
        Bson::String(_) | Bson::Symbol(_) => "string",
        Bson::Double(_) | Bson::Int32(_) | Bson::Int64(_) | Bson::Decimal128(_) => "number",
        Bson::Binary(_) => "binData",
        Bson::DateTime(_) => "date",
        Bson::Boolean(_) => "bool",
        Bson::Null => "null",
        Bson::Document(_) => "object",
        Bson::Timestamp(_) => "timestamp",
        Bson::JavaScriptCode(_) => "javascript",
        Bson::MinKey => "minKey",
        Bson::MaxKey => "maxKey",
        _ => return None,
    };
    PROBES.iter().find(|(names, _)| names[0] == name).copied()
}

/// The server's code, where it was a command that failed.
pub(super) fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// A figure of a server's statistics.
pub(super) fn number(stats: &Document, field: &str) -> u64 {
    match stats.get(field) {
        Some(bson::Bson::Int32(value)) => u64::try_from(*value).unwrap_or(0),
        Some(bson::Bson::Int64(value)) => u64::try_from(*value).unwrap_or(0),
        // Past 2^53 bytes the server's own figure is a float; a size needs no more digits.
        Some(bson::Bson::Double(value)) if *value > 0.0 => *value as u64,
        _ => 0,
    }
}
