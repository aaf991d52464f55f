//! A rule file to start from: looks at a few documents of each collection of a database, and writes a
//! rule for each, with mappings for the fields that it met. For `mongosync init`.
//!
//! What it writes can be used as it is; what may not be meant is said in comments beside it. No login
//! is in it.

mod fields;
mod write;

use crate::{
    change::Namespace,
    source::{
        Source,
        error::Error,
        namespaces::{Found, Kind},
    },
};

use fields::Fields;

/// Documents of each collection that are looked at.
pub const SAMPLED: u32 = 200;

/// mongosync's own database, where nothing else is said.
const OWN: &str = "mongosync";

/// What a collection holds, as far as it was looked at.
#[derive(Debug)]
struct Collection {
    namespace: Namespace,
    /// About so many documents.
    documents: u64,
    sampled: u64,
    fields: Fields,
}

/// The databases that may be meant: all that the user sees, without mongosync's own.
///
/// # Errors
/// Those of the server.
pub async fn databases(source: &Source) -> Result<Vec<String>, Error> {
    let mut all = source.databases().await?;
    all.retain(|name| name != OWN);
    all.sort();
    Ok(all)
}

/// The text of a rule file for a database; `None` where it has no collection.
///
/// # Errors
/// Those of the server.
pub async fn draft(source: &Source, database: &str) -> Result<Option<String>, Error> {
    let mut found = source.collections(database).await?;
    found.retain(|found| !found.namespace.collection().starts_with("system."));
    found.sort_by(|one, other| one.namespace.cmp(&other.namespace));
    let mut collections = Vec::new();
    let mut left_out = Vec::new();
    for Found { namespace, kind } in found {
        let why = match kind {
            Kind::View => Some("a view: a rule that names it copies it, and follows no changes"),
            Kind::TimeSeries => Some("a time-series collection: its `_id` is not unique"),
            Kind::Collection if !write::is_nameable(&namespace) => {
                Some("its name reads like a pattern: write one that takes it alone")
            }
            Kind::Collection => None,
        };
        if let Some(why) = why {
            left_out.push((namespace, why));
            continue;
        }
        let documents = source.size(&namespace).await?.documents;
        let mut fields = Fields::default();
        let sampled = source.sample(&namespace, SAMPLED, |document| fields.add(document)).await?;
        collections.push(Collection { namespace, documents, sampled, fields });
    }
    if collections.is_empty() {
        return Ok(None);
    }
    Ok(Some(write::text(database, &collections, &left_out)))
}
