//! A rule's `project`, for what an update says of single fields: MongoDB projects the documents within an
//! event, and knows no way to project paths.

use std::collections::BTreeMap;

use bson::{
    Document as BsonDocument, RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, doc,
};

/// Which fields are kept.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fields {
    /// Whether what is named is kept, rather than left out.
    keeps: bool,
    named: Named,
}

/// Names, each with those below it; one without any stands for all of it.
#[derive(Clone, Default, PartialEq, Debug)]
struct Named(BTreeMap<String, Named>);

/// What of a value is kept.
enum Kept<'a> {
    All,
    Nothing,
    /// It depends on what is in it.
    Part(&'a Named),
}

impl Fields {
    /// Of a projection that holds nothing but 0 and 1.
    pub fn of(project: &RawDocument) -> Self {
        let is_off = |value: RawBsonRef<'_>| match value {
            RawBsonRef::Int32(number) => number == 0,
            RawBsonRef::Int64(number) => number == 0,
            RawBsonRef::Double(number) => number == 0.0,
            RawBsonRef::Boolean(on) => !on,
            _ => false,
        };
        let mut named = Named::default();
        let mut keeps = true;
        for (name, value) in project.iter().flatten().filter(|(name, _)| name.as_str() != "_id") {
            keeps = !is_off(value);
            let mut at = &mut named;
            for part in name.as_str().split('.') {
                at = at.0.entry(part.to_owned()).or_default();
            }
        }
        Self { keeps, named }
    }

    /// The stage that does the same to the documents within an event.
    pub fn stage(project: &RawDocument) -> BsonDocument {
        /// What is not a document of the collection.
        const OTHERS: [&str; 8] = [
            "_id",
            "operationType",
            "clusterTime",
            "wallTime",
            "ns",
            "to",
            "documentKey",
            "updateDescription",
        ];
        let own = BsonDocument::try_from(project).expect("the rule file's reader has made it");
        let mut stage = BsonDocument::new();
        if Self::of(project).keeps {
            stage.extend(OTHERS.iter().map(|&name| (name.to_owned(), 1.into())));
        }
        for document in ["fullDocument", "fullDocumentBeforeChange"] {
            let fields = own.iter().filter(|(name, _)| *name != "_id");
            for (name, value) in fields {
                stage.insert(format!("{document}.{name}"), value.clone());
            }
            if Self::of(project).keeps {
                stage.insert(format!("{document}._id"), 1);
            }
        }
        doc! { "$project": stage }
    }

    /// Whether anything of a path is kept.
    pub fn keep(&self, path: &str) -> bool {
        !matches!(self.kept(path), Kept::Nothing)
    }

    /// What is kept of the fields that an update has set, each under its path.
    pub fn of_updated(&self, updated: &RawDocument) -> RawDocumentBuf {
        let mut kept = RawDocumentBuf::new();
        for (path, value) in updated.iter().flatten() {
            match self.kept(path.as_str()) {
                Kept::All => kept.append(path, value),
                Kept::Nothing => {}
                Kept::Part(named) => {
                    if let Some(value) = self.part(value, named) {
                        kept.append(path, value);
                    }
                }
            }
        }
        kept
    }

    fn kept(&self, path: &str) -> Kept<'_> {
        let (found, other) = match self.keeps {
            true => (Kept::All, Kept::Nothing),
            false => (Kept::Nothing, Kept::All),
        };
        let mut at = &self.named;
        for (depth, part) in path.split('.').enumerate() {
            if depth == 0 && part == "_id" {
                return Kept::All;
            }
            at = match at.0.get(part) {
                Some(below) if below.0.is_empty() => return found,
                Some(below) => below,
                // An item of an array, whose fields are named without it.
                None if depth > 0 && part.bytes().all(|byte| byte.is_ascii_digit()) => at,
                None => return other,
            };
        }
        Kept::Part(at)
    }

    fn part(&self, value: RawBsonRef<'_>, named: &Named) -> Option<RawBson> {
        match value {
            RawBsonRef::Document(document) => {
                let mut kept = RawDocumentBuf::new();
                for (name, value) in document.iter().flatten() {
                    match named.0.get(name.as_str()) {
                        Some(below) if below.0.is_empty() => {
                            if self.keeps {
                                kept.append(name, value);
                            }
                        }
                        Some(below) => {
                            if let Some(value) = self.part(value, below) {
                                kept.append(name, value);
                            }
                        }
                        None => {
                            if !self.keeps {
                                kept.append(name, value);
                            }
                        }
                    }
                }
                Some(RawBson::Document(kept))
            }
            RawBsonRef::Array(items) => {
                let mut kept = RawArrayBuf::new();
                for item in items.into_iter().flatten() {
                    if let Some(item) = self.part(item, named) {
                        kept.push(item);
                    }
                }
                Some(RawBson::Array(kept))
            }
            value => (!self.keeps).then(|| value.to_owned().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn what_is_left_out_is_left_out_of_single_fields_too() {
        let updated = rawdoc! {
            "name": "x", "password": "secret", "card.number": 1, "card": { "number": 1, "kind": "v" },
            "people.0.card.number": 2, "people": [{ "card": { "number": 3 }, "n": 1 }, 7],
        };
        for (project, expected) in [
            (
                rawdoc! { "password": 0, "card.number": 0, "people.card": false },
                rawdoc! { "name": "x", "card": { "kind": "v" }, "people": [{ "n": 1 }, 7] },
            ),
            (
                rawdoc! { "name": 1, "card.kind": true, "people.n": 1 },
                rawdoc! { "name": "x", "card": { "kind": "v" }, "people": [{ "n": 1 }] },
            ),
            (
                rawdoc! { "people": 1 },
                rawdoc! {
                    "people.0.card.number": 2,
                    "people": [{ "card": { "number": 3 }, "n": 1 }, 7],
                },
            ),
        ] {
            assert_eq!(Fields::of(&project).of_updated(&updated), expected, "{project:?}");
        }
    }

    #[test]
    fn the_documents_within_are_projected_and_the_rest_of_the_event_stays() {
        let stage = Fields::stage(&rawdoc! { "password": 0 });
        assert_eq!(
            stage,
            doc! { "$project": {
                "fullDocument.password": 0, "fullDocumentBeforeChange.password": 0,
            } }
        );
        let stage = Fields::stage(&rawdoc! { "name": 1 });
        let stage = stage.get_document("$project").expect("a stage");
        for name in ["_id", "ns", "documentKey", "updateDescription", "fullDocument._id"] {
            assert_eq!(stage.get_i32(name).ok(), Some(1), "{name}");
        }
    }
}
