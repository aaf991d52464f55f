//! Which part of the library may use which: the arrows of the house, read from the sources.
//!
//! A stage that imports another against the flow is found here, and so is an arrow in the table
//! that nobody uses any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// From each part to those that it may name. What travels (`change`) is known to all; everybody
/// reads the checked rules; acknowledgements (`checkpoint`) come back to delivery; whoever works
/// reports to `status`, which knows nobody who does.
const ALLOWED: &[(&str, &[&str])] = &[
    ("change", &["checkpoint"]),
    ("finding", &[]),
    (
        "check",
        &["change", "checkpoint", "delivery", "finding", "pipeline", "rules", "source", "target"],
    ),
    ("client", &["rules"]),
    ("draft", &["change", "source"]),
    ("rules", &["change", "finding", "transform"]),
    ("source", &["change", "client", "rules"]),
    ("transform", &["change"]),
    ("delivery", &["change", "checkpoint", "rules", "status", "target", "transform"]),
    ("target", &["change", "client", "finding", "rules", "source", "transform"]),
    ("checkpoint", &["change", "client", "rules"]),
    ("status", &["change", "rules"]),
    (
        "pipeline",
        &["change", "checkpoint", "delivery", "rules", "source", "status", "target", "transform"],
    ),
    ("library", &["change", "checkpoint", "pipeline", "rules", "status", "target", "transform"]),
    (
        "cli",
        &[
            "change",
            "check",
            "checkpoint",
            "delivery",
            "draft",
            "finding",
            "pipeline",
            "rules",
            "source",
            "status",
            "target",
            "transform",
        ],
    ),
];

/// Within a part, narrower than the table above: the file, and all that it may name of that part.
const NARROW: &[(&str, &str, &[&str])] = &[
    // What travels carries its claims, and nothing else of the store.
    ("change", "checkpoint", &["checkpoint::tracker::Claims"]),
    // What a script set for one delivery; running it is not the target's business.
    ("target", "transform", &["transform::Meta"]),
    // A MongoDB that is written to is told of in the words of one that is read; nothing is read there.
    (
        "target",
        "source",
        &[
            "source::namespaces::Defined",
            "source::namespaces::Kind",
            "source::privileges::Privileges",
            "source::privileges::Resource",
        ],
    ),
    // What a target may ask of the rule file and the source, which a look asks too.
    ("check", "pipeline", &["pipeline::origins::FileOrigins"]),
    // `mongosync test` runs a rule on what the file gives, with no pipeline around it.
    (
        "cli",
        "delivery",
        &["delivery::trial::Made", "delivery::trial::Put", "delivery::trial::Trial"],
    ),
    ("cli", "target", &["target::open"]),
    ("library", "transform", &["transform::Meta"]),
    ("cli", "transform", &["transform::Reads"]),
];

/// Every path that begins with `crate::`, groups written out.
fn paths(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code))
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        expand("", rest, &mut found);
    }
    found
}

/// Reads one path or group from the start of `rest`; returns what is behind it.
fn expand<'a>(prefix: &str, rest: &'a str, found: &mut BTreeSet<String>) -> &'a str {
    let rest = rest.trim_start();
    if let Some(mut rest) = rest.strip_prefix('{') {
        loop {
            rest = expand(prefix, rest, found).trim_start();
            match rest.chars().next() {
                Some(',') => rest = &rest[1..],
                Some('}') => return &rest[1..],
                _ => return rest,
            }
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    if let Some(rest) = rest.strip_prefix('*') {
        found.insert(prefix.to_owned());
        return rest;
    }
    if name.is_empty() {
        return rest;
    }
    let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}::{name}") };
    match rest.strip_prefix("::") {
        Some(rest) => expand(&path, rest, found),
        None => {
            found.insert(path);
            let renamed = rest.trim_start().strip_prefix("as ");
            renamed.map_or(rest, |rest| {
                rest.trim_start().trim_start_matches(|c: char| c.is_alphanumeric() || c == '_')
            })
        }
    }
}

