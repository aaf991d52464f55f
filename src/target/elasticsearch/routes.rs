//! Where the documents of each rule lie in an engine: the rule's templates, filled in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use crate::{
    change::{KeyMap, Namespace},
    rules::{
        model::{EngineIndex, EnginePlace, NamespacePattern, Selector},
        template::Part,
    },
    target::{Placed, Placing, fill::fill},
};

use super::{
    indices::{IndexPlan, Indices},
    place::place_key,
};

/// A rule that writes to the engine.
#[derive(Clone, Debug)]
pub struct EngineRule {
    /// The rule's name.
    pub name: String,
    /// What it reads.
    pub namespaces: Selector,
    /// What its `to` says.
    pub place: EnginePlace,
    /// Whether events are appended rather than documents kept.
    pub appends: bool,
}

/// An index that a rule writes to, as far as its name is known before any document is.
pub(super) struct Wanted {
    pub name: String,
    pub plan: Arc<IndexPlan>,
}

/// What each rule reads now, by its name.
type Reads = BTreeMap<String, Vec<Namespace>>;

struct Route {
    rule: EngineRule,
    plan: Arc<IndexPlan>,
}

/// The routes of one engine.
pub(super) struct Routes(KeyMap<String, Route>);

impl Routes {
    /// Declares the indices whose names are known in advance.
    pub fn new(rules: Vec<EngineRule>, indices: &Indices) -> Self {
        let routes: KeyMap<_, _> = rules
            .into_iter()
            .map(|rule| {
                let index = &rule.place.index;
                let plan = Arc::new(IndexPlan {
                    rule: rule.name.clone(),
                    alias: index.alias,
                    appends: rule.appends,
                    settings: index.settings.clone(),
                    mappings: index.mappings.clone(),
                });
                (rule.name.clone(), Route { rule, plan })
            })
            .collect();
        for route in routes.values() {
            if let Some(name) = route.name_in_advance() {
                indices.declare(&name, &route.plan);
            }
        }
        Self(routes)
    }

    pub fn is_fixed(&self, rule: &str) -> bool {
        let Some(route) = self.0.get(rule) else { return true };
        let place = &route.rule.place;
        [&place.id, &place.routing, &place.index.name]
            .into_iter()
            .flatten()
            .all(|template| !template.depends_on_document())
    }

    /// Whether a rule's ids are those of the documents.
    pub fn keeps_ids(&self, rule: &str) -> bool {
        self.0.get(rule).is_some_and(|route| route.rule.place.id.is_none())
    }

