//! Templates: text with `{…}` in it, for ids, indices and routing.
//!
//! Parsed when the rule file is read, evaluated by delivery for each document. What a template
//! depends on decides whether a delete can find the place again without the document.

use std::{fmt, sync::Arc};

use crate::change::Namespace;

/// A parsed template, cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: Arc<str>,
    parts: Arc<[Part]>,
}

/// One piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text as it stands, `{{` and `}}` read.
    Literal(String),
    /// `{db}`: the document's database.
    Database,
    /// `{collection}`: the document's collection.
    Collection,
    /// `{rule}`: the rule's name.
    Rule,
    /// `{op}`: what is done to the document.
    Operation,
    /// `{_id}`: the document's id as plain text.
    Id,
    /// `{_id:typed}`: the document's id in a form that is distinct for every BSON value.
    TypedId,
    /// `{key.a.b}`: a field of the document key, known for deletes too. The path without `key`.
    Key(Vec<String>),
    /// `{a.b}`: a field of the shaped document.
    Field(Vec<String>),
}

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TemplateError {
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that is known.
    pub help: Option<String>,
    /// Where in the text it is wrong, in bytes.
    pub offset: usize,
    /// How many bytes of the text are wrong.
    pub length: usize,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Where a brace is not closed or stands alone, or what is in braces names nothing.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(offset) = text[at..].find(['{', '}']) {
            let brace = at + offset;
            literal.push_str(&text[at..brace]);
            let rest = &text[brace..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                literal.push_str(&rest[..1]);
                at = brace + 2;
                continue;
            }
            if rest.starts_with('}') {
                return Err(wrong(
                    "this `}` closes nothing",
                    "a `}` of its own is written `}}`",
                    brace,
                    1,
                ));
            }
            let Some(end) = rest.find('}') else {
                let help = "a `{` of its own is written `{{`";
                return Err(wrong("this `{` is not closed", help, brace, rest.len()));
            };
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(part(&rest[1..end], brace, end + 1)?);
            at = brace + end + 1;
        }
        literal.push_str(&text[at..]);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        Ok(Self { text: text.into(), parts: parts.into() })
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its pieces; no two literals stand next to one another.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether the shaped document is needed: then the place of a document can change, and a
    /// delete has to look it up.
    pub fn depends_on_document(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Field(_)))
    }

    /// Whether the document key (`_id` or a field of it) is needed.
    pub fn depends_on_key(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Id | Part::TypedId | Part::Key(_)))
    }

    /// The text where it follows from these alone: from the namespace (where one is given) and the
    /// rule's name.
    pub fn known(&self, namespace: Option<&Namespace>, rule: Option<&str>) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Literal(text) => Some(text.as_str()),
                Part::Database => namespace.map(Namespace::database),
                Part::Collection => namespace.map(Namespace::collection),
                Part::Rule => rule,
                Part::Operation | Part::Id | Part::TypedId | Part::Key(_) | Part::Field(_) => None,
            })
            .collect()
    }
}

fn part(inner: &str, offset: usize, length: usize) -> Result<Part, TemplateError> {
    let trimmed = inner.trim();
    if trimmed != inner && !trimmed.is_empty() {
        let help = format!("write `{{{trimmed}}}`");
        return Err(wrong("there are spaces inside the braces", &help, offset, length));
    }
    let path = |path: &str| -> Result<Vec<String>, TemplateError> {
        let segments: Vec<String> = path.split('.').map(str::to_owned).collect();
        let named = |segment: &String| {
            !segment.is_empty()
                && !segment.starts_with('$')
                && !segment.contains(['{', ':', '"', '\'', '\n', '\t'])
        };
        if segments.iter().all(named) {
            return Ok(segments);
        }
        let message = match inner {
            "" => "there is nothing in these braces",
            _ => "this names no field",
        };
        let help = "`{db}`, `{collection}`, `{rule}`, `{op}`, `{_id}`, `{_id:typed}`, `{key.a}` for \
                    a field of the document key, `{a.b}` for a field of the document";
        Err(wrong(message, help, offset, length))
    };
    Ok(match inner {
        "db" => Part::Database,
        "collection" => Part::Collection,
        "rule" => Part::Rule,
        "op" => Part::Operation,
        "_id" => Part::Id,
        "_id:typed" => Part::TypedId,
        _ => match inner.strip_prefix("key.") {
            Some(key) => Part::Key(path(key)?),
            None => Part::Field(path(inner)?),
        },
    })
}

fn wrong(message: &str, help: &str, offset: usize, length: usize) -> TemplateError {
    TemplateError { message: message.to_owned(), help: Some(help.to_owned()), offset, length }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(path: &[&str]) -> Part {
        Part::Field(path.iter().map(|&segment| segment.to_owned()).collect())
    }

    #[test]
    fn every_part() {
        let literal = |text: &str| Part::Literal(text.to_owned());
        for (text, expected) in [
            ("", vec![]),
            ("plain", vec![literal("plain")]),
            ("{_id}", vec![Part::Id]),
            ("{_id:typed}", vec![Part::TypedId]),
            (
                "{db}-{collection}/{rule}{op}",
                vec![
                    Part::Database,
                    literal("-"),
                    Part::Collection,
                    literal("/"),
                    Part::Rule,
                    Part::Operation,
                ],
            ),
            ("{key.tenant}", vec![Part::Key(vec!["tenant".to_owned()])]),
            ("{a.b}é{c}", vec![field(&["a", "b"]), literal("é"), field(&["c"])]),
            ("{{x}}{{{y}}}", vec![literal("{x}{"), field(&["y"]), literal("}")]),
            ("{first name}", vec![field(&["first name"])]),
            ("{_id.a}", vec![field(&["_id", "a"])]),
        ] {
            let template = Template::parse(text).expect(text);
            assert_eq!(template.parts(), expected, "{text}");
            assert_eq!(template.as_str(), text);
        }
    }

    #[test]
    fn what_is_no_template() {
        for (text, offset, length) in [
            ("a{b", 1, 2),
            ("a}b", 1, 1),
            ("{}", 0, 2),
            ("x{a..b}", 1, 6),
            ("{ _id }", 0, 7),
            ("{_id:type}", 0, 10),
            ("{a{b}", 0, 5),
            ("{key.}", 0, 6),
            ("{$x}", 0, 4),
        ] {
            let error = Template::parse(text).expect_err(text);
            assert_eq!((error.offset, error.length), (offset, length), "{text}");
        }
    }

    #[test]
    fn what_it_depends_on() {
        let namespace = Namespace::new("shop", "orders");
        for (text, document, key, alone, known) in [
            ("fixed{{", false, false, Some("fixed{"), Some("fixed{")),
            ("{_id}", false, true, None, None),
            ("{_id:typed}", false, true, None, None),
            ("{key.a}", false, true, None, None),
            ("{tenant}-{_id}", true, true, None, None),
            ("{rule}-x", false, false, Some("r-x"), Some("r-x")),
            ("{db}.{collection}", false, false, None, Some("shop.orders")),
            ("{op}", false, false, None, None),
        ] {
            let template = Template::parse(text).expect(text);
            assert_eq!(template.depends_on_document(), document, "{text}");
            assert_eq!(template.depends_on_key(), key, "{text}");
            let owned = |known: Option<&str>| known.map(str::to_owned);
            assert_eq!(template.known(None, Some("r")), owned(alone), "{text}");
            assert_eq!(template.known(Some(&namespace), Some("r")), owned(known), "{text}");
        }
    }
}
