//! What a target asks of the run that it writes for.

use std::{ops::Deref, sync::Arc};

use async_trait::async_trait;

use crate::{
    change::Namespace,
    checkpoint::{
        keys,
        open::hidden_database,
        records::{DefaultNameRecord, put},
        store::Store,
    },
    rules::model::{CheckpointStore, RuleFile, TargetKind},
    source::{Source, error::Error as SourceError, namespaces::Defined},
    target::{Deployment, Described, Origins, Pressure, Retry},
};

/// Answers targets from the source and the rule file.
pub struct FileOrigins<F> {
    /// The source.
    pub source: Source,
    /// The rule file.
    pub file: F,
    /// Where a target's names are remembered, and the target's own; `None` where nothing is written.
    pub names: Option<(Arc<dyn Store>, String)>,
}

fn source_failed(error: SourceError) -> Retry {
    Retry {
        reason: "source",
        message: format!("the source does not say what it holds: {error}"),
        after: None,
        pressure: Pressure::Same,
    }
}

#[async_trait]
impl<F: Deref<Target = RuleFile> + Send + Sync> Origins for FileOrigins<F> {
    async fn collection(&self, namespace: &Namespace) -> Result<Option<Described>, Retry> {
        let described = self.source.described(namespace).await.map_err(source_failed)?;
        Ok(described.map(|(defined, indexes)| Described {
            options: defined.options,
            indexes,
            id: defined.id,
        }))
    }

    async fn definitions(
        &self,
        rule: &str,
        only: Option<&Namespace>,
    ) -> Result<Vec<Defined>, Retry> {
        let Some(rule) = self.file.rules.iter().find(|own| own.name == rule) else {
            return Ok(Vec::new());
        };
        let hidden = hidden_database(&self.file);
        let defined = self.source.defined(&rule.namespaces, hidden.as_deref(), only).await;
        defined.map_err(source_failed)
    }

    async fn namespaces(&self, rule: &str) -> Result<Vec<Namespace>, Retry> {
        let Some(rule) = self.file.rules.iter().find(|own| own.name == rule) else {
            return Ok(Vec::new());
        };
        let hidden = hidden_database(&self.file);
        let selected = self.source.select(&rule.namespaces, hidden.as_deref()).await;
        let selected = selected.map_err(source_failed)?;
        Ok(selected.read.into_iter().map(|found| found.namespace).collect())
    }

    async fn deployment(&self) -> Result<Deployment, Retry> {
        let id = self.source.identity().await.map_err(source_failed)?;
        let hello = self.source.hello().await.map_err(source_failed)?;
        Ok(Deployment::of(&hello, id))
    }

    fn reader(&self, namespace: &Namespace) -> Option<String> {
        let mirrors = |name: &str| {
            let target = self.file.targets.iter().find(|target| target.name == name);
            target.is_some_and(|target| matches!(target.kind, TargetKind::MongoDb(_)))
        };
        let hidden = hidden_database(&self.file);
        let reads = self.file.rules.iter().find(|rule| {
            rule.namespaces.takes(namespace, hidden.as_deref())
                && rule.to.iter().any(|to| mirrors(&to.target))
        });
        reads.map(|rule| rule.name.clone())
    }

    fn positions(&self) -> Option<&str> {
        match &self.file.checkpoint.store {
            CheckpointStore::MongoDb { database, .. } => Some(database),
            CheckpointStore::File { .. } | CheckpointStore::Own => None,
        }
    }

    async fn keep_names(&self, names: &[(&str, Namespace)]) -> Result<(), Retry> {
        let Some((store, target)) = &self.names else { return Ok(()) };
        let keep = |(container, namespace): &(&str, Namespace)| {
            let record = DefaultNameRecord { namespace: namespace.to_string() };
            put(keys::default_name(target, container), &record)
        };
        store.write(names.iter().map(keep).collect()).await.map_err(|error| Retry {
            reason: "store",
            message: format!(
                "whose the name {} is can't be remembered: {error}",
                names.first().map_or("", |(container, _)| container)
            ),
            after: None,
            pressure: Pressure::Same,
        })
    }
}
