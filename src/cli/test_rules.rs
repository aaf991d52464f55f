//! `mongosync test`: the tests that a rule file holds, without any server.

use std::{
    collections::{BTreeMap, HashMap},
    io::{self, IsTerminal, Write},
    sync::Arc,
};

use bson::Bson;
use console::style;
use serde_json::{Value, json};
use similar::{ChangeTag, TextDiff};
use smallvec::smallvec;
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    arguments::TestArguments,
    console::Console,
    extended_json::{in_order_of, of, same, text},
    run::{known_rules, load},
};
use crate::{
    change::{
        Cause, Change, ClusterTime, DocumentKey, Phase, RuleIndex, State,
        id::{IdType, IdTypes},
    },
    delivery::trial::{Made, Put, Trial},
    rules::model::{Expected, GivenChange, RuleFile, Test},
    target::open,
    transform::Reads,
};

/// The time of the change that a test is about: the first second of 2026.
const TIME: ClusterTime = ClusterTime(1_767_225_600 << 32 | 1);
/// Lines around what differs.
const CONTEXT: usize = 3;

/// Runs the command.
///
/// # Errors
/// `TestsFailed`; see [`Error`].
pub async fn run(arguments: TestArguments, console: &Console) -> Result<(), Error> {
    let rules = load(&arguments.file, console)?;
    known_rules(&rules, &arguments.rules)?;
    let TestArguments { rules: chosen, json, .. } = arguments;
    // On a thread that has the stack which scripts may need.
    let told = tokio::task::spawn_blocking(move || {
        let colour = io::stdout().is_terminal() && console::colors_enabled();
        tell(&rules, &chosen, &Style { json, colour }, &mut io::stdout().lock())
    });
    let Told { failed, total } =
        told.await.map_err(|panic| Error::Internal(panic.to_string()))??;
    if total == 0 {
        console.notice("there are no tests");
    }
    if failed > 0 {
        return Err(Error::TestsFailed { failed, total });
    }
    Ok(())
}

struct Style {
    json: bool,
    colour: bool,
}

struct Told {
    failed: usize,
    total: usize,
}

/// Runs each test and tells how it ended.
fn tell(
    rules: &RuleFile,
    chosen: &[String],
    style: &Style,
    out: &mut impl Write,
) -> Result<Told, Error> {
    let mut told = Told { failed: 0, total: 0 };
    let mut trials = Trials::default();
    let tests = rules.tests.iter().filter(|test| chosen.is_empty() || chosen.contains(&test.rule));
    for test in tests {
        let made = trials.made(rules, test)?;
        let expected = Outcome::expected(&test.expected);
        let ran = Ran { test, expected, actual: Outcome::actual(&made, &test.expected) };
        told.total += 1;
        told.failed += usize::from(!ran.passed());
        let written = match style.json {
            true => writeln!(out, "{}", ran.json()),
            false => ran.write(&rules.path.display().to_string(), style.colour, out),
        };
        written.map_err(unwritten)?;
    }
    if !style.json && told.total > 0 {
        let passed = told.total - told.failed;
        writeln!(out, "{passed} passed, {} failed", told.failed).map_err(unwritten)?;
    }
    Ok(told)
}

fn unwritten(source: io::Error) -> Error {
    Error::System { what: "can't write to standard output", source }
}

/// Those that have been made, by rule and target.
#[derive(Default)]
struct Trials<'a>(HashMap<(&'a str, &'a str), Trial>);

impl<'a> Trials<'a> {
    fn made(&mut self, rules: &'a RuleFile, test: &'a Test) -> Result<Made, Error> {
        let trial = match self.0.entry((&test.rule, &test.target)) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => new.insert(trial(rules, test)?),
        };
        let mut change = change(test)?;
        let types: IdTypes = [IdType::of(change.key.id())].into_iter().collect();
        let reads = Reads {
            lookup: Arc::new(test.lookup.clone()),
            after: TIME,
            stop: CancellationToken::new(),
        };
        let made = trial.run(&mut change, &types, Some(&reads));
        made.map_err(|halt| Error::Internal(halt.to_string()))
    }
}

