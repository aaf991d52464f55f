//! What a MongoDB's answers mean: one table from a code to an outcome.

use bson::{Bson, Document};
use mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::target::{Outcome, Pressure, Retry};

use super::command::LATE;

/// DuplicateKey, and what older servers say of the same.
const DUPLICATE: [i32; 3] = [11000, 11001, 12582];
/// A replacement that is no document: what a put that comes too late ends in.
const NO_DOCUMENT: i32 = 40228;
/// ConversionFailure: what a removal that comes too late ends in.
const NO_NUMBER: i32 = 241;

/// What passes when a server is away, overloaded, or hands over to another. Names and numbers are those
/// of the server's `error_codes.yml`.
const PASSING: [i32; 54] = [
    1,          // InternalError
    6,          // HostUnreachable
    7,          // HostNotFound
    8,          // UnknownError
    24,         // LockTimeout
    46,         // LockBusy
    50,         // MaxTimeMSExpired
    63,         // StaleShardVersion
    64,         // WriteConcernTimeout
    89,         // NetworkTimeout
    91,         // ShutdownInProgress
    100,        // UnsatisfiableWriteConcern
    112,        // WriteConflict
    117,        // ConflictingOperationInProgress
    133,        // FailedToSatisfyReadPreference
    134,        // ReadConcernMajorityNotAvailableYet
    146,        // ExceededMemoryLimit, of a server
    150,        // StaleEpoch
    175,        // QueryPlanKilled
    189,        // PrimarySteppedDown
    202,        // NetworkInterfaceExceededTimeLimit
    215,        // DatabaseDropPending
    216,        // ElectionInProgress
    225,        // TransactionTooOld: a newer attempt has been there
    237,        // CursorKilled
    246,        // SnapshotUnavailable
    249,        // StaleDbVersion
    251,        // NoSuchTransaction
    262,        // ExceededTimeLimit
    264,        // TooManyFilesOpen
    272,        // MigrationConflict
    279,        // ClientDisconnect
    343,        // ShardCannotRefreshDueToLocksHeld
    355,        // InterruptedDueToStorageChange
    358,        // InternalTransactionNotSupported, while a chunk moves
    365,        // TemporarilyUnavailable
    371,        // UserWritesBlocked
    384,        // ConnectionError
    402,        // ResourceExhausted
    433,        // AdmissionQueueOverflow
    462,        // IngressRequestRateLimitExceeded
    9001,       // SocketException
    10107,      // NotWritablePrimary
    11600,      // InterruptedAtShutdown
    11601,      // Interrupted
    11602,      // InterruptedDueToReplStateChange
    13388,      // StaleConfig
    13435,      // NotPrimaryNoSecondaryOk
    13436,      // NotPrimaryOrSecondary
    14031,      // OutOfDiskSpace
    46841,      // ClientMarkedKilled
    56846,      // ConfigServerUnreachable
    91331,      // RetriableRemoteCommandFailure
    10_045_600, // InterruptedDueToFCVChange
];

/// Rights; somebody gives them, and it goes on.
const DENIED: [i32; 4] = [13, 18, 33, 8000];

/// What is wrong with one document, however often it is sent.
const ABOUT_THE_DOCUMENT: [i32; 22] = [
    2,     // BadValue
    9,     // FailedToParse
    14,    // TypeMismatch
    15,    // Overflow
    22,    // InvalidBSON
    28,    // PathNotViable
    52,    // DollarPrefixedFieldName
    53,    // InvalidIdField
    54,    // NotSingleValueField
    55,    // InvalidDBRef
    56,    // EmptyFieldName
    57,    // DottedFieldName
    116,   // DocTooLargeForCapped
    121,   // DocumentValidationFailure
    171,   // CannotIndexParallelArrays
    10003, // CannotGrowDocumentInCappedNamespace
    10334, // BSONObjectTooLarge
    13026, // no pair of coordinates, for an index of the kind 2d
    13027, // a point beyond the bounds of such an index
    16755, // what an index of the kind 2dsphere takes no keys from
    17280, // KeyTooLong
    17419, // the document that comes of it is too large
];
/// From here on a code has no name, but for a few: a server refuses what it was given at one place in its
/// source. It may be this document's fault, or that of all.
const LOCATIONS: i32 = 13_500;
/// What is not about a document, whatever it is about: a server that does not know a field of the command
/// (IDLUnknownField, and the same of an earlier one), or can't repeat it (NotARetryableWriteCommand).
const ABOUT_THE_COMMAND: [i32; 3] = [40414, 40415, 50768];
/// ImmutableField: the stored `_id` and that of the document are equal, and not the same.
const OTHER_ID: i32 = 66;

