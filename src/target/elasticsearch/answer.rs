//! What an engine's answers mean: the one table from status and kind of error to an outcome.
//!
//! Plain functions over a status and a body; nothing here sends, waits or remembers. What can pass
//! later is a retry, and a state of the engine (a closed or blocked index, a missing pipeline, a
//! wrong password) always is; only what is the document's own fault is rejected.

use std::{fmt, time::Duration};

use bytes::Bytes;
use serde::{
    Deserialize,
    de::{Deserializer, IgnoredAny, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::target::{Outcome, Pressure, Retry, http::cut};

/// Words are cut here, in bytes: an engine may quote a whole field.
const MAX_WORDS: usize = 2000;
/// The same for what is not an engine's error, such as a proxy's page.
const MAX_FOREIGN_WORDS: usize = 200;

/// The reason of an item whose index is not there, to be looked for (and made) before the next try.
pub(super) const MISSING: &str = "missing";

/// An HTTP answer, read to its end.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, as a time from now.
    pub after: Option<Duration>,
    /// `Location`, where there is one.
    pub location: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// Whether the request was carried out.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether it comes from a proxy whose node is away, or waits no longer for it, or from a node that is
    /// not part of its cluster.
    pub fn is_of_proxy(&self) -> bool {
        (502..=504).contains(&self.status)
    }

    /// The engine's own error, where the body is one.
    pub fn error(&self) -> Option<EngineError> {
        #[derive(Deserialize)]
        struct Refusal<'a> {
            #[serde(borrow)]
            error: &'a RawValue,
        }
        serde_json::from_slice::<Refusal<'_>>(&self.body)
            .ok()
            .map(|refusal| EngineError::from_json(refusal.error.get()))
    }
}

/// An error as engines write it: a kind, a reason, and what it was caused by.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub(super) struct EngineError {
    /// Such as `mapper_parsing_exception`; empty where there is none.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// In words.
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    caused_by: Option<Box<Self>>,
}

impl EngineError {
    fn from_json(json: &str) -> Self {
        serde_json::from_str(json).unwrap_or_else(|_| Self {
            kind: String::new(),
            reason: Some(json.trim_matches('"').to_owned()),
            caused_by: None,
        })
    }

    /// This error and those that it was caused by.
    fn chain(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |error| error.caused_by.as_deref())
    }

    fn says(&self, kind: &str, words: &str) -> bool {
        self.chain().any(|error| {
            error.kind == kind && error.reason.as_deref().is_some_and(|r| r.contains(words))
        })
    }
}

/// `type: reason; caused by type: reason`, cut where it is too long for a message.
impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = String::new();
        for error in self.chain() {
            if !words.is_empty() {
                words.push_str("; caused by ");
            }
            words.push_str(&error.kind);
            let reason = error.reason.as_deref().map_or("", without_source);
            if !error.kind.is_empty() && !reason.is_empty() {
                words.push_str(": ");
            }
            words.push_str(reason);
        }
        f.write_str(&cut(words, MAX_WORDS))
    }
}

/// The reason without what Elasticsearch 7 quotes after it: where JSON can't be read, that is the
/// request as it came over the wire, with its `Authorization` header.
fn without_source(reason: &str) -> &str {
    reason.split("\n at [Source:").next().unwrap_or_default()
}

/// What a bulk request's answer says of each of its items.
///
/// # Errors
/// Where the answer is about the request as a whole, or is not one that an engine gives.
pub(super) fn outcomes(answer: &Answer, items: usize) -> Result<Vec<Outcome>, Retry> {
    if answer.is_success() {
        return read_items(&answer.body, items);
    }
    match (answer.status, answer.error()) {
        // The engine could not take the request apart. Nobody knows which item is to blame: the
        // request is halved until the guilty one is alone, so that it neither holds up the rest for
        // ever nor takes them with it. (A 400 that is not an engine's own comes from something in
        // front of it and says nothing about any item.)
        (400, Some(error)) if items == 1 => Ok(vec![Outcome::Rejected(error.to_string())]),
        (400, Some(error)) => Err(Retry {
            reason: "unexpected",
            message: error.to_string(),
            after: None,
            pressure: Pressure::Split,
        }),
        _ => Err(refusal(answer)),
    }
}

/// Why a request as a whole was not carried out.
pub(super) fn refusal(answer: &Answer) -> Retry {
    let error = answer.error();
    let blocked = error.as_ref().is_some_and(|error| error.kind == "cluster_block_exception");
    let (reason, pressure) = match answer.status {
        300..=399 => ("redirected", Pressure::Same),
        403 | 429 if blocked => ("blocked", Pressure::Same),
        401 | 403 => ("unauthorized", Pressure::Same),
        408 => ("timeout", Pressure::Same),
        413 => ("too_large", Pressure::TooLarge),
        429 => ("throttled", Pressure::Less),
        500.. => ("unavailable", Pressure::Same),
        _ => ("unexpected", Pressure::Same),
    };
    let words = match (&answer.location, error) {
        (Some(location), _) if reason == "redirected" => {
            format!("redirects to {location}, which is not followed: name that address in `urls`")
        }
        (_, Some(error)) => error.to_string(),
        (_, None) => {
            let text = String::from_utf8_lossy(&answer.body);
            cut(text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_FOREIGN_WORDS)
        }
    };
    let message = match words.as_str() {
        "" => format!("HTTP {}", answer.status),
        words => format!("HTTP {}: {words}", answer.status),
    };
    Retry { reason, message, after: answer.after, pressure }
}

