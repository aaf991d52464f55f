//! The URL that a document is told to, and what of a document may stand in a URL or a header: every
//! value is encoded, so that it can't end the segment, the query or the line that it stands in.

use std::fmt::Write as _;

use reqwest::Url;

use crate::{
    rules::template::Template,
    target::{Placing, fill::fill_escaped},
};

/// Path and query of a document.
///
/// # Errors
/// Where a value is missing or empty, or would be a step to another folder.
pub(super) fn fill_path(
    template: &Template,
    rule: &str,
    placing: &Placing<'_>,
) -> Result<String, String> {
    let mut empty = false;
    let path = fill_escaped(template, rule, placing, |value, out| {
        empty |= value.is_empty();
        encode(value, is_unreserved, out);
    })?;
    if empty {
        return Err("a value in the URL is empty, and the URL would be another one's".to_owned());
    }
    let (folders, _) = path.split_once('?').unwrap_or((&path, ""));
    if folders.split('/').any(is_step) {
        return Err("a value in the URL is `.` or `..`, which leads to another folder".to_owned());
    }
    Ok(path)
}

/// A header's value from a template.
///
/// # Errors
/// Where a value is missing.
pub(super) fn fill_header(
    template: &Template,
    rule: &str,
    placing: &Placing<'_>,
) -> Result<String, String> {
    let filled = fill_escaped(template, rule, placing, escape_header)?;
    Ok(filled.trim().to_owned())
}

/// Appends a value to a header's.
pub(super) fn escape_header(value: &str, out: &mut String) {
    encode(value, |byte| is_in_header(byte) && byte != b'%', out);
}

/// A header's value that a script has set: only what no header can hold is encoded.
pub(super) fn header_value(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    encode(value, is_in_header, &mut out);
    out.trim().to_owned()
}

/// A URL that a script has set, as it is sent.
///
/// # Errors
/// Where it is none that a webhook can have.
pub(super) fn whole(url: &str) -> Result<String, String> {
    let parsed = Url::parse(url).map_err(|error| format!("`meta.url` is no URL: {error}"))?;
    if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
        return Err("`meta.url` has to begin with http:// or https://".to_owned());
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("`meta.url` can't hold a login: set a header".to_owned());
    }
    Ok(parsed.into())
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

/// `.` and `..`, also as URL parsers read them.
fn is_step(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
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
            meta: &Meta::default(),
        };
        read(&placing)
    }

    fn path(template: &str, value: &str) -> Result<String, String> {
        let template = Template::parse(template).expect("a template");
        with(&rawdoc! { "t": value }, |placing| fill_path(&template, "r", placing))
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
            let filled = with(&rawdoc! { "t": value }, |it| fill_header(&template, "r", it));
            assert_eq!(filled.as_deref(), Ok(expected), "{value:?}");
        }
        assert_eq!(header_value("a%0A\nb"), "a%0A%0Ab");
    }

    #[test]
    fn a_url_of_a_script_is_one_that_can_be_sent_to() {
        assert_eq!(whole("https://h/a b"), Ok("https://h/a%20b".to_owned()));
        for url in ["ftp://h/", "h/x", "https://u:p@h/", "https://u@h/", "mailto:a@b", ""] {
            let words = whole(url).expect_err(url);
            assert!(!words.contains("u:p"), "{words}");
        }
    }
}
