//! The URL that a document is told to, and what of a document may stand in a URL or a header: every
//! value is encoded, so that it can't end the segment, the query or the line that it stands in.

use std::{collections::BTreeMap, fmt::Write as _};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use crate::{
    rules::{
        model::{WebhookUrl, is_step},
        template::{Part, Template},
    },
    target::{
        Placing,
        fill::{fill_escaped, filled},
    },
};

/// A longer URL or header is none that servers take, in bytes as it is sent.
const LONGEST: usize = 16 << 10;

/// What is told of a document, and where, as far as that is its own: whatever else stands in the URL
/// is the rule file's, and may change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Address {
    /// A whole URL that a script chose.
    Whole(String),
    /// What fills the rule file's `url`, by the names that templates have for it.
    Filled(BTreeMap<String, String>),
}

impl Address {
    /// What of a document the template asks for.
    ///
    /// # Errors
    /// Where a value is missing.
    pub fn of(template: &Template, rule: &str, placing: &Placing<'_>) -> Result<Self, String> {
        let mut values = BTreeMap::new();
        for part in template.parts() {
            if let Some(name) = name(part) {
                let value = filled(part, rule, placing)
                    .map_err(|missing| format!("{missing}, and `url` is made from it"))?;
                values.insert(name, value.into_owned());
            }
        }
        Ok(Self::Filled(values))
    }

    /// A URL that a script has set, as it is sent.
    ///
    /// # Errors
    /// Where it is none that a webhook can have.
    pub fn whole(url: &str) -> Result<Self, String> {
        let parsed = Url::parse(url).map_err(|error| format!("`meta.url` is no URL: {error}"))?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err("`meta.url` has to begin with http:// or https://".to_owned());
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err("`meta.url` can't hold a login: set a header".to_owned());
        }
        not_too_long(parsed.as_str())?;
        Ok(Self::Whole(parsed.into()))
    }

    /// The URL that is sent to. `id` is the document's default id: a place may have been made before
    /// `url` asked for it.
    ///
    /// # Errors
    /// Where a value is missing or empty, would be a step to another folder, or makes the URL too long.
    pub fn url(
        &self,
        url: &WebhookUrl,
        rule: &str,
        (namespace, id): (&str, &str),
    ) -> Result<String, String> {
        let values = match self {
            Self::Whole(url) => return Ok(url.clone()),
            Self::Filled(values) => values,
        };
        let (database, collection) = namespace.split_once('.').unwrap_or((namespace, ""));
        let mut path = String::new();
        for part in url.path.parts() {
            let value = match part {
                Part::Literal(text) => {
                    path.push_str(text);
                    continue;
                }
                Part::Database => database,
                Part::Collection => collection,
                Part::Rule => rule,
                Part::Id => values.get("_id").map_or(id, String::as_str),
                part => {
                    let asked = name(part).unwrap_or_default();
                    values.get(&asked).map(String::as_str).ok_or_else(|| {
                        format!(
                            "what is known of where this lies has no {asked}, which `url` asks for"
                        )
                    })?
                }
            };
            if value.is_empty() {
                let words = "a value in the URL is empty, and the URL would be another one's";
                return Err(words.to_owned());
            }
            encode(value, is_unreserved, &mut path);
        }
        let (folders, _) = path.split_once('?').unwrap_or((&path, ""));
        if folders.split('/').any(is_step) {
            let words = "a value in the URL is `.` or `..`, which leads to another folder";
            return Err(words.to_owned());
        }
        let whole = format!("{}{path}", url.origin);
        not_too_long(&whole)?;
        Ok(whole)
    }

    /// Whether it is at another host than the rule file's URL, scheme and port included.
    pub fn is_foreign(&self, url: &WebhookUrl) -> bool {
        match self {
            Self::Whole(whole) => origin(whole) != url.origin,
            Self::Filled(_) => false,
        }
    }

    /// What of it may be another one when the document is.
    pub fn moving(&self) -> impl Iterator<Item = (&str, &str)> {
        let (whole, values) = match self {
            Self::Whole(url) => (Some(("", url.as_str())), None),
            Self::Filled(values) => (None, Some(values)),
        };
        let of_key = |name: &str| matches!(name, "_id" | "_id:typed") || name.starts_with("key.");
        let fields = values.into_iter().flatten().map(|(name, value)| (&**name, &**value));
        whole.into_iter().chain(fields.filter(move |(name, _)| !of_key(name)))
    }
}

/// Scheme, host and port: what of any URL may be shown.
pub(super) fn origin(url: &str) -> String {
    Url::parse(url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization())
}

/// What templates call a part that follows from the document or its key; none of the others.
fn name(part: &Part) -> Option<String> {
    match part {
        Part::Id => Some("_id".to_owned()),
        Part::TypedId => Some("_id:typed".to_owned()),
        Part::Key(path) => Some(format!("key.{}", path.join("."))),
        Part::Field(path) => Some(path.join(".")),
        Part::Literal(_) | Part::Database | Part::Collection | Part::Rule | Part::Operation => None,
    }
}