/// The answer to one item of a bulk request: its status, and the error as it was written.
struct Entry<'a> {
    status: u16,
    error: Option<&'a RawValue>,
}

/// An entry is `{"index": {…}}` or `{"delete": {…}}`; the name is of no interest.
impl<'de: 'a, 'a> Deserialize<'de> for Entry<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Inner<'a> {
            status: u16,
            #[serde(borrow, default)]
            error: Option<&'a RawValue>,
        }
        struct Outer;
        impl<'de> Visitor<'de> for Outer {
            type Value = Entry<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the answer to one item")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry<'de>, A::Error> {
                let none = || serde::de::Error::invalid_length(0, &self);
                let (_, inner) = map.next_entry::<IgnoredAny, Inner<'de>>()?.ok_or_else(none)?;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Entry { status: inner.status, error: inner.error })
            }
        }
        deserializer.deserialize_map(Outer)
    }
}

fn read_items(body: &[u8], items: usize) -> Result<Vec<Outcome>, Retry> {
    #[derive(Deserialize)]
    struct Items<'a> {
        #[serde(borrow, default)]
        items: Vec<Entry<'a>>,
    }
    let garbled =
        |message| Retry { reason: "garbled", message, after: None, pressure: Pressure::Same };
    let answer: Items<'_> = serde_json::from_slice(body)
        .map_err(|error| garbled(format!("the bulk answer can't be read: {error}")))?;
    if answer.items.len() != items {
        let count = answer.items.len();
        return Err(garbled(format!("the bulk answer has {count} items for {items} sent")));
    }
    let outcomes = answer.items.iter().map(|entry| match (entry.status, entry.error) {
        (200..300, None) => Outcome::Applied,
        (status, None) => outcome(status, None),
        (status, Some(error)) => outcome(status, Some(&EngineError::from_json(error.get()))),
    });
    Ok(outcomes.collect())
}

/// What one item's status and error mean.
pub(super) fn outcome(status: u16, error: Option<&EngineError>) -> Outcome {
    let kind = error.map_or("", |error| error.kind.as_str());
    let retry = |reason, pressure| {
        let message = error.map_or_else(|| format!("status {status}"), EngineError::to_string);
        Outcome::Retry(Retry { reason, message, after: None, pressure })
    };
    match (status, kind) {
        (200..300, _) => Outcome::Applied,
        // A removal of what is not there. With an error, it is something else that is missing.
        (404, _) if error.is_none() => Outcome::Superseded,
        (409, "" | "version_conflict_engine_exception") => Outcome::Superseded,
        // By kind, whatever the status: engines have changed some of these over time.
        (503, "cluster_block_exception") => retry("unavailable", Pressure::Same),
        (_, "index_not_found_exception") => retry(MISSING, Pressure::Same),
        (
            _,
            "cluster_block_exception"
            | "index_closed_exception"
            // The limit on open shards, met when an index is to be made.
            | "validation_exception",
        ) => retry("blocked", Pressure::Same),
        (_, "security_exception") | (401 | 403, _) => retry("unauthorized", Pressure::Same),
        (_, "circuit_breaking_exception") => retry("throttled", Pressure::Less),
        (_, kind) if kind.ends_with("rejected_execution_exception") => {
            retry("throttled", Pressure::Less)
        }
        (429, _) => retry("throttled", Pressure::Less),
        (413, _) => retry("too_large", Pressure::TooLarge),
        (408, _) => retry("timeout", Pressure::Same),
        (400, _) if error.is_some_and(is_missing_part) => retry("blocked", Pressure::Same),
        (400..500, _) => Outcome::Rejected(error.map_or_else(
            || format!("status {status}"),
            EngineError::to_string,
        )),
        (500, _) if error.is_some_and(is_document_fault) => {
            Outcome::Rejected(error.map(EngineError::to_string).unwrap_or_default())
        }
        (500.., _) => retry("unavailable", Pressure::Same),
        _ => retry("unexpected", Pressure::Same),
    }
}

/// A 400 that every document would get: something that the rule names is not there. Engines have no
/// kind of their own for these.
fn is_missing_part(error: &EngineError) -> bool {
    error.says("illegal_argument_exception", "pipeline with id [")
        && error.says("illegal_argument_exception", "does not exist")
        || error.says("illegal_argument_exception", "no write index is defined for alias")
}

/// A 500 that the same document would get again: an ingest pipeline or a mapper that threw. Other
/// 500s are disks, nodes and connections.
fn is_document_fault(error: &EngineError) -> bool {
    const KINDS: [&str; 12] = [
        "fail_processor_exception",
        "ingest_processor_exception",
        "script_exception",
        "class_cast_exception",
        "null_pointer_exception",
        "illegal_argument_exception",
        "index_out_of_bounds_exception",
        "array_index_out_of_bounds_exception",
        "string_index_out_of_bounds_exception",
        "number_format_exception",
        "arithmetic_exception",
        "date_time_exception",
    ];
    // An outage that is among the causes outweighs them: sending again is the safe side.
    const OUTAGES: [&str; 5] = [
        "i_o_exception",
        "already_closed_exception",
        "node_closed_exception",
        "node_not_connected_exception",
        "translog_exception",
    ];
    error.chain().any(|error| KINDS.contains(&error.kind.as_str()))
        && !error.chain().any(|error| OUTAGES.contains(&error.kind.as_str()))
}

#[cfg(test)]
mod tests;
