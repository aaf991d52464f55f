//! `mongosync dead-letters`: reads them from the checkpoint store, while a run goes on or not.

use std::io::{self, IsTerminal, Write};

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
        letters::{self, Pages, letters},
        records::{self, DeadLetterRecord},
        requests::Asked,
        store::{RecordKey, Store},
    },
    status::masked,
};

/// Read at a time: each may hold an event of 8 MiB.
const PAGE: usize = 16;

/// Runs the command.
///
/// # Errors
/// See [`Error`]. A reader of standard output that goes away is none.
pub async fn run(arguments: DeadLetterArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    let store = open_store(&rules).await?;
    match arguments.action {
        DeadLetterAction::List(list) => {
            let Listed { printed, more } =
                list_to(store.as_ref(), &list, &mut io::stdout().lock()).await?;
            if more {
                console.notice("there are more; --limit shows them");
            }
            // A program that reads sees it by itself.
            if printed == 0 && io::stdout().is_terminal() {
                console.notice("there are no dead letters");
            }
            Ok(())
        }
        DeadLetterAction::Show(ShowArguments { id }) => show(store.as_ref(), &id).await,
        DeadLetterAction::Retry(LettersArguments { ids, wait, .. }) => {
            known_letters(store.as_ref(), &ids).await?;
            let asked = Asked::RetryLetters { letters: ids };
            ask_and_wait(&store, &rules, asked, wait, console).await
        }
        DeadLetterAction::Purge(LettersArguments { ids, wait, .. }) => {
            known_letters(store.as_ref(), &ids).await?;
            let asked = Asked::PurgeLetters { letters: ids };
            ask_and_wait(&store, &rules, asked, wait, console).await
        }
    }
}

/// Prints one letter.
async fn show(store: &dyn Store, id: &str) -> Result<(), Error> {
    let mut pages = Pages::of(store);
    while let Some(page) = pages.next().await? {
        let Some(key) = page.iter().find(|key| letter_id(key) == id) else { continue };
        // It may have been settled meanwhile.
        let letter: Option<DeadLetterRecord> = records::load(store, key).await?;
        let Some(letter) = letter else { break };
        return match print(key, &letter, true, &mut io::stdout().lock()) {
            Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
                Err(Error::System { what: "can't write to standard output", source })
            }
            _ => Ok(()),
        };
    }
    Err(unknown(id))
}

/// Says which of the asked letters there are not.
///
/// # Errors
/// `Usage`, and those of the store.
async fn known_letters(store: &dyn Store, asked: &[String]) -> Result<(), Error> {
    let missing = letters::missing(store, asked.iter().map(String::as_str)).await?;
    missing.map_or(Ok(()), |id| Err(unknown(id)))
}

fn unknown(id: &str) -> Error {
    Error::Usage(format!(
        "there is no dead letter {id}\n  `mongosync dead-letters FILE list` shows their ids"
    ))
}

/// What became of a list.
pub(super) struct Listed {
    /// How many were printed.
    pub printed: u64,
    /// Whether there are more.
    pub more: bool,
}

/// Prints up to `limit` dead letters.
pub(super) async fn list_to(
    store: &dyn Store,
    list: &ListArguments,
    out: &mut impl Write,
) -> Result<Listed, Error> {
    let mut after: Option<RecordKey> = None;
    let mut left = usize::try_from(list.limit).unwrap_or(usize::MAX);
    let mut printed = 0;
    loop {
        let asked = left.min(PAGE);
        // One more than is printed tells whether there are more.
        let page = letters(store, after.as_ref(), asked + 1).await?;
        for (key, letter) in page.iter().take(asked) {
            match print(key, letter, list.json, out) {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    return Ok(Listed { printed: printed + 1, more: false });
                }
                Err(source) => {
                    return Err(Error::System { what: "can't write to standard output", source });
                }
                Ok(()) => printed += 1,
            }
        }
        left -= asked.min(page.len());
        if page.len() <= asked || left == 0 {
            return Ok(Listed { printed, more: page.len() > asked });
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
                deleted: false,
            };
            put(keys::dead_letter("search", "products", "shop.products", &n.to_be_bytes()), &letter)
        });
        store.write(writes.collect()).await.unwrap();
        store
    }

    async fn listed(store: &MemoryStore, json: bool, limit: u64) -> (String, bool) {
        let mut out = Vec::new();
        let listed = list_to(store, &ListArguments { json, limit }, &mut out).await.unwrap();
        (String::from_utf8(out).unwrap(), listed.more)
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
    async fn letters_that_are_not_there_are_told() {
        let store = letters(1_200).await;
        let (text, _) = listed(&store, true, 10_000).await;
        let ids: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|letter| letter["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids.len(), 1_200);
        assert!(known_letters(&store, &ids).await.is_ok());
        assert!(known_letters(&store, &[]).await.is_ok());
        let asked = [ids[0].clone(), "0123".to_owned()];
        let error = known_letters(&store, &asked).await.unwrap_err().render(false);
        assert!(error.starts_with("error: there is no dead letter 0123\n"), "{error}");
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
