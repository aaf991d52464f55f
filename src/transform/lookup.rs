//! What `lookup()` and `lookup_all()` ask of the source, and who answers.
//!
//! A run is given its [`Reads`]; this stage knows no server. [`Given`] answers from documents that
//! are written down: in the tests of a rule file.

use std::{cell::RefCell, collections::BTreeMap, fmt, sync::Arc};

use bson::{RawBsonRef, RawDocument};
use tokio_util::sync::CancellationToken;

use crate::change::{ClusterTime, Document, DocumentKey, Namespace};

/// What a script asks.
#[derive(Clone, PartialEq, Debug)]
pub struct Query {
    /// Where.
    pub namespace: Namespace,
    /// A MongoDB query.
    pub filter: Document,
    /// Documents in the answer, at the most.
    pub limit: u32,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unanswered {
    /// Asking again would be refused again: why, in words. It is the script's error.
    Refused(String),
    /// It was stopped while it waited.
    Stopped,
}

/// Answers queries.
pub trait Lookup: Send + Sync {
    /// The documents that match, as they were at `after` or later; `limit` of them at the most, in
    /// no order of meaning.
    ///
    /// A source that is away is waited for, on the thread that calls, until `stop` is cancelled: not
    /// to be called from asynchronous code.
    ///
    /// # Errors
    /// See [`Unanswered`].
    fn find(
        &self,
        query: &Query,
        after: ClusterTime,
        stop: &CancellationToken,
    ) -> Result<Vec<Document>, Unanswered>;
}

/// How one run reads the source.
#[derive(Clone)]
pub struct Reads {
    /// Who answers.
    pub lookup: Arc<dyn Lookup>,
    /// When the document was read that the script runs on: no answer is older.
    pub after: ClusterTime,
    /// Ends every wait, and with it the run.
    pub stop: CancellationToken,
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads").field("after", &self.after).finish_non_exhaustive()
    }
}

thread_local! {
    /// Those of the run that is under way on this thread: the engine hands the functions of a script
    /// nothing that belongs to one run alone.
    static READS: RefCell<Option<Reads>> = const { RefCell::new(None) };
}

/// Runs something that may ask by [`find`].
pub(super) fn with<T>(reads: Option<Reads>, run: impl FnOnce() -> T) -> T {
    struct Before(Option<Reads>);
    impl Drop for Before {
        fn drop(&mut self) {
            READS.set(self.0.take());
        }
    }
    let _before = Before(READS.replace(reads));
    run()
}

/// Asks for the run that is under way.
pub(super) fn find(query: &Query) -> Result<Vec<Document>, Unanswered> {
    let reads = READS.with_borrow(Clone::clone).ok_or_else(|| {
        Unanswered::Refused(
            "the source can't be read from here: call lookup by its name, in the script itself or \
             in a function"
                .to_owned(),
        )
    })?;
    reads.lookup.find(query, reads.after, &reads.stop)
}

/// Documents that stand for the source's.
///
/// A query matches by equality, as MongoDB has it: numbers by their value, an array also by each of
/// its items, null also where the field is missing. Operators are refused.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Given {
    collections: BTreeMap<Namespace, Vec<Document>>,
}

impl Given {
    /// These, by namespace.
    pub fn new(collections: BTreeMap<Namespace, Vec<Document>>) -> Self {
        Self { collections }
    }
}

impl Lookup for Given {
    fn find(
        &self,
        query: &Query,
        _: ClusterTime,
        _: &CancellationToken,
    ) -> Result<Vec<Document>, Unanswered> {
        let Query { namespace, filter, limit } = query;
        let documents = self.collections.get(namespace).ok_or_else(|| {
            Unanswered::Refused(format!(
                "the test's `given.lookup` has no {namespace}; write `{namespace}: []` where it is \
                 to be empty"
            ))
        })?;
        let conditions = conditions(filter.raw()).map_err(Unanswered::Refused)?;
        let matching = documents.iter().filter(|document| {
            conditions.iter().all(|(path, wanted)| {
                let path: Vec<&str> = path.split('.').collect();
                holds(RawBsonRef::Document(document.raw()), &path, wanted)
            })
        });
        Ok(matching.take(*limit as usize).cloned().collect())
    }
}

/// The paths of a query with the values that they have to have.
fn conditions(filter: &RawDocument) -> Result<Vec<(String, Wanted)>, String> {
    let unsupported = |what: &str| {
        format!(
            "a test answers lookups by equality alone: {what} is MongoDB's to evaluate, and can be \
             seen with `mongosync try`"
        )
    };
    let mut conditions = Vec::new();
    for element in filter {
        let (path, value) = element.map_err(|error| error.to_string())?;
        let path = path.as_str();
        if path.starts_with('$') {
            return Err(unsupported(path));
        }
        if let RawBsonRef::Document(inner) = value
            && let Some(Ok((operator, _))) = inner.iter().next()
            && operator.as_str().starts_with('$')
        {
            return Err(unsupported(operator.as_str()));
        }
        if matches!(value, RawBsonRef::RegularExpression(_)) {
            return Err(unsupported("a regular expression"));
        }
        conditions.push((path.to_owned(), Wanted::new(value)?));
    }
    Ok(conditions)
}

/// A value to be equal to.
struct Wanted {
    key: DocumentKey,
    null: bool,
}

