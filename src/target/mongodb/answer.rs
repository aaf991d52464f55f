//! What a MongoDB's answers mean: one table from a code to an outcome.

use bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind};

use crate::target::{Outcome, Pressure, Retry};

use super::command::LATE;

/// DuplicateKey, and what older servers say of the same.
const DUPLICATE: [i32; 3] = [11000, 11001, 12582];
/// A replacement that is no document: what a put that comes too late ends in.
const NO_DOCUMENT: i32 = 40228;
/// ConversionFailure: what a removal that comes too late ends in.
const NO_NUMBER: i32 = 241;

/// What passes when a server is away, overloaded, or hands over to another.
const PASSING: [i32; 30] = [
    6,     // HostUnreachable
    7,     // HostNotFound
    24,    // LockTimeout
    46,    // LockBusy
    50,    // MaxTimeMSExpired
    64,    // WriteConcernFailed
    89,    // NetworkTimeout
    91,    // ShutdownInProgress
    100,   // UnsatisfiableWriteConcern
    112,   // WriteConflict
    117,   // ConflictingOperationInProgress
    133,   // FailedToSatisfyReadPreference
    134,   // ReadConcernMajorityNotAvailableYet
    189,   // PrimarySteppedDown
    202,   // NetworkInterfaceExceededTimeLimit
    262,   // ExceededTimeLimit
    358,   // InternalTransactionNotSupported, while a chunk moves
    384,   // ConnectionError
    462,   // IngressRequestRateLimitExceeded
    9001,  // SocketException
    10107, // NotWritablePrimary
    11600, // InterruptedAtShutdown
    11601, // Interrupted
    11602, // InterruptedDueToReplStateChange
    13388, // StaleConfig
    13435, // NotPrimaryNoSecondaryOk
    13436, // NotPrimaryOrSecondary
    14031, // OutOfDiskSpace
    63,    // StaleShardVersion
    249,   // StaleDbVersion
];

/// Rights; somebody gives them, and it goes on.
const DENIED: [i32; 4] = [13, 18, 33, 8000];

/// What became of one write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It is known.
    Known(Outcome),
    /// Another document with this `_id` is there: an insert that is to be a replacement.
    There,
    /// A value that another document has in a unique index; the server's words.
    Contested(String),
    /// Its time was over by the server's clock.
    Late,
}

fn retry(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}

/// What an error of one write means.
pub(super) fn fate(code: i32, words: &str) -> Fate {
    if DUPLICATE.contains(&code) {
        // `… index: _id_ dup key: …`, and of a clustered collection without the name of an index.
        let of_id = words.contains("index: _id_ ") || !words.contains("index:");
        return if of_id { Fate::There } else { Fate::Contested(words.to_owned()) };
    }
    if code == NO_DOCUMENT || (code == NO_NUMBER && words.contains(LATE)) {
        return Fate::Late;
    }
    Fate::Known(if PASSING.contains(&code) {
        Outcome::Retry(retry("unavailable", in_words(code, words)))
    } else if DENIED.contains(&code) {
        Outcome::Retry(retry("unauthorized", in_words(code, words)))
    } else {
        Outcome::Rejected(in_words(code, words))
    })
}

fn in_words(code: i32, words: &str) -> String {
    format!("{words} ({code})")
}

/// What an answer to a command of so many writes says of each, in order.
///
/// # Errors
/// Where the writes are not known to last.
pub(super) fn fates(answer: &Document, count: usize) -> Result<Vec<Fate>, Retry> {
    let mut fates = vec![Fate::Known(Outcome::Applied); count];
    for error in answer.get_array("writeErrors").into_iter().flatten() {
        let error = error.as_document();
        let index = error.and_then(|error| error.get("index")).and_then(number);
        let code = error.and_then(|error| error.get("code")).and_then(number);
        let (Some(error), Some(index), Some(code)) = (error, index, code) else {
            return Err(garbled("an error without index or code"));
        };
        let slot = usize::try_from(index).ok().and_then(|index| fates.get_mut(index));
        let slot = slot.ok_or_else(|| garbled("an error of a write that was not sent"))?;
        let words = error.get_str("errmsg").unwrap_or("no reason given");
        *slot = fate(i32::try_from(code).unwrap_or_default(), words);
    }
    if let Ok(error) = answer.get_document("writeConcernError") {
        let words = error.get_str("errmsg").unwrap_or("no reason given");
        return Err(retry("not_durable", format!("the write is not on a majority yet: {words}")));
    }
    Ok(fates)
}

fn number(value: &Bson) -> Option<i64> {
    match value {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => Some(*number as i64),
        _ => None,
    }
}

fn garbled(what: &str) -> Retry {
    retry("garbled", format!("the MongoDB answers with {what}"))
}

/// What an insert's error says of each document, in order.
///
/// # Errors
/// Where it is about all of them.
pub(super) fn insert_fates(error: &Error, count: usize) -> Result<Vec<Fate>, Retry> {
    let ErrorKind::InsertMany(many) = &*error.kind else { return Err(refusal(error)) };
    let mut fates = vec![Fate::Known(Outcome::Applied); count];
    for error in many.write_errors.iter().flatten() {
        let slot = fates.get_mut(error.index);
        let slot = slot.ok_or_else(|| garbled("an error of a write that was not sent"))?;
        *slot = fate(error.code, &error.message);
    }
    if let Some(error) = &many.write_concern_error {
        let words = &error.message;
        return Err(retry("not_durable", format!("the write is not on a majority yet: {words}")));
    }
    Ok(fates)
}

