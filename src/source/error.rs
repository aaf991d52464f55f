//! What can go wrong at the source, and which answer each kind asks for.

use std::time::Duration;

use mongodb::error::{Error as DriverError, ErrorKind};

use crate::client::words;

/// An error of the source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver's or the server's. Its words stand for the error: the driver's own text is not a cause
    /// behind it.
    #[error("{}", words(.0))]
    Driver(DriverError),
    /// The server's reply has not the shape that its documentation gives it.
    #[error("the source answered with {0}")]
    Garbled(&'static str),
    /// A command has not been answered in time: its connection may have died without a word.
    #[error("the source has not answered {command} for {} s", .after.as_secs())]
    Silent {
        /// Its name.
        command: &'static str,
        /// How long.
        after: Duration,
    },
    /// What the rules ask for can't be done with this source.
    #[error("{0}")]
    Refused(String),
}

/// What to do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Remedy {
    /// Try again: the source is away, fails over, or a cursor was lost.
    Retry,
    /// The stream can't go on from its position: the oplog no longer reaches back.
    HistoryLost,
    /// The command itself, or a document that it meets, is at fault; the same will fail again.
    Reject,
}

impl From<DriverError> for Error {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

impl Error {
    pub(super) fn garbled(what: &'static str) -> Self {
        Self::Garbled(what)
    }

    /// Whether the server answered, and refuses this user or what this user asks.
    pub fn is_denied(&self) -> bool {
        match self {
            Self::Driver(error) => match error.kind.as_ref() {
                ErrorKind::Authentication { .. } => true,
                // Unauthorized, AuthenticationFailed, AtlasError
                ErrorKind::Command(command) => matches!(command.code, 13 | 18 | 8000),
                _ => false,
            },
            Self::Garbled(_) | Self::Refused(_) | Self::Silent { .. } => false,
        }
    }

    /// The server's code, where it was a command that failed.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Driver(error) => super::namespaces::code(error),
            Self::Garbled(_) | Self::Refused(_) | Self::Silent { .. } => None,
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Driver(error) => remedy(error),
            Self::Garbled(_) | Self::Silent { .. } => Remedy::Retry,
            Self::Refused(_) => Remedy::Reject,
        }
    }
}

fn remedy(error: &DriverError) -> Remedy {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => match command.code {
            // ChangeStreamHistoryLost
            286 => Remedy::HistoryLost,
            code if passes(code) => Remedy::Retry,
            _ if error.contains_label("ResumableChangeStreamError")
                || error.contains_label(mongodb::error::RETRYABLE_WRITE_ERROR)
                || error.contains_label(mongodb::error::TRANSIENT_TRANSACTION_ERROR) =>
            {
                Remedy::Retry
            }
            code if lasts(code) => Remedy::Reject,
            _ => Remedy::Retry,
        },
        ErrorKind::InvalidArgument { .. } | ErrorKind::BsonSerialization(_) => Remedy::Reject,
        // Network, server selection, pool cleared, DNS, and whatever the driver adds: waiting can't
        // lose anything, giving up can.
        _ => Remedy::Retry,
    }
}

/// Command errors that pass by themselves (names from `src/mongo/base/error_codes.yml`).
fn passes(code: i32) -> bool {
    matches!(
        code,
        6 | 7            // HostUnreachable, HostNotFound
        | 43 | 237       // CursorNotFound, CursorKilled
        | 46             // LockBusy
        | 50 | 262       // MaxTimeMSExpired, ExceededTimeLimit
        | 63 | 150 | 13388 // StaleShardVersion, StaleEpoch, StaleConfig
        | 70             // ShardNotFound
        | 89             // NetworkTimeout
        | 91 | 11600 | 11602 // ShutdownInProgress, InterruptedAtShutdown, InterruptedDueToReplStateChange
        | 109 | 175      // ConfigurationInProgress, QueryPlanKilled
        | 112            // WriteConflict
        | 133 | 134      // FailedToSatisfyReadPreference, ReadConcernMajorityNotAvailableYet
        | 136            // CappedPositionLost
        | 189 | 10107 | 13435 | 13436 | 10058 // PrimarySteppedDown, NotWritablePrimary, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary
        | 234            // RetryChangeStream
        | 239 | 246      // SnapshotTooOld, SnapshotUnavailable
        | 280            // ChangeStreamFatalError: the stream is opened anew by time, not by token
        | 290 | 11601    // TransactionExceededLifetime, Interrupted
        | 317 | 384      // ConnectionPoolExpired, and a lost connection behind a mongos
        | 9001           // SocketException
        | 462 // IngressRequestRateLimitExceeded
    )
}

/// Command errors that the same command meets again, with the same rights and documents. What is in
/// neither list is tried again: waiting can't lose anything. From 10000 on codes belong to single
/// assertions, most of them of query and expression evaluation.
fn lasts(code: i32) -> bool {
    matches!(
        code,
        2 | 4 | 9        // BadValue, NoSuchKey, FailedToParse
        | 13 | 18 | 33   // Unauthorized, AuthenticationFailed, NoSuchUser…
        | 14 | 15 | 16   // TypeMismatch, Overflow, InvalidLength
        | 17 | 20 | 22   // ProtocolError, IllegalOperation, InvalidBSON
        | 26 | 27        // NamespaceNotFound, IndexNotFound
        | 28 | 40 | 51   // PathNotViable, ConflictingUpdateOperators, InvalidPath…
        | 52 | 55 | 56   // DollarPrefixedFieldName, InvalidDBRef, EmptyFieldName
        | 57 | 59 | 72 | 73 // DottedFieldName, CommandNotFound, InvalidOptions, InvalidNamespace
        | 115 | 146 | 166 | 167 // CommandNotSupported…, ExceededMemoryLimit, …OnView, OptionNotSupportedOnView
        | 168 | 169 | 235 // InvalidPipelineOperator, FailedToParse…, InternalErrorNotSupported
        | 241 | 291 | 292 // ConversionFailure, NoQueryExecutionPlans, QueryExceededMemoryLimitNoDiskUseAllowed
        | 10334 | 17280 // BSONObjectTooLarge, KeyTooLong
    ) || code >= 10_000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command_error(code: i32) -> DriverError {
        let command: mongodb::error::CommandError = bson::deserialize_from_document(bson::doc! {
            "code": code, "codeName": "X", "errmsg": "x",
        })
        .expect("a command error");
        ErrorKind::Command(command).into()
    }

    #[test]
    fn every_kind_has_its_remedy() {
        for (code, expected) in [
            (286, Remedy::HistoryLost),
            (43, Remedy::Retry),
            (91, Remedy::Retry),
            (10107, Remedy::Retry),
            (280, Remedy::Retry),
            (13, Remedy::Reject),
            (2, Remedy::Reject),
            (16610, Remedy::Reject),
        ] {
            assert_eq!(Error::Driver(command_error(code)).remedy(), expected, "{code}");
        }
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(Error::Driver(io.into()).remedy(), Remedy::Retry);
        assert_eq!(Error::Refused("x".into()).remedy(), Remedy::Reject);
    }
}
