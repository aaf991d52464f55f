//! What a failed call to MongoDB means for a checkpoint store, and trying again.

use std::{future::Future, time::Duration};

use ::mongodb::error::{Error, ErrorKind, WriteFailure};

use crate::{checkpoint::store::StoreError, client};

/// How often a call is tried.
pub(super) const TRIES: u32 = 3;
/// How long a call may take, all its tries together.
const DEADLINE: Duration = Duration::from_secs(12);
/// The pause after the first try; four times that after the second.
const PAUSE: Duration = Duration::from_millis(100);
/// DuplicateKey.
pub(super) const DUPLICATE_KEY: i32 = 11000;

/// Codes that stay until a person does something: rights, and commands that the server can't make
/// anything of. A code that is not here is waited for: to wait and say so beats to end in error
/// what would have passed.
const LASTING: [i32; 17] = [
    2,     // BadValue
    9,     // FailedToParse
    11,    // UserNotFound
    13,    // Unauthorized
    14,    // TypeMismatch
    18,    // AuthenticationFailed
    20,    // IllegalOperation
    31,    // RoleNotFound
    59,    // CommandNotFound
    72,    // InvalidOptions
    73,    // InvalidNamespace
    115,   // CommandNotSupported
    121,   // DocumentValidationFailure
    166,   // CommandNotSupportedOnView
    8000,  // AtlasError: rights
    10334, // BSONObjectTooLarge
    17280, // KeyTooLong
];

/// Why a call did not go through.
#[derive(Debug)]
pub(super) enum Failure {
    /// A record of that `_id` is in the way.
    Duplicate,
    /// It stays so.
    Lasting(Error),
    /// It may pass.
    Passing(Error),
    /// No answer came in time.
    Late,
}

impl Failure {
    pub(super) fn of(error: Error) -> Self {
        match code_of(&error) {
            Some(DUPLICATE_KEY) => Self::Duplicate,
            Some(code) if LASTING.contains(&code) => Self::Lasting(error),
            _ if lasts(&error.kind) => Self::Lasting(error),
            _ => Self::Passing(error),
        }
    }

    pub(super) fn in_words(self, place: &str) -> StoreError {
        match self {
            Self::Duplicate => StoreError::unavailable(place, "two calls met at one record"),
            Self::Lasting(error) => StoreError::broken(
                place,
                match client::denied(&error) {
                    Some(denied) => format!(
                        "{denied}. Let it read and write there, or keep positions elsewhere: \
                         `checkpoint: {{ file: {{}} }}`, or the `uri` of another MongoDB below \
                         `checkpoint: {{ mongodb: … }}`"
                    ),
                    None => format!("can't be used: {}", client::words(&error)),
                },
            ),
            Self::Passing(error) => StoreError::unavailable(place, client::words(&error)),
            Self::Late => {
                let words = format!("no answer within {} s", DEADLINE.as_secs());
                StoreError::unavailable(place, words)
            }
        }
    }
}

fn code_of(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Command(error) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(error)) => Some(error.code),
        _ => None,
    }
}

fn lasts(kind: &ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Authentication { .. }
            | ErrorKind::InvalidArgument { .. }
            | ErrorKind::InvalidTlsConfig { .. }
            | ErrorKind::IncompatibleServer { .. }
            | ErrorKind::SessionsNotSupported
            | ErrorKind::Bson(_)
            | ErrorKind::Shutdown
    )
}

/// Tries a call up to [`TRIES`] times within [`DEADLINE`]. The call must be idempotent.
pub(super) async fn retry<T, F>(mut call: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Error>>,
{
    let all = async {
        let mut tries = 1;
        loop {
            let failure = match call().await {
                Ok(value) => return Ok(value),
                Err(error) => Failure::of(error),
            };
            match failure {
                Failure::Passing(_) if tries < TRIES => {
                    tokio::time::sleep(PAUSE * 4_u32.pow(tries - 1)).await;
                    tries += 1;
                }
                failure => return Err(failure),
            }
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap_or(Err(Failure::Late))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use bson::doc;

    use super::*;

    fn command(code: i32) -> Error {
        let error = doc! { "code": code, "errmsg": "words" };
        ErrorKind::Command(bson::deserialize_from_document(error).unwrap()).into()
    }

    #[test]
    fn codes_are_told_apart() {
        let class = |code| match Failure::of(command(code)) {
            Failure::Duplicate => "duplicate",
            Failure::Lasting(_) => "lasting",
            Failure::Passing(_) => "passing",
            Failure::Late => "late",
        };
        for (code, expected) in [
            (11000, "duplicate"),
            (13, "lasting"),    // Unauthorized
            (18, "lasting"),    // AuthenticationFailed
            (121, "lasting"),   // DocumentValidationFailure
            (91, "passing"),    // ShutdownInProgress
            (10107, "passing"), // NotWritablePrimary
            (64, "passing"),    // WriteConcernFailed
            (50, "passing"),    // MaxTimeMSExpired
            (14031, "passing"), // OutOfDiskSpace
            (999_999, "passing"),
        ] {
            assert_eq!(class(code), expected, "{code}");
        }
        let io = Error::from(std::io::Error::other("reset"));
        assert!(matches!(Failure::of(io), Failure::Passing(_)));
    }

    #[test]
    fn what_a_user_may_not_do_is_told_with_the_way_out() {
        let error = doc! {
            "code": 13,
            "codeName": "Unauthorized",
            "errmsg": "not authorized on mongosync to execute command { find: \"leases\" }",
        };
        let error = ErrorKind::Command(bson::deserialize_from_document(error).unwrap()).into();
        let words = Failure::of(error).in_words("mongosync at h").to_string();
        assert!(words.contains("`checkpoint: { file: {} }`"), "{words}");
        assert!(!words.contains("leases"), "{words}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_passes_is_tried_again_for_a_while() {
        for (failures, code, goes_through, tries) in [
            (0, 91, true, 1),
            (2, 91, true, 3),
            (3, 91, false, 3),
            (1, 13, false, 1),
            (1, 11000, false, 1),
        ] {
            let calls = AtomicU32::new(0);
            let answer = retry(|| async {
                if calls.fetch_add(1, Ordering::SeqCst) < failures {
                    return Err(command(code));
                }
                Ok(())
            })
            .await;
            assert_eq!(answer.is_ok(), goes_through, "{failures} failures of {code}");
            assert_eq!(calls.load(Ordering::SeqCst), tries, "{failures} failures of {code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_answer_ends_at_the_deadline() {
        let started = tokio::time::Instant::now();
        let failure = retry(std::future::pending::<Result<(), Error>>).await.err();
        assert!(matches!(failure, Some(Failure::Late)));
        assert_eq!(started.elapsed(), DEADLINE);
    }
}
