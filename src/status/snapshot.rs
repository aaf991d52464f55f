//! The status object: what `GET /api/status` and `mongosync status --json` answer, and whether that
//! counts as ready.
//!
//! Its shape is a promise to other programs: a snapshot test holds it. It is stored too, so what is
//! added to it must be able to be missing.

use std::{fmt, marker::PhantomData, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, Visitor},
};

use super::State;
use crate::change::ClusterTime;

/// A target that is further behind is not ready.
pub const READY_LAG: Duration = Duration::from_secs(60);

/// All that a pipeline says of itself at one moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The rule file's name.
    pub name: String,
    /// Whether it works.
    pub state: Standing,
    /// Since when nothing has been heard of the process that this is told of: 0 from itself, `None`
    /// where there has never been one.
    #[serde(default)]
    pub age_seconds: Option<f64>,
    /// Who holds the name, or held it last where it is `stopped`.
    #[serde(default)]
    pub holder: Option<Holder>,
    /// By name, in the order of the file.
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    pub targets: Vec<(String, TargetSnapshot)>,
    /// Until it has been measured, `None`.
    pub oplog_window_seconds: Option<u64>,
}

/// Who holds the lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// The process that this is told of.
    Active,
    /// Another one; this one takes over when that one ends.
    Standby,
    /// Nobody: what is told are the last words of the one that did. No process says so of itself.
    Stopped,
}

/// A process that holds a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// Its host's name.
    pub host: String,
    /// Its number there.
    pub pid: u32,
    /// Since when it has held the name, by its own clock, as RFC 3339 has it.
    pub since: String,
}

/// One target.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TargetSnapshot {
    /// What it is doing.
    pub state: State,
    /// To the millisecond; `None` where that is not known yet, or nothing is followed.
    pub lag_seconds: Option<f64>,
    /// All before it is settled.
    #[serde(default, serialize_with = "as_text", deserialize_with = "from_text")]
    pub position: Option<ClusterTime>,
    /// How much of the oplog lies before the position: so long the target may yet stand still. `None`
    /// where that is not known.
    #[serde(default)]
    pub oplog_left_seconds: Option<u64>,
    /// Why it waits or has failed; `None` once that is over.
    pub last_error: Option<String>,
    /// By name, in the order of the file.
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    pub rules: Vec<(String, RuleSnapshot)>,
    /// Whether any of its rules follows changes.
    #[serde(skip)]
    pub follows: bool,
}

/// One rule in one target. The numbers are those of this process.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RuleSnapshot {
    /// Its own, or that of the target's stream which it shares.
    #[serde(default, serialize_with = "as_text", deserialize_with = "from_text")]
    pub position: Option<ClusterTime>,
    /// How far its copy is.
    pub copy: CopySnapshot,
    /// Whether the rule has changed since it was copied, and was not copied again.
    pub stale_definition: bool,
    /// Documents that the target holds.
    pub delivered: u64,
    /// Documents that the target holds no more.
    pub removed: u64,
    /// Writes that were older than what the target held.
    pub superseded: u64,
    /// Documents that were refused for good.
    pub dead_letters: u64,
}

/// A copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CopySnapshot {
    /// Settled so far, earlier runs included.
    pub documents: u64,
    /// An estimate; `None` until there is one.
    pub expected: Option<u64>,
    /// Whether there is nothing left to copy.
    pub complete: bool,
}

impl Snapshot {
    /// Why this is not ready, one line a reason; empty where it is. Ready is: standing by, or all
    /// copies complete and every lag under [`READY_LAG`].
    pub fn unready(&self) -> Vec<String> {
        match self.state {
            Standing::Standby => Vec::new(),
            Standing::Stopped => vec!["no process holds the name".to_owned()],
            Standing::Active => {
                self.targets.iter().flat_map(|(name, target)| target.unready(name)).collect()
            }
        }
    }
}

impl TargetSnapshot {
    /// Two pipelines of one target as one: what asks for attention counts, and what is furthest behind.
    pub(super) fn join(&mut self, other: Self) {
        let rank = |state: State| match state {
            State::Failed => 4,
            State::Paused => 3,
            State::Waiting => 2,
            State::Copying => 1,
            State::Following => 0,
        };
        if rank(other.state) > rank(self.state) {
            self.state = other.state;
            self.last_error = other.last_error.or(self.last_error.take());
        } else {
            self.last_error = self.last_error.take().or(other.last_error);
        }
        // What follows nothing has neither.
        (self.lag_seconds, self.position) = match (self.follows, other.follows) {
            (true, true) => (
                self.lag_seconds.zip(other.lag_seconds).map(|(one, two)| one.max(two)),
                self.position.zip(other.position).map(|(one, two)| one.min(two)),
            ),
            (false, true) => (other.lag_seconds, other.position),
            _ => (self.lag_seconds, self.position),
        };
        self.oplog_left_seconds =
            self.oplog_left_seconds.into_iter().chain(other.oplog_left_seconds).min();
        self.follows |= other.follows;
        self.rules.extend(other.rules);
    }

    fn unready(&self, name: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.state == State::Failed {
            reasons.push(format!("target {name} has failed"));
        }
        for (rule, RuleSnapshot { copy, .. }) in &self.rules {
            if !copy.complete {
                reasons.push(format!("the copy of rule {rule} to target {name} is not complete"));
            }
        }
        match self.lag_seconds {
            Some(lag) if lag >= READY_LAG.as_secs_f64() => {
                reasons.push(format!("target {name} is {lag:.0} s behind"));
            }
            None if self.follows => {
                reasons.push(format!("how far target {name} is behind is not known yet"));
            }
            Some(_) | None => {}
        }
        reasons
    }
}

fn as_map<S: Serializer, T: Serialize>(
    entries: &[(String, T)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().map(|(name, value)| (name, value)))
}

/// `seconds.increment`, as the rule file and the events have it.
fn as_text<S: Serializer>(time: &Option<ClusterTime>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// Keeps the order, which is that of the rule file.
fn from_map<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<(String, T)>, D::Error> {
    struct Entries<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
        type Value = Vec<(String, T)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = map.next_entry()? {
                entries.push(entry);
            }
            Ok(entries)
        }
    }
    deserializer.deserialize_map(Entries(PhantomData))
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ClusterTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    let time = text.split_once('.').and_then(|(time, increment)| {
        Some(bson::Timestamp { time: time.parse().ok()?, increment: increment.parse().ok()? })
    });
    time.map(|time| Some(time.into())).ok_or_else(|| de::Error::custom("no cluster time"))
}
