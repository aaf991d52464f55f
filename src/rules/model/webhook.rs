//! `webhook:`

use std::{fmt, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{Secret, Tls};
use crate::rules::template::{Part, Template};

/// `webhook:`
#[derive(Clone, Debug)]
pub struct Webhook {
    /// Where documents are told to.
    pub url: WebhookUrl,
    /// `POST`, `PUT` or `PATCH`.
    pub method: String,
    /// `headers:`, names in lower case and each once.
    pub headers: Vec<Header>,
    /// `secret:`; none where messages are not signed.
    pub secrets: Vec<SigningSecret>,
    /// What a message looks like.
    pub format: WebhookFormat,
    /// Certificates.
    pub tls: Tls,
    /// `json: extended` writes canonical Extended JSON.
    pub extended_json: bool,
}

/// `url:` of a webhook. No document chooses the host.
#[derive(Clone)]
pub struct WebhookUrl {
    /// Scheme, host and port: `https://example.com:8443`.
    pub origin: String,
    /// What follows: empty, or from the first `/` or `?` on; in no folder is it `.` or `..`.
    pub path: Template,
    /// Whether the path may be shown: it stands in the rule file as it is.
    pub shown: bool,
}

impl WebhookUrl {
    /// Whether the path is that of one document of a collection alone, so that a `DELETE` of it takes
    /// away no other: its `_id` is in it, told apart by type, and in that segment nothing else of a
    /// document. (`{key._id}` writes 1 and "1" alike; a query is no name of a thing.)
    pub fn is_of_one_document(&self) -> bool {
        // Of the segment.
        let (mut has_id, mut has_more) = (false, false);
        for part in self.path.parts() {
            match part {
                Part::Literal(text) => {
                    let (folders, query) = match text.split_once('?') {
                        Some((folders, _)) => (folders, true),
                        None => (text.as_str(), false),
                    };
                    if has_id && !has_more && (folders.contains('/') || query) {
                        return true;
                    }
                    if query {
                        return false;
                    }
                    if folders.contains('/') {
                        (has_id, has_more) = (false, false);
                    }
                }
                Part::Id | Part::TypedId => has_id = true,
                Part::Key(_) | Part::Field(_) => has_more = true,
                Part::Database | Part::Collection | Part::Rule | Part::Operation => {}
            }
        }
        has_id && !has_more
    }

    /// Whether this part stands in the path: what a query holds names no thing.
    pub fn names(&self, part: &Part) -> bool {
        let query = |part: &Part| matches!(part, Part::Literal(text) if text.contains('?'));
        self.path.parts().iter().take_while(|part| !query(part)).any(|it| it == part)
    }
}

/// Whether a segment of a path is `.` or `..`, which lead to another folder, also as those read them
/// who decode first.
pub fn is_step(segment: &str) -> bool {
    matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..")
}

/// As it may be shown: without the query, and without a path that came from a variable.
impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match self.shown {
            true => self.path.as_str().split('?').next().unwrap_or_default(),
            false => "/…",
        };
        write!(f, "{}{path}", self.origin)
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `headers:` that there may be, and as many again of a script: an endpoint takes no more.
pub const MOST_HEADERS: usize = 100;

/// One of `headers:`.
#[derive(Clone)]
pub struct Header {
    /// In lower case, one that a rule file may set.
    pub name: String,
    /// What of it is literal can stand in a header.
    pub value: Template,
    /// Whether it may be shown.
    pub shown: bool,
}

impl Header {
    /// Whether it is the same for every message.
    pub fn is_fixed(&self) -> bool {
        self.value.known(None, None).is_some()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, if self.shown { self.value.as_str() } else { "…" })
    }
}

/// Why a rule file or a script can't set a header of this name, in lower case.
pub fn header_fault(name: &str) -> Option<&'static str> {
    const HTTP: [&str; 9] = [
        "connection",
        "content-encoding",
        "content-length",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    match name {
        _ if reqwest::header::HeaderName::from_lowercase(name.as_bytes()).is_err() => {
            Some("it is no name of a header")
        }
        "webhook-id" | "webhook-timestamp" | "webhook-signature" => {
            Some("it is one that mongosync makes")
        }
        name if HTTP.contains(&name) => Some("it is a part of how HTTP works"),
        _ => None,
    }
}

/// `format:` of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookFormat {
    /// Type, time and data, as Standard Webhooks has it.
    Standard,
    /// CloudEvents 1.0 as structured JSON, with the same data.
    CloudEvents,
    /// The document alone.
    Document,
}

impl WebhookFormat {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::CloudEvents => "cloudevents",
            Self::Document => "document",
        }
    }
}

/// One of `secret:`, as Standard Webhooks has them: `whsec_` and a key in base64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SigningSecret {
    text: Secret,
    key: SecretKey,
}

#[derive(Clone, PartialEq, Eq)]
struct SecretKey(Arc<[u8]>);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Why a text is no signing secret; nothing of it is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SigningSecretError {
    /// It does not begin with `whsec_`.
    #[error("a signing secret begins with `whsec_`")]
    NoPrefix,
    /// What follows can't be decoded.
    #[error("what follows `whsec_` is not base64")]
    NotBase64,
    /// Too few bytes.
    #[error("its key has {0} bytes, and {shortest} at least are safe", shortest = SigningSecret::SHORTEST)]
    Short(usize),
}

impl SigningSecret {
    /// The specification's least, in bytes.
    const SHORTEST: usize = 24;

    /// Reads one.
    ///
    /// # Errors
    /// Where it is none, or a weak one.
    pub fn parse(text: &str) -> Result<Self, SigningSecretError> {
        let encoded = text.strip_prefix("whsec_").ok_or(SigningSecretError::NoPrefix)?;
        let key = BASE64_STANDARD.decode(encoded).map_err(|_| SigningSecretError::NotBase64)?;
        if key.len() < Self::SHORTEST {
            return Err(SigningSecretError::Short(key.len()));
        }
        Ok(Self { text: Secret::new(text), key: SecretKey(key.into()) })
    }

    /// What is signed with.
    pub fn key(&self) -> &[u8] {
        &self.key.0
    }

    /// As it is written, for the one place that keeps it out of what others say.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a `DELETE` can't take away the thing of another document.
    #[test]
    fn a_url_is_of_one_document_where_its_id_is_in_the_path() {
        for (path, expected) in [
            ("", false),
            ("/orders", false),
            ("/orders/{_id}", true),
            ("/orders/{_id:typed}", true),
            ("/{tenant}/orders/{_id}/parts?x=1", true),
            ("/{tenant}/{collection}-{_id}.json", true),
            ("/orders/{_id}?x={tenant}", true),
            ("/{_id}", true),
            // 1 and "1", and `a-1` of `b` and `1` of `b-a`.
            ("/orders/{key._id}", false),
            ("/orders/{tenant}-{_id}", false),
            ("/orders/{_id}{tenant}/x", false),
            ("/orders/{tenant}-{_id}/{_id}", true),
            // Several documents have one of each of these.
            ("/customers/{customer}/orders", false),
            ("/regions/{key.region}", false),
            ("/orders/{key._id.tenant}", false),
            ("/{db}/{collection}/{rule}", false),
            // What lies at the path is not what the query says.
            ("/orders?id={_id}", false),
            ("?id={_id}", false),
            ("/orders?x=1&id={key._id}", false),
        ] {
            let path = Template::parse(path).expect("a template");
            let url = WebhookUrl { origin: "https://h".to_owned(), path, shown: true };
            assert_eq!(url.is_of_one_document(), expected, "{url:?}");
        }
    }
}
