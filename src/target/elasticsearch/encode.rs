//! One operation as lines of a bulk body, straight from raw BSON.
//!
//! What can be known to be refused is refused here, before anything is sent: an id that is over the
//! engines' limit makes 7.x refuse the whole request, and a name with a wildcard or a comma in it
//! would stand for other indices.

use bytes::Bytes;
use memchr::memmem;

use super::{event, place::EnginePlaceKey};
use crate::{
    change::ClusterTime,
    target::{
        Action,
        json::{Mode, Options, escape_into, write_document},
    },
};

/// Both engines' limit on `_id`, in bytes.
const MAX_ID: usize = 512;
/// Both engines' limit on the name of an index, in bytes.
pub(super) const MAX_INDEX: usize = 255;

/// What one operation says, beside what is written.
pub(super) struct Line<'a> {
    /// Where.
    pub place: EnginePlaceKey<'a>,
    /// The external version; of an event, its time.
    pub time: ClusterTime,
    /// The name of an ingest pipeline; empty for none.
    pub pipeline: &'a Bytes,
    /// Whether the index must be an alias: if it has been deleted, the engine then says so rather
    /// than making a plain index of that name.
    pub require_alias: bool,
}

/// Appends the action line and, for a put, the source line. After an error the body is as it was.
pub(super) fn write_lines(
    line: &Line<'_>,
    action: &Action,
    mode: Mode,
    body: &mut Vec<u8>,
) -> Result<(), String> {
    let start = body.len();
    let written = try_write_lines(line, action, mode, body);
    if written.is_err() {
        body.truncate(start);
    }
    written
}

/// A request in which nothing goes to indices any more whose names begin with `prefix` and go on with what
/// `is_gone`, and to `to` instead; `None` where nothing did.
pub(super) fn renamed(
    body: &[u8],
    prefix: &str,
    is_gone: impl Fn(&str) -> bool,
    to: &str,
) -> Option<Vec<u8>> {
    let named = |index: &str| {
        let mut named = b"{\"_index\":".to_vec();
        write_text(index, &mut named);
        named
    };
    let (mut from, to) = (named(prefix), named(to));
    // What follows belongs to the name.
    from.pop();
    memmem::find(body, &from)?;
    let names_gone = |line: &[u8]| {
        let rest = line.strip_prefix(from.as_slice())?;
        let end = rest.iter().position(|byte| *byte == b'"')?;
        str::from_utf8(&rest[..end]).is_ok_and(&is_gone).then_some(from.len() + end + 1)
    };
    let mut lines = body.split_inclusive(|byte| *byte == b'\n');
    let mut written = Vec::new();
    let mut kept = 0;
    let mut at = 0;
    while let Some(line) = lines.next() {
        let action = line.iter().position(|byte| *byte == b':').map_or(line, |end| &line[..=end]);
        if let Some(length) = names_gone(&line[action.len()..]) {
            let start = at + action.len();
            written.extend_from_slice(&body[kept..start]);
            written.extend_from_slice(&to);
            kept = start + length;
        }
        at += line.len();
        if action != b"{\"delete\":" {
            at += lines.next().unwrap_or_default().len();
        }
    }
    (kept > 0).then(|| {
        written.extend_from_slice(&body[kept..]);
        written
    })
}

fn try_write_lines(
    line: &Line<'_>,
    action: &Action,
    mode: Mode,
    body: &mut Vec<u8>,
) -> Result<(), String> {
    let EnginePlaceKey { index, id, routing } = line.place;
    refuse_id(id)?;
    refuse_index(index)?;
    let name = match action {
        Action::Put(_) => "index",
        Action::Remove => "delete",
        // A data stream takes nothing else, and what is there already is what was to be appended.
        Action::Append(_) => "create",
    };
    body.extend_from_slice(b"{\"");
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(b"\":{\"_index\":");
    write_text(index, body);
    body.extend_from_slice(b",\"_id\":");
    write_text(id, body);
    if let Some(routing) = routing {
        body.extend_from_slice(b",\"routing\":");
        write_text(routing, body);
    }
    if !matches!(action, Action::Remove) && !line.pipeline.is_empty() {
        let pipeline = str::from_utf8(line.pipeline)
            .map_err(|_| "the name of the ingest pipeline is not text".to_owned())?;
        body.extend_from_slice(b",\"pipeline\":");
        write_text(pipeline, body);
    }
    if line.require_alias {
        body.extend_from_slice(b",\"require_alias\":true");
    }
    if let Action::Append(_) = action {
        body.extend_from_slice(b"}}\n");
    } else {
        body.extend_from_slice(b",\"version\":");
        body.extend_from_slice(itoa::Buffer::new().format(line.time.version()).as_bytes());
        body.extend_from_slice(b",\"version_type\":\"external_gte\"}}\n");
    }
    match action {
        Action::Put(document) => {
            write_document(document.raw(), Options { mode, skip_id: true }, body)
                .map_err(|error| error.to_string())?;
        }
        Action::Append(told) => event::write(told, line.time, mode, body)?,
        Action::Remove => return Ok(()),
    }
    body.push(b'\n');
    Ok(())
}

