//! The rule file: YAML → checked model, with all errors of a file at once. The only part that knows
//! YAML.
//!
//! It stands before everything else: [`load`] is called once at the start, and what it returns
//! holds, so that no later stage checks a setting again. A file goes through [`yaml`] (text to a
//! tree with places, `${…}` replaced), the readers (a module for each part of the file), the
//! [`checks`] across parts, and comes out as [`model::RuleFile`] or as a [`Report`].
//!
//! Nothing here connects to anything: what only a server knows is left to it.

mod address;
mod checks;
mod collections;
mod ddl;
mod delivery;
mod destination;
pub mod diagnostic;
mod extended_json;
mod fingerprint;
mod general;
mod imports;
mod interpolate;
mod keys;
mod lines;
pub mod model;
pub mod namespace;
mod node;
mod own;
mod query;
mod reader;
mod rule;
mod rule_tests;
mod schema;
mod script;
mod secret;
mod source_text;
mod wording;
mod syntax;
mod targets;
pub mod template;
pub mod units;
mod uri;
mod webhook;
mod yaml;

use std::{path::Path, sync::Arc};

pub use checks::ids_apart;
pub use diagnostic::Report;
pub use own::OwnTarget;
pub use schema::schema;

use diagnostic::{Diagnostic, Severity, SourceText};
use interpolate::Environment;
use model::RuleFile;
use node::{Node, Value};
use reader::Reader;

const SMALLEST: &str = "the smallest file has `source`, `targets` and `rules`";

/// A rule file that can be used.
#[derive(Debug)]
pub struct Loaded {
    /// What it says.
    pub rules: RuleFile,
    /// What is probably not meant.
    pub warnings: Report,
}

/// Reads a rule file. `environment` gives the value of a variable, `None` where it is not set.
///
/// # Errors
/// A file that can't be read, that is not YAML, or of which any part is wrong; the report then
/// holds every error and every warning of the file.
pub fn load(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    load_with(path, environment, &[])
}

/// The same for a program that brings targets of its own.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    own: &[OwnTarget],
) -> Result<Loaded, Report> {
    let fail = |reason: &str| {
        let message = format!("can't read {}: {reason}", path.display());
        Report::new(Vec::new(), vec![Diagnostic::without_place(message)])
    };
    let size = std::fs::metadata(path).map_err(|error| fail(&interpolate::reason(&error)))?.len();
    if size > yaml::MAX_BYTES as u64 {
        return Err(fail(&format!("it is larger than {} MiB", yaml::MAX_BYTES >> 20)));
    }
    let bytes = std::fs::read(path).map_err(|error| fail(&interpolate::reason(&error)))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        fail(&format!("line {line} is not UTF-8 text: save the file in that encoding"))
    })?;
    parse_with(&text, path, environment, own)
}

/// Reads a rule file's text as if it stood at `path`; relative paths in it start from the folder of
/// that.
///
/// # Errors
/// As [`load`].
pub fn parse(
    text: &str,
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    parse_with(text, path, environment, &[])
}

/// The same for a program that brings targets of its own: rules write to them by their names, and below
/// `targets` the file may say `NAME: { own: { … } }` of how they are written to.
///
/// # Errors
/// As [`load`].
pub fn parse_with(
    text: &str,
    path: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
    own: &[OwnTarget],
) -> Result<Loaded, Report> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let name = path.display().to_string();
    let tree = match yaml::parse(text, &Environment { variable: environment, folder }, |path| {
        path == ["rules", "-", "transform"]
            || matches!(path, ["tests", "-", "given" | "expect", ..])
    }) {
        Ok(tree) => tree,
        Err(error) => {
            let source = SourceText::new(name, text, secret::in_text(text));
            return Err(Report::new(vec![Arc::new(source)], vec![*error]));
        }
    };
    let hide = secret::in_tree(text, &tree);
    let files = vec![Arc::new(SourceText::new(name, text, hide))];
    let mut reader = Reader { text, folder, own, files, found: tree.found };
    let rules = match &tree.root {
        Some(root) => read(&mut reader, root, path),
        None => {
            reader.error(&(0..0), "the file is empty").help(SMALLEST);
            None
        }
    };
    let Reader { files, found, .. } = reader;
    let failed = found.iter().any(|it| it.severity() == Severity::Error);
    let report = Report::new(files, found);
    match rules {
        Some(rules) if !failed => Ok(Loaded { rules, warnings: report }),
        _ => Err(report),
    }
}