fn trial(rules: &RuleFile, test: &Test) -> Result<Trial, Error> {
    let written = rules.targets.iter().find(|target| target.name == test.target);
    let delivery = rules.deliveries(&test.target).find(|(rule, _)| rule.name == test.rule);
    let (written, delivery) =
        written.zip(delivery).expect("the rule of a test and its target are of the file");
    let target = open::open_unconnected(written, [delivery])
        .map_err(|error| Error::Usage(format!("target {} can't be used: {error}", test.target)))?;
    Ok(Trial::new(delivery.0, target))
}

/// The change that brings the document to the rule.
fn change(test: &Test) -> Result<Change, Error> {
    let (own, state, phase) = match &test.given {
        GivenChange::Document(document) => {
            (document.raw(), State::Present(document.clone()), Phase::Changes)
        }
        GivenChange::Event { key, event } => {
            let phase = if event.copy { Phase::Copy } else { Phase::Changes };
            (&**key, State::Happened(Arc::new((**event).clone())), phase)
        }
    };
    let id = own.get("_id").ok().flatten();
    let id = id.expect("the rule file was refused without it");
    let key = DocumentKey::from_id(id).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(Change {
        namespace: test.namespace.clone(),
        key,
        time: TIME,
        cause: Cause::Event(TIME),
        read: TIME,
        since: Some(bson::DateTime::from_millis(i64::from(TIME.seconds()) * 1000)),
        deleted: false,
        phase,
        states: smallvec![(RuleIndex(0), state)],
        claims: Default::default(),
    })
}

/// What became of a test's document, or was to become of it.
#[derive(Clone, PartialEq, Debug)]
enum Outcome {
    Removed,
    Skipped,
    /// Each as it is delivered.
    Delivered(Vec<Bson>),
    Meta(BTreeMap<String, Option<String>>),
    /// The reason of a dead letter, or a part of it.
    Error(String),
}

impl Outcome {
    fn expected(expected: &Expected) -> Self {
        match expected {
            Expected::Removed => Self::Removed,
            Expected::Skipped => Self::Skipped,
            Expected::Error(part) => Self::Error(part.clone()),
            Expected::Meta(named) => Self::Meta(named.clone()),
            Expected::NoDocument => Self::Delivered(vec![Bson::Null]),
            Expected::Documents(documents) => {
                Self::Delivered(documents.iter().cloned().map(Bson::Document).collect())
            }
        }
    }

    /// Of a delivery's `meta`, only what is expected is looked at.
    fn actual(made: &Made, expected: &Expected) -> Self {
        let Made { puts, removed, skipped, refused } = made;
        if !refused.is_empty() {
            return Self::Error(refused.join("\n"));
        }
        match (removed, skipped, expected, puts.as_slice()) {
            (Some(_), ..) => Self::Removed,
            (None, true, ..) => Self::Skipped,
            (None, false, Expected::Meta(named), [put]) => {
                let field = |name: &String| put.meta.field(name).map(str::to_owned);
                Self::Meta(named.keys().map(|name| (name.clone(), field(name))).collect())
            }
            (None, false, _, puts) => {
                let document = |put: &Put| match &put.document {
                    Some(document) => of(document.raw()),
                    None => Bson::Null,
                };
                Self::Delivered(puts.iter().map(document).collect())
            }
        }
    }

    fn meets(&self, expected: &Self) -> bool {
        match (self, expected) {
            (Self::Error(words), Self::Error(part)) => words.contains(part.as_str()),
            (Self::Delivered(actual), Self::Delivered(expected)) => {
                actual.len() == expected.len()
                    && actual.iter().zip(expected).all(|(actual, expected)| same(actual, expected))
            }
            _ => self == expected,
        }
    }

    /// As the rule file has it: to be compared line by line with another one.
    fn lines(&self, model: &Self) -> String {
        let lines = match self {
            Self::Removed => "removed".to_owned(),
            Self::Skipped => "skipped".to_owned(),
            Self::Error(words) => format!("error: {words}"),
            Self::Meta(named) => {
                let value = |value: &Option<String>| Bson::from(value.clone());
                let fields = named.iter().map(|(name, of)| (name.clone(), value(of)));
                format!("meta: {}", text(&Bson::Document(fields.collect())))
            }
            Self::Delivered(documents) => {
                let model = match model {
                    Self::Delivered(model) => model.as_slice(),
                    _ => &[],
                };
                let documents = Bson::Array(documents.clone());
                match in_order_of(&documents, &Bson::Array(model.to_vec())) {
                    Bson::Array(one) if one.len() == 1 => format!("document: {}", text(&one[0])),
                    several => format!("documents: {}", text(&several)),
                }
            }
        };
        lines + "\n"
    }

