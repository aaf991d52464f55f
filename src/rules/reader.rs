//! How the parts of a rule file are read from the tree: each reader takes a [`Node`], gives back
//! the value, or records what is wrong and gives back `None`, so that reading goes on and all of a
//! file's errors come out at once.
//!
//! Used by the modules that know the keys. A reader's `what` names the value for a person, as in
//! "`timeout`"; messages show a value only where it is neither secret nor replaced.

use std::{fmt::Display, ops::RangeInclusive, path::Path, sync::Arc, time::Duration};

use super::{
    address,
    diagnostic::{Diagnostic, SourceText, Span},
    interpolate::reason,
    keys::Map,
    node::{Entry, Node, Scalar, Typed, Value},
    own::OwnTarget,
    secret, units,
    wording::{self, shown_text},
};

/// The largest script or mapping file, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What reading a file gathers.
pub struct Reader<'a> {
    /// The rule file's text, to find the place of something inside a scalar.
    pub text: &'a str,
    /// What relative paths start from: the rule file's folder.
    pub folder: &'a Path,
    /// Targets that the program brings.
    pub own: &'a [OwnTarget],
    /// The files that diagnostics point into; the rule file is the first.
    pub files: Vec<Arc<SourceText>>,
    /// Errors and warnings, in the order in which they were met.
    pub found: Vec<Diagnostic>,
}

/// A map whose keys have been checked.
#[derive(Clone, Copy)]
pub struct Fields<'n> {
    entries: &'n [Entry],
    map: Option<&'static Map>,
    /// Where to say that something is missing.
    pub owner: &'n Span,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A key with its value.
    pub fn entry(&self, key: &str) -> Option<&'n Entry> {
        debug_assert!(self.map.is_none_or(|map| map.has(key)), "`{key}` is in none of the tables");
        self.entries.iter().find(|entry| &*entry.key == key)
    }

    /// Whether a key is missing, and not just written wrong: that is told already.
    pub fn lacks(&self, key: &str) -> bool {
        self.get(key).is_none()
            && !self.entries.iter().any(|entry| {
                self.map.is_some_and(|map| {
                    !map.has(&entry.key) && wording::near(&entry.key, map.names()) == Some(key)
                })
            })
    }

    /// Every key with its value, the unknown ones too.
    pub fn entries(&self) -> &'n [Entry] {
        self.entries
    }
}