/// What became of one write.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Fate {
    /// It is known.
    Known(Outcome),
    /// Another document with this `_id` is there: an insert that is to be a replacement.
    There,
    /// What is there has an `_id` of other bytes: it is to be removed first.
    OtherId,
    /// A value that another document has in a unique index.
    Contested(Conflict),
    /// Its time was over by the server's clock.
    Late,
    /// Refused with a code that does not tell whether it would be the same with other documents.
    Doubtful(String),
    /// Its command failed, in which there was nothing else.
    Alone(String),
}

/// What a code is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blame {
    /// A right that is missing.
    Right,
    /// The state of a server, which passes.
    Server,
    /// The document.
    Document,
    /// The document, or anything else.
    Anything,
    /// Nobody knows: it passes, or a person sees to it.
    Nothing,
}

fn blame(code: i32) -> Blame {
    if DENIED.contains(&code) {
        Blame::Right
    } else if PASSING.contains(&code) {
        Blame::Server
    } else if ABOUT_THE_DOCUMENT.contains(&code) {
        Blame::Document
    } else if code >= LOCATIONS && !ABOUT_THE_COMMAND.contains(&code) {
        Blame::Anything
    } else {
        Blame::Nothing
    }
}

/// What another document has.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Conflict {
    /// The server's words.
    pub words: String,
    /// The index that says so.
    pub index: Option<String>,
    /// What finds the other document; `None` where the values are not told.
    pub holder: Option<Document>,
}

/// Why a command failed.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Failed {
    /// Nothing can be written now.
    All(Retry),
    /// What the command is about can't.
    These(Retry),
}

impl Failed {
    pub fn of(error: &Error) -> Self {
        let about = code(error).is_some_and(|code| !PASSING.contains(&code));
        match about && !error.contains_label(RETRYABLE) {
            true => Self::These(refusal(error)),
            false => Self::All(refusal(error)),
        }
    }
}

/// The label of what the server says will pass.
const RETRYABLE: &str = "RetryableWriteError";

/// Whether it is about rights.
pub(super) fn is_denied(code: i32) -> bool {
    DENIED.contains(&code)
}

fn retry(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}

/// What an error of one write means; `error` is all that the answer holds of it.
pub(super) fn fate(code: i32, words: &str, error: &Document) -> Fate {
    if DUPLICATE.contains(&code) {
        let pattern = error.get_document("keyPattern").ok();
        // Those who tell no pattern tell the index: `… index: _id_ dup key: …`.
        let of_id = pattern.map_or_else(
            || words.contains("index: _id_ ") || !words.contains("index:"),
            |pattern| pattern.len() == 1 && pattern.contains_key("_id"),
        );
        return if of_id { Fate::There } else { Fate::Contested(conflict(words, error)) };
    }
    if code == NO_DOCUMENT || (code == NO_NUMBER && words.contains(LATE)) {
        return Fate::Late;
    }
    if code == OTHER_ID {
        return Fate::OtherId;
    }
    let words = in_words(code, words);
    match blame(code) {
        Blame::Right => Fate::Known(Outcome::Held(retry("unauthorized", words))),
        Blame::Server => Fate::Known(Outcome::Retry(retry("unavailable", words))),
        Blame::Document => Fate::Known(Outcome::Rejected(words)),
        Blame::Anything => Fate::Doubtful(words),
        Blame::Nothing => Fate::Known(Outcome::Held(unknown(words))),
    }
}

/// What is waited for without holding up anything else, since nobody knows what it is.
pub(super) fn unknown(words: String) -> Retry {
    retry("unexpected", words)
}

fn conflict(words: &str, error: &Document) -> Conflict {
    // Values of a collation are told as its own bytes.
    let told = !error.contains_key("hexEncoded");
    let holder = error.get_document("keyValue").ok().filter(|_| told).cloned();
    let index = words.split_once("index: ").and_then(|(_, rest)| rest.split_once(" dup key"));
    Conflict { words: words.to_owned(), index: index.map(|(name, _)| name.to_owned()), holder }
}

fn in_words(code: i32, words: &str) -> String {
    format!("{words} ({code})")
}

