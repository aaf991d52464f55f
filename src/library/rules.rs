//! A rule file that is built in code. It becomes text and is read like any other: there is one checker,
//! and what is wrong is told at its place in that text.

use bson::{Bson, Document};

use super::text;

/// What is read, how it is shaped and where it goes: a rule file, in code.
///
/// Nothing is checked here; that is done where it is used. Values stay as they are: a `${…}` in them is
/// text. What has no method of its own goes by [`Rules::set`] and [`Rule::set`], under its key in the
/// rule file.
#[derive(Clone, Debug)]
pub struct Rules {
    name: String,
    fields: Document,
    targets: Document,
    rules: Vec<Rule>,
}

impl Rules {
    /// Rules over the MongoDB at this connection string. The name is that of the positions and of the
    /// lease: letters, digits, `-`, `_` and `.`, another one for each set of rules that runs on its own.
    pub fn new(name: impl Into<String>, uri: impl Into<String>) -> Self {
        let name = name.into();
        let mut fields = Document::new();
        fields.insert("name", name.as_str());
        fields.insert("source", uri.into());
        Self { name, fields, targets: Document::new(), rules: Vec::new() }
    }

    /// One more rule.
    #[must_use]
    pub fn rule(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    /// A target by its name, with what a rule file has below that, such as
    /// `doc! { "elasticsearch": { "urls": ["http://127.0.0.1:9200"] } }`. Of a target of one's own this
    /// may say how it is written to: `doc! { "own": { "timeout": "10s" } }`.
    #[must_use]
    pub fn target(mut self, name: impl Into<String>, what: Document) -> Self {
        self.targets.insert(name.into(), what);
        self
    }

    /// Any key at the top of the rule file, such as `checkpoint`.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Bson>) -> Self {
        self.fields.insert(key.into(), value.into());
        self
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As a rule file has it.
    pub(super) fn text(&self) -> String {
        let mut file = self.fields.clone();
        if !self.targets.is_empty() {
            file.insert("targets", self.targets.clone());
        }
        let rules = self.rules.iter().map(|rule| Bson::Document(rule.document()));
        file.insert("rules", rules.collect::<Vec<_>>());
        text::written(&file)
    }
}

/// One rule of [`Rules`].
#[derive(Clone, Debug)]
pub struct Rule {
    fields: Document,
    to: Vec<Bson>,
}

impl Rule {
    /// Over a namespace (`shop.products`), a pattern (`shop.*`, `/^shop\./`), or a list of these.
    pub fn of(namespace: impl Into<Bson>) -> Self {
        let mut fields = Document::new();
        fields.insert("namespace", namespace);
        Self { fields, to: Vec::new() }
    }

    /// Its name; needed where it reads more than one exact namespace.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        self.set("name", name.into())
    }

    /// Only documents that match this query.
    #[must_use]
    pub fn filter(self, query: Document) -> Self {
        self.set("filter", query)
    }

    /// Only these fields.
    #[must_use]
    pub fn project(self, projection: Document) -> Self {
        self.set("project", projection)
    }

    /// An aggregation that each document goes through.
    #[must_use]
    pub fn pipeline(self, stages: impl IntoIterator<Item = Document>) -> Self {
        self.set("pipeline", stages.into_iter().map(Bson::Document).collect::<Vec<_>>())
    }

    /// A script in Rhai.
    #[must_use]
    pub fn transform(self, script: impl Into<String>) -> Self {
        self.set("transform", script.into())
    }

    /// Delivers every single change, and no copy unless `copy` is set too; without this a rule delivers
    /// documents as they are now, as far as its targets hold documents.
    #[must_use]
    pub fn events(self) -> Self {
        self.set("delivery", "events")
    }

    /// Where it goes: the name of a target. May be called for several.
    #[must_use]
    pub fn to(mut self, target: impl Into<String>) -> Self {
        self.to.push(Bson::String(target.into()));
        self
    }

    /// The same with what the rule says about the target, such as `doc! { "index": "products" }`.
    #[must_use]
    pub fn to_with(mut self, target: impl Into<String>, place: Document) -> Self {
        let mut to = Document::new();
        to.insert("target", target.into());
        to.extend(place);
        self.to.push(Bson::Document(to));
        self
    }

    /// Any key of a rule in the rule file, such as `copy` or `on_delete`.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<Bson>) -> Self {
        self.fields.insert(key.into(), value.into());
        self
    }

    fn document(&self) -> Document {
        let mut rule = self.fields.clone();
        if !self.to.is_empty() {
            rule.insert("to", self.to.clone());
        }
        rule
    }
}