fn read(reader: &mut Reader<'_>, root: &Node, path: &Path) -> Option<RuleFile> {
    if root.scalar().is_some_and(|scalar| scalar.absent) {
        reader.error(&root.span, "the file is empty").help(SMALLEST);
        return None;
    }
    let fields = reader.fields(root, "the rule file", &keys::FILE)?;
    let missing = |reader: &mut Reader<'_>, key: &str, help: &str| {
        let place = fields.entries().first().map_or(&root.span, |first| &first.key_span);
        reader.error(place, format!("the file has no `{key}`")).help(help);
    };
    let name = general::name(reader, fields.get("name"), path);
    let source = match fields.get("source") {
        Some(node) => general::source(reader, node),
        None if !fields.lacks("source") => None,
        None => {
            let help = "add the connection string of the MongoDB that is read: \
                        `source: mongodb://127.0.0.1:27017/?replicaSet=rs0`";
            missing(reader, "source", help);
            None
        }
    };
    let checkpoint = general::checkpoint(reader, fields.get("checkpoint"), name.as_deref());
    let http = general::http(reader, fields.get("http"));
    let targets = match fields.get("targets") {
        Some(node) => targets::targets(reader, node),
        None if !fields.lacks("targets") => None,
        None if !reader.own.is_empty() => Some(Vec::new()),
        None => {
            let help = "add what is written to: `targets: { search: { elasticsearch: { urls: \
                        [http://127.0.0.1:9200] } } }`";
            missing(reader, "targets", help);
            None
        }
    };
    let targets = targets.map(|mut targets| {
        let unwritten: Vec<_> = own::unwritten(reader.own, &targets, &root.span).collect();
        targets.extend(unwritten);
        targets
    });
    let rules = match fields.get("rules") {
        Some(node) => {
            let rules = rules(reader, node, source.as_ref(), targets.as_deref());
            if let (Some(source), Some(checkpoint), Some(rules)) = (&source, &checkpoint, &rules) {
                checks::own_records(reader, rules, source, checkpoint);
            }
            rules
        }
        None if !fields.lacks("rules") => None,
        None => {
            missing(reader, "rules", "add what is read and where it goes: `rules: [ … ]`");
            None
        }
    };
    let tests = match fields.get("tests") {
        Some(node) => rule_tests::tests(reader, node, rules.as_deref()),
        None => Some(Vec::new()),
    };
    let known = targets.as_deref().unwrap_or_default();
    let rules: Option<Vec<_>> =
        rules.and_then(|rules| rules.into_iter().map(|rule| rule.finish(known)).collect());
    let targets = targets
        .and_then(|targets| targets.into_iter().map(|named| named.target).collect::<Option<_>>());
    Some(RuleFile {
        path: path.to_owned(),
        name: name?,
        source: source?,
        checkpoint: checkpoint?,
        http: http?,
        targets: targets?,
        rules: rules?,
        tests: tests?,
    })
}

/// Reads every rule, then looks across them; `None` where any of them is beyond reading.
fn rules(
    reader: &mut Reader<'_>,
    node: &Node,
    source: Option<&model::Source>,
    targets: Option<&[targets::Named]>,
) -> Option<Vec<rule::Read>> {
    if let Value::Map(_) = node.value {
        reader.mismatch(node, "`rules`", "a list of rules").help("begin each rule with a `-`");
        return None;
    }
    let nodes = reader.list(node, "`rules`", "rules")?;
    let rules: Vec<_> = nodes.iter().filter_map(|node| rule::read(reader, node, targets)).collect();
    checks::all(reader, &rules, targets.unwrap_or_default());
    collections::all(reader, &rules, source, targets);
    if let Some(targets) = targets {
        lines::shared(reader, targets, &rules);
        checks::unused(reader, nodes, targets);
    }
    (rules.len() == nodes.len()).then_some(rules)
}

#[cfg(test)]
mod tests;
