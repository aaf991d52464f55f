//! What an endpoint's answers mean: the one table from a status to an outcome.
//!
//! Plain functions; nothing here sends, waits or remembers.

use std::time::Duration;

use crate::target::{Outcome, Pressure, Retry, http::cut};

/// Words of an endpoint are cut here, in bytes.
const MAX_WORDS: usize = 500;

/// An HTTP answer, as far as it was read.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, as a time from now.
    pub after: Option<Duration>,
    /// `Location`, without a login.
    pub location: Option<String>,
    /// The beginning of the body.
    pub body: Vec<u8>,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sent {
    /// One document.
    One,
    /// `DELETE` of one document.
    Delete,
    /// An array of several.
    Array,
}

/// What an answer says of all that was sent in its request.
///
/// A status that every request would get (a wrong password, a path that is not there) is a state of
/// the endpoint, and is waited for; only what says that this one is wrong refuses it.
pub(super) fn outcome(answer: &Answer, sent: Sent) -> Outcome {
    let (reason, pressure) = match (answer.status, sent) {
        (200..300, _) => return Outcome::Applied,
        // It is gone already.
        (404 | 410, Sent::Delete) => return Outcome::Superseded,
        (300..400, _) => ("redirected", Pressure::Same),
        (401 | 403, _) => ("unauthorized", Pressure::Same),
        (404 | 410, _) => ("missing", Pressure::Same),
        (408, _) => ("timeout", Pressure::Same),
        (409, _) => ("blocked", Pressure::Same),
        (413, _) => ("too_large", Pressure::TooLarge),
        (425, _) => ("unavailable", Pressure::Same),
        (429, _) => ("throttled", Pressure::Less),
        // One of several may be to blame: they are sent in halves until it is alone.
        (400..500, Sent::Array) => ("refused", Pressure::Split),
        (400..500, _) => return Outcome::Rejected(words(answer)),
        (500.., _) => ("unavailable", Pressure::Same),
        _ => ("unexpected", Pressure::Same),
    };
    Outcome::Retry(Retry { reason, message: words(answer), after: answer.after, pressure })
}

/// The status, and what the endpoint says about it.
pub(super) fn words(answer: &Answer) -> String {
    let status = answer.status;
    let text = match (&answer.location, status) {
        (Some(location), 300..400) => {
            format!("redirects to {location}, which is not followed: name that address as `url`")
        }
        _ => {
            let text = String::from_utf8_lossy(&answer.body);
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            cut(text.split_whitespace().collect::<Vec<_>>().join(" "), MAX_WORDS)
        }
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
        Answer { status, after: None, location: None, body: Vec::new() }
    }

    /// What becomes of one document, of a `DELETE` and of an array, by status.
    #[test]
    fn each_status_has_its_meaning() {
        let retry = |reason, pressure| format!("{reason} {pressure:?}");
        let same = |reason| [(); 3].map(|()| retry(reason, Pressure::Same));
        let all = |word: &str| [(); 3].map(|()| word.to_owned());
        let gone = |reason| {
            let waits = retry(reason, Pressure::Same);
            [waits.clone(), "superseded".to_owned(), waits]
        };
        let refused = || {
            let alone = "rejected".to_owned();
            [alone.clone(), alone, retry("refused", Pressure::Split)]
        };
        for (statuses, expected) in [
            (&[200_u16, 201, 202, 204, 299][..], all("applied")),
            (&[300, 301, 302, 304, 307, 308], same("redirected")),
            (&[401, 403], same("unauthorized")),
            (&[404, 410], gone("missing")),
            (&[408], same("timeout")),
            (&[409], same("blocked")),
            (&[413], [(); 3].map(|()| retry("too_large", Pressure::TooLarge))),
            (&[425], same("unavailable")),
            (&[429], [(); 3].map(|()| retry("throttled", Pressure::Less))),
            (&[400, 402, 405, 406, 411, 415, 418, 422, 431, 451, 499], refused()),
            (&[500, 501, 502, 503, 504, 507, 599], same("unavailable")),
        ] {
            for &status in statuses {
                let found = [Sent::One, Sent::Delete, Sent::Array].map(|sent| {
                    match outcome(&answer(status), sent) {
                        Outcome::Applied => "applied".to_owned(),
                        Outcome::Superseded => "superseded".to_owned(),
                        Outcome::Rejected(_) => "rejected".to_owned(),
                        Outcome::Retry(it) => retry(it.reason, it.pressure),
                    }
                });
                assert_eq!(found, expected, "{status}");
            }
        }
    }

    #[test]
    fn an_endpoint_is_heard_in_its_own_words() {
        let with = |status, body: &[u8]| words(&Answer { body: body.into(), ..answer(status) });
        assert_eq!(with(400, b" no\r\n such\x07 field "), "HTTP 400: no such field");
        assert_eq!(with(400, b""), "HTTP 400");
        assert_eq!(with(410, b""), "HTTP 410: the endpoint wants no more of this");
        assert_eq!(with(422, &[0xff, b'x']), "HTTP 422: \u{fffd}x");
        let long = with(400, "ä".repeat(1000).as_bytes());
        assert!(long.len() < 600 && long.ends_with('…'), "{long}");
        let moved = Answer { location: Some("https://h/x/".into()), ..answer(301) };
        assert!(words(&moved).contains("https://h/x/, which is not followed"));
        // What a page says beside a location that is none of a redirect's counts.
        let made = Answer { location: Some("/1".into()), body: b"bad".into(), ..answer(400) };
        assert_eq!(words(&made), "HTTP 400: bad");
    }

    #[test]
    fn the_pause_that_is_asked_for_is_kept() {
        let after = Some(Duration::from_secs(7));
        for status in [429, 503] {
            let Outcome::Retry(retry) = outcome(&Answer { after, ..answer(status) }, Sent::One)
            else {
                panic!("{status} passes")
            };
            assert_eq!(retry.after, after);
        }
    }
}
