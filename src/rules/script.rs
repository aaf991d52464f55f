//! `transform:` and `limits:`: compiles a rule's script, tells its faults at the lines of the file
//! in which it stands, and gathers the text of all that it imports.

use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use crate::transform::{Limits, Script, ScriptError};

use super::{
    diagnostic::{Diagnostic, SourceText, Span},
    imports::{self, Import},
    keys,
    node::{Node, Style, Value},
    reader::Reader,
    wording::{self, shown_text},
};

/// What a script may use where the rule says nothing.
pub const DEFAULT_LIMITS: Limits = Limits {
    operations: 1_000_000,
    call_depth: 64,
    string: 16 << 20,
    array: 100_000,
    map: 100_000,
};

/// A script that compiles, and all the text that it is made of.
#[derive(Debug)]
pub struct Transform {
    /// Ready to run.
    pub script: Arc<Script>,
    /// Its own text.
    pub text: String,
    /// The text of what it imports, and of what that imports, by the name of the file.
    pub imports: BTreeMap<String, String>,
}

/// The one call into the script engine.
fn compile(text: &str, limits: Limits, import_folder: &Path) -> Result<Script, ScriptError> {
    Script::compile(text, limits, Some(import_folder))
}

/// `limits:`
pub fn limits(reader: &mut Reader<'_>, node: &Node) -> Option<Limits> {
    let fields = reader.fields(node, "`limits`", &keys::LIMITS)?;
    let whole =
        |reader: &mut Reader<'_>, key: &str, most: u64, otherwise: u64| match fields.get(key) {
            Some(node) => reader.whole(node, &format!("`{key}`"), 1..=most),
            None => Some(otherwise),
        };
    let default = DEFAULT_LIMITS;
    let operations = whole(reader, "operations", u64::MAX, default.operations);
    // Deeper calls would overflow the thread's stack before the limit stops them.
    let call_depth = whole(reader, "call_depth", 256, default.call_depth as u64);
    let string = match fields.get("string") {
        Some(node) => reader.size(node, "`string`"),
        None => Some(default.string),
    };
    let most = u64::from(u32::MAX);
    let array = whole(reader, "array", most, default.array as u64);
    let map = whole(reader, "map", most, default.map as u64);
    Some(Limits {
        operations: operations?,
        call_depth: usize::try_from(call_depth?).ok()?,
        string: string?,
        array: usize::try_from(array?).ok()?,
        map: usize::try_from(map?).ok()?,
    })
}

/// `transform:`
pub fn transform(reader: &mut Reader<'_>, node: &Node, limits: Limits) -> Option<Transform> {
    let (place, text) = match &node.value {
        Value::Map(_) => {
            let fields = reader.fields(node, "`transform`", &keys::SCRIPT_FILE)?;
            let Some(path) = fields.get("file") else {
                if fields.entries().is_empty() {
                    reader.error(fields.owner, "`transform` takes a script or `{ file: … }`");
                }
                return None;
            };
            let (name, text) = reader.file(path, "`file`")?;
            let file = add_file(reader, name, &text);
            (Place::File(file), text)
        }
        Value::Scalar(scalar) if !scalar.absent => {
            (Place::Inline(node), reader.text(node, "`transform`")?)
        }
        Value::Poison => return None,
        Value::List(_) | Value::Scalar(_) => {
            reader.mismatch(node, "`transform`", "a script or `{ file: … }`");
            return None;
        }
    };
    // Before the engine, which ends at the first import that it can't have.
    let mut gathered = BTreeMap::new();
    gather(reader, &place, &text, &mut gathered)?;
    match compile(&text, limits, reader.folder) {
        Ok(script) => {
            tell_unknown_calls(reader, &place, &text, &script);
            Some(Transform { script: Arc::new(script), text, imports: gathered })
        }
        Err(error) => {
            tell(reader, &place, &text, &error);
            None
        }
    }
}

/// Where a script stands.
enum Place<'n> {
    /// In the rule file.
    Inline(&'n Node),
    /// In a file of its own: which of the report's.
    File(usize),
}

impl Place<'_> {
    /// Which file, and where in it a byte of the script stands; `None` where the rule file does not
    /// hold the script as it is.
    fn locate(&self, rule_file: &str, script: &str, offset: usize) -> Option<(usize, usize)> {
        let node = match self {
            Place::File(file) => return Some((*file, offset)),
            Place::Inline(node) => node,
        };
        let written = rule_file.get(node.span.clone())?;
        if written.trim_end() == script {
            return Some((0, node.span.start + offset));
        }
        if node.scalar()?.style != Style::Literal {
            return None;
        }
        // The first line that is not blank is where the parser says that the block begins.
        let blank = script.len() - script.trim_start_matches('\n').len();
        let first_line = rule_file[..node.span.start].rfind('\n').map_or(0, |newline| newline + 1);
        let indent = node.span.start - first_line;
        let line = script[..offset].matches('\n').count().checked_sub(blank)?;
        let column = offset - script[..offset].rfind('\n').map_or(0, |newline| newline + 1);
        let start: usize =
            rule_file[first_line..].split_inclusive('\n').take(line).map(str::len).sum();
        Some((0, first_line + start + indent + column))
    }
}

fn add_file(reader: &mut Reader<'_>, name: String, text: &str) -> usize {
    reader.files.push(Arc::new(SourceText::new(name, text, Vec::new())));
    reader.files.len() - 1
}

