//! Dead letters as they are read by whoever does not hold the name, while a run goes on or not.

use std::collections::BTreeSet;

use super::{
    keys::letter_id,
    records::{DeadLetterRecord, page},
    store::{RecordKey, Store, StoreError, Table},
};

/// Read at a time where nothing but their names is read.
const PAGE_OF_KEYS: usize = 500;

/// Reads up to `limit` dead letters, those of all targets, in the order of their keys. Each may hold an
/// event of 8 MiB.
///
/// # Errors
/// Those of the store, and where one can't be read.
pub async fn letters(
    store: &dyn Store,
    after: Option<&RecordKey>,
    limit: usize,
) -> Result<Vec<(RecordKey, DeadLetterRecord)>, StoreError> {
    page(store, &RecordKey(Vec::new()), after, limit).await
}

/// The first of these short names that is no dead letter's.
///
/// # Errors
/// Those of the store.
pub async fn missing<'a>(
    store: &dyn Store,
    asked: impl IntoIterator<Item = &'a str>,
) -> Result<Option<&'a str>, StoreError> {
    let mut missing: BTreeSet<&str> = asked.into_iter().collect();
    let mut pages = Pages::of(store);
    while !missing.is_empty()
        && let Some(page) = pages.next().await?
    {
        for key in &page {
            missing.remove(letter_id(key).as_str());
        }
    }
    Ok(missing.first().copied())
}

/// The names of all dead letters, page by page.
pub struct Pages<'a> {
    store: &'a dyn Store,
    after: Option<RecordKey>,
}

impl<'a> Pages<'a> {
    /// From the first one on.
    pub fn of(store: &'a dyn Store) -> Self {
        Self { store, after: None }
    }

    /// The next ones; `None` at the end.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn next(&mut self) -> Result<Option<Vec<RecordKey>>, StoreError> {
        let everything = RecordKey(Vec::new());
        let after = self.after.as_ref();
        let found =
            self.store.scan_keys(Table::DeadLetters, &everything, after, PAGE_OF_KEYS).await?;
        let Some(last) = found.last() else { return Ok(None) };
        self.after = Some(last.clone());
        Ok(Some(found))
    }
}