fn not_too_long(url: &str) -> Result<(), String> {
    match url.len() {
        length if length > LONGEST => {
            Err(format!("the URL has {length} bytes, and servers take {LONGEST} at the most"))
        }
        _ => Ok(()),
    }
}

/// A header's value from its template.
///
/// # Errors
/// Where a value is missing, or makes it longer than servers take.
pub(super) fn fill_header(
    (name, template): (&str, &Template),
    rule: &str,
    placing: &Placing<'_>,
) -> Result<String, String> {
    let filled = fill_escaped(template, rule, placing, escape_header)
        .map_err(|missing| format!("{missing}, and the header `{name}` is made from it"))?;
    header_of(&filled)
}

fn header_of(encoded: &str) -> Result<String, String> {
    match encoded.trim() {
        long if long.len() > LONGEST => Err(format!(
            "a header's value has {} bytes, and servers take {LONGEST} at the most",
            long.len()
        )),
        value => Ok(value.to_owned()),
    }
}

/// Appends a value to a header's.
pub(super) fn escape_header(value: &str, out: &mut String) {
    encode(value, |byte| is_in_header(byte) && byte != b'%', out);
}

/// A header's value that a script has set: only what no header can hold is encoded.
///
/// # Errors
/// Where it is longer than servers take.
pub(super) fn header_value(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    encode(value, is_in_header, &mut out);
    header_of(&out)
}

/// Text as one segment of a path: `/`, `?`, `#`, `%` and whatever else means something are encoded.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    encode(text, is_unreserved, &mut out);
    out
}

fn encode(value: &str, stays: impl Fn(u8) -> bool, out: &mut String) {
    for byte in value.bytes() {
        if stays(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a text takes all that is written");
        }
    }
}