/// Records an error at the bytes `span` of a script.
fn error_at<'r>(
    reader: &'r mut Reader<'_>,
    place: &Place<'_>,
    script: &str,
    span: Span,
    message: impl Into<String>,
) -> &'r mut Diagnostic {
    match (place.locate(reader.text, script, span.start), place) {
        (Some((file, start)), _) => {
            let error = reader.error(&(start..start + span.len()), message);
            error.file = file;
            error
        }
        (None, Place::Inline(node)) => {
            let before = &script[..span.start];
            let line = before.matches('\n').count() + 1;
            let help = format!(
                "it is in line {line} of the script; written as a block behind `|`, its lines are \
                 shown here"
            );
            reader.error(&node.span, message).help(help)
        }
        (None, Place::File(_)) => unreachable!("a file holds its script as it is"),
    }
}

/// A script's own fault.
fn tell(reader: &mut Reader<'_>, place: &Place<'_>, script: &str, error: &ScriptError) {
    // Where the fault is in an imported file, the message names it; the rule file's own script is
    // shown from its beginning.
    if error.file.is_some() {
        error_at(reader, place, script, token(script, 0, 0), "this script does not compile")
            .label(error.to_string());
        return;
    }
    let span = token(script, error.line.unwrap_or(0), error.column.unwrap_or(0));
    // A script that can't be shown line by line has another help already.
    let is_shown = place.locate(reader.text, script, span.start).is_some();
    let told = error_at(reader, place, script, span, "this script does not compile")
        .label(error.message.as_str());
    if let Some(way_out) = way_out(&error.message).filter(|_| is_shown) {
        told.help(way_out);
    }
}

/// Functions that there are not: each document for which one is called would be a dead letter.
fn tell_unknown_calls(reader: &mut Reader<'_>, place: &Place<'_>, text: &str, script: &Script) {
    for call in script.unknown_calls() {
        let span = token(text, call.line.unwrap_or(0), call.column.unwrap_or(0));
        let located = place.locate(reader.text, text, span.start);
        let span = match (&located, place) {
            (Some((_, start)), _) => *start..*start + span.len(),
            (None, Place::Inline(node)) => node.span.clone(),
            (None, Place::File(_)) => unreachable!("a file holds its script as it is"),
        };
        let name = shown_text(&call.name);
        let near = wording::near(&call.name, crate::transform::function_names());
        let warning = reader.warning(&span, format!("there is no function {name}"));
        warning.file = located.map_or(0, |(file, _)| file);
        if let Some(near) = near {
            warning.label(format!("did you mean `{near}`?"));
        }
        warning.help("a document for which it is called becomes a dead letter");
    }
}

/// What is meant by what the engine says.
fn way_out(message: &str) -> Option<&'static str> {
    let begins = |text: &str| message.starts_with(text);
    match () {
        () if begins("Invalid character") => Some("text stands in \"…\" or in `…`"),
        () if begins("Undefined variable") => {
            Some("a script has `doc`, `event` and `meta`; all others begin with `let`")
        }
        () => None,
    }
}

/// The bytes of the word or sign at a line and column, both from 1; 0 is where the engine knows
/// none.
fn token(script: &str, line: usize, column: usize) -> Span {
    let start: usize =
        script.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let rest = &script[start..];
    let text = rest.lines().next().unwrap_or_default();
    let skipped: usize = text.chars().take(column.saturating_sub(1)).map(char::len_utf8).sum();
    let here = &text[skipped..];
    let word: usize =
        here.chars().take_while(|c| c.is_alphanumeric() || *c == '_').map(char::len_utf8).sum();
    let length = word.max(here.chars().next().map_or(0, char::len_utf8));
    start + skipped..start + skipped + length
}

/// Reads what a script imports, for the fingerprint.
fn gather(
    reader: &mut Reader<'_>,
    place: &Place<'_>,
    script: &str,
    gathered: &mut BTreeMap<String, String>,
) -> Option<()> {
    let mut complete = Some(());
    for Import { name, span } in imports::of(script) {
        let Some(name) = name else {
            error_at(reader, place, script, span, "`import` takes plain text here").help(
                "what a rule delivers depends on what its script imports, so it must be known",
            );
            complete = None;
            continue;
        };
        let relative = PathBuf::from(&name).with_extension("rhai");
        let inside = relative
            .components()
            .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if !inside {
            error_at(reader, place, script, span, "an import stays in the rule file's folder");
            complete = None;
            continue;
        }
        let key = relative.display().to_string();
        if gathered.contains_key(&key) {
            continue;
        }
        match std::fs::read_to_string(reader.folder.join(&relative)) {
            Ok(text) => {
                let path = reader.folder.join(&relative).display().to_string();
                let file = add_file(reader, path, &text);
                gathered.insert(key, text.clone());
                complete = complete.and(gather(reader, &Place::File(file), &text, gathered));
            }
            Err(error) => {
                let reason = super::interpolate::reason(&error);
                let message = format!("can't read {}: {reason}", shown_text(&key));
                error_at(reader, place, script, span, message)
                    .help("imports start from the rule file's folder");
                complete = None;
            }
        }
    }
    complete
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_by_line_and_column() {
        let script = "let a = 1;\nlét b = foo + ;\n";
        for (line, column, expected) in
            [(1, 5, "a"), (2, 9, "foo"), (2, 15, ";"), (2, 99, ""), (9, 1, ""), (0, 0, "let")]
        {
            assert_eq!(&script[token(script, line, column)], expected, "{line}:{column}");
        }
    }
}