/// What an answer to a command of so many writes says.
#[derive(PartialEq, Debug)]
pub(super) struct Answer {
    /// Of each, in order.
    pub fates: Vec<Fate>,
    /// How many documents were there.
    pub matched: usize,
}

/// Reads an answer.
///
/// # Errors
/// Where the writes are not known to last.
pub(super) fn read(answer: &Document, count: usize) -> Result<Answer, Retry> {
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
        *slot = fate(i32::try_from(code).unwrap_or_default(), words, error);
    }
    if let Ok(error) = answer.get_document("writeConcernError") {
        let words = error.get_str("errmsg").unwrap_or("no reason given");
        return Err(retry("not_durable", format!("the write is not on a majority yet: {words}")));
    }
    let labels = answer.get_array("errorLabels").into_iter().flatten();
    if labels.into_iter().any(|label| label.as_str() == Some(RETRYABLE)) {
        return Err(retry(
            "unavailable",
            "the write can be tried again, says the server".to_owned(),
        ));
    }
    let matched = answer.get("n").and_then(number).and_then(|n| usize::try_from(n).ok());
    Ok(Answer { fates, matched: matched.unwrap_or(0) })
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

/// What it means that a command as a whole failed.
pub(super) fn refusal(error: &Error) -> Retry {
    let (reason, pressure) = match (&*error.kind, code(error)) {
        (_, Some(code)) if DENIED.contains(&code) => ("unauthorized", Pressure::Same),
        (_, Some(50 | 262)) => ("timeout", Pressure::Same),
        (_, Some(code)) if PASSING.contains(&code) => ("unavailable", Pressure::Same),
        (_, Some(code)) if TOO_LARGE.contains(&code) => ("too_large", Pressure::TooLarge),
        (_, Some(code)) if matches!(blame(code), Blame::Document | Blame::Anything) => {
            ("refused", Pressure::Split)
        }
        (_, Some(_)) => ("unexpected", Pressure::Same),
        (ErrorKind::Authentication { .. }, _) => ("unauthorized", Pressure::Same),
        (ErrorKind::ServerSelection { .. }, _) => ("unavailable", Pressure::Same),
        (ErrorKind::Io(_) | ErrorKind::ConnectionPoolCleared { .. }, _) => {
            ("network", Pressure::Same)
        }
        _ => ("unexpected", Pressure::Same),
    };
    Retry { reason, message: words(error), after: None, pressure }
}

/// BSONObjectTooLarge, and what says the same of what comes of it.
const TOO_LARGE: [i32; 3] = [10334, 17419, 17420];

/// What a command that failed as a whole says of the one write that is in it; `None` where it says
/// nothing of it.
pub(super) fn alone(error: &Error) -> Option<Fate> {
    let code = code(error).filter(|_| !error.contains_label(RETRYABLE))?;
    if TOO_LARGE.contains(&code) {
        return Some(Fate::Known(Outcome::Rejected(words(error))));
    }
    matches!(blame(code), Blame::Document | Blame::Anything).then(|| Fate::Alone(words(error)))
}

