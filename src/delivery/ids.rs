//! Which `_id` types each namespace is known to hold: what keeps two documents from meeting under
//! one id text.
//!
//! What the first probe found is stored and never changes, since ids that have been written must
//! mean the same for ever. A namespace that was empty adopts the first type that it meets.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bson::RawBsonRef;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{
        KeyMap, Namespace,
        id::{IdType, IdTypes},
    },
    checkpoint::{
        keys,
        records::{IdTypesRecord, load, put},
        store::Store,
    },
};

use super::{Halt, insist, insist_on_writing};

/// Asks the source which `_id` types a namespace holds.
#[async_trait]
pub trait Probe: Send + Sync {
    /// The types that are there now; retries by itself until it is stopped.
    ///
    /// # Errors
    /// See [`Halt`].
    async fn id_types(&self, namespace: &Namespace) -> Result<IdTypes, Halt>;
}

/// The `_id` types of the source's namespaces, for one target's lanes.
pub struct Ids {
    store: Arc<dyn Store>,
    probe: Arc<dyn Probe>,
    /// Decided once each: two lanes must not adopt two types.
    known: Mutex<KeyMap<Namespace, Arc<OnceCell<IdTypes>>>>,
}

impl Ids {
    /// Nothing is known yet but to the store.
    pub fn new(store: Arc<dyn Store>, probe: Arc<dyn Probe>) -> Self {
        Self { store, probe, known: Mutex::default() }
    }

    fn known(&self, namespace: &Namespace) -> Arc<OnceCell<IdTypes>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(namespace) {
            Some(types) => types.clone(),
            None => known.entry(namespace.clone()).or_default().clone(),
        }
    }

    /// The types of a namespace; `met` is the `_id` of a document that is being delivered.
    ///
    /// # Errors
    /// See [`Halt`].
    pub async fn of(
        &self,
        namespace: &Namespace,
        met: RawBsonRef<'_>,
        stop: &CancellationToken,
    ) -> Result<IdTypes, Halt> {
        let types = self.known(namespace);
        types.get_or_try_init(|| self.decide(namespace, met, stop)).await.copied()
    }

    async fn decide(
        &self,
        namespace: &Namespace,
        met: RawBsonRef<'_>,
        stop: &CancellationToken,
    ) -> Result<IdTypes, Halt> {
        let key = keys::id_types(namespace.as_str());
        let stored: Option<IdTypesRecord> = insist(stop, || load(&*self.store, &key)).await?;
        if let Some(record) = stored {
            return Ok(record.types);
        }
        let mut types = self.probe.id_types(namespace).await?;
        if types.is_empty() {
            types.insert(IdType::of(met));
        }
        let write = put(key, &IdTypesRecord { types });
        insist_on_writing(&*self.store, vec![write], stop).await?;
        Ok(types)
    }
}