impl Reader<'_> {
    /// Records an error, to be filled in.
    pub fn error(&mut self, span: &Span, message: impl Into<String>) -> &mut Diagnostic {
        self.found.push(Diagnostic::error(span.clone(), message));
        self.found.last_mut().expect("it was just pushed")
    }

    /// Records a warning, to be filled in.
    pub fn warning(&mut self, span: &Span, message: impl Into<String>) -> &mut Diagnostic {
        self.found.push(Diagnostic::warning(span.clone(), message));
        self.found.last_mut().expect("it was just pushed")
    }

    /// Where a piece of a scalar's text stands in the file, else the whole scalar.
    pub fn part(&self, node: &Node, piece: &str) -> Span {
        let written = self.text.get(node.span.clone()).unwrap_or_default();
        match written.find(piece) {
            Some(at) if !piece.is_empty() => {
                node.span.start + at..node.span.start + at + piece.len()
            }
            _ => node.span.clone(),
        }
    }

    /// Where the bytes `part` of a scalar's text stand in the file, where the text stands there
    /// as it is; else the whole scalar.
    pub fn place(&self, node: &Node, part: Span) -> Span {
        let Some(scalar) = node.scalar() else { return node.span.clone() };
        let written = self.text.get(node.span.clone()).unwrap_or_default();
        match written.find(&scalar.text) {
            Some(at) if !scalar.text.is_empty() => {
                let start = node.span.start + at;
                start + part.start..start + part.end
            }
            _ => node.span.clone(),
        }
    }

    /// The wrong kind of value.
    pub fn mismatch(&mut self, node: &Node, what: &str, takes: impl Display) -> &mut Diagnostic {
        let found = describe(node);
        let span = match &node.value {
            // The whole of a block would be underlined line by line.
            Value::Scalar(scalar) if scalar.absent => node.owner.clone(),
            _ => node.span.clone(),
        };
        let error = self.error(&span, format!("{what} takes {takes}"));
        error.label(found)
    }

    /// A map, whose unknown keys are told.
    pub fn fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        map: &'static Map,
    ) -> Option<Fields<'n>> {
        let known = map.names();
        let mut fields =
            self.any_fields(node, what, &format!("a map with {}", wording::list(&known)))?;
        for entry in fields.entries {
            if !map.has(&entry.key) {
                let shown = shown_key(entry);
                let message = match what {
                    "the rule file" => format!("unknown key {shown}"),
                    _ => format!("unknown key {shown} in {what}"),
                };
                let near = wording::near(&entry.key, known.iter().copied());
                let near = near.filter(|_| entry.written.is_none());
                let error = self.error(&entry.key_span, message);
                if let Some(near) = near {
                    error.label(format!("did you mean `{near}`?"));
                }
                match map.owner_of(&entry.key).filter(|_| near.is_none()) {
                    Some(owner) => error.help(format!("it belongs below `{owner}`")),
                    None => error.help(format!("the keys here are {}", wording::list(&known))),
                };
            }
        }
        fields.map = Some(map);
        Some(fields)
    }

    /// A map whose keys may be anything.
    pub fn any_fields<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
        takes: &str,
    ) -> Option<Fields<'n>> {
        match &node.value {
            Value::Map(entries) => Some(Fields { entries, map: None, owner: &node.owner }),
            Value::Poison => None,
            _ => {
                self.mismatch(node, what, takes);
                None
            }
        }
    }

    /// A list; where one entry would do, the help says how to write a list.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str, of: &str) -> Option<&'n [Node]> {
        match &node.value {
            Value::List(items) if items.is_empty() => {
                self.error(&node.span, format!("{what} is empty")).label("expected at least one");
                None
            }
            Value::List(items) => Some(items),
            Value::Poison => None,
            Value::Scalar(scalar) if !scalar.absent => {
                // A list of addresses is one too.
                let harmless = address::secrets(&scalar.text).is_empty();
                let shown = if harmless { shown(node) } else { String::new() };
                let error = self.mismatch(node, what, format!("a list of {of}"));
                match shown.strip_prefix('`') {
                    Some(shown) => error.help(format!("write `[{}]`", shown.trim_end_matches('`'))),
                    None => error.help("write `[…]` around it"),
                };
                None
            }
            _ => {
                self.mismatch(node, what, format!("a list of {of}"));
                None
            }
        }
    }

    fn scalar<'n>(&mut self, node: &'n Node, what: &str, takes: &str) -> Option<&'n Scalar> {
        match &node.value {
            Value::Scalar(scalar) if scalar.typed() != Typed::Null => Some(scalar),
            Value::Poison => None,
            _ => {
                self.mismatch(node, what, takes);
                None
            }
        }
    }

    /// Text that is not empty. Numbers and booleans are taken as they are written: a password may
    /// well be `12345`.
    pub fn text(&mut self, node: &Node, what: &str) -> Option<String> {
        let scalar = self.scalar(node, what, "text")?;
        if scalar.text.is_empty() {
            let error = self.error(&node.span, format!("{what} is empty"));
            if scalar.substituted {
                error.label("what this stands for is empty");
            }
            return None;
        }
        if scalar.text.contains('\0') {
            self.error(&node.span, format!("{what} holds a zero character"));
            return None;
        }
        Some(scalar.text.clone())
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, node: &Node, what: &str) -> Option<bool> {
        let scalar = self.scalar(node, what, "`true` or `false`")?;
        if let Typed::Bool(value) = scalar.setting() {
            return Some(value);
        }
        let meant = match scalar.text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" | "1" | "y" => Some(true),
            "no" | "off" | "false" | "0" | "n" => Some(false),
            _ => None,
        };
        let error = self.mismatch(node, what, "`true` or `false`");
        if let Some(meant) = meant {
            error.help(format!("write `{meant}`, without quotes"));
        }
        None
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, node: &Node, what: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
        let takes = match (*bounds.start(), *bounds.end()) {
            (0, u64::MAX) => "a whole number".to_owned(),
            (start, u64::MAX) => format!("a whole number from {start}"),
            (start, end) => format!("a whole number from {start} to {end}"),
        };
        let scalar = self.scalar(node, what, &takes)?;
        let label = match scalar.setting() {
            Typed::Int(number) => match u64::try_from(number) {
                Ok(number) if bounds.contains(&number) => return Some(number),
                Ok(number) if number > *bounds.end() => Some("this is too large"),
                _ => Some("this is too small"),
            },
            Typed::Float(_) => Some("this is not whole"),
            _ => None,
        };
        let error = self.mismatch(node, what, takes);
        if let Some(label) = label {
            error.label(label);
        }
        None
    }

    /// A size in bytes, at least 1.
    pub fn size(&mut self, node: &Node, what: &str) -> Option<usize> {
        let scalar = self.scalar(node, what, "a size")?;
        match units::size(&scalar.text) {
            Ok(0) => {
                self.error(&node.span, format!("{what} can't be 0"));
                None
            }
            Ok(size) => Some(size),
            Err(wrong) => {
                self.unit(node, format!("{what} takes a size"), wrong, units::SIZE_HELP);
                None
            }
        }
    }

    /// A time, at least `smallest`.
    pub fn time(&mut self, node: &Node, what: &str, smallest: Duration) -> Option<Duration> {
        let scalar = self.scalar(node, what, "a time")?;
        match units::time(&scalar.text) {
            Ok(time) if time < smallest => {
                let message = format!("{what} is at least {}ms", smallest.as_millis());
                self.error(&node.span, message);
                None
            }
            Ok(time) => Some(time),
            Err(wrong) => {
                self.unit(node, format!("{what} takes a time"), wrong, units::TIME_HELP);
                None
            }
        }
    }

    fn unit(&mut self, node: &Node, message: String, wrong: units::Wrong, help: &str) {
        let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
        let error = self.error(&node.span, message);
        match wrong.meant.filter(|_| !substituted) {
            Some(meant) => error.label(format!("{}: did you mean `{meant}`?", wrong.found)),
            None => error.label(wrong.found),
        };
        error.help(help);
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, node: &Node, what: &str, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        let takes = wording::choice(&names);
        let scalar = self.scalar(node, what, &takes)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == scalar.text) {
            return Some(*value);
        }
        let near = wording::near(&scalar.text, names).filter(|_| !scalar.substituted);
        let label = match near {
            Some(near) => Some(format!("did you mean `{near}`?")),
            // That it is text goes without saying.
            None => matches!(scalar.typed(), Typed::Text(_)).then(String::new),
        };
        let error = self.mismatch(node, what, takes);
        if let Some(label) = label {
            error.label(label);
        }
        None
    }

    /// The name that a file is shown under, and its text.
    pub fn file(&mut self, node: &Node, what: &str) -> Option<(String, String)> {
        let written = self.text(node, what)?;
        let path = self.folder.join(&written);
        let shown = shown(node);
        let substituted = node.scalar().is_some_and(|scalar| scalar.substituted);
        let text = std::fs::metadata(&path).map_err(|error| reason(&error)).and_then(|found| {
            if found.len() > MAX_FILE {
                return Err(format!("it is larger than {} MiB", MAX_FILE >> 20));
            }
            std::fs::read_to_string(&path).map_err(|error| reason(&error))
        });
        match text {
            // The name is shown above what is wrong in the file.
            Ok(text) if substituted => Some((self.text[node.span.clone()].to_owned(), text)),
            Ok(text) => Some((path.display().to_string(), text)),
            Err(reason) => {
                let shown = if substituted { "the file that this names" } else { &shown };
                self.error(&node.span, format!("can't read {shown}: {reason}"))
                    .help("relative paths start from the rule file's folder");
                None
            }
        }
    }
}

