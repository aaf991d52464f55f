//! `mongosync verify`: what source and targets have in common, and what not.

use std::{fmt::Write, sync::Arc, time::Duration};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::{
    Error,
    arguments::VerifyArguments,
    console::Console,
    print,
    run::{known_rules, known_targets, load},
};
use crate::{
    check::hints,
    finding::Part,
    pipeline::{
        self, Difference, DifferenceKind, Progress, Report, RuleReport, TargetReport, Verify,
    },
    rules::model::RuleFile,
    status::masked,
};

/// How often the line on a terminal is drawn anew.
const LOOK: Duration = Duration::from_millis(100);
/// What `check` says of rules whose documents may differ though everything was delivered.
const DRIFTS: [&str; 3] = ["join", "now", "random"];

/// Runs the command.
///
/// # Errors
/// `Different` where something differs and was not mended; see [`Error`].
pub async fn run(arguments: VerifyArguments, console: &Console) -> Result<(), Error> {
    let VerifyArguments { file, rules: names, targets, repair, limit, json, wait } = arguments;
    let rules = Arc::new(load(&file, console)?);
    known_rules(&rules, &names)?;
    known_targets(&rules, &targets)?;
    let named = !targets.is_empty();
    let verify = Verify { rules: names, targets, wait, limit, repair };
    let progress = Progress::default();
    let mut report = tokio::select! {
        report = pipeline::verify(&rules, &verify, &progress) => report?,
        () = show(&progress, console) => unreachable!("it is shown for as long as it takes"),
    };
    console.clear();
    explain(&rules, &mut report);
    if let Some(why) = nothing(&report, named) {
        return Err(Error::Refused(why));
    }
    match json {
        true => {
            let mut value = serde_json::to_value(&report).map_err(|error| {
                Error::Internal(format!("the output can't be written: {error}"))
            })?;
            value["differ"] = report.differences().into();
            value["repaired"] = report.repaired().into();
            print(&masked(&format!("{value:#}\n")))?;
        }
        false => print(&masked(&text(&report)))?,
    }
    if report.targets.values().any(|target| target.repair_left) {
        console.notice(
            "no answer yet: the repair stays, and is carried out by the process that runs the rule \
             file, or by the next one that does",
        );
    }
    match report.differences() {
        0 => Ok(()),
        differences => Err(Error::Different { differences, repair }),
    }
}

/// One line on a terminal, for as long as it is waited for.
async fn show(progress: &Progress, console: &Console) {
    if !console.live() {
        return std::future::pending().await;
    }
    let line = console.bars().add(ProgressBar::new(0));
    let style = ProgressStyle::with_template("{wide_msg}").expect("the template is well-formed");
    line.set_style(style);
    loop {
        let (done, expected) = progress.documents();
        let of = match expected {
            0 => String::new(),
            expected => format!(" of {}", HumanCount(expected.max(done))),
        };
        line.set_message(format!("{}  {}{of}", progress.what(), HumanCount(done)));
        tokio::time::sleep(LOOK).await;
    }
}

/// Why nothing has been compared, if that is so.
fn nothing(report: &Report, named: bool) -> Option<String> {
    let why = |(name, target): (&String, &TargetReport)| {
        target.unreadable.as_ref().map(|why| format!("target {name} can't be compared: {why}"))
    };
    let all: Vec<String> = report.targets.iter().filter_map(why).collect();
    let some = all.len() < report.targets.len();
    // One that was asked for by its name was not to be passed over.
    (report.targets.is_empty() || !some || (named && !all.is_empty())).then(|| {
        match all.is_empty() {
            true => "no rule that was named writes to a target that was named".to_owned(),
            false => all.join("\n"),
        }
    })
}

/// Adds why documents of a rule may differ though everything was delivered.
fn explain(rules: &RuleFile, report: &mut Report) {
    let hints = hints(rules);
    for target in report.targets.values_mut() {
        for (name, rule) in &target.rules {
            if rule.stale {
                target.notes.push(format!(
                    "rule {name} has changed since it was copied: `mongosync resync` copies it again"
                ));
            }
            if rule.different + rule.missing + rule.repaired == 0 {
                continue;
            }
            let mine = hints.iter().filter(|hint| {
                DRIFTS.contains(&hint.code) && hint.part == Part::Rule(name.clone())
            });
            target.notes.extend(mine.map(|hint| format!("rule {name}: {}", hint.message)));
        }
    }
}

/// What a person reads.
fn text(report: &Report) -> String {
    let mut out = String::new();
    for (name, target) in &report.targets {
        if !out.is_empty() {
            out.push('\n');
        }
        write_target(&mut out, name, target).expect("a text takes all that is written");
    }
    out
}

