//! `mongosync dead-letters`: reads them from the checkpoint store, while a run goes on or not.

use std::io::{self, Write};

use super::{
    Error,
    arguments::{DeadLetterAction, DeadLetterArguments, ListArguments},
    console::Console,
    run::load,
    store::open_store,
};
use crate::{
    checkpoint::store::{RecordKey, Store, Table},
    status::masked,
};

/// Read at a time.
const PAGE: usize = 500;

/// Runs the command.
///
/// # Errors
/// See [`Error`]. A reader of standard output that goes away is none.
pub async fn run(arguments: DeadLetterArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    let store = open_store(&rules).await?;
    match arguments.action {
        DeadLetterAction::List(list) => {
            if list_to(store.as_ref(), &list, &mut io::stdout().lock()).await? {
                console.notice("there are more; --limit shows them");
            }
            Ok(())
        }
    }
}

/// Prints up to `limit` dead letters; answers whether there are more.
async fn list_to(
    store: &dyn Store,
    list: &ListArguments,
    out: &mut impl Write,
) -> Result<bool, Error> {
    let everything = RecordKey(Vec::new());
    let mut after: Option<RecordKey> = None;
    let mut left = usize::try_from(list.limit).unwrap_or(usize::MAX);
    loop {
        let asked = left.min(PAGE);
        // One more than is printed tells whether there are more.
        let page = store.scan(Table::DeadLetters, &everything, after.as_ref(), asked + 1).await?;
        for (key, letter) in page.iter().take(asked) {
            match print(key, letter, list.json, out) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
                Err(source) => {
                    return Err(Error::System { what: "can't write to standard output", source });
                }
                Ok(()) => {}
            }
        }
        left -= asked.min(page.len());
        if page.len() <= asked || left == 0 {
            return Ok(page.len() > asked);
        }
        after = Some(page[asked - 1].0.clone());
    }
}

fn print(
    key: &RecordKey,
    letter: &bson::RawDocument,
    json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let parts: Vec<_> = key.0.iter().map(|part| readable(part)).collect();
    let letter = serde_json::to_value(letter)?;
    if json {
        let line = serde_json::json!({ "record": parts, "letter": letter }).to_string();
        return writeln!(out, "{}", masked(&line));
    }
    writeln!(out, "{}", parts.join(" / "))?;
    for (name, value) in letter.as_object().into_iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(out, "  {name}: {}", masked(&text).replace('\n', "\n    "))?;
    }
    Ok(())
}

/// Text as it is; anything else, and what would move the cursor, in hex.
fn readable(part: &[u8]) -> String {
    match std::str::from_utf8(part) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => part.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bson::{RawDocument, RawDocumentBuf, rawdoc};

    use super::*;
    use crate::checkpoint::store::{StoreError, Write as StoreWrite};

    struct Letters(Vec<(RecordKey, RawDocumentBuf)>);

    #[async_trait]
    impl Store for Letters {
        fn place(&self) -> &str {
            "letters of a test"
        }
        async fn get(&self, _: Table, _: &RecordKey) -> Result<Option<RawDocumentBuf>, StoreError> {
            unreachable!("a list scans")
        }
        async fn get_many(
            &self,
            _: Table,
            _: &[RecordKey],
        ) -> Result<Vec<Option<RawDocumentBuf>>, StoreError> {
            unreachable!("a list scans")
        }
        async fn scan(
            &self,
            table: Table,
            _: &RecordKey,
            after: Option<&RecordKey>,
            limit: usize,
        ) -> Result<Vec<(RecordKey, RawDocumentBuf)>, StoreError> {
            assert_eq!(table, Table::DeadLetters);
            let rest = self.0.iter().filter(|(key, _)| after.is_none_or(|after| key > after));
            Ok(rest.take(limit).cloned().collect())
        }
        async fn write(&self, _: Vec<StoreWrite>) -> Result<(), StoreError> {
            unreachable!("a list writes nothing")
        }
        async fn swap(
            &self,
            _: &RecordKey,
            _: Option<&RawDocument>,
            _: &RawDocument,
        ) -> Result<bool, StoreError> {
            unreachable!("a list writes nothing")
        }
        async fn fence(&self, _: u64) -> Result<(), StoreError> {
            unreachable!("a list writes nothing")
        }
    }

    fn letters(count: u32) -> Letters {
        let letter = |n: u32| {
            let key = RecordKey::text(&["search", "products"]).with(n.to_be_bytes());
            (key, rawdoc! { "reason": format!("field [price]\nin document {n}"), "tries": 1 })
        };
        Letters((0..count).map(letter).collect())
    }

    async fn listed(store: &Letters, json: bool, limit: u64) -> (String, bool) {
        let mut out = Vec::new();
        let more = list_to(store, &ListArguments { json, limit }, &mut out).await.unwrap();
        (String::from_utf8(out).unwrap(), more)
    }

    #[tokio::test]
    async fn as_text_and_as_json() {
        let store = letters(2);
        let (text, more) = listed(&store, false, 1).await;
        assert!(more);
        assert_eq!(
            text,
            "search / products / 00000000\n  reason: field [price]\n    in document 0\n  tries: 1\n"
        );
        let (json, more) = listed(&store, true, 100).await;
        assert!(!more);
        assert_eq!(
            json.lines().next().unwrap(),
            r#"{"letter":{"reason":"field [price]\nin document 0","tries":1},"record":["search","products","00000000"]}"#
        );
    }

    #[tokio::test]
    async fn pages_and_limits() {
        for (stored, limit, printed, more) in [
            (0, 100, 0, false),
            (100, 100, 100, false),
            (101, 100, 100, true),
            (1200, 1100, 1100, true),
            (1200, 1200, 1200, false),
            (1000, 5000, 1000, false),
        ] {
            let (text, has_more) = listed(&letters(stored), true, limit).await;
            assert_eq!((text.lines().count(), has_more), (printed, more), "{stored} {limit}");
        }
    }
}
