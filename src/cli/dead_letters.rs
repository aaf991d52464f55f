//! `mongosync dead-letters`: reads them from the checkpoint store, while a run goes on or not.

use std::io::{self, Write};

use super::{
    Error,
    arguments::{
        DeadLetterAction, DeadLetterArguments, LettersArguments, ListArguments, ShowArguments,
    },
    console::Console,
    requests::ask_and_wait,
    run::load,
    store::open_store,
};
use crate::{
    checkpoint::{
        keys::letter_id,
        records::{DeadLetterRecord, page},
        requests::Asked,
        store::{RecordKey, Store},
    },
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
        DeadLetterAction::Show(ShowArguments { id }) => show(store.as_ref(), &id).await,
        DeadLetterAction::Retry(LettersArguments { ids, wait, .. }) => {
            let asked = Asked::RetryLetters { letters: ids };
            ask_and_wait(&store, asked, wait, console).await
        }
        DeadLetterAction::Purge(LettersArguments { ids, wait, .. }) => {
            let asked = Asked::PurgeLetters { letters: ids };
            ask_and_wait(&store, asked, wait, console).await
        }
    }
}

/// Prints one letter.
async fn show(store: &dyn Store, id: &str) -> Result<(), Error> {
    let everything = RecordKey(Vec::new());
    let mut after: Option<RecordKey> = None;
    loop {
        let page: Vec<(RecordKey, DeadLetterRecord)> =
            page(store, &everything, after.as_ref(), PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Err(Error::Usage(format!("there is no dead letter {id}")));
        };
        if let Some((key, letter)) = page.iter().find(|(key, _)| letter_id(key) == id) {
            let cant_write =
                |source| Error::System { what: "can't write to standard output", source };
            return print(key, letter, true, &mut io::stdout().lock()).map_err(cant_write);
        }
        after = Some(last.clone());
    }
}

/// Prints up to `limit` dead letters; answers whether there are more.
pub(super) async fn list_to(
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
        let page: Vec<(RecordKey, DeadLetterRecord)> =
            page(store, &everything, after.as_ref(), asked + 1).await?;
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

/// A letter as a person or a program reads it. The words are the other side's: masked, and kept
/// from moving the cursor.
fn print(
    key: &RecordKey,
    letter: &DeadLetterRecord,
    json: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let id = letter_id(key);
    if json {
        let record = bson::serialize_to_bson(letter).map_err(io::Error::other)?;
        let mut line = record.into_relaxed_extjson();
        line["id"] = id.into();
        return writeln!(out, "{}", masked(&line.to_string()));
    }
    let DeadLetterRecord { target, rule, namespace, key_text, place, reason, words, .. } = letter;
    writeln!(out, "{id}  {namespace} _id {}", on_one_line(key_text))?;
    writeln!(out, "  refused by {reason}, rule {rule}, target {target}")?;
    if let Some(place) = place {
        writeln!(out, "  place: {}", on_one_line(place))?;
    }
    writeln!(out, "  {}", masked(&on_one_line(words)))?;
    let times = match letter.attempts {
        1 => "once".to_owned(),
        attempts => format!("{attempts} times, first {}", shown(letter.first_seen)),
    };
    writeln!(out, "  {times}, last {}", shown(letter.last_seen))
}

fn shown(date: bson::DateTime) -> String {
    date.try_to_rfc3339_string().unwrap_or_else(|_| date.timestamp_millis().to_string())
}

fn on_one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::checkpoint::{keys, memory::MemoryStore, records::put};

    async fn letters(count: u32) -> MemoryStore {
        let store = MemoryStore::new("shop");
        store.fence(1).await.unwrap();
        let date = bson::DateTime::from_millis(1_795_227_029_123);
        let writes = (0..count).map(|n| {
            let letter = DeadLetterRecord {
                target: "search".into(),
                rule: "products".into(),
                namespace: "shop.products".into(),
                key: rawdoc! { "_id": i64::from(n) },
                key_text: n.to_string(),
                place: Some(format!("products/{n}")),
                reason: "target".into(),
                words: "mapper_parsing_exception: field [price]\nin mongodb://u:secret@h/".into(),
                first_seen: date,
                last_seen: date,
                attempts: n + 1,
                cluster_time: crate::change::ClusterTime::ZERO,
                event: None,
            };
            put(keys::dead_letter("search", "products", "shop.products", &n.to_be_bytes()), &letter)
        });
        store.write(writes.collect()).await.unwrap();
        store
    }

    async fn listed(store: &MemoryStore, json: bool, limit: u64) -> (String, bool) {
        let mut out = Vec::new();
        let more = list_to(store, &ListArguments { json, limit }, &mut out).await.unwrap();
        (String::from_utf8(out).unwrap(), more)
    }

    #[tokio::test]
    async fn as_text_and_as_json() {
        let store = letters(2).await;
        let (text, more) = listed(&store, false, 100).await;
        assert!(!more);
        insta::assert_snapshot!(text);
        let (json, more) = listed(&store, true, 1).await;
        assert!(more);
        insta::assert_snapshot!(json);
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
            let store = letters(stored).await;
            let (text, has_more) = listed(&store, true, limit).await;
            assert_eq!((text.lines().count(), has_more), (printed, more), "{stored} {limit}");
        }
    }
}