/// What RFC 3986 gives no meaning to.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn is_in_header(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::{
        change::{DocumentKey, Namespace},
        transform::Meta,
    };

    fn with<T>(document: &RawDocumentBuf, read: impl FnOnce(&Placing<'_>) -> T) -> T {
        let key = DocumentKey::from_document_key(&rawdoc! { "_id": "a/b" }).expect("a key");
        let placing = Placing {
            namespace: &Namespace::new("shop", "or?ders"),
            key: &key,
            id: "a/b",
            op: "put",
            document: Some(document),
            event: None,
            meta: &Meta::default(),
        };
        read(&placing)
    }

    fn url_of(path: &str) -> WebhookUrl {
        let path = Template::parse(path).expect("a template");
        WebhookUrl { origin: "https://host:8443".to_owned(), path, shown: true }
    }

    /// Path and query.
    fn path(template: &str, value: &str) -> Result<String, String> {
        let url = url_of(template);
        let document = rawdoc! { "t": value };
        let address = with(&document, |placing| Address::of(&url.path, "r", placing))?;
        let filled = address.url(&url, "r", ("shop.or?ders", "a/b"))?;
        Ok(filled.strip_prefix("https://host:8443").expect("the host").to_owned())
    }

    /// Whatever a document holds, the URL has the segments, the query and the host of its template.
    #[test]
    fn a_document_does_not_break_out_of_a_url() {
        for value in [
            "plain",
            "/",
            "?",
            "#",
            "%",
            "%2f",
            "%2e%2e",
            "a/../b",
            "a\r\nHost: x",
            "ü€😀",
            "\\",
            "a b\tc",
            "@evil",
            "//evil",
            "&x=1",
            "+",
            ";",
            "=",
            "a:b",
            "\u{0}",
            "...",
        ] {
            let filled = path("/hooks/{t}/in?tenant={t}&x=1", value).expect(value);
            let url = Url::parse(&format!("https://host:8443{filled}")).expect("a URL");
            assert_eq!(url.origin().ascii_serialization(), "https://host:8443", "{value:?}");
            let segments: Vec<_> = url.path_segments().expect("a path").collect();
            assert_eq!((segments.len(), segments[0], segments[2]), (3, "hooks", "in"), "{value:?}");
            let query: Vec<_> = url.query_pairs().collect();
            assert_eq!(query.len(), 2, "{value:?}");
            assert_eq!(query[0], ("tenant".into(), value.into()));
            assert_eq!(url.fragment(), None);
            // What is parsed is what was written: nothing is taken out or added on the way.
            assert_eq!(url.as_str(), format!("https://host:8443{filled}"));
        }
    }

    #[test]
    fn a_value_that_leads_elsewhere_is_refused() {
        for (template, value) in [
            ("/a/{t}", ".."),
            ("/a/{t}/b", "."),
            ("/a/.{t}", "."),
            ("/a/%2E{t}?x", "."),
            ("/{t}", ""),
        ] {
            assert!(path(template, value).is_err(), "{template} {value:?}");
        }
        assert_eq!(path("/a?t={t}", ".."), Ok("/a?t=..".to_owned()));
    }

    #[test]
    fn every_part_is_encoded() {
        let filled = path("/{db}/{collection}/{_id}/{t}", "x");
        assert_eq!(filled, Ok("/shop/or%3Fders/a%2Fb/x".to_owned()));
    }

    #[test]
    fn a_document_does_not_break_out_of_a_header() {
        let template = Template::parse("tenant {t}").expect("a template");
        for (value, expected) in [
            ("a, b; c", "tenant a, b; c"),
            ("a\r\nX-Admin: yes", "tenant a%0D%0AX-Admin: yes"),
            ("50%", "tenant 50%25"),
            ("ü", "tenant %C3%BC"),
            ("\u{0}\u{7f}", "tenant %00%7F"),
            (" ", "tenant"),
        ] {
            let filled =
                with(&rawdoc! { "t": value }, |it| fill_header(("x-t", &template), "r", it));
            assert_eq!(filled.as_deref(), Ok(expected), "{value:?}");
        }
        assert_eq!(header_value("a%0A\nb").as_deref(), Ok("a%0A%0Ab"));
        assert!(header_value(&"x".repeat(16 << 10)).is_ok());
        let long = "ü".repeat(3_000);
        assert!(header_value(&long).expect_err("too long").contains("servers take 16384"));
        let of_document =
            with(&rawdoc! { "t": long }, |it| fill_header(("x-t", &template), "r", it));
        assert!(of_document.expect_err("too long").contains("18007 bytes"));
    }

    #[test]
    fn a_url_of_a_script_is_one_that_can_be_sent_to() {
        let whole = Address::whole("https://h/a b");
        assert_eq!(whole, Ok(Address::Whole("https://h/a%20b".to_owned())));
        let long = format!("https://h/{}", "ü".repeat(3_000));
        for url in ["ftp://h/", "h/x", "https://u:p@h/", "https://u@h/", "mailto:a@b", "", &long] {
            let words = Address::whole(url).expect_err(url);
            assert!(!words.contains("u:p") && words.len() < 100, "{words}");
        }
    }

    #[test]
    fn a_url_that_no_server_takes_is_refused() {
        assert!(path("/{t}", &"x".repeat(16_000)).is_ok());
        for value in ["x".repeat(17_000), "ü".repeat(3_000)] {
            let words = path("/a?t={t}", &value).expect_err("it is too long");
            assert!(words.contains("servers take 16384"), "{words}");
        }
    }

    /// What is remembered of a document is its own; the rest is as the rule file says today.
    #[test]
    fn an_address_follows_the_rule_file() {
        let document = rawdoc! { "t": "a b", "u": 7 };
        let old = url_of("/SECRET/{rule}/{t}/{_id}");
        let address = with(&document, |it| Address::of(&old.path, "r", it)).expect("an address");
        let kept = serde_json::to_string(&address).expect("JSON");
        assert_eq!(kept, r#"{"_id":"a/b","t":"a b"}"#);
        for (path, expected) in [
            ("/SECRET/{rule}/{t}/{_id}", Ok("https://host:8443/SECRET/r/a%20b/a%2Fb")),
            ("/new/{_id}?t={t}", Ok("https://host:8443/new/a%2Fb?t=a%20b")),
            ("/{collection}", Ok("https://host:8443/or%3Fders")),
            ("/{t}/{u}", Err("what is known of where this lies has no u, which `url` asks for")),
        ] {
            let url = address.url(&url_of(path), "r", ("shop.or?ders", "a/b"));
            assert_eq!(url.as_deref(), expected.map_err(str::to_owned).as_deref(), "{path}");
        }
    }

    #[test]
    fn another_port_or_scheme_is_another_host() {
        let url = WebhookUrl { origin: "https://h".to_owned(), ..url_of("/x") };
        for (whole, foreign) in [
            ("https://h/y", false),
            ("https://H:443/", false),
            ("http://h/x", true),
            ("https://h:8443/x", true),
            ("https://h.evil/x", true),
        ] {
            let address = Address::whole(whole).expect("a URL");
            assert_eq!(address.is_foreign(&url), foreign, "{whole}");
        }
    }

    #[test]
    fn what_moves_is_what_follows_from_the_document() {
        let document = rawdoc! { "t": "a", "key": "b", "_idx": 1 };
        let url = url_of("/{_id}/{_id:typed}/{key._id}/{t}/{key}/{_idx}");
        let address = with(&document, |it| Address::of(&url.path, "r", it)).expect("an address");
        assert_eq!(address.moving().collect::<Vec<_>>(), [("_idx", "1"), ("key", "b"), ("t", "a")]);
    }
}
