//! Where the documents of each rule lie in a MongoDB: the rule's template, filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use bson::RawBsonRef;
use bytes::Bytes;

use crate::{
    change::{KeyMap, Namespace},
    rules::{
        model::{MongoPlace, NamespacePattern, Selector},
        namespace::written_fault,
        template::Part,
    },
    target::{Origins, Placed, Placing, Retry, fill::fill, names},
};

use super::{
    marker::Telling,
    place::{id_fault, place_key},
};

/// A rule that writes to the MongoDB.
#[derive(Clone, Debug)]
pub struct MongoRule {
    /// The rule's name.
    pub name: String,
    /// What it reads.
    pub namespaces: Selector,
    /// What its `to` says.
    pub place: MongoPlace,
    /// Whether what the source deletes stays.
    pub keeps: bool,
    /// Whether what it drops stays.
    pub keeps_dropped: bool,
    /// Whether a script may choose where documents lie.
    pub moves: bool,
    /// Whether the definitions of collections are followed.
    pub ddl: bool,
    /// Whether events are appended rather than documents kept.
    pub appends: bool,
}

/// The routes of one MongoDB.
pub(super) struct Routes {
    rules: KeyMap<String, MongoRule>,
    /// From where documents come that lie in a namespace: the first that did.
    sources: Mutex<KeyMap<String, Namespace>>,
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

    /// The names of the rules.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.rules.keys().map(String::as_str)
    }

    /// Whether a rule appends events.
    pub fn appends(&self, rule: &str) -> bool {
        self.rules.get(rule).is_some_and(|rule| rule.appends)
    }

    /// Who tells events in a namespace.
    ///
    /// # Errors
    /// Where the source does not say who it is.
    pub async fn telling(&self, name: &str, origins: &dyn Origins) -> Result<Telling, Retry> {
        let tell = self.rules.values().filter(|rule| rule.appends && self.may_write(rule, name));
        let rules = tell.map(|rule| rule.name.clone()).collect();
        Ok(Telling { rules, source: origins.deployment().await?.id })
    }

    /// Whether all rules do.
    pub fn only_append(&self) -> bool {
        !self.rules.is_empty() && self.rules.values().all(|rule| rule.appends)
    }

    /// The namespaces that a rule names, there or not.
    pub fn exact(&self, rule: &str) -> impl Iterator<Item = &Namespace> {
        let include = self.rules.get(rule).map(|rule| rule.namespaces.include.as_slice());
        include.unwrap_or_default().iter().filter_map(|pattern| match pattern {
            NamespacePattern::Exact(namespace) => Some(namespace),
            NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
        })
    }

    /// Where documents of all rules are to lie, as far as it is known: of what they read now and of what they
    /// name, each with its rule and its namespace of the source. One may come more than once.
    pub fn known<'a>(
        &'a self,
        reads: &'a BTreeMap<String, Vec<Namespace>>,
    ) -> impl Iterator<Item = (&'a str, &'a Namespace, Namespace)> {
        self.names().flat_map(move |rule| {
            let read = reads.get(rule).into_iter().flatten().chain(self.exact(rule));
            read.filter_map(move |namespace| {
                let own = self.container(rule, namespace)?;
                Some((rule, namespace, Namespace::parse(&own)?))
            })
        })
    }

    /// Whether a template alone leads from a namespace to this one.
    pub fn leads(&self, from: &Namespace, to: &str) -> bool {
        self.names().any(|rule| self.container(rule, from).as_deref() == Some(to))
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

    /// Whether a rule may write to a namespace whose documents say nothing about it.
    pub fn is_named(&self, namespace: &str) -> bool {
        let lies = |rule: &MongoRule| {
            self.is_fixed(&rule.name)
                && self.containers(&rule.name).iter().any(|pattern| names(pattern, namespace))
        };
        self.rules.values().any(lies)
    }

    /// Whether a rule that may write to a namespace keeps there what the source deletes.
    pub fn keeps(&self, namespace: &str) -> bool {
        self.rules.values().filter(|rule| rule.keeps).any(|rule| {
            let mut names = self.containers(&rule.name).into_iter();
            names.any(|name| name == namespace || name.contains('*'))
        })
    }

    /// Whether a rule may write to a namespace, whatever its documents hold.
    fn may_write(&self, rule: &MongoRule, namespace: &str) -> bool {
        rule.moves || self.containers(&rule.name).iter().any(|pattern| names(pattern, namespace))
    }

    /// Whether what the source drops stays in a namespace.
    pub fn stays(&self, namespace: &str) -> bool {
        let stays = |rule: &&MongoRule| rule.keeps || rule.keeps_dropped;
        self.rules.values().filter(stays).any(|rule| self.may_write(rule, namespace))
    }

    /// The rules that follow the definitions of collections.
    pub fn following(&self) -> impl Iterator<Item = &MongoRule> {
        self.rules.values().filter(|rule| rule.ddl)
    }

    /// Whether all that may write to a namespace follow the definitions of collections.
    pub fn follows(&self, namespace: &str) -> bool {
        let mut writers =
            self.rules.values().filter(|rule| self.may_write(rule, namespace)).peekable();
        writers.peek().is_some() && writers.all(|rule| rule.ddl)
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
        let filled = match &route.place.namespace {
            Some(template) => Some(fill(template, rule, placing)?),
            None => None,
        };
        let name = filled.as_deref().unwrap_or_else(|| placing.namespace.as_str());
        let chosen = (meta.database.is_some() || meta.collection.is_some()).then(|| {
            let (database, collection) = name.split_once('.').unwrap_or((name, ""));
            let database = meta.database.as_deref().unwrap_or(database);
            format!("{database}.{}", meta.collection.as_deref().unwrap_or(collection))
        });
        let name = chosen.as_deref().unwrap_or(name);
        // A document of a script's own making has its own `_id`, and an event one that is its own.
        let own = match (placing.event, placing.document) {
            (Some(event), _) => Some(RawBsonRef::String(event)),
            (None, Some(document)) => {
                document.get("_id").map_err(|error| format!("its _id can't be read: {error}"))?
            }
            (None, None) => None,
        };
        let id = own.unwrap_or_else(|| placing.key.id());
        if let Some(fault) = id_fault(id) {
            return Err(fault);
        }
        let place =
            place_key(name, id).map_err(|error| format!("its _id can't be read: {error}"))?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        match sources.get(name) {
            Some(known) if known != placing.namespace && !route.appends => {
                return Err(format!(
                    "documents of {known} lie in {name}, and those of {} would fall on them",
                    placing.namespace
                ));
            }
            Some(_) => {}
            None => {
                if filled.is_some() || chosen.is_some() {
                    refuse_name(name)?;
                }
                sources.insert(name.to_owned(), placing.namespace.clone());
            }
        }
        Ok(Placed { place, extra: Bytes::new() })
    }
}