pub(super) fn write_text(text: &str, body: &mut Vec<u8>) {
    body.push(b'"');
    escape_into(text, body);
    body.push(b'"');
}

fn refuse_id(id: &str) -> Result<(), String> {
    match id.len() {
        0 => Err("the document's id in the engine is empty".to_owned()),
        1..=MAX_ID => Ok(()),
        length => Err(format!(
            "the document's id in the engine has {length} bytes, the engine takes {MAX_ID} at most"
        )),
    }
}

/// The engines' rules for names, which are the same for both.
fn refuse_index(index: &str) -> Result<(), String> {
    let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    if (1..=MAX_INDEX).contains(&index.len())
        && index.as_bytes()[0].is_ascii_alphanumeric()
        && index.bytes().all(plain)
    {
        return Ok(());
    }
    let forbidden = |character: char| {
        character.is_uppercase()
            || matches!(
                character,
                '\\' | '/' | '*' | '?' | '"' | '<' | '>' | '|' | ' ' | ',' | '#' | ':'
            )
    };
    let why = if index.is_empty() {
        "it is empty".to_owned()
    } else if index.len() > MAX_INDEX {
        format!("it has {} bytes, the engine takes {MAX_INDEX} at most", index.len())
    } else if index.starts_with(['-', '_', '+']) || index == "." || index == ".." {
        "it starts with `-`, `_` or `+`, or is `.` or `..`".to_owned()
    } else if let Some(character) = index.chars().find(|&character| forbidden(character)) {
        format!(
            "it holds {character:?}, and may hold neither capitals nor \\ / * ? \" < > | space , # :"
        )
    } else {
        return Ok(());
    };
    Err(format!("{index:?} can't be the name of an index: {why}"))
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;
    use rstest::rstest;

    use super::*;
    use crate::change::Document;

    fn line<'a>(index: &'a str, id: &'a str, pipeline: &'a Bytes) -> Line<'a> {
        Line {
            place: EnginePlaceKey { index, id, routing: None },
            time: ClusterTime(7_710_508_021_874_655_233),
            pipeline,
            require_alias: false,
        }
    }

    fn put() -> Action {
        Action::Put(Document::from(rawdoc! { "_id": 1, "name": "a\nb", "ratio": f64::NAN }))
    }

    #[test]
    fn writes_a_put() {
        let mut body = Vec::new();
        let none = Bytes::new();
        write_lines(&line("shop-products", "1", &none), &put(), Mode::Plain, &mut body).unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"index\":{\"_index\":\"shop-products\",\"_id\":\"1\",\
             \"version\":7710508021874655233,\"version_type\":\"external_gte\"}}\n\
             {\"name\":\"a\\nb\",\"ratio\":null}\n"
        );
    }

    /// Documents may hold anything.
    #[test]
    fn a_request_is_renamed_in_its_action_lines_alone() {
        let none = Bytes::new();
        let action = rawdoc! { "index": { "_index": "filled-a", "_id": "1" } };
        let written = |index: &str| {
            let mut body = Vec::new();
            for (index, action) in [
                (index, Action::Remove),
                (index, Action::Put(Document::from(action.clone()))),
                ("filled-ab", Action::Put(Document::from(action.clone()))),
                ("filled-", Action::Remove),
                ("filled", Action::Remove),
                (index, put()),
                ("filled-ab", put()),
            ] {
                write_lines(&line(index, "1", &none), &action, Mode::Plain, &mut body).unwrap();
            }
            String::from_utf8(body).unwrap()
        };
        for gone in ["filled-a", "filled-b"] {
            let is_gone = |rest: &str| ["a", "b"].contains(&rest);
            let renamed = renamed(written(gone).as_bytes(), "filled-", is_gone, "read").unwrap();
            assert_eq!(String::from_utf8(renamed).unwrap(), written("read"));
        }
        for (body, gone) in [("filled-a", "b"), ("read", "a"), ("read-a", "a")] {
            let body = written(body);
            assert_eq!(renamed(body.as_bytes(), "filled-", |rest| rest == gone, "read"), None);
        }
    }

    #[test]
    fn writes_what_else_a_put_may_say() {
        let mut body = Vec::new();
        let pipeline = Bytes::from_static(b"clean \"up\"");
        let mut line = line("products", "a\"b", &pipeline);
        line.place.routing = Some("eu");
        line.require_alias = true;
        write_lines(&line, &put(), Mode::Plain, &mut body).unwrap();
        assert_eq!(
            str::from_utf8(&body).unwrap().lines().next().unwrap(),
            "{\"index\":{\"_index\":\"products\",\"_id\":\"a\\\"b\",\"routing\":\"eu\",\
             \"pipeline\":\"clean \\\"up\\\"\",\"require_alias\":true,\
             \"version\":7710508021874655233,\"version_type\":\"external_gte\"}}"
        );
    }

    #[test]
    fn an_event_is_appended_and_never_written_over() {
        use crate::{
            change::{
                DocumentKey, Namespace,
                event::{Happened, Op},
            },
            target::Appended,
        };
        let event = Happened {
            id: "e1".into(),
            op: Op::Update,
            copy: false,
            raw: None,
            document: None,
            before: Some(rawdoc! { "_id": 1, "n": 1 }.into()),
            updated: Some(rawdoc! { "n": 2 }.into()),
            removed: vec!["a.b".to_owned()],
            truncated: Vec::new(),
            lacks: None,
        };
        let told = Action::Append(Box::new(Appended {
            id: "e1".to_owned(),
            namespace: Namespace::new("shop", "orders"),
            key: DocumentKey::from_document_key(&rawdoc! { "_id": 1 }).unwrap(),
            document_id: "1".to_owned(),
            wall_time: Some(bson::DateTime::from_millis(1_795_227_029_007)),
            event: event.into(),
            document: None,
        }));
        let mut body = Vec::new();
        let none = Bytes::new();
        write_lines(&line("log", "e1", &none), &told, Mode::Plain, &mut body).unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"create\":{\"_index\":\"log\",\"_id\":\"e1\"}}\n\
             {\"@timestamp\":\"2026-11-21T02:10:29.007Z\",\"op\":\"update\",\"ns\":\"shop.orders\",\
             \"id\":\"1\",\"cluster_time\":\"1795242545.2711846913\",\"copy\":false,\"document\":null,\
             \"before\":{\"n\":1},\"updated\":{\"n\":2},\"removed\":[\"a.b\"],\"truncated\":[]}\n"
        );
    }

    #[test]
    fn a_removal_has_no_source_and_no_pipeline() {
        let mut body = Vec::new();
        let pipeline = Bytes::from_static(b"clean");
        write_lines(&line("products", "1", &pipeline), &Action::Remove, Mode::Plain, &mut body)
            .unwrap();
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "{\"delete\":{\"_index\":\"products\",\"_id\":\"1\",\
             \"version\":7710508021874655233,\"version_type\":\"external_gte\"}}\n"
        );
    }

    #[rstest]
    #[case::empty_id("products", "", "is empty")]
    #[case::long_id("products", &"x".repeat(513), "has 513 bytes, the engine takes 512 at most")]
    #[case::long_id_in_bytes("products", &"ä".repeat(257), "has 514 bytes")]
    #[case::empty("", "1", "it is empty")]
    #[case::capital("Products", "1", "it holds 'P'")]
    #[case::wildcard("products*", "1", "it holds '*'")]
    #[case::two("a,b", "1", "it holds ','")]
    #[case::remote("a:b", "1", "it holds ':'")]
    #[case::date_math("<a-{now}>", "1", "it holds '<'")]
    #[case::minus("-a", "1", "starts with")]
    #[case::all("_all", "1", "starts with")]
    #[case::dots("..", "1", "starts with")]
    #[case::long_name(&"x".repeat(256), "1", "it has 256 bytes")]
    fn refuses(#[case] index: &str, #[case] id: &str, #[case] why: &str) {
        let mut body = b"before".to_vec();
        let none = Bytes::new();
        let error =
            write_lines(&line(index, id, &none), &put(), Mode::Plain, &mut body).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert_eq!(body, b"before");
    }

    #[rstest]
    #[case(&"x".repeat(255), &"x".repeat(512))]
    #[case(".hidden", " ")]
    #[case("ünï-ç_ode+", "\u{0}")]
    fn takes(#[case] index: &str, #[case] id: &str) {
        let none = Bytes::new();
        let mut body = Vec::new();
        write_lines(&line(index, id, &none), &put(), Mode::Plain, &mut body).unwrap();
    }

    #[test]
    fn a_broken_document_leaves_the_body_as_it_was() {
        let mut bytes = rawdoc! { "a": "b" }.into_bytes();
        bytes[4] = 0x7e;
        let broken = Action::Put(Document::from_bytes(bytes.into()).unwrap());
        let mut body = b"before".to_vec();
        let none = Bytes::new();
        write_lines(&line("a", "1", &none), &broken, Mode::Plain, &mut body).unwrap_err();
        assert_eq!(body, b"before");
    }
}
