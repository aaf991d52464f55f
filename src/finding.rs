//! What a look at a rule file, at its source or at its targets brought to light: for `check`, and for
//! whoever else looks without running.

use serde::Serialize;

/// The code of what could not be reached: it has an exit code of its own.
pub const NOT_REACHED: &str = "not_reached";

/// How much it matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A run would not do what the file says.
    Error,
    /// Allowed, and probably not wanted.
    Warning,
    /// Worth knowing.
    Note,
}

/// What it is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "part", content = "name", rename_all = "snake_case")]
pub enum Part {
    /// The rule file, at a line of its own.
    File,
    /// `source:`
    Source,
    /// `checkpoint:`
    Checkpoint,
    /// A target.
    Target(String),
    /// A rule.
    Rule(String),
}

/// As a heading.
impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File => f.write_str("the file"),
            Self::Source => f.write_str("source"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Target(name) => write!(f, "target {name}"),
            Self::Rule(name) => write!(f, "rule {name}"),
        }
    }
}

/// One thing that was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A short name that stays the same, for programs.
    pub code: &'static str,
    /// What it is about.
    #[serde(flatten)]
    pub part: Part,
    /// What it is, in words, without secrets.
    pub message: String,
    /// The way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Where it stands, where it is about a file's text.
    #[serde(flatten)]
    pub place: Option<Place>,
}

/// A place in a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Place {
    /// The rule file, or one that it names.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is said of the very text that stands there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub label: String,
}

impl Finding {
    /// A run would not do what the file says.
    pub fn error(code: &'static str, part: Part, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { severity: Severity::Error, code, part, message, help: None, place: None }
    }

    /// Allowed, and probably not wanted.
    pub fn warning(code: &'static str, part: Part, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, part, message) }
    }

    /// Worth knowing.
    pub fn note(code: &'static str, part: Part, message: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(code, part, message) }
    }

    /// With the way out.
    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// So many of something, for a sentence: `1 document`, `2 documents`.
pub fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}

/// Names for a sentence: all of a few, else the first ones and how many more there are.
pub fn some<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 8;
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    match names.len().checked_sub(SHOWN).filter(|more| *more > 1) {
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
        None => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_names_are_told_and_many_are_counted() {
        assert_eq!(some(["a", "b"]), "a, b");
        assert_eq!(some(1..=9), "1, 2, 3, 4, 5, 6, 7, 8, 9");
        assert_eq!(some(1..=10), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
    }

    #[test]
    fn one_is_no_plural() {
        assert_eq!(
            (count(1, "document"), count(0, "document")),
            ("1 document".into(), "0 documents".into())
        );
    }

    #[test]
    fn programs_are_told_the_part_by_kind_and_name() {
        let finding = Finding::warning("c", Part::Rule("r".into()), "m").help("h");
        let json = serde_json::json!({
            "severity": "warning", "code": "c", "part": "rule", "name": "r",
            "message": "m", "help": "h",
        });
        assert_eq!(serde_json::to_value(finding).unwrap(), json);
        let place = Place { file: "f".into(), line: 2, column: 3, label: String::new() };
        let told = Finding { place: Some(place), ..Finding::error("c", Part::File, "m") };
        let json = serde_json::json!({
            "severity": "error", "code": "c", "part": "file", "message": "m",
            "file": "f", "line": 2, "column": 3,
        });
        assert_eq!(serde_json::to_value(told).unwrap(), json);
        let source = serde_json::to_value(Finding::note("c", Part::Source, "m")).unwrap();
        assert_eq!(source["part"], "source");
    }
}
