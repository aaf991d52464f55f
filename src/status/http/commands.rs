//! `POST /api/pause`, `/api/resume`, `/api/resync`: from a request to what is asked, and from what
//! became of it to an answer.
//!
//! Who carries it out is not known here: a program gives the server its [`Commands`].

use std::sync::Arc;

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use serde_json::json;

/// What a person asks of whoever holds the name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Stop writing to targets; to all where none are named.
    Pause {
        /// Their names.
        targets: Vec<String>,
    },
    /// Go on with targets that were paused; with all where none are named.
    Resume {
        /// Their names.
        targets: Vec<String>,
    },
    /// Copy rules again.
    Resync {
        /// Their names; at least one.
        rules: Vec<String>,
    },
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done, in words for a person.
    Done(String),
    /// It can't be done as things are, and why.
    Refused(String),
    /// Nobody has answered yet; it stays asked, and is done by whoever holds the name then.
    Pending(String),
    /// The rule file has no such target or rule.
    Unknown {
        /// What is wrong, for a person.
        words: String,
        /// `targets` or `rules`.
        kind: &'static str,
        /// The names that there are.
        known: Vec<String>,
    },
    /// It could not be asked, and why.
    Unavailable(String),
}

/// Passes on what is asked.
#[async_trait]
pub trait Commands: Send + Sync + 'static {
    /// Asks, and waits for the answer for some seconds. May be dropped at any moment: what was asked
    /// by then is carried out all the same.
    async fn carry_out(&self, asked: Asked) -> Outcome;
}

/// The last part of the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verb {
    Pause,
    Resume,
    Resync,
}

/// The routes, for a server that has somebody to pass things on to.
pub(super) fn router(commands: Arc<dyn Commands>) -> Router {
    let route = |verb| {
        post(
            move |State(commands): State<Arc<dyn Commands>>,
                  Query(query): Query<Vec<(String, String)>>,
                  headers: HeaderMap,
                  body: Bytes| async move {
                let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
                match asked(verb, query, kind, &body) {
                    Ok(asked) => answer(commands.carry_out(asked).await),
                    Err((code, words)) => (code, Json(json!({ "error": words }))).into_response(),
                }
            },
        )
    };
    Router::new()
        .route("/api/pause", route(Verb::Pause))
        .route("/api/resume", route(Verb::Resume))
        .route("/api/resync", route(Verb::Resync))
        .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY))
        .with_state(commands)
}

/// Names of rules and targets need no more.
const MAX_BODY: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(untagged)]
enum Names {
    One(String),
    Several(Vec<String>),
}

/// What is asked, by the query, by a JSON object, or by both.
fn asked(
    verb: Verb,
    query: Vec<(String, String)>,
    content_type: Option<&str>,
    body: &[u8],
) -> Result<Asked, (StatusCode, String)> {
    let (one, several) = match verb {
        Verb::Pause | Verb::Resume => ("target", "targets"),
        Verb::Resync => ("rule", "rules"),
    };
    let bad = |words: String| Err((StatusCode::BAD_REQUEST, words));
    let mut names = Vec::new();
    for (key, value) in query {
        if key != one && key != several {
            return bad(format!("`{key}` means nothing here: expected `{one}`"));
        }
        names.push(value);
    }
    if !body.is_empty() {
        let kind = content_type.map(|kind| kind.split(';').next().unwrap_or(kind).trim());
        if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
            let words = "a body has to be JSON, with `Content-Type: application/json`";
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, words.to_owned()));
        }
        let read: serde_json::Map<String, serde_json::Value> = match serde_json::from_slice(body) {
            Ok(read) => read,
            Err(error) => return bad(format!("the body is no JSON object: {error}")),
        };
        for (key, value) in read {
            if key != one && key != several {
                return bad(format!("`{key}` means nothing here: expected `{one}` or `{several}`"));
            }
            match serde_json::from_value(value) {
                Ok(Names::One(name)) => names.push(name),
                Ok(Names::Several(more)) => names.extend(more),
                Err(_) => return bad(format!("`{key}` has to be a name, or a list of names")),
            }
        }
    }
    Ok(match verb {
        Verb::Pause => Asked::Pause { targets: names },
        Verb::Resume => Asked::Resume { targets: names },
        Verb::Resync if names.is_empty() => {
            return bad("which rule is to be copied again? expected `rule` or `rules`".to_owned());
        }
        Verb::Resync => Asked::Resync { rules: names },
    })
}

fn answer(outcome: Outcome) -> Response {
    let (code, answer) = match outcome {
        Outcome::Done(words) => (StatusCode::OK, json!({ "outcome": "done", "answer": words })),
        Outcome::Pending(words) => {
            (StatusCode::ACCEPTED, json!({ "outcome": "pending", "answer": words }))
        }
        Outcome::Refused(words) => {
            (StatusCode::CONFLICT, json!({ "outcome": "refused", "answer": words }))
        }
        Outcome::Unknown { words, kind, known } => {
            (StatusCode::NOT_FOUND, json!({ "error": words, kind: known }))
        }
        Outcome::Unavailable(words) => (StatusCode::SERVICE_UNAVAILABLE, json!({ "error": words })),
    };
    (code, Json(answer)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_by_query_and_by_body() {
        use Verb::{Pause, Resume, Resync};
        let json = Some("application/json; charset=utf-8");
        let targets = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        type Query<'a> = &'a [(&'a str, &'a str)];
        type Row<'a> = (Verb, Query<'a>, Option<&'a str>, &'a str, Result<Asked, u16>);
        let rows: Vec<Row> = vec![
            (Pause, &[], None, "", Ok(Asked::Pause { targets: targets(&[]) })),
            (
                Pause,
                &[("target", "a"), ("target", "b")],
                None,
                "",
                Ok(Asked::Pause { targets: targets(&["a", "b"]) }),
            ),
            (
                Resume,
                &[],
                json,
                r#"{"target": "a"}"#,
                Ok(Asked::Resume { targets: targets(&["a"]) }),
            ),
            (
                Resume,
                &[("target", "b")],
                Some("Application/JSON"),
                r#"{"targets": ["a"]}"#,
                Ok(Asked::Resume { targets: targets(&["b", "a"]) }),
            ),
            (
                Resync,
                &[],
                json,
                r#"{"rules": ["r"]}"#,
                Ok(Asked::Resync { rules: targets(&["r"]) }),
            ),
            (Resync, &[], json, r#"{"rules": []}"#, Err(400)),
            (Resync, &[], None, "", Err(400)),
            // A slip must not come to "all of them".
            (Pause, &[("targt", "a")], None, "", Err(400)),
            (Pause, &[], json, r#"{"rules": ["a"]}"#, Err(400)),
            (Pause, &[], json, r#"{"target": 7}"#, Err(400)),
            (Pause, &[], json, r#"{"target": null}"#, Err(400)),
            (Pause, &[], json, r#"["a"]"#, Err(400)),
            (Pause, &[], json, "{", Err(400)),
            // What a form of another site can send.
            (Pause, &[], Some("text/plain"), r#"{"target": "a"}"#, Err(415)),
            (Pause, &[], None, r#"{"target": "a"}"#, Err(415)),
        ];
        for (verb, query, kind, body, expected) in rows {
            let pairs = query.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
            let found = asked(verb, pairs.collect(), kind, body.as_bytes());
            let found = found.map_err(|(code, _)| code.as_u16());
            assert_eq!(found, expected, "{verb:?} {query:?} {kind:?} {body}");
        }
    }
}