    /// The index of all documents of a rule from a namespace, as far as templates go.
    pub fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        self.0.get(rule)?.rule.place.index.name_for(namespace, Some(rule))
    }

    /// See `Target::settle`.
    pub fn settle(
        &self,
        rule: &str,
        namespace: &Namespace,
        indices: &Indices,
    ) -> Result<(), String> {
        match self.0.get(rule) {
            Some(route) if route.rule.place.index.name.is_none() => {
                indices.settle(&EngineIndex::default_name(namespace), namespace)
            }
            _ => Ok(()),
        }
    }

    /// Says how an index of a rule is to be made.
    pub fn declare(&self, rule: &str, index: &str, indices: &Indices) {
        if let Some(route) = self.0.get(rule) {
            indices.declare(index, &route.plan);
        }
    }

    /// The indices of all documents of a rule, `*` for any text.
    pub fn containers(&self, rule: &str) -> Vec<String> {
        let Some(route) = self.0.get(rule) else { return vec!["*".to_owned()] };
        let include = route.rule.namespaces.include.iter();
        let names = include.map(|pattern| {
            let (database, collection) = match pattern {
                NamespacePattern::Exact(namespace) => {
                    (namespace.database(), namespace.collection())
                }
                NamespacePattern::Glob(glob) => {
                    (glob.literal_database.as_deref().unwrap_or("*"), "*")
                }
                NamespacePattern::Regex(_) => ("*", "*"),
            };
            let Some(template) = &route.rule.place.index.name else {
                return format!("{database}-{collection}").to_lowercase();
            };
            let parts = template.parts().iter().map(|part| match part {
                Part::Literal(text) => text.as_str(),
                Part::Database => database,
                Part::Collection => collection,
                Part::Rule => rule,
                Part::Operation | Part::Id | Part::TypedId | Part::Key(_) | Part::Field(_) => "*",
            });
            parts.collect()
        });
        let names: BTreeSet<String> = names.collect();
        names.into_iter().collect()
    }

    /// The indices that rules write to, each once, in the order of their names.
    pub fn wanted(&self, reads: &Reads) -> Vec<Wanted> {
        let mut wanted = BTreeMap::new();
        for route in self.in_order() {
            let index = &route.rule.place.index;
            let own = |namespace| index.name_for(namespace, Some(&route.rule.name));
            let names = route.reads(reads).filter_map(own).chain(route.name_in_advance());
            for name in names {
                wanted.entry(name).or_insert_with(|| route.plan.clone());
            }
        }
        wanted.into_iter().map(|(name, plan)| Wanted { name, plan }).collect()
    }

    /// The ingest pipelines that rules name, each with the first rule that does.
    pub fn ingest_pipelines(&self, reads: &Reads) -> BTreeMap<String, String> {
        let mut named = BTreeMap::new();
        for route in self.in_order() {
            let Some(template) = &route.rule.place.ingest_pipeline else { continue };
            let rule = Some(route.rule.name.as_str());
            let of_namespaces =
                route.reads(reads).filter_map(|namespace| template.known(Some(namespace), rule));
            for name in of_namespaces.chain(template.known(None, rule)) {
                named.entry(name).or_insert_with(|| route.rule.name.clone());
            }
        }
        named
    }

    fn in_order(&self) -> Vec<&Route> {
        let mut routes: Vec<_> = self.0.values().collect();
        routes.sort_by(|one, other| one.rule.name.cmp(&other.rule.name));
        routes
    }

    pub fn place(
        &self,
        rule: &str,
        placing: &Placing<'_>,
        indices: &Indices,
    ) -> Result<Placed, String> {
        let route =
            self.0.get(rule).ok_or_else(|| format!("rule {rule} does not write to this target"))?;
        let place = &route.rule.place;
        let meta = placing.meta;
        let (declared, filled);
        let mut is_declared = false;
        let index = match (&meta.index, &place.index.name) {
            (Some(index), _) => index.as_str(),
            (None, Some(template)) => {
                filled = fill(template, rule, placing)?;
                filled.as_str()
            }
            (None, None) if placing.event.is_none() && placing.document.is_some() => {
                is_declared = true;
                declared = indices.default_of(placing.namespace, &route.plan)?;
                &*declared
            }
            (None, None) => {
                filled = EngineIndex::default_name(placing.namespace);
                // Each event has an id of its own, wherever it lies.
                if placing.event.is_none() {
                    indices.may_hold(&filled, placing.namespace)?;
                }
                filled.as_str()
            }
        };
        let filled_id;
        let id = match (&meta.id, &place.id) {
            // With another id an event could be taken for one that was appended before.
            (Some(_), _) if placing.event.is_some() => {
                return Err("`meta.id` can't be set: each event has an id of its own".to_owned());
            }
            (Some(id), _) => id.as_str(),
            (None, _) if placing.event.is_some() => placing.event.unwrap_or_default(),
            (None, Some(template)) => {
                filled_id = fill(template, rule, placing)?;
                filled_id.as_str()
            }
            (None, None) => placing.id,
        };
        let routing = match (&meta.routing, &place.routing) {
            (Some(routing), _) => Some(routing.clone()),
            (None, Some(template)) => Some(fill(template, rule, placing)?),
            (None, None) => None,
        };
        // A removal runs through no ingest pipeline.
        let removal = placing.document.is_none() && placing.event.is_none();
        let pipeline = match (&meta.ingest_pipeline, &place.ingest_pipeline) {
            _ if removal => String::new(),
            (Some(pipeline), _) => pipeline.clone(),
            (None, Some(template)) => fill(template, rule, placing)?,
            (None, None) => String::new(),
        };
        if !is_declared {
            indices.declare(index, &route.plan);
        }
        Ok(Placed { place: place_key(index, id, routing.as_deref()), extra: Bytes::from(pipeline) })
    }
}

impl Route {
    fn reads<'a>(&self, reads: &'a Reads) -> impl Iterator<Item = &'a Namespace> + use<'a> {
        reads.get(&self.rule.name).into_iter().flatten()
    }

    fn name_in_advance(&self) -> Option<String> {
        let index = &self.rule.place.index;
        match (&index.name, self.rule.namespaces.exact()) {
            (Some(template), _) => template.known(None, Some(&self.rule.name)),
            (None, namespace) => namespace.map(EngineIndex::default_name),
        }
    }
}
