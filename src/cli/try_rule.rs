//! `mongosync try`: documents of the source, taken through one rule, and what would be sent.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::Arc,
};

use super::{
    Error,
    arguments::TryArguments,
    console::Console,
    extended_json::{of, same, text},
    run::{known_rules, load},
};
use crate::{
    delivery::trial::Made,
    pipeline::{self, Chosen, Fate, Sample},
    rules::model::{Rule, RuleFile},
};

/// Runs the command.
///
/// # Errors
/// `NotFound` where there is no such document; see [`Error`].
pub async fn run(arguments: TryArguments, console: &Console) -> Result<(), Error> {
    let TryArguments { file, rule, id, limit, target, wait } = arguments;
    let rules = Arc::new(load(&file, console)?);
    known_rules(&rules, std::slice::from_ref(&rule))?;
    let rule = rules.rules.iter().find(|known| known.name == rule).expect("it is known");
    let target = target_of(rule, target.as_deref())?;
    let chosen = id.clone().map_or(Chosen::Some(limit), Chosen::Id);
    let samples = pipeline::sample(&rules, (&rule.name, target), &chosen, wait).await?;
    if samples.is_empty() {
        return Err(Error::NotFound(nothing(&rules, rule, id.as_deref())));
    }
    let shown: Vec<String> = samples.iter().map(|sample| shown(sample, rule, target)).collect();
    let mut out = io::stdout().lock();
    match out.write_all(shown.join("\n").as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::System { what: "can't write to standard output", source: error })
        }
        _ => Ok(()),
    }
}

/// The target that is meant: the one that is named, or the only one.
fn target_of<'a>(rule: &'a Rule, named: Option<&str>) -> Result<&'a str, Error> {
    let names: Vec<&str> = rule.to.iter().map(|to| to.target.as_str()).collect();
    let all = names.join(", ");
    match (named, names.as_slice()) {
        (None, [only]) => Ok(only),
        (None, _) => Err(Error::Usage(format!(
            "rule {} writes to several targets; name one with --target: {all}",
            rule.name
        ))),
        (Some(named), names) => {
            names.iter().find(|name| **name == named).copied().ok_or_else(|| {
                Error::Usage(format!(
                    "rule {} does not write to a target {named:?}\n  it writes to: {all}",
                    rule.name
                ))
            })
        }
    }
}

fn nothing(rules: &RuleFile, rule: &Rule, id: Option<&str>) -> String {
    let file = rules.path.display();
    let name = &rule.name;
    match id {
        Some(id) => format!(
            "no namespace of rule {name} in {file} has a document with the _id {id}\n  it was taken for \
             a text, and for an ObjectId, a UUID, a number and Extended JSON where it reads like one"
        ),
        None => format!("no document matches rule {name} in {file}"),
    }
}

/// A document before and after, and what would be sent.
fn shown(sample: &Sample, rule: &Rule, target: &str) -> String {
    let mut out = String::new();
    let Sample { namespace, key, before, fate } = sample;
    let told = if rule.events.is_some() { ", as the copy would tell it" } else { "" };
    let heading = format!("{namespace}  _id {}{told}", key.display());
    let before = of(before.raw());
    part(&mut out, &heading, "");
    part(&mut out, "before, as it lies in the collection:", &text(&before));
    let made = match fate {
        Fate::Filtered => {
            part(&mut out, "not sent: the filter does not match", "");
            return out;
        }
        Fate::LeftOut => {
            part(&mut out, "not sent: the pipeline leaves it out", "");
            return out;
        }
        Fate::Failed(words) => {
            part(&mut out, "not sent: it would become a dead letter, MongoDB fails on it:", words);
            return out;
        }
        Fate::Made(made) => made,
    };
    let Made { puts, removed, skipped, refused } = made;
    for put in puts {
        match put.document.as_ref().map(|document| of(document.raw())) {
            None => part(&mut out, "after: told without a document", ""),
            Some(after) if same(&before, &after) => part(&mut out, "after: the same", ""),
            Some(after) => part(&mut out, &format!("after{}:", steps(rule)), &text(&after)),
        }
        part(&mut out, &format!("the request that {target} would get:"), &lines(&put.request));
    }
    for words in refused {
        part(&mut out, "not sent: it would become a dead letter:", words);
    }
    match removed {
        Some(request) if request.is_empty() => {
            part(&mut out, "after: remove(), it would be taken out where it lies", "");
        }
        Some(request) => {
            part(&mut out, "after: remove()", "");
            part(&mut out, &format!("the request that {target} would get:"), &lines(request));
        }
        None if *skipped => part(&mut out, "not sent: skip(), the target is left as it is", ""),
        None if puts.is_empty() && refused.is_empty() => {
            part(&mut out, "not sent: the script leaves no document", "");
        }
        None => {}
    }
    out
}

/// A heading, and what stands under it.
fn part(out: &mut String, heading: &str, body: &str) {
    let written = match body {
        "" => writeln!(out, "{heading}"),
        body => writeln!(out, "\n{heading}\n{body}"),
    };
    written.expect("a text takes all that is written");
}

fn lines(request: &[u8]) -> String {
    String::from_utf8_lossy(request).trim_end().to_owned()
}

/// What the rule does to a document.
fn steps(rule: &Rule) -> String {
    let steps = [
        ("filter", rule.filter.is_some()),
        ("project", rule.project.is_some()),
        ("pipeline", !rule.pipeline.is_empty()),
        ("transform", rule.transform.is_some()),
    ];
    let mut names: Vec<&str> = steps.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    match (names.pop(), names.is_empty()) {
        (None, _) => String::new(),
        (Some(last), true) => format!(" {last}"),
        (Some(last), false) => format!(" {} and {last}", names.join(", ")),
    }
}
