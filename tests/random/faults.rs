//! What goes wrong meanwhile: troubles, which last until they are ended, and blows.

use std::fmt;

use rand::{Rng, rngs::StdRng};

use super::operations::Operation;

/// Whether requests to copy a rule again are carried out.
const RESYNC: bool = true;

/// Blows, as often as they come up.
const BLOWS: &[Blow] = &[
    Blow::Kill,
    Blow::Kill,
    Blow::Terminate,
    Blow::TakeOver,
    Blow::TargetCut,
    Blow::TargetReset,
    Blow::SourceCut,
    Blow::SourceReset,
    Blow::SourceRestart,
    Blow::Resync("plain"),
    Blow::Resync("scripted"),
    Blow::Resync("glob"),
    Blow::Resync("left"),
    Blow::Resync("second"),
    Blow::Resync("moving"),
];

/// It happens once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blow {
    /// `kill -9` and a start.
    Kill,
    /// SIGTERM and a start.
    Terminate,
    /// A second process stands by, the first one is killed.
    TakeOver,
    TargetCut,
    TargetReset,
    SourceCut,
    SourceReset,
    /// `kill -9` and a start of a single node; a new primary of several.
    SourceRestart,
    /// `mongosync resync RULE`.
    Resync(&'static str),
}

/// Where a trouble is. There is one at a time in each place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Place {
    /// Between mongosync and the recording endpoint.
    TargetLine,
    /// What the endpoint answers.
    TargetAnswers,
    /// Between mongosync and the second target.
    OtherLine,
    SourceLine,
    SourceCommands,
    Store,
    /// A target that a person has paused.
    Pause,
}

const PLACES: [Place; 7] = [
    Place::TargetLine,
    Place::TargetAnswers,
    Place::OtherLine,
    Place::SourceLine,
    Place::SourceCommands,
    Place::Store,
    Place::Pause,
];

/// How a line fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line {
    Late,
    Held,
    RequestsLost,
    AnswersLost,
    Refused,
}

/// How the endpoint answers bulk requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answers {
    Status(u16),
    /// 413 to all but small ones.
    TooLarge,
    /// 429 for some items of each.
    SomeBusy,
    /// Some of the requests are refused or their answers lost, each in another way.
    Mixed,
    /// The connection is cut before they are written.
    CutBefore,
    /// They are written, and the connection is cut.
    CutAfter,
}

/// It lasts until it is ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    Line(Place, Line),
    Answers(Answers),
    /// MongoDB's fail point: command, and an error code or a closed connection (0), so many times.
    Command(&'static str, i32, i32),
    /// Connections to the store are cut before or after some of its writes are carried out.
    StoreCut {
        after: bool,
    },
    /// Its writes fail with this code, so many times.
    StoreFails(i32, i32),
    /// `mongosync pause`, of one target.
    Paused(&'static str),
}

impl Trouble {
    /// Where it is.
    pub fn place(self) -> Place {
        match self {
            Self::Line(place, _) => place,
            Self::Answers(_) => Place::TargetAnswers,
            Self::Command(..) => Place::SourceCommands,
            Self::StoreCut { .. } | Self::StoreFails(..) => Place::Store,
            Self::Paused(_) => Place::Pause,
        }
    }

    fn drawn(place: Place, random: &mut StdRng) -> Self {
        let choice = |random: &mut StdRng, count: usize| random.random_range(0..count);
        match place {
            Place::TargetLine | Place::OtherLine | Place::SourceLine => {
                let lines =
                    [Line::Late, Line::Held, Line::RequestsLost, Line::AnswersLost, Line::Refused];
                Self::Line(place, lines[choice(random, lines.len())])
            }
            Place::TargetAnswers => {
                let answers = [
                    Answers::Status(429),
                    Answers::Status(503),
                    Answers::Status(401),
                    Answers::TooLarge,
                    Answers::SomeBusy,
                    Answers::Mixed,
                    Answers::CutBefore,
                    Answers::CutAfter,
                ];
                Self::Answers(answers[choice(random, answers.len())])
            }
            Place::SourceCommands => {
                let commands = ["getMore", "aggregate", "find"];
                let codes = [0, 43, 91, 189, 10107, 11600];
                let code = codes[choice(random, codes.len())];
                Self::Command(commands[choice(random, 3)], code, random.random_range(1..6))
            }
            Place::Store => match choice(random, 4) {
                0 => Self::StoreCut { after: false },
                1 => Self::StoreCut { after: true },
                2 => Self::StoreFails(10107, random.random_range(1..6)),
                _ => Self::StoreFails(14031, random.random_range(1..6)),
            },
            Place::Pause => Self::Paused(["search", "other"][choice(random, 2)]),
        }
    }
}

/// One step of a run.
#[derive(Clone, Debug)]
pub enum Step {
    /// These, four at a time.
    Write(Vec<Operation>),
    Begin(Trouble),
    End(Place),
    Strike(Blow),
    /// Some looks at the status go by.
    Linger(u32),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(operations) => {
                for (number, operation) in operations.iter().enumerate() {
                    let end = if number + 1 < operations.len() { "\n" } else { "" };
                    write!(f, "    {operation}{end}")?;
                }
                Ok(())
            }
            Self::Begin(trouble) => write!(f, "  begin {trouble:?}"),
            Self::End(place) => write!(f, "  end {place:?}"),
            Self::Strike(blow) => write!(f, "  {blow:?}"),
            Self::Linger(looks) => write!(f, "  linger {looks}"),
        }
    }
}

/// The steps of one round, the same ones for the same state of the generator: nothing that happens
/// has a say in them. Troubles that are left at its end are ended by whoever runs it.
pub fn round(random: &mut StdRng, nodes: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut troubles: Vec<Place> = Vec::new();
    for _ in 0..random.random_range(6..16) {
        let count = random.random_range(1..60);
        steps.push(Step::Write(Operation::drawn(random, count)));
        match random.random_range(0..10) {
            0..=3 => {
                let place = PLACES[random.random_range(0..PLACES.len())];
                let trouble = Trouble::drawn(place, random);
                // Nothing stands between the nodes of a set and their client.
                let possible = nodes == 1 || !matches!(place, Place::SourceLine | Place::Store);
                // A request needs its store.
                let asks = place == Place::Pause && troubles.contains(&Place::Store);
                if possible && !asks && !troubles.contains(&place) {
                    troubles.push(place);
                    steps.push(Step::Begin(trouble));
                }
            }
            4..=6 => {
                let blow = BLOWS[random.random_range(0..BLOWS.len())];
                let possible = nodes == 1 || !matches!(blow, Blow::SourceCut | Blow::SourceReset);
                let asks = matches!(blow, Blow::Resync(_)) && troubles.contains(&Place::Store);
                // Who takes over waits for the store, and the clock runs.
                let waits = blow == Blow::TakeOver && !troubles.is_empty();
                let known = matches!(blow, Blow::Resync(_)) && !RESYNC;
                if possible && !asks && !waits && !known {
                    steps.push(Step::Strike(blow));
                }
            }
            7 | 8 if !troubles.is_empty() => {
                let place = troubles.swap_remove(random.random_range(0..troubles.len()));
                steps.push(Step::End(place));
            }
            _ => {}
        }
        if random.random_bool(0.4) {
            steps.push(Step::Linger(random.random_range(1..12)));
        }
    }
    steps
}