fn write_target(out: &mut String, name: &str, target: &TargetReport) -> std::fmt::Result {
    writeln!(out, "target {name}")?;
    if let Some(why) = &target.unreadable {
        return writeln!(out, "  not compared: {why}");
    }
    for (name, rule) in &target.rules {
        write_rule(out, name, rule)?;
    }
    let beside = counted(&[
        ("extra", target.extra),
        ("repaired", target.extra_repaired),
        ("removals not delivered yet", target.extra_not_delivered),
    ]);
    match target.held {
        Some(held) => writeln!(out, "  documents held: {}{beside}", HumanCount(held))?,
        // What it holds can't be counted, and is told by the places that are remembered.
        None if !beside.is_empty() => writeln!(out, "  {}", beside.trim_start_matches(", "))?,
        None => {}
    }
    for difference in &target.differences {
        writeln!(out, "  {}", described(difference))?;
    }
    for (kind, count) in counts(target) {
        let shown = target.differences.iter().filter(|known| known.kind == kind).count() as u64;
        if count > shown {
            let more = HumanCount(count - shown);
            writeln!(out, "  … and {more} more {}: `--limit` shows them", kind.as_str())?;
        }
    }
    target.notes.iter().try_for_each(|note| writeln!(out, "  note: {note}"))
}

fn write_rule(out: &mut String, name: &str, rule: &RuleReport) -> std::fmt::Result {
    let counts = [
        ("missing", rule.missing),
        ("different", rule.different),
        ("repaired", rule.repaired),
        ("not delivered yet", rule.not_delivered),
        ("in the dead letters", rule.dead_letters),
    ];
    let documents = HumanCount(rule.documents);
    let noun = if rule.documents == 1 { "document" } else { "documents" };
    let copying = if rule.copying { ", still being copied" } else { "" };
    writeln!(
        out,
        "  rule {name}: {documents} {noun} in the source{copying}; equal: {}{}",
        HumanCount(rule.equal),
        counted(&counts)
    )
}

/// What there is any of.
fn counted(counts: &[(&str, u64)]) -> String {
    let some = counts.iter().filter(|(_, count)| *count > 0);
    some.map(|(what, count)| format!(", {what}: {}", HumanCount(*count))).collect()
}

/// Of each kind how many there are or were; those that were repaired are not told apart by kind.
fn counts(target: &TargetReport) -> [(DifferenceKind, u64); 3] {
    let sum = |count: fn(&RuleReport) -> u64| target.rules.values().map(count).sum::<u64>();
    [
        (DifferenceKind::Missing, sum(|rule| rule.missing)),
        (DifferenceKind::Different, sum(|rule| rule.different)),
        (DifferenceKind::Extra, target.extra),
    ]
}

/// `missing    shop.products _id 7, in products/7 (repaired)`
fn described(difference: &Difference) -> String {
    let Difference { kind, rule, namespace, id, place, repaired } = difference;
    let document = match (namespace, id) {
        (Some(namespace), Some(id)) => format!("{namespace} _id {id}, in {place}"),
        _ => place.clone(),
    };
    let repaired = if *repaired { " (repaired)" } else { "" };
    let line = format!("{:<9}  {document}, rule {rule}{repaired}", kind.as_str());
    // Ids and names are the documents' own.
    line.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixture;

    fn report() -> Report {
        let difference = |kind, id: Option<&str>, place: &str, repaired| Difference {
            kind,
            rule: "products".into(),
            namespace: id.map(|_| "shop.products".into()),
            id: id.map(str::to_owned),
            place: place.into(),
            repaired,
        };
        let products = RuleReport {
            documents: 12_345,
            equal: 12_300,
            missing: 30,
            different: 1,
            not_delivered: 10,
            dead_letters: 2,
            repaired: 2,
            copying: false,
            stale: true,
        };
        let orders = RuleReport { documents: 7, equal: 7, copying: true, ..RuleReport::default() };
        let search = TargetReport {
            rules: [("products".to_owned(), products), ("orders".to_owned(), orders)].into(),
            held: Some(12_346),
            extra: 1,
            differences: vec![
                difference(DifferenceKind::Missing, Some("7"), "products/7", false),
                difference(DifferenceKind::Different, Some("a\nb"), "products/a\nb", false),
                difference(DifferenceKind::Different, Some("8"), "products/8", true),
                difference(DifferenceKind::Extra, None, "products/9 (routing eu)", false),
            ],
            notes: vec!["what orders holds beside the source can't be told: it is closed".into()],
            ..TargetReport::default()
        };
        let unreadable = Some("what it was sent can't be read back".to_owned());
        let mirror = TargetReport { unreadable, ..TargetReport::default() };
        Report { targets: [("search".to_owned(), search), ("mirror".to_owned(), mirror)].into() }
    }

    #[test]
    fn as_a_person_reads_it() {
        let mut report = report();
        explain(&fixture::rules(), &mut report);
        insta::assert_snapshot!(text(&report));
    }

    #[test]
    fn as_a_program_reads_it() {
        let json = serde_json::to_value(report()).unwrap();
        insta::assert_snapshot!(format!("{json:#}"));
    }

    #[test]
    fn a_target_that_cannot_be_read_is_passed_over_unless_it_was_named() {
        let mut report = report();
        assert_eq!(nothing(&report, false), None);
        let why = "target mirror can't be compared: what it was sent can't be read back";
        assert_eq!(nothing(&report, true).as_deref(), Some(why));
        report.targets.remove("search");
        assert_eq!(nothing(&report, false).as_deref(), Some(why));
        report.targets.clear();
        assert!(nothing(&report, false).is_some());
    }
}
