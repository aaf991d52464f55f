//! Where the documents of each rule lie in an engine: the rule's templates, filled in.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;

use crate::{
    change::Namespace,
    rules::{
        model::{EnginePlace, Selector},
        template::{Part, Template},
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
}

struct Route {
    rule: EngineRule,
    plan: Arc<IndexPlan>,
}

/// The routes of one engine.
pub(super) struct Routes(HashMap<String, Route>);

impl Routes {
    /// Declares the indices whose names are known in advance.
    pub fn new(rules: Vec<EngineRule>, indices: &Indices) -> Self {
        let routes: HashMap<_, _> = rules
            .into_iter()
            .map(|rule| {
                let index = &rule.place.index;
                let plan = Arc::new(IndexPlan {
                    rule: rule.name.clone(),
                    alias: index.alias,
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

    /// The index of all documents of a rule from a namespace, as far as templates go.
    pub fn container(&self, rule: &str, namespace: &Namespace) -> Option<String> {
        match &self.0.get(rule)?.rule.place.index.name {
            None => Some(default_index(namespace)),
            Some(template) => fill_container(template, rule, namespace),
        }
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
        let index = match (&meta.index, &place.index.name) {
            (Some(index), _) => index.clone(),
            (None, Some(template)) => fill(template, rule, placing)?,
            (None, None) => default_index(placing.namespace),
        };
        let filled_id;
        let id = match (&meta.id, &place.id) {
            (Some(id), _) => id.as_str(),
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
        let pipeline = match (&meta.ingest_pipeline, &place.ingest_pipeline, placing.document) {
            (_, _, None) => String::new(),
            (Some(pipeline), _, _) => pipeline.clone(),
            (None, Some(template), _) => fill(template, rule, placing)?,
            (None, None, _) => String::new(),
        };
        indices.declare(&index, &route.plan);
        Ok(Placed {
            place: place_key(&index, id, routing.as_deref()),
            extra: Bytes::from(pipeline),
        })
    }
}

impl Route {
    fn name_in_advance(&self) -> Option<String> {
        match &self.rule.place.index.name {
            Some(template) => {
                let fixed = !template.depends_on_document()
                    && !template.depends_on_key()
                    && !template.depends_on_namespace();
                fixed.then(|| template.as_str().replace("{rule}", &self.rule.name))
            }
            None => self.rule.namespaces.exact().map(default_index),
        }
    }
}

/// What a template comes to that depends on nothing but rule and namespace.
fn fill_container(template: &Template, rule: &str, namespace: &Namespace) -> Option<String> {
    let parts = template.parts().iter().map(|part| match part {
        Part::Literal(text) => Some(text.as_str()),
        Part::Database => Some(namespace.database()),
        Part::Collection => Some(namespace.collection()),
        Part::Rule => Some(rule),
        Part::Operation | Part::Id | Part::TypedId | Part::Key(_) | Part::Field(_) => None,
    });
    parts.collect()
}

/// `db-collection` in lower case, as engines want their names.
fn default_index(namespace: &Namespace) -> String {
    format!("{}-{}", namespace.database(), namespace.collection()).to_lowercase()
}