/// The server's code, where it was a command that failed.
pub(super) fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(command) => Some(command.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
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
            (66, "immutable", "other id"),
            (112, "WriteConflict", "retry unavailable"),
            (10107, "not primary", "retry unavailable"),
            (13, "not authorized", "held unauthorized"),
            (121, "Document failed validation", "rejected"),
            (16755, "Can't extract geo keys", "rejected"),
            (171, "cannot index parallel arrays", "rejected"),
            (116, "object to insert too large for a capped collection", "rejected"),
            // At one place in a server's source.
            (31_249, "Path collision", "doubtful"),
            (7_654_321, "nobody has heard of it", "doubtful"),
            // Of a server, or of the command: nothing that is to be a dead letter.
            (56_846, "ConfigServerUnreachable", "retry unavailable"),
            (91_331, "RetriableRemoteCommandFailure", "retry unavailable"),
            (10_045_600, "InterruptedDueToFCVChange", "retry unavailable"),
            (272, "MigrationConflict", "retry unavailable"),
            (146, "ExceededMemoryLimit", "retry unavailable"),
            (40_415, "BSON field 'update.x' is an unknown field", "held unexpected"),
            (50_768, "not a retryable write command", "held unexpected"),
            (61, "ShardKeyNotFound", "held unexpected"),
            (187, "LinearizableReadConcernError", "held unexpected"),
            // What stops every write passes, by name or not.
            (371, "User writes blocked", "retry unavailable"),
            (365, "Unable to get latest committed", "retry unavailable"),
            (241, "Failed to parse number 'x'", "held unexpected"),
            (999, "something new", "held unexpected"),
        ] {
            let is = match fate(code, words, &doc! {}) {
                Fate::There => "there".to_owned(),
                Fate::OtherId => "other id".to_owned(),
                Fate::Contested(_) => "contested".to_owned(),
                Fate::Late => "late".to_owned(),
                Fate::Known(Outcome::Retry(retry)) => format!("retry {}", retry.reason),
                Fate::Known(Outcome::Held(retry)) => format!("held {}", retry.reason),
                Fate::Known(Outcome::Rejected(_)) => "rejected".to_owned(),
                Fate::Doubtful(_) => "doubtful".to_owned(),
                Fate::Alone(_) => "alone".to_owned(),
                Fate::Known(other) => format!("{other:?}"),
            };
            assert_eq!(is, expected, "{code} {words}");
        }
        for code in PASSING {
            assert!(!ABOUT_THE_DOCUMENT.contains(&code), "{code}");
        }
    }

    #[test]
    fn the_pattern_of_a_key_tells_which_index_it_is() {
        let words = "E11000 duplicate key error collection: a.b index: sku_1 dup key: \
                     { sku: \"index: _id_ \" }";
        let value = doc! { "sku": "index: _id_ " };
        let error = doc! { "keyPattern": { "sku": 1 }, "keyValue": value.clone() };
        let index = Some("sku_1".to_owned());
        let expected =
            Conflict { words: words.to_owned(), index: index.clone(), holder: Some(value) };
        assert_eq!(fate(11000, words, &error), Fate::Contested(expected));
        let error = doc! { "keyPattern": { "_id": 1 }, "keyValue": { "_id": 1 } };
        assert_eq!(fate(11000, "of a clustered index: c", &error), Fate::There);
        let error = doc! {
            "keyPattern": { "sku": 1 }, "keyValue": { "sku": "29" }, "hexEncoded": [true],
        };
        let expected = Conflict { words: words.to_owned(), index, holder: None };
        assert_eq!(fate(11000, words, &error), Fate::Contested(expected));
    }

    #[test]
    fn every_write_has_its_own_fate() {
        let answer = doc! {
            "ok": 1, "n": 1,
            "writeErrors": [{ "index": 1, "code": 40228, "errmsg": "late" }],
        };
        let applied = Fate::Known(Outcome::Applied);
        let fates = vec![applied.clone(), Fate::Late, applied];
        assert_eq!(read(&answer, 3).expect("fates"), Answer { fates, matched: 1 });
        let odd = doc! { "writeErrors": [{ "index": 3, "code": 1, "errmsg": "x" }] };
        assert_eq!(read(&odd, 3).expect_err("no such write").reason, "garbled");
        let failed = doc! { "n": 1, "writeConcernError": { "code": 64, "errmsg": "waiting" } };
        assert_eq!(read(&failed, 1).expect_err("not on a majority").reason, "not_durable");
        let passing = doc! { "n": 0, "errorLabels": ["RetryableWriteError"] };
        assert_eq!(read(&passing, 1).expect_err("it passes").reason, "unavailable");
    }

    #[test]
    fn a_command_that_fails_is_about_all_or_about_what_it_writes() {
        let command = |code: i32| -> Error {
            let error = doc! { "code": code, "errmsg": "words" };
            ErrorKind::Command(bson::deserialize_from_document(error).expect("an error")).into()
        };
        for (code, reason, pressure, all) in [
            (13, "unauthorized", Pressure::Same, false),
            (50, "timeout", Pressure::Same, true),
            (91, "unavailable", Pressure::Same, true),
            (10334, "too_large", Pressure::TooLarge, false),
            (16755, "refused", Pressure::Split, false),
            (73, "unexpected", Pressure::Same, false),
            (56_846, "unavailable", Pressure::Same, true),
            (40_415, "unexpected", Pressure::Same, false),
        ] {
            let failed = Failed::of(&command(code));
            let (Failed::All(retry) | Failed::These(retry)) = &failed;
            assert_eq!((retry.reason, retry.pressure), (reason, pressure), "{code}");
            assert_eq!(matches!(failed, Failed::All(_)), all, "{code}");
        }
    }
}
