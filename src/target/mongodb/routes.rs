//! Where the documents of each rule lie in a MongoDB: the rule's template, filled in.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    change::Namespace,
    rules::{
        model::{MongoPlace, NamespacePattern, Selector},
        namespace::written_fault,
        template::Part,
    },
    target::{Placed, Placing, fill::fill},
};

use super::place::place_key;

/// A rule that writes to the MongoDB.
#[derive(Clone, Debug)]
pub struct MongoRule {
    /// The rule's name.
    pub name: String,
    /// What it reads.
    pub namespaces: Selector,
    /// What its `to` says.
    pub place: MongoPlace,
}

/// The routes of one MongoDB.
pub(super) struct Routes {
    rules: HashMap<String, MongoRule>,
    /// From where documents come that lie in a namespace: the first that did.
    sources: Mutex<HashMap<String, Namespace>>,
}

impl Routes {
    pub fn new(rules: Vec<MongoRule>) -> Self {
        let rules = rules.into_iter().map(|rule| (rule.name.clone(), rule)).collect();
        Self { rules, sources: Mutex::default() }
    }

    pub fn is_fixed(&self, rule: &str) -> bool {
        let template = self.rules.get(rule).and_then(|rule| rule.place.namespace.as_ref());
        template.is_none_or(|template| !template.depends_on_document())
    }

    /// Where all documents of a rule from a namespace lie, as far as templates go.
    pub fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        self.rules.get(rule)?.place.name_for(namespace, Some(rule))
    }

    /// Where documents of a rule may lie, `*` for any text.
    pub fn containers(&self, rule: &str) -> Vec<String> {
        let Some(rule) = self.rules.get(rule) else { return vec!["*".to_owned()] };
        let names = rule.namespaces.include.iter().map(|pattern| {
            let (database, collection) = match pattern {
                NamespacePattern::Exact(namespace) => {
                    (namespace.database(), namespace.collection())
                }
                NamespacePattern::Glob(glob) => {
                    (glob.literal_database.as_deref().unwrap_or("*"), "*")
                }
                NamespacePattern::Regex(_) => ("*", "*"),
            };
            let Some(template) = &rule.place.namespace else {
                return format!("{database}.{collection}");
            };
            let parts = template.parts().iter().map(|part| match part {
                Part::Literal(text) => text.as_str(),
                Part::Database => database,
                Part::Collection => collection,
                Part::Rule => rule.name.as_str(),
                Part::Operation | Part::Id | Part::TypedId | Part::Key(_) | Part::Field(_) => "*",
            });
            parts.collect()
        });
        let names: BTreeSet<String> = names.collect();
        names.into_iter().collect()
    }

    /// The rule that would read what is written there, where the source is the target.
    pub fn reader(&self, namespace: &Namespace) -> Option<&str> {
        let mut readers: Vec<&str> = self
            .rules
            .values()
            .filter(|rule| rule.namespaces.matches(namespace))
            .map(|rule| rule.name.as_str())
            .collect();
        readers.sort_unstable();
        readers.first().copied()
    }

    /// From where what lies in a namespace comes, where anything has been placed there.
    pub fn source_of(&self, namespace: &str) -> Option<Namespace> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.get(namespace).cloned()
    }

    pub fn place(&self, rule: &str, placing: &Placing<'_>) -> Result<Placed, String> {
        let route = self
            .rules
            .get(rule)
            .ok_or_else(|| format!("rule {rule} does not write to this target"))?;
        let meta = placing.meta;
        if let Some(field) = ["id", "index", "routing", "ingest_pipeline"]
            .into_iter()
            .find(|name| meta.field(name).is_some())
        {
            return Err(format!("meta.{field} has no meaning for a MongoDB"));
        }
        let filled = match &route.place.namespace {
            Some(template) => Some(fill(template, rule, placing)?),
            None => None,
        };
        let name = filled.as_deref().unwrap_or_else(|| placing.namespace.as_str());
        // A document of a script's own making has its own `_id`.
        let own = match placing.document {
            Some(document) => {
                document.get("_id").map_err(|error| format!("its _id can't be read: {error}"))?
            }
            None => None,
        };
        let id = own.unwrap_or_else(|| placing.key.id());
        let place =
            place_key(name, id).map_err(|error| format!("its _id can't be read: {error}"))?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match sources.get(name) {
            Some(known) if known != placing.namespace => {
                return Err(format!(
                    "documents of {known} lie in {name}, and those of {} would fall on them",
                    placing.namespace
                ));
            }
            Some(_) => {}
            None => {
                if filled.is_some() {
                    refuse_name(name)?;
                }
                sources.insert(name.to_owned(), placing.namespace.clone());
            }
        }
        Ok(Placed { place, extra: Bytes::new() })
    }
}

/// Only a template over fields can make a name that nobody has looked at before.
fn refuse_name(name: &str) -> Result<(), String> {
    match written_fault(name) {
        Some(fault) => Err(format!("{name:?} is no namespace: {fault}")),
        None => Ok(()),
    }
}