    fn json(&self) -> Value {
        match self {
            Self::Removed => json!("removed"),
            Self::Skipped => json!("skipped"),
            Self::Error(words) => json!({ "error": words }),
            Self::Meta(named) => json!({ "meta": named }),
            Self::Delivered(documents) => {
                let json = |document: &Bson| document.clone().into_relaxed_extjson();
                match documents.as_slice() {
                    [one] => json!({ "document": json(one) }),
                    several => json!({ "documents": several.iter().map(json).collect::<Vec<_>>() }),
                }
            }
        }
    }
}

/// A test that has been run.
struct Ran<'a> {
    test: &'a Test,
    expected: Outcome,
    actual: Outcome,
}

impl Ran<'_> {
    fn passed(&self) -> bool {
        self.actual.meets(&self.expected)
    }

    fn json(&self) -> Value {
        let Test { name, rule, place, .. } = self.test;
        json!({
            "name": name, "rule": rule, "line": place.line, "column": place.column,
            "passed": self.passed(), "expected": self.expected.json(), "actual": self.actual.json(),
        })
    }

    fn write(&self, file: &str, colour: bool, out: &mut impl Write) -> io::Result<()> {
        let green = |text: &str| style(text).green().force_styling(colour).to_string();
        let red = |text: &str| style(text).red().force_styling(colour).to_string();
        let Test { name, rule, place, .. } = self.test;
        if self.passed() {
            return writeln!(out, "{}    {rule}: {name}", green("ok"));
        }
        writeln!(out, "{}  {rule}: {name}", red("FAIL"))?;
        writeln!(out, "      at {file}:{}:{}", place.line, place.column)?;
        writeln!(out, "      {}\n      {}", red("- expected"), green("+ actual"))?;
        let expected = self.expected.lines(&self.expected);
        let actual = self.actual.lines(&self.expected);
        let diff = TextDiff::from_lines(&expected, &actual);
        for (at, group) in diff.grouped_ops(CONTEXT).iter().enumerate() {
            if at > 0 {
                writeln!(out, "        …")?;
            }
            for change in group.iter().flat_map(|operation| diff.iter_changes(operation)) {
                let line = change.value().trim_end_matches('\n');
                let line = match change.tag() {
                    ChangeTag::Delete => red(&format!("- {line}")),
                    ChangeTag::Insert => green(&format!("+ {line}")),
                    ChangeTag::Equal => format!("  {line}"),
                };
                writeln!(out, "      {line}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(file: &str, chosen: &[&str], style: &Style) -> (String, usize, usize) {
        let path = std::path::Path::new("tests/rule_files/good").join(file);
        let loaded = crate::rules::load(&path, &|_| None);
        let rules = loaded.unwrap_or_else(|report| panic!("{report}")).rules;
        let chosen: Vec<String> = chosen.iter().map(|name| (*name).to_owned()).collect();
        let mut out = Vec::new();
        let told = tell(&rules, &chosen, style, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), told.failed, told.total)
    }

    const PLAIN: Style = Style { json: false, colour: false };

    #[test]
    fn what_is_expected_is_met() {
        let (text, failed, total) = told("tests.yaml", &[], &PLAIN);
        assert_eq!(failed, 0, "{text}");
        assert!(text.ends_with(&format!("{total} passed, 0 failed\n")), "{text}");
        let (_, _, some) = told("tests.yaml", &["orders"], &PLAIN);
        assert!(some > 0 && some < total, "{some} of {total}");
    }

    #[test]
    fn what_differs_is_shown() {
        let (text, failed, total) = told("failing_tests.yaml", &[], &PLAIN);
        assert_eq!(failed, total, "{text}");
        insta::assert_snapshot!(text);
        let (json, ..) = told("failing_tests.yaml", &[], &Style { json: true, colour: false });
        insta::assert_snapshot!(json);
    }

    #[test]
    fn coloured_where_asked() {
        let (text, ..) = told("tests.yaml", &[], &Style { json: false, colour: true });
        assert!(text.starts_with("\u{1b}["), "{text}");
    }
}