/// Only a template over fields and a script can make a name that nobody has looked at before.
fn refuse_name(name: &str) -> Result<(), String> {
    match written_fault(name) {
        Some(fault) => Err(format!("{name:?} is no namespace: {fault}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bson::RawBsonRef;

    use super::*;
    use crate::{change::DocumentKey, target::mongodb::MongoPlaceKey, transform::Meta};

    #[test]
    fn a_script_may_choose_database_and_collection() {
        let exact = NamespacePattern::Exact(Namespace::new("shop", "items"));
        let rule = MongoRule {
            name: "items".into(),
            namespaces: Selector { include: vec![exact], exclude: Vec::new() },
            place: MongoPlace::default(),
            keeps: true,
            keeps_dropped: false,
            moves: false,
            ddl: false,
            appends: false,
        };
        let key = DocumentKey::from_id(RawBsonRef::Int32(1)).expect("a key");
        let namespace = Namespace::new("shop", "items");
        let text = |text: &str| Some(text.to_owned());
        for (meta, expected) in [
            (Meta::default(), Ok("shop.items")),
            (Meta { database: text("old"), ..Meta::default() }, Ok("old.items")),
            (Meta { collection: text("a.b"), ..Meta::default() }, Ok("shop.a.b")),
            (Meta { database: text("a"), collection: text("b"), ..Meta::default() }, Ok("a.b")),
            (Meta { database: text("a b"), ..Meta::default() }, Err("is no namespace")),
            // What concerns other kinds of targets.
            (Meta { index: text("a"), url: text("b"), ..Meta::default() }, Ok("shop.items")),
        ] {
            let placing = Placing {
                namespace: &namespace,
                key: &key,
                id: "1",
                op: "put",
                document: None,
                event: None,
                meta: &meta,
            };
            let placed = Routes::new(vec![rule.clone()]).place("items", &placing);
            match (placed, expected) {
                (Ok(placed), Ok(expected)) => {
                    let place = MongoPlaceKey::decode(&placed.place).expect("a place");
                    assert_eq!(place.namespace, expected);
                }
                (Err(words), Err(part)) => assert!(words.contains(part), "{words}"),
                (other, _) => panic!("{meta:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_a_rule_keeps_stays_wherever_it_may_write() {
        let exact = NamespacePattern::Exact(Namespace::new("shop", "items"));
        let rule = |keeps| MongoRule {
            name: "items".into(),
            namespaces: Selector { include: vec![exact.clone()], exclude: Vec::new() },
            place: MongoPlace::default(),
            keeps,
            keeps_dropped: false,
            moves: false,
            ddl: false,
            appends: false,
        };
        for (keeps, namespace, expected) in
            [(true, "shop.items", true), (true, "shop.other", false), (false, "shop.items", false)]
        {
            assert_eq!(Routes::new(vec![rule(keeps)]).keeps(namespace), expected, "{namespace}");
        }
    }
}
