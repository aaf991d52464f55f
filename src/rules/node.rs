//! The tree that a rule file is read from: scalars, lists and maps, each with its place.
//!
//! Built by [`super::yaml`], walked by the readers. What a scalar means by its style is decided
//! here, what it means to the rule file is not.

use std::rc::Rc;

use super::diagnostic::Span;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it is written; for what stands behind an alias, where the anchor is.
    pub span: Span,
    /// What to point at when something is missing in it: its key, else its first line.
    pub owner: Span,
}

/// The kinds of value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text, a number, a boolean or nothing.
    Scalar(Rc<Scalar>),
    /// A list.
    List(Rc<Vec<Node>>),
    /// A map, in the order of the file, keys unique.
    Map(Rc<Vec<Entry>>),
    /// What has been complained about already.
    Poison,
}

/// One key of a map and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key, replacements made.
    pub key: Rc<str>,
    /// The key as it is written, where a replacement was made.
    pub written: Option<Rc<str>>,
    /// Where the key stands.
    pub key_span: Span,
    /// Its value.
    pub value: Node,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: the only style in which `5` is a number.
    Plain,
    /// In single or double quotes.
    Quoted,
    /// A `|` block, line for line as it is written.
    Literal,
    /// A `>` block, its lines joined.
    Folded,
}

/// One scalar.
#[derive(Debug)]
pub struct Scalar {
    /// Its text, escapes read and replacements made.
    pub text: String,
    /// How it is written.
    pub style: Style,
    /// Whether any of the text came from a variable or a file, and so must not be shown.
    pub substituted: bool,
    /// Whether nothing at all is written.
    pub absent: bool,
}

/// What a scalar means by YAML's core schema, with `true` and `false` as the only booleans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Typed<'a> {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number; what does not fit is text.
    Int(i128),
    /// A number with a point or an exponent, or `.inf` or `.nan`.
    Float(f64),
    /// Anything else.
    Text(&'a str),
}

impl Scalar {
    /// Reads the text by its style.
    pub fn typed(&self) -> Typed<'_> {
        if self.style != Style::Plain {
            return Typed::Text(&self.text);
        }
        self.plain()
    }

    /// Reads the text as a setting: what a `${…}` brings may be a number in quotes too, because
    /// inside `{ … }` YAML wants the quotes.
    pub fn setting(&self) -> Typed<'_> {
        if self.substituted { self.plain() } else { self.typed() }
    }

    fn plain(&self) -> Typed<'_> {
        match self.text.as_str() {
            "" if self.substituted => Typed::Text(""),
            "" | "~" | "null" | "Null" | "NULL" => Typed::Null,
            "true" => Typed::Bool(true),
            "false" => Typed::Bool(false),
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Typed::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Typed::Float(f64::NEG_INFINITY),
            ".nan" | ".NaN" | ".NAN" => Typed::Float(f64::NAN),
            text => number(text).unwrap_or(Typed::Text(text)),
        }
    }
}

fn number(text: &str) -> Option<Typed<'static>> {
    let int = match text.get(..2) {
        Some("0x") => i128::from_str_radix(unsigned(&text[2..])?, 16).ok(),
        Some("0o") => i128::from_str_radix(unsigned(&text[2..])?, 8).ok(),
        _ => None,
    };
    if let Some(int) = int {
        return Some(Typed::Int(int));
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.')
        || !digits.contains(|digit: char| digit.is_ascii_digit())
        || digits.contains(|other: char| !matches!(other, '0'..='9' | '.' | 'e' | 'E' | '+' | '-'))
    {
        return None;
    }
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return text.parse().ok().map(Typed::Int);
    }
    text.parse().ok().map(Typed::Float)
}

/// `from_str_radix` takes a sign behind the prefix, YAML does not.
fn unsigned(digits: &str) -> Option<&str> {
    (!digits.starts_with(['+', '-'])).then_some(digits)
}

impl Node {
    /// The scalar, where it is one.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The entries, where it is a map.
    pub fn map(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value of a key, where it is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.map()?.iter().find(|entry| &*entry.key == key).map(|entry| &entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_read_by_the_core_schema_with_two_booleans() {
        for (text, expected) in [
            ("", Typed::Null),
            ("~", Typed::Null),
            ("null", Typed::Null),
            ("true", Typed::Bool(true)),
            ("false", Typed::Bool(false)),
            ("True", Typed::Text("True")),
            ("yes", Typed::Text("yes")),
            ("off", Typed::Text("off")),
            ("0", Typed::Int(0)),
            ("-7", Typed::Int(-7)),
            ("+7", Typed::Int(7)),
            ("0x1F", Typed::Int(31)),
            ("0o17", Typed::Int(15)),
            ("0x-1", Typed::Text("0x-1")),
            ("0x", Typed::Text("0x")),
            ("1.5", Typed::Float(1.5)),
            (".5", Typed::Float(0.5)),
            ("1e3", Typed::Float(1000.0)),
            ("-.inf", Typed::Float(f64::NEG_INFINITY)),
            ("inf", Typed::Text("inf")),
            ("nan", Typed::Text("nan")),
            ("1.2.3", Typed::Text("1.2.3")),
            ("1e", Typed::Text("1e")),
            ("-", Typed::Text("-")),
            (".", Typed::Text(".")),
            ("é", Typed::Text("é")),
            ("2026-01-01T00:00:00Z", Typed::Text("2026-01-01T00:00:00Z")),
        ] {
            let scalar = |style| Scalar {
                text: text.to_owned(),
                style,
                substituted: false,
                absent: text.is_empty(),
            };
            assert_eq!(scalar(Style::Plain).typed(), expected, "{text}");
            assert_eq!(scalar(Style::Quoted).typed(), Typed::Text(text), "{text}");
        }
    }
}
