//! Fills a template in for one document.

use std::borrow::Cow;

use bson::{RawBsonRef, RawDocument};

use crate::{
    change::{
        DocumentKey,
        id::{self, IdType, IdTypes},
    },
    rules::template::{Part, Template},
};

use super::Placing;

/// The template's text for one document.
///
/// # Errors
/// What is missing, in words: the document has no place then.
pub fn fill(template: &Template, rule: &str, placing: &Placing<'_>) -> Result<String, String> {
    fill_escaped(template, rule, placing, |value, out| out.push_str(value))
        .map_err(|missing| format!("{missing}, and the place is made from it"))
}

/// The same, where `escape` writes every text that is not the template's own, so that none of them
/// means more than itself.
///
/// # Errors
/// What is missing, in words that say nothing of what is made from it.
pub fn fill_escaped(
    template: &Template,
    rule: &str,
    placing: &Placing<'_>,
    mut escape: impl FnMut(&str, &mut String),
) -> Result<String, String> {
    let mut out = String::new();
    for part in template.parts() {
        match part {
            Part::Literal(text) => out.push_str(text),
            part => escape(&filled(part, rule, placing)?, &mut out),
        }
    }
    Ok(out)
}

/// The text that one part of a template stands for.
///
/// # Errors
/// As [`fill_escaped`].
pub fn filled<'a>(
    part: &'a Part,
    rule: &'a str,
    placing: &Placing<'a>,
) -> Result<Cow<'a, str>, String> {
    Ok(match part {
        Part::Literal(text) => text.into(),
        Part::Database => placing.namespace.database().into(),
        Part::Collection => placing.namespace.collection().into(),
        Part::Rule => rule.into(),
        Part::Operation => placing.op.into(),
        Part::Id => placing.id.into(),
        Part::TypedId => id::typed(placing.key).into(),
        Part::Key(path) => text(key_field(placing.key.raw(), path), "document key", path)?,
        Part::Field(path) => {
            let document = placing.document.ok_or_else(|| {
                format!("the field {} is one of a document, and there is none", path.join("."))
            })?;
            text(nested(document, path), "document", path)?
        }
    })
}

/// A document key holds dotted shard key fields under their whole path.
fn key_field<'a>(key: &'a RawDocument, path: &[String]) -> Option<RawBsonRef<'a>> {
    key.get(path.join(".")).ok().flatten().or_else(|| nested(key, path))
}

fn nested<'a>(document: &'a RawDocument, path: &[String]) -> Option<RawBsonRef<'a>> {
    let (first, rest) = path.split_first()?;
    let value = document.get(first).ok().flatten()?;
    match (rest, value) {
        ([], value) => Some(value),
        (rest, RawBsonRef::Document(inner)) => nested(inner, rest),
        _ => None,
    }
}

fn text<'a>(
    value: Option<RawBsonRef<'a>>,
    of: &str,
    path: &[String],
) -> Result<Cow<'a, str>, String> {
    let path = path.join(".");
    match value {
        None => Err(format!("the {of} has no field {path}")),
        Some(RawBsonRef::Null | RawBsonRef::Undefined) => {
            Err(format!("the field {path} of the {of} is null"))
        }
        Some(RawBsonRef::Document(_) | RawBsonRef::Array(_)) => {
            Err(format!("the field {path} of the {of} is no single value"))
        }
        Some(RawBsonRef::String(text)) => Ok(text.into()),
        Some(value) => {
            let key = DocumentKey::from_id(value).map_err(|error| error.to_string())?;
            let known: IdTypes = [IdType::of(value)].into_iter().collect();
            Ok(id::text(&key, &known).into_owned().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;
    use crate::{change::Namespace, transform::Meta};

    #[test]
    fn every_part_is_filled_in() {
        let document = rawdoc! { "_id": 7, "tenant": "acme", "a": { "n": 5_i64, "none": null } };
        let key = DocumentKey::from_document_key(&rawdoc! { "_id": 7, "s.t": "x" }).expect("a key");
        let meta = Meta::default();
        let placing = Placing {
            namespace: &Namespace::new("shop", "orders"),
            key: &key,
            id: "7",
            op: "put",
            document: Some(&document),
            event: None,
            meta: &meta,
        };
        for (template, expected) in [
            ("{db}.{collection}/{rule}/{op}", Ok("shop.orders/r/put")),
            ("{_id}", Ok("7")),
            ("{_id:typed}", Ok("number~7")),
            ("{tenant}-{a.n}", Ok("acme-5")),
            ("{key.s.t}", Ok("x")),
            ("{{x}}", Ok("{x}")),
            ("{nothing}", Err("the document has no field nothing, and the place is made from it")),
            (
                "{a.none}",
                Err("the field a.none of the document is null, and the place is made from it"),
            ),
            (
                "{a}",
                Err(
                    "the field a of the document is no single value, and the place is made from it",
                ),
            ),
        ] {
            let template = Template::parse(template).expect("a template");
            let filled = fill(&template, "r", &placing);
            assert_eq!(
                filled.as_deref(),
                expected.map_err(str::to_owned).as_deref(),
                "{template:?}"
            );
        }
    }
}