/// What it means that a command as a whole failed.
pub(super) fn refusal(error: &Error) -> Retry {
    let (reason, pressure) = match (&*error.kind, code(error)) {
        (_, Some(code)) if DENIED.contains(&code) => ("unauthorized", Pressure::Same),
        (_, Some(50 | 262)) => ("timeout", Pressure::Same),
        (_, Some(code)) if PASSING.contains(&code) => ("unavailable", Pressure::Same),
        // BSONObjectTooLarge, and the same from the network layer.
        (_, Some(10334 | 17419 | 17420)) => ("too_large", Pressure::TooLarge),
        (_, Some(_)) => ("unexpected", Pressure::Split),
        (ErrorKind::Authentication { .. }, _) => ("unauthorized", Pressure::Same),
        (ErrorKind::ServerSelection { .. }, _) => ("unavailable", Pressure::Same),
        (ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. }, _) => {
            ("network", Pressure::Same)
        }
        _ => ("unexpected", Pressure::Same),
    };
    Retry { reason, message: words(error), after: None, pressure }
}

/// Whether it would fail again, as the command's own fault.
pub(super) fn is_refused_for_good(error: &Error) -> bool {
    refusal(error).pressure == Pressure::Split
}

/// The server's code, where it was a command that failed.
pub(super) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        _ => None,
    }
}

/// What the server or the driver says, without the driver's copy of the whole reply.
pub(super) fn words(error: &Error) -> String {
    match &*error.kind {
        ErrorKind::Command(command) => {
            format!("{} ({} {})", command.message, command.code_name, command.code)
        }
        kind => kind.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    /// As MongoDB 6.0 says it.
    #[test]
    fn a_code_has_one_meaning() {
        let of_id = "E11000 duplicate key error collection: a.b index: _id_ dup key: { _id: 1 }";
        let of_sku = "E11000 duplicate key error collection: a.b index: sku_1 dup key: { sku: 1 }";
        let late_put = "'replacement document'  must evaluate to an object, but resulting value was: \
                        null. Type of resulting value: 'null'. Input document: {_id: 1}";
        let late = format!("Failed to parse number '{LATE}int' in $convert with no onError value");
        for (code, words, expected) in [
            (11000, of_id, "there"),
            (11000, of_sku, "contested"),
            (40228, late_put, "late"),
            (241, &late, "late"),
            (241, "Failed to parse number 'x'", "rejected"),
            (112, "WriteConflict", "retry unavailable"),
            (10107, "not primary", "retry unavailable"),
            (13, "not authorized", "retry unauthorized"),
            (121, "Document failed validation", "rejected"),
            (16755, "Can't extract geo keys", "rejected"),
            (999_999, "something new", "rejected"),
        ] {
            let is = match fate(code, words) {
                Fate::There => "there".to_owned(),
                Fate::Contested(_) => "contested".to_owned(),
                Fate::Late => "late".to_owned(),
                Fate::Known(Outcome::Retry(retry)) => format!("retry {}", retry.reason),
                Fate::Known(Outcome::Rejected(_)) => "rejected".to_owned(),
                Fate::Known(other) => format!("{other:?}"),
            };
            assert_eq!(is, expected, "{code} {words}");
        }
    }

    #[test]
    fn every_write_has_its_own_fate() {
        let answer = doc! {
            "ok": 1, "n": 1,
            "writeErrors": [{ "index": 1, "code": 40228, "errmsg": "late" }],
        };
        let applied = Fate::Known(Outcome::Applied);
        let expected = vec![applied.clone(), Fate::Late, applied];
        assert_eq!(fates(&answer, 3).expect("fates"), expected);
        let odd = doc! { "writeErrors": [{ "index": 3, "code": 1, "errmsg": "x" }] };
        assert_eq!(fates(&odd, 3).expect_err("no such write").reason, "garbled");
        let failed = doc! { "n": 1, "writeConcernError": { "code": 64, "errmsg": "waiting" } };
        assert_eq!(fates(&failed, 1).expect_err("not on a majority").reason, "not_durable");
    }

    #[test]
    fn a_command_that_fails_is_sent_again_or_in_parts() {
        let command = |code: i32| -> Error {
            let error = doc! { "code": code, "errmsg": "words" };
            ErrorKind::Command(bson::deserialize_from_document(error).expect("an error")).into()
        };
        for (code, reason, pressure) in [
            (13, "unauthorized", Pressure::Same),
            (50, "timeout", Pressure::Same),
            (91, "unavailable", Pressure::Same),
            (10334, "too_large", Pressure::TooLarge),
            (73, "unexpected", Pressure::Split),
        ] {
            let retry = refusal(&command(code));
            assert_eq!((retry.reason, retry.pressure), (reason, pressure), "{code}");
        }
    }
}
