//! What an endpoint's answers mean: the one table from a status to an outcome.
//!
//! Plain functions; nothing here sends, waits or remembers.

use std::time::Duration;

use super::unspeakable::Unspeakable;
use crate::target::{Outcome, Pressure, Retry, http::cut};

/// Words of an endpoint are cut here, in bytes.
const MAX_WORDS: usize = 500;
/// What an endpoint that takes a `DELETE` for an error has to be told.
const DELETED: &str = "to a DELETE of what is not there, an endpoint has to answer 2xx";

/// An HTTP answer, as far as it was read, and without what is secret.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, as a time from now.
    pub after: Option<Duration>,
    /// `Location`, without a login.
    pub location: Option<String>,
    /// What the body says, on one line.
    pub said: String,
}

/// What an endpoint says, on one line and without what is secret. `whole` is false of a body that was
/// not read to its end.
///
/// What is secret is left out before anything is cut or moved: half of it would not be found again.
pub(super) fn heard(body: &[u8], whole: bool, unspeakable: &Unspeakable) -> String {
    let text = String::from_utf8_lossy(body);
    let text = match whole {
        true => unspeakable.left_out(&text),
        false => unspeakable.left_out_of_part(&text),
    };
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // It may have been broken into lines.
    let text = unspeakable.left_out(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    cut(text, MAX_WORDS)
}

/// What an answer says of all that was sent in its request: one document (put or `delete`), or an array
/// of `several`.
///
/// A status that every request would get (a wrong password, a path that is not there) is a state of
/// the endpoint, and is waited for; only what says that this one is wrong refuses it. A `DELETE` is no
/// exception: an endpoint that is not there answers 404 to all of them.
pub(super) fn outcome(answer: &Answer, several: bool, delete: bool) -> Outcome {
    let (reason, pressure) = match (answer.status, several) {
        (200..300, _) => return Outcome::Applied,
        (300..400, _) => ("redirected", Pressure::Same),
        (401 | 403, _) => ("unauthorized", Pressure::Same),
        (404 | 410, _) => ("missing", Pressure::Same),
        (408, _) => ("timeout", Pressure::Same),
        (409, _) => ("blocked", Pressure::Same),
        (413, _) => ("too_large", Pressure::TooLarge),
        (425, _) => ("unavailable", Pressure::Same),
        (429, _) => ("throttled", Pressure::Less),
        // One of several may be to blame: they are sent in halves until it is alone.
        (400..500, true) => ("refused", Pressure::Split),
        (400..500, _) => return Outcome::Rejected(words(answer)),
        (500.., _) => ("unavailable", Pressure::Same),
        _ => ("unexpected", Pressure::Same),
    };
    let message = match answer.status {
        404 | 410 if delete => format!("{} ({DELETED})", words(answer)),
        _ => words(answer),
    };
    Outcome::Retry(Retry { reason, message, after: answer.after, pressure })
}

/// The status, and what the endpoint says about it.
pub(super) fn words(answer: &Answer) -> String {
    let status = answer.status;
    let text = match (&answer.location, status) {
        (Some(location), 300..400) => {
            format!("redirects to {location}, which is not followed: name that address as `url`")
        }
        _ => answer.said.clone(),
    };
    match (status, text.as_str()) {
        (410, "") => "HTTP 410: the endpoint wants no more of this".to_owned(),
        (_, "") => format!("HTTP {status}"),
        (_, text) => format!("HTTP {status}: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Answer {
        Answer { status, after: None, location: None, said: String::new() }
    }

    /// What becomes of one document and of an array, by status.
    #[test]
    fn each_status_has_its_meaning() {
        let retry = |reason, pressure| format!("{reason} {pressure:?}");
        let same = |reason| [(); 2].map(|()| retry(reason, Pressure::Same));
        let all = |word: &str| [(); 2].map(|()| word.to_owned());
        let refused = || ["rejected".to_owned(), retry("refused", Pressure::Split)];
        for (statuses, expected) in [
            (&[200_u16, 201, 202, 204, 299][..], all("applied")),
            (&[300, 301, 302, 304, 307, 308], same("redirected")),
            (&[401, 403], same("unauthorized")),
            // To a `DELETE` too, whatever endpoint answers them.
            (&[404, 410], same("missing")),
            (&[408], same("timeout")),
            (&[409], same("blocked")),
            (&[413], [(); 2].map(|()| retry("too_large", Pressure::TooLarge))),
            (&[425], same("unavailable")),
            (&[429], [(); 2].map(|()| retry("throttled", Pressure::Less))),
            (&[400, 402, 405, 406, 411, 415, 418, 422, 431, 451, 499], refused()),
            (&[500, 501, 502, 503, 504, 507, 599], same("unavailable")),
        ] {
            for &status in statuses {
                let found =
                    [false, true].map(|several| match outcome(&answer(status), several, false) {
                        Outcome::Applied => "applied".to_owned(),
                        Outcome::Superseded => "superseded".to_owned(),
                        Outcome::Rejected(_) => "rejected".to_owned(),
                        Outcome::Retry(it) => retry(it.reason, it.pressure),
                        other => format!("{other:?}"),
                    });
                assert_eq!(found, expected, "{status}");
            }
        }
    }

    #[test]
    fn an_endpoint_is_heard_in_its_own_words() {
        let nothing = Unspeakable::texts(Vec::new());
        let with = |status, body: &[u8]| {
            words(&Answer { said: heard(body, true, &nothing), ..answer(status) })
        };
        assert_eq!(with(400, b" no\r\n such\x07 field "), "HTTP 400: no such field");
        assert_eq!(with(400, b""), "HTTP 400");
        assert_eq!(with(410, b""), "HTTP 410: the endpoint wants no more of this");
        assert_eq!(with(422, &[0xff, b'x']), "HTTP 422: \u{fffd}x");
        let long = with(400, "ä".repeat(1000).as_bytes());
        assert!(long.len() < 600 && long.ends_with('…'), "{long}");
        let moved = Answer { location: Some("https://h/x/".into()), ..answer(301) };
        assert!(words(&moved).contains("https://h/x/, which is not followed"));
        // What a page says beside a location that is none of a redirect's counts.
        let made = Answer { location: Some("/1".into()), said: "bad".into(), ..answer(400) };
        assert_eq!(words(&made), "HTTP 400: bad");
    }

    /// Where the words are cut, where they were not read to the end, and over the end of a line.
    #[test]
    fn no_part_of_a_secret_is_heard() {
        let secret = "0123456789".repeat(10);
        let unspeakable = Unspeakable::texts(vec![secret.clone(), "one hunter2".to_owned()]);
        let shown = |body: &str, whole| heard(body.as_bytes(), whole, &unspeakable);
        let around = format!("{}{secret}", "x".repeat(MAX_WORDS - 50));
        assert_eq!(shown(&around, true), format!("{}…", "x".repeat(MAX_WORDS - 50)));
        assert_eq!(shown(&format!("no {}", &secret[..70]), false), "no");
        assert_eq!(shown("no one\n  hunter2, no", true), "no …, no");
    }

    #[test]
    fn who_has_nothing_to_delete_is_told_what_to_answer() {
        for (status, delete, told) in
            [(404, true, true), (410, true, true), (404, false, false), (503, true, false)]
        {
            let Outcome::Retry(retry) = outcome(&answer(status), false, delete) else {
                panic!("{status} passes")
            };
            assert_eq!(retry.message.contains("has to answer 2xx"), told, "{status} {delete}");
        }
    }

    #[test]
    fn the_pause_that_is_asked_for_is_kept() {
        let after = Some(Duration::from_secs(7));
        for status in [429, 503] {
            let Outcome::Retry(retry) = outcome(&Answer { after, ..answer(status) }, false, false)
            else {
                panic!("{status} passes")
            };
            assert_eq!(retry.after, after);
        }
    }
}
