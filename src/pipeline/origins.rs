//! What a target asks of the run that it writes for.

use std::sync::Arc;

use async_trait::async_trait;
use bson::oid::ObjectId;

use crate::{
    change::Namespace,
    checkpoint::{
        keys,
        records::{OwnRecord, load, put},
        store::{Store, StoreError},
    },
    source::{Source, error::Error as SourceError},
    target::{Described, Origins, Pressure, Retry},
};

use super::rule_set::RuleSet;

/// Answers one target from the source and the checkpoint store.
pub struct RunOrigins {
    /// The source.
    pub source: Source,
    /// Where it is remembered what is the target's own.
    pub store: Arc<dyn Store>,
    /// The target's name.
    pub target: String,
    /// The target's rules.
    pub rules: Arc<RuleSet>,
}

fn source_failed(error: SourceError) -> Retry {
    retry("source", format!("the source does not say what it holds: {error}"))
}

fn store_failed(error: StoreError) -> Retry {
    retry("checkpoint", format!("what is remembered of the target can't be used: {error}"))
}

fn retry(reason: &'static str, message: String) -> Retry {
    Retry { reason, message, after: None, pressure: Pressure::Same }
}

#[async_trait]
impl Origins for RunOrigins {
    async fn collection(&self, namespace: &Namespace) -> Result<Option<Described>, Retry> {
        let described = self.source.described(namespace).await.map_err(source_failed)?;
        Ok(described.map(|(options, indexes)| Described { options, indexes }))
    }

    async fn namespaces(&self, rule: &str) -> Result<Vec<Namespace>, Retry> {
        let Some((_, rule)) = self.rules.iter().find(|(_, own)| own.rule().name == rule) else {
            return Ok(Vec::new());
        };
        let selector = &rule.rule().namespaces;
        let selected = self.source.select(selector, self.rules.hidden()).await;
        let selected = selected.map_err(source_failed)?;
        Ok(selected.read.into_iter().map(|found| found.namespace).collect())
    }

    async fn identity(&self) -> Result<Option<ObjectId>, Retry> {
        self.source.identity().await.map_err(source_failed)
    }

    async fn is_own(&self, container: &str) -> Result<Option<bool>, Retry> {
        let key = keys::own(&self.target, container);
        let known: Option<OwnRecord> = load(&*self.store, &key).await.map_err(store_failed)?;
        Ok(known.map(|known| known.own))
    }

    async fn set_own(&self, container: &str, own: bool) -> Result<(), Retry> {
        let record = OwnRecord { own, since: bson::DateTime::now() };
        let write = put(keys::own(&self.target, container), &record);
        self.store.write(vec![write]).await.map_err(store_failed)
    }
}
