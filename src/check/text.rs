//! The account and the findings as lines for a person.

use std::fmt::Write as _;

use crate::finding::{Finding, Part, Severity};

use super::account::{Account, Events, Ruled, Written};

/// Where values begin.
const COLUMN: usize = 12;

/// The account, with a line feed at its end.
pub fn account(account: &Account) -> String {
    let mut out = String::new();
    line(&mut out, 0, "name", &account.name);
    line(&mut out, 0, "source", &format!("MongoDB at {}", account.source));
    let kept = &account.checkpoint;
    line(&mut out, 0, "positions", &format!("in {}, stored every {}", kept.place, kept.every));
    let status = match &account.http {
        None => "off".to_owned(),
        Some(http) => {
            let other = if http.or_any_port { ", or a free port where that is taken" } else { "" };
            let token = if http.token { ", with a token" } else { "" };
            format!("http://{}{other}{token}", http.listen)
        }
    };
    line(&mut out, 0, "status", &status);
    for target in &account.targets {
        written(&mut out, target);
    }
    out
}

fn written(out: &mut String, target: &Written) {
    let _ = writeln!(out, "\ntarget {}", target.name);
    let at = match target.urls.as_slice() {
        [] => String::new(),
        urls => format!(" at {}", urls.join(", ")),
    };
    line(out, 2, "writes to", &format!("{}{at}", target.kind));
    if !matches!(target.kind.as_str(), "file" | "stdout") {
        line(out, 2, "login", &target.login);
    }
    if let Some(sends) = &target.sends {
        line(out, 2, "sends", sends);
    }
    let requests = match target.requests {
        1 => "one at a time".to_owned(),
        count => format!("{count} at a time"),
    };
    line(out, 2, "requests", &requests);
    line(out, 2, "refused", &format!("a document that is refused for good {}", target.refused));
    if target.rules.is_empty() {
        line(out, 2, "rules", "none: nothing is written");
    }
    for rule in &target.rules {
        ruled(out, rule);
    }
}

fn ruled(out: &mut String, rule: &Ruled) {
    let _ = writeln!(out, "\n  rule {}", rule.name);
    let excluded = match rule.exclude.as_slice() {
        [] => String::new(),
        exclude => format!(", without {}", exclude.join(", ")),
    };
    line(out, 4, "reads", &format!("{}{excluded}", rule.namespaces.join(", ")));
    let every = if rule.events.is_some() { "every single change" } else { "changes" };
    let when = match (rule.copy, rule.changes, &rule.since) {
        (true, true, _) if rule.events.is_some() => format!("what is there, then {every}"),
        (true, true, _) => "what is there, then every change".to_owned(),
        (true, false, _) => "what is there, once".to_owned(),
        (false, _, None) => format!("{every}, from the first run on"),
        (false, _, Some(since)) => format!("{every}, from {since} on"),
    };
    line(out, 4, "takes", &when);
    if let Some(events) = &rule.events {
        line(out, 4, "tells", &told(events));
        if !events.pipeline.is_empty() {
            line(out, 4, "stream", &events.pipeline.join(", "));
        }
    }
    if !rule.filter.is_empty() {
        line(out, 4, "filter", &format!("on {}", rule.filter.join(", ")));
    }
    if let Some(project) = &rule.project {
        let which = if project.keeps { "only" } else { "without" };
        line(out, 4, "project", &format!("{which} {}", project.fields.join(", ")));
    }
    if !rule.pipeline.is_empty() {
        line(out, 4, "pipeline", &rule.pipeline.join(", "));
    }
    if let Some(script) = &rule.transform {
        let imports = match script.imports.as_slice() {
            [] => String::new(),
            imports => format!(", with {}", imports.join(", ")),
        };
        line(out, 4, "transform", &format!("a script{imports}"));
    }
    if let Some(namespace) = &rule.namespace {
        line(out, 4, "collection", namespace);
    }
    if let Some(name) = &rule.index {
        line(out, 4, "index", &index(rule, name));
    }
    if let Some(id) = &rule.id {
        line(out, 4, "id", id);
    }
    if let Some(routing) = &rule.routing {
        line(out, 4, "routing", routing);
    }
    if let Some(pipeline) = &rule.ingest_pipeline {
        line(out, 4, "through", &format!("the ingest pipeline {pipeline}"));
    }
    if rule.events.is_none() {
        let deleted = if rule.keeps_deleted { "kept" } else { "removed" };
        line(out, 4, "deletes", &format!("what is deleted in the source is {deleted}"));
    }
    // What is usual goes without saying.
    if rule.ddl {
        line(out, 4, "follows", "what becomes of collections, indexes and views");
    }
    if rule.keeps_dropped {
        line(out, 4, "drops", "a collection that is dropped in the source is kept");
    }
    if rule.on_rule_change == "resync" {
        line(out, 4, "changed", "when the rule changes, it is copied again");
    }
    match (rule.on_history_lost, rule.changes) {
        ("stop", true) => line(out, 4, "missed", "changes that can't be read any more end the run"),
        ("now", true) => {
            line(out, 4, "missed", "changes that can't be read any more stay missing");
        }
        _ => {}
    }
}

/// What an event brings.
fn told(events: &Events) -> String {
    let mut text = events.operations.join(", ");
    text.push_str(match events.full_document {
        "off" => "; an update without its document",
        "when_available" => "; an update with its document as it was then, where an image is kept",
        "required" => "; an update with its document as it was then",
        _ => "; an update with its document as it is when MongoDB answers",
    });
    text.push_str(match events.pre_image {
        "when_available" => ", and the one before where an image is kept",
        "required" => ", and the one before",
        _ => "",
    });
    text
}

fn index(rule: &Ruled, name: &str) -> String {
    let mut text = name.to_owned();
    if rule.alias {
        let _ = write!(text, ", an alias; documents lie in {name}-000001");
    }
    match (rule.settings, rule.mappings) {
        (true, true) => text.push_str("; made with the rule's settings and mappings"),
        (true, false) => text.push_str("; made with the rule's settings"),
        (false, true) => text.push_str("; made with the rule's mappings"),
        (false, false) => {}
    }
    text
}

fn line(out: &mut String, indent: usize, key: &str, value: &str) {
    let _ = writeln!(out, "{:indent$}{key:<COLUMN$}{value}", "");
}

/// The parts in the order in which a file has them.
fn kind(part: &Part) -> u8 {
    match part {
        Part::File => 0,
        Part::Source => 1,
        Part::Checkpoint => 2,
        Part::Target(_) => 3,
        Part::Rule(_) => 4,
    }
}

/// The findings, the gravest first, with a line feed at the end; nothing where there are none.
pub fn findings(findings: &[Finding]) -> String {
    let mut out = String::new();
    for (severity, heading) in [
        (Severity::Error, "errors"),
        (Severity::Warning, "warnings"),
        (Severity::Note, "good to know"),
    ] {
        let mut own: Vec<_> = findings.iter().filter(|it| it.severity == severity).collect();
        if own.is_empty() {
            continue;
        }
        own.sort_by_key(|finding| {
            // Targets and rules in the order in which they were first spoken of.
            (kind(&finding.part), findings.iter().position(|first| first.part == finding.part))
        });
        let _ = writeln!(out, "\n{heading}");
        for finding in own {
            let _ = writeln!(out, "  {}: {}", finding.part, finding.message);
            if let Some(help) = &finding.help {
                let _ = writeln!(out, "    → {help}");
            }
        }
    }
    out
}