fn part(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

/// The paths of each part's files, tests left out: those may stand wherever they need to.
fn used(folder: &Path) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
    let mut used: BTreeMap<String, BTreeMap<String, BTreeSet<String>>> = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).expect("a folder of the sources") {
            let path = entry.expect("an entry of it").path();
            let name = path.strip_prefix(folder).expect("below it").display().to_string();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let own = name.split(['/', '.']).next().unwrap_or_default().to_owned();
            if !is_rust(&path) || ["lib", "main"].contains(&own.as_str()) || is_test(&name) {
                continue;
            }
            let source = fs::read_to_string(&path).expect("a source file");
            let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let paths = paths(code).into_iter().filter(|path| part(path) != own).collect();
            used.entry(own).or_default().insert(name, paths);
        }
    }
    used
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn is_test(name: &str) -> bool {
    name.ends_with("tests.rs")
        || name.contains("/tests/")
        || ["fixture.rs", "scripted.rs", "samples.rs"].iter().any(|end| name.ends_with(end))
}

/// What goes against the table, one line each.
fn against(used: &BTreeMap<String, BTreeMap<String, BTreeSet<String>>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (own, files) in used {
        let allowed = ALLOWED.iter().find(|(part, _)| part == own).map(|(_, allowed)| *allowed);
        for (file, paths) in files {
            for path in paths {
                let to = part(path);
                let narrow = NARROW.iter().find(|(from, part, _)| from == own && *part == to);
                let in_table = allowed.is_some_and(|allowed| allowed.contains(&to));
                let narrow_enough = narrow.is_none_or(|(.., names)| names.contains(&path.as_str()));
                if !in_table || !narrow_enough {
                    wrong.push(format!("src/{file} uses crate::{path}, which {own} may not"));
                }
            }
        }
    }
    wrong
}

#[test]
fn no_part_uses_another_against_the_flow() {
    let used = used(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(used.len() >= 10, "the sources were found: {:?}", used.keys());
    let wrong = against(&used);
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_flow_has_no_way_back() {
    let flow = ["rules", "source", "transform", "delivery", "target"];
    for (from, allowed) in ALLOWED {
        for to in *allowed {
            let place = |name: &str| flow.iter().position(|part| *part == name);
            let back = match (place(from), place(to)) {
                // Everybody reads the checked rules; a target is placed by what a script set, and takes
                // the words for what a MongoDB holds from where one is read (`NARROW`).
                (Some(_), Some(0)) => false,
                (Some(from), Some(to)) => {
                    let words =
                        flow[from] == "target" && ["source", "transform"].contains(&flow[to]);
                    to < from && !words
                }
                _ => false,
            };
            // Delivery hands on to transform and target, and is the one that calls both.
            assert!(!back || (*from, *to) == ("delivery", "transform"), "{from} uses {to}");
        }
    }
}

#[test]
fn a_wrong_edge_is_found_however_it_is_written() {
    for (source, expected) in [
        ("use crate::delivery::lane::Lane;", "delivery::lane::Lane"),
        ("use crate::delivery::lane::*;", "delivery::lane"),
        ("use crate::{\n    change::{Change, key::KeyShape},\n    pipeline,\n};", "pipeline"),
        ("use crate::{a::{b::{c, d as e}, f}, delivery::x};", "delivery::x"),
        ("fn f() -> crate::delivery::Halt {}", "delivery::Halt"),
        ("let x = crate::delivery::insist(crate::cli::y);", "cli::y"),
    ] {
        let found = paths(source);
        assert!(found.contains(expected), "{source}: {found:?}");
        let files = BTreeMap::from([("source/x.rs".to_owned(), found)]);
        let wrong = against(&BTreeMap::from([("source".to_owned(), files)]));
        assert!(wrong.iter().any(|line| line.contains(expected)), "{source}: {wrong:?}");
    }
    assert!(paths("// use crate::delivery::lane;").is_empty());
}