/// A value for a message: what it is, and itself where it may be shown.
fn describe(node: &Node) -> String {
    match &node.value {
        Value::List(_) => "this is a list".to_owned(),
        Value::Map(_) => "this is a map".to_owned(),
        Value::Poison => String::new(),
        Value::Scalar(scalar) if scalar.absent => "nothing is written here".to_owned(),
        Value::Scalar(scalar) => match scalar.typed() {
            Typed::Null => "this is `null`".to_owned(),
            Typed::Bool(_) => "this is a boolean".to_owned(),
            Typed::Int(_) | Typed::Float(_) => "this is a number".to_owned(),
            Typed::Text(_) => "this is text".to_owned(),
        },
    }
}

/// A scalar as a message may repeat it.
pub fn shown(node: &Node) -> String {
    match node.scalar() {
        Some(scalar) if !scalar.substituted && !secret::looks_secret(&scalar.text) => {
            shown_text(&scalar.text)
        }
        _ => "this value".to_owned(),
    }
}

/// A key as a message may repeat it.
pub fn shown_key(entry: &Entry) -> String {
    shown_text(entry.written.as_deref().unwrap_or(&entry.key))
}

/// Why a value is wrong, where the reason repeats a piece of it; less where the value is not in the
/// file.
pub fn reason_for(node: &Node, reason: String) -> String {
    match node.scalar() {
        Some(scalar) if scalar.substituted => "what it stands for can't be used here".to_owned(),
        _ => reason,
    }
}
