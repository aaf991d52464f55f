//! Values as the text of a rule file, so that they are read as what they are: JSON, which is YAML, in
//! the order of its keys.
//!
//! What a rule file replaces (`${…}`) is written so that it is not; what it takes as it stands, such as
//! a script, is written as it stands. Queries keep their types: they are written as Extended JSON.

use std::fmt::Write;

use bson::{Bson, Document};

/// Longer values are spread over lines, which messages then show one of.
const LINE: usize = 80;

/// The text.
pub(super) fn written(file: &Document) -> String {
    let mut text = Writer { path: Vec::new() }.document(file, Some(0));
    text.push('\n');
    text
}

/// How a value is to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// `${…}` is replaced in it, numbers are numbers.
    Setting,
    /// `${…}` is replaced in it, and it is Extended JSON.
    Query,
    /// It is taken as it stands.
    Verbatim,
    /// Both.
    VerbatimQuery,
}

struct Writer<'a> {
    /// Keys from the top, an entry of a list as `-`.
    path: Vec<&'a str>,
}

impl<'a> Writer<'a> {
    fn reading(&self) -> Reading {
        match self.path.as_slice() {
            ["rules", "-", "transform"] => Reading::Verbatim,
            ["tests", "-", "given" | "expect", ..] => Reading::VerbatimQuery,
            ["rules", "-", "filter" | "project" | "pipeline", ..]
            | ["rules", "-", "changes", "pipeline", ..] => Reading::Query,
            _ => Reading::Setting,
        }
    }

    /// On one line where `indent` is none.
    fn value(&mut self, value: &'a Bson, indent: Option<usize>) -> String {
        let reading = self.reading();
        match value {
            Bson::Document(document) => self.document(document, indent),
            Bson::Array(items) => {
                self.path.push("-");
                let deeper = indent.map(|indent| indent + 2);
                let items: Vec<_> = items.iter().map(|item| self.within(item, deeper)).collect();
                self.path.pop();
                lines("[", &items, "]", indent)
            }
            Bson::String(text) => string(text, reading),
            Bson::Boolean(value) => value.to_string(),
            Bson::Null => "null".to_owned(),
            Bson::Int32(number) => number.to_string(),
            Bson::Double(number) if number.is_finite() => {
                // A dot, so that it stays what it is.
                format!("{number:?}")
            }
            other => match (reading, other) {
                (Reading::Setting, Bson::Int64(number)) => number.to_string(),
                (Reading::Setting, Bson::DateTime(time)) => {
                    string(&time.try_to_rfc3339_string().unwrap_or_default(), reading)
                }
                (Reading::Setting, Bson::Timestamp(time)) => {
                    string(&format!("{}.{}", time.time, time.increment), reading)
                }
                _ => extended(other, reading),
            },
        }
    }

    /// On one line where that is short.
    fn within(&mut self, value: &'a Bson, indent: Option<usize>) -> String {
        let line = self.value(value, None);
        if indent.is_none() || line.len() <= LINE { line } else { self.value(value, indent) }
    }

    fn document(&mut self, document: &'a Document, indent: Option<usize>) -> String {
        let deeper = indent.map(|indent| indent + 2);
        let mut entries = Vec::with_capacity(document.len());
        for (key, value) in document {
            let reading = self.reading();
            self.path.push(key);
            let text = self.within(value, deeper);
            self.path.pop();
            entries.push(format!("{}: {text}", string(key, reading)));
        }
        lines("{", &entries, "}", indent)
    }
}

fn lines(open: &str, items: &[String], close: &str, indent: Option<usize>) -> String {
    match indent {
        Some(indent) if !items.is_empty() => {
            let (outer, inner) = (" ".repeat(indent), " ".repeat(indent + 2));
            let items = items.join(&format!(",\n{inner}"));
            format!("{open}\n{inner}{items}\n{outer}{close}")
        }
        _ => format!("{open}{}{close}", items.join(", ")),
    }
}

/// A value that JSON has no words for.
fn extended(value: &Bson, reading: Reading) -> String {
    let mut json = value.clone().into_canonical_extjson().to_string();
    if let Reading::Setting | Reading::Query = reading {
        json = json.replace("${", "$${");
    }
    json
}

fn string(text: &str, reading: Reading) -> String {
    let replaced;
    let text = match reading {
        Reading::Setting | Reading::Query => {
            replaced = text.replace("${", "$${");
            &replaced
        }
        Reading::Verbatim | Reading::VerbatimQuery => text,
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // What YAML takes for a break of the line, or not at all.
            letter if letter.is_control() || ('\u{2028}'..='\u{2029}').contains(&letter) => {
                write!(out, "\\u{:04x}", u32::from(letter)).expect("a string takes all");
            }
            '\u{feff}' => out.push_str("\\ufeff"),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;
