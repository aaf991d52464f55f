//! Cuts a collection into ranges of `_id` that can be read side by side and one by one again.
//!
//! Ranges are those of the `_id` index, which orders values of all types; a query operator such as
//! `$gt` compares within one type only and would leave the other types out.

use bson::{Bson, RawDocumentBuf, rawdoc};

use crate::{change::Namespace, rules::model::CopySettings};

use super::{Patience, Source, error::Error, namespaces::Size};

/// More would make the plan a large record, and gain nothing.
const MOST: u64 = 4096;
/// Sampled `_id`s for each chunk: the more, the more even are the chunks.
const OVERSAMPLING: u64 = 10;

/// A range of `_id`s.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    /// The first `_id`, inclusive; `None` from the beginning.
    pub from: Option<Bson>,
    /// The end, exclusive; `None` to the end.
    pub to: Option<Bson>,
}

/// The ranges between split points.
pub fn ranges(bounds: &[Bson]) -> Vec<Range> {
    let mut ranges = Vec::with_capacity(bounds.len() + 1);
    let mut from = None;
    for bound in bounds {
        ranges.push(Range { from, to: Some(bound.clone()) });
        from = Some(bound.clone());
    }
    ranges.push(Range { from, to: None });
    ranges
}

/// How many chunks a collection of this size is cut into.
pub fn count(size: Size, settings: CopySettings) -> u64 {
    let chunk = settings.chunk.max(1) as u64;
    // `$sample` is quick only for under a twentieth of more than a hundred documents.
    let most = (size.documents / (20 * OVERSAMPLING + 1)).min(MOST);
    size.bytes.div_ceil(chunk).clamp(1, most.max(1))
}

impl Source {
    /// Split points for about `chunks` chunks of equal numbers of documents, ascending in index
    /// order and without repetition.
    ///
    /// # Errors
    /// Those of the server.
    pub async fn split_points(
        &self,
        namespace: &Namespace,
        chunks: u64,
        allow_disk_use: bool,
    ) -> Result<Vec<Bson>, Error> {
        if chunks < 2 {
            return Ok(Vec::new());
        }
        let size = i64::try_from(chunks * OVERSAMPLING).unwrap_or(i64::MAX);
        let command: RawDocumentBuf = rawdoc! {
            "aggregate": namespace.collection(),
            "pipeline": [
                { "$sample": { "size": size } },
                { "$project": { "_id": 1 } },
                { "$sort": { "_id": 1 } },
            ],
            "cursor": {},
            "allowDiskUse": allow_disk_use,
            "comment": "mongosync",
        };
        let database = self.client.database(namespace.database());
        let sampled = self.patient(Patience::LONG).gathered(&database, command).await?;
        let mut points: Vec<Bson> = Vec::new();
        for document in sampled.iter().skip(OVERSAMPLING as usize).step_by(OVERSAMPLING as usize) {
            // A sample may hold one document twice.
            if let Some(id) = document.get("_id").filter(|id| points.last() != Some(id)) {
                points.push(id.clone());
            }
        }
        Ok(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_leave_nothing_out() {
        assert_eq!(ranges(&[]), [Range { from: None, to: None }]);
        let (one, two) = (Bson::Int32(1), Bson::String("a".into()));
        assert_eq!(
            ranges(&[one.clone(), two.clone()]),
            [
                Range { from: None, to: Some(one.clone()) },
                Range { from: Some(one), to: Some(two.clone()) },
                Range { from: Some(two), to: None },
            ]
        );
    }

    #[test]
    fn small_collections_are_one_chunk() {
        let settings = CopySettings { parallel: 4, chunk: 32 << 20, allow_disk_use: true };
        for (documents, bytes, expected) in
            [(0, 0, 1), (100, 1 << 30, 1), (300_000, 330 << 20, 11), (1_000_000_000, 1 << 40, MOST)]
        {
            assert_eq!(count(Size { documents, bytes }, settings), expected, "{documents}");
        }
    }
}