impl Wanted {
    fn new(value: RawBsonRef<'_>) -> Result<Self, String> {
        // What makes two keys one for MongoDB makes two values one.
        let key = DocumentKey::from_id(value).map_err(|error| error.to_string())?;
        Ok(Self { key, null: matches!(value, RawBsonRef::Null | RawBsonRef::Undefined) })
    }

    fn is(&self, value: RawBsonRef<'_>) -> bool {
        DocumentKey::from_id(value).is_ok_and(|key| key == self.key)
    }
}

fn holds(value: RawBsonRef<'_>, path: &[&str], wanted: &Wanted) -> bool {
    let Some((first, rest)) = path.split_first() else {
        let item_is = |items: &bson::RawArray| items.into_iter().flatten().any(|it| wanted.is(it));
        return wanted.is(value) || matches!(value, RawBsonRef::Array(items) if item_is(items));
    };
    match value {
        RawBsonRef::Document(document) => match document.get(first) {
            Ok(Some(inner)) => holds(inner, rest, wanted),
            _ => wanted.null,
        },
        RawBsonRef::Array(items) => {
            let at = first.parse().ok().and_then(|at: usize| items.get(at).ok().flatten());
            at.is_some_and(|item| holds(item, rest, wanted))
                || items
                    .into_iter()
                    .flatten()
                    .filter(|item| matches!(item, RawBsonRef::Document(_)))
                    .any(|item| holds(item, path, wanted))
        }
        _ => wanted.null,
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};
    use rstest::rstest;

    use super::*;

    fn found(filter: RawDocumentBuf, limit: u32) -> Result<Vec<i32>, Unanswered> {
        let documents = [
            rawdoc! { "_id": 1, "n": 5_i64, "tags": ["a", "b"], "a": { "b": "x", "c": 1 } },
            rawdoc! { "_id": 2, "n": 5.0, "tags": "a", "a": [{ "b": "x" }, { "b": "y" }] },
            rawdoc! { "_id": 3, "n": null, "tags": [["a"]], "a": 7 },
        ];
        let namespace = Namespace::new("shop", "items");
        let documents = documents.into_iter().map(Document::from).collect();
        let given = Given::new(BTreeMap::from([(namespace.clone(), documents)]));
        let query = Query { namespace, filter: filter.into(), limit };
        let found = given.find(&query, ClusterTime::ZERO, &CancellationToken::new())?;
        Ok(found.iter().map(|document| document.raw().get_i32("_id").expect("an _id")).collect())
    }

    #[rstest]
    #[case::all(rawdoc! {}, &[1, 2, 3])]
    #[case::by_id(rawdoc! { "_id": 2.0 }, &[2])]
    #[case::numbers_by_value(rawdoc! { "n": 5 }, &[1, 2])]
    #[case::both(rawdoc! { "n": 5, "_id": 1 }, &[1])]
    #[case::an_item_of_an_array(rawdoc! { "tags": "a" }, &[1, 2])]
    #[case::a_whole_array(rawdoc! { "tags": ["a"] }, &[3])]
    #[case::a_path(rawdoc! { "a.b": "x" }, &[1, 2])]
    #[case::through_an_array(rawdoc! { "a.b": "y" }, &[2])]
    #[case::by_index(rawdoc! { "a.1.b": "y" }, &[2])]
    #[case::null_is_missing_too(rawdoc! { "n": null }, &[3])]
    #[case::missing(rawdoc! { "nothing": null }, &[1, 2, 3])]
    #[case::beneath_a_number(rawdoc! { "a.b": null }, &[3])]
    #[case::a_document(rawdoc! { "a": { "b": "x", "c": 1.0 } }, &[1])]
    #[case::in_another_order(rawdoc! { "a": { "c": 1, "b": "x" } }, &[])]
    fn by_equality(#[case] filter: RawDocumentBuf, #[case] expected: &[i32]) {
        assert_eq!(found(filter, 10).as_deref(), Ok(expected));
    }

    #[test]
    fn so_many_at_the_most() {
        assert_eq!(found(rawdoc! {}, 2), Ok(vec![1, 2]));
    }

    #[rstest]
    #[case(rawdoc! { "$or": [] }, "$or")]
    #[case(rawdoc! { "n": { "$gt": 1 } }, "$gt")]
    #[case(rawdoc! { "n": regex() }, "a regular expression")]
    fn operators_are_refused(#[case] filter: RawDocumentBuf, #[case] operator: &str) {
        let Err(Unanswered::Refused(words)) = found(filter, 1) else { panic!("it was answered") };
        assert!(words.contains(&format!("alone: {operator} is")), "{words}");
    }

    fn regex() -> bson::Regex {
        let text = |text: &str| text.try_into().expect("no zero");
        bson::Regex { pattern: text("a"), options: text("") }
    }

    #[test]
    fn a_collection_that_was_not_given_is_told() {
        let query = Query {
            namespace: Namespace::new("shop", "other"),
            filter: rawdoc! {}.into(),
            limit: 1,
        };
        let answer = Given::default().find(&query, ClusterTime::ZERO, &CancellationToken::new());
        let Err(Unanswered::Refused(words)) = answer else { panic!("it was answered") };
        assert!(words.contains("has no shop.other; write `shop.other: []`"), "{words}");
    }
}
