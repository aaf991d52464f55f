//! A few documents of a collection, drawn by the server.

use bson::{RawDocument, rawdoc};

use crate::change::Namespace;

use super::{CursorCommand, Patience, Source, error::Error, reply::Reply};

/// Bytes after which no further reply is asked for.
const MOST_BYTES: usize = 64 << 20;
/// Documents in one reply: they may be of any size.
const REPLY: u32 = 10;

impl Source {
    /// Shows up to `size` documents, one after the other, and says how many: fewer where they are large.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn sample(
        &self,
        namespace: &Namespace,
        size: u32,
        mut each: impl FnMut(&RawDocument),
    ) -> Result<u64, Error> {
        let database = self.client.database(namespace.database());
        let command = rawdoc! {
            "aggregate": namespace.collection(),
            "pipeline": [{ "$sample": { "size": i64::from(size) } }],
            "cursor": { "batchSize": i64::from(REPLY) },
            "allowDiskUse": true,
            "comment": "mongosync",
        };
        // Of a large part of a collection all of it is read.
        let patient = self.patient(Patience::LONG);
        let mut cursor = patient
            .cursor(CursorCommand {
                database: &database,
                command,
                batch_size: Some(REPLY),
                max_time: None,
            })
            .await?;
        let (mut shown, mut bytes) = (0, 0);
        while let Some(batch) = cursor.next().await {
            let reply = Reply::new(batch?, None);
            for document in reply.documents()? {
                let document = document?;
                bytes += document.size();
                shown += 1;
                each(document.raw());
            }
            if bytes > MOST_BYTES {
                break;
            }
        }
        Ok(shown)
    }
}
