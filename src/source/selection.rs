//! Which of a source's namespaces a rule reads, as they are now.

use std::collections::BTreeSet;

use crate::{
    change::Namespace,
    rules::model::{NamespacePattern, Selector},
};

use super::{
    Source,
    error::Error,
    namespaces::{Defined, Found, Kind},
};

/// What a rule's `namespace` and `exclude` come to.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Selection {
    /// What is read, sorted: collections, and views that are named exactly.
    pub read: Vec<Found>,
    /// What patterns pass over: views and time-series collections.
    pub passed_over: Vec<Found>,
    /// Time-series collections that are named exactly, which can't be read.
    pub refused: Vec<Namespace>,
}

impl Selection {
    /// Sorts out what was found. `hidden` is mongosync's own database in the source, which patterns
    /// pass over too.
    pub fn of(
        selector: &Selector,
        hidden: Option<&str>,
        found: impl IntoIterator<Item = Found>,
    ) -> Self {
        let mut selection = Self::default();
        for found in found {
            let named = selector.names(&found.namespace);
            let own = hidden == Some(found.namespace.database());
            if !selector.matches(&found.namespace) || (own && !named) {
                continue;
            }
            match found.kind {
                Kind::Collection => selection.read.push(found),
                Kind::View if named => selection.read.push(found),
                Kind::TimeSeries if named => selection.refused.push(found.namespace),
                Kind::View | Kind::TimeSeries => selection.passed_over.push(found),
            }
        }
        selection.read.sort_by(|one, other| one.namespace.cmp(&other.namespace));
        selection
    }
}

impl Source {
    /// The namespaces that a rule reads now.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn select(
        &self,
        selector: &Selector,
        hidden: Option<&str>,
    ) -> Result<Selection, Error> {
        let mut found = Vec::new();
        if let Some(namespace) = selector.exact() {
            found.extend(self.named(namespace).await?);
            return Ok(Selection::of(selector, hidden, found));
        }
        let (mut databases, all) = databases(selector);
        if all {
            databases.extend(self.databases().await?);
        }
        for database in databases {
            found.extend(self.collections(&database).await?);
        }
        Ok(Selection::of(selector, hidden, found))
    }
}

impl Source {
    /// All namespaces that a selector takes as they are now, whatever they are and whether they are read
    /// or not; or the one of this name.
    ///
    /// # Errors
    /// Whatever the driver returns.
    pub async fn defined(
        &self,
        selector: &Selector,
        hidden: Option<&str>,
        only: Option<&Namespace>,
    ) -> Result<Vec<Defined>, Error> {
        let mut found = Vec::new();
        if let Some(only) = only {
            if selector.takes(only, hidden) {
                let name = Some(only.collection());
                found.extend(self.definitions(only.database(), name).await?);
            }
            return Ok(found);
        }
        let (mut databases, all) = databases(selector);
        if all {
            databases.extend(self.databases().await?);
        }
        for database in databases {
            found.extend(self.definitions(&database, None).await?);
        }
        found.retain(|defined| selector.takes(&defined.namespace, hidden));
        Ok(found)
    }
}

/// Why a time-series collection can't be read, and the way out.
pub fn refusal(series: &Namespace) -> String {
    format!(
        "{series} is a time-series collection, whose documents have no unique _id; read it through \
         a view that makes one"
    )
}

/// The databases that a selector names, and whether others may match too.
fn databases(selector: &Selector) -> (BTreeSet<String>, bool) {
    let mut databases = BTreeSet::new();
    let mut all = false;
    for pattern in &selector.include {
        match pattern {
            NamespacePattern::Exact(namespace) => {
                databases.insert(namespace.database().to_owned());
            }
            NamespacePattern::Glob(glob) => match &glob.literal_database {
                Some(database) => {
                    databases.insert(database.clone());
                }
                None => all = true,
            },
            NamespacePattern::Regex(_) => all = true,
        }
    }
    (databases, all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_pass_over_what_names_do_not() {
        let exact = |text| NamespacePattern::Exact(Namespace::parse(text).expect("a namespace"));
        let selector = Selector {
            include: vec![
                NamespacePattern::Regex(regex::Regex::new("^(shop|own)\\.").expect("a pattern")),
                exact("shop.named_view"),
                exact("shop.named_series"),
                exact("own.named"),
            ],
            exclude: vec![exact("shop.excluded")],
        };
        let found = |text, kind| {
            let namespace = Namespace::parse(text).expect("a namespace");
            Found { namespace, kind }
        };
        let all = [
            found("shop.b", Kind::Collection),
            found("shop.a", Kind::Collection),
            found("shop.excluded", Kind::Collection),
            found("shop.view", Kind::View),
            found("shop.named_view", Kind::View),
            found("shop.series", Kind::TimeSeries),
            found("shop.named_series", Kind::TimeSeries),
            found("other.a", Kind::Collection),
            found("own.leases", Kind::Collection),
            found("own.named", Kind::Collection),
        ];
        let selection = Selection::of(&selector, Some("own"), all);
        let names = |found: &[Found]| -> Vec<String> {
            found.iter().map(|found| found.namespace.to_string()).collect()
        };
        assert_eq!(names(&selection.read), ["own.named", "shop.a", "shop.b", "shop.named_view"]);
        assert_eq!(names(&selection.passed_over), ["shop.view", "shop.series"]);
        assert_eq!(selection.refused, [Namespace::new("shop", "named_series")]);
        assert!(databases(&selector).1);
    }
}
