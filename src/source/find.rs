//! Documents by a query that is not a rule's: what a transform looks up beside its document, and
//! what `mongosync try` is asked for.

use bson::{RawDocument, RawDocumentBuf, rawdoc};

use crate::change::{ClusterTime, Document, Namespace};

use super::{CursorCommand, Source, error::Error, majority_after, reply::Reply};

/// Bytes of documents that are taken, together: a document with all of them in it could hold no more.
const MOST_BYTES: usize = 16 << 20;

impl Source {
    /// The documents that match, `limit` at the most, in no order of meaning. A majority read after
    /// `after`; one attempt.
    ///
    /// # Errors
    /// Those of the server; `Refused` past 16 MiB.
    pub async fn find(
        &self,
        namespace: &Namespace,
        filter: &RawDocument,
        limit: u32,
        after: ClusterTime,
    ) -> Result<Vec<Document>, Error> {
        let database = self.client.database(namespace.database());
        let command = command(namespace, filter, limit, after);
        let mut cursor = self
            .cursor(CursorCommand {
                database: &database,
                command,
                batch_size: Some(limit),
                max_time: None,
            })
            .await?;
        let (mut documents, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = cursor.next().await {
            let reply = Reply::new(batch?, None);
            for document in reply.documents()? {
                let document = document?;
                bytes += document.size();
                documents.push(document);
            }
            if bytes > MOST_BYTES {
                return Err(Error::Refused(format!(
                    "what is found is larger than {} MiB together",
                    MOST_BYTES >> 20
                )));
            }
        }
        Ok(documents)
    }
}

fn command(
    namespace: &Namespace,
    filter: &RawDocument,
    limit: u32,
    after: ClusterTime,
) -> RawDocumentBuf {
    rawdoc! {
        "find": namespace.collection(),
        "filter": filter.to_owned(),
        "limit": i64::from(limit),
        "batchSize": i64::from(limit),
        "readConcern": majority_after(after),
        "comment": "mongosync",
    }
}
