//! Which `_id` types each namespace is known to hold: what keeps two documents from meeting under
//! one id text.
//!
//! What the first probe found is stored and never changes, since ids that have been written must
//! mean the same for ever. A namespace that was empty adopts the first type that it meets.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bson::RawBsonRef;
use tokio_util::sync::CancellationToken;

use crate::{
    change::{
        Namespace,
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
    known: Mutex<HashMap<Namespace, IdTypes>>,
    /// One decision at a time: two lanes must not adopt two types.
    deciding: tokio::sync::Mutex<()>,
}

impl Ids {
    /// Nothing is known yet but to the store.
    pub fn new(store: Arc<dyn Store>, probe: Arc<dyn Probe>) -> Self {
        Self { store, probe, known: Mutex::default(), deciding: tokio::sync::Mutex::new(()) }
    }

    fn cached(&self, namespace: &Namespace) -> Option<IdTypes> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(namespace).copied()
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
        if let Some(types) = self.cached(namespace) {
            return Ok(types);
        }
        let _deciding = self.deciding.lock().await;
        if let Some(types) = self.cached(namespace) {
            return Ok(types);
        }
        let key = keys::id_types(namespace.as_str());
        let stored: Option<IdTypesRecord> = insist(stop, || load(&*self.store, &key)).await?;
        let types = match stored {
            Some(record) => record.types,
            None => {
                let mut types = self.probe.id_types(namespace).await?;
                if types.is_empty() {
                    types.insert(IdType::of(met));
                }
                let write = put(key, &IdTypesRecord { types });
                insist_on_writing(&*self.store, vec![write], stop).await?;
                types
            }
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.clone(), types);
        Ok(types)
    }
}
