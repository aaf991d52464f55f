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

/// What has been decided in this process, for all pipelines: two that meet an empty namespace at once must
/// not adopt two types, of which the store would keep one. Another process decides nothing meanwhile, for
/// what it writes without the lease is refused.
#[derive(Clone, Default)]
pub struct Decided(Arc<Mutex<KeyMap<Namespace, Arc<OnceCell<IdTypes>>>>>);

/// The `_id` types of the source's namespaces, for one target's lanes.
pub struct Ids {
    store: Arc<dyn Store>,
    probe: Arc<dyn Probe>,
    /// Decided once each: two lanes must not adopt two types.
    decided: Decided,
}

impl Ids {
    /// Nothing is known but to the store, and what was decided.
    pub fn new(store: Arc<dyn Store>, probe: Arc<dyn Probe>, decided: Decided) -> Self {
        Self { store, probe, decided }
    }

    fn known(&self, namespace: &Namespace) -> Arc<OnceCell<IdTypes>> {
        let mut known = self.decided.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        tokio::select! {
            types = types.get_or_try_init(|| self.decide(namespace, met, stop)) => types.copied(),
            // Who decides may be another pipeline, which goes on.
            () = stop.cancelled() => Err(Halt::Stopped),
        }
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::sync::Notify;

    use super::*;
    use crate::checkpoint::memory::MemoryStore;

    /// What a namespace holds, look by look; each waits until it is let through.
    struct Filling {
        found: Mutex<VecDeque<IdTypes>>,
        through: Notify,
    }

    #[async_trait]
    impl Probe for Filling {
        async fn id_types(&self, _: &Namespace) -> Result<IdTypes, Halt> {
            let found = self.found.lock().unwrap().pop_front().unwrap();
            self.through.notified().await;
            Ok(found)
        }
    }

    fn of(types: &[IdType]) -> IdTypes {
        types.iter().copied().collect()
    }

    /// One looks while it is empty, the other when two have come.
    #[tokio::test]
    async fn two_pipelines_decide_the_same_of_an_empty_namespace() {
        let store = Arc::new(MemoryStore::new("shop"));
        store.fence(1).await.unwrap();
        let found = [of(&[]), of(&[IdType::Number, IdType::String])];
        let found = Mutex::new(found.into_iter().collect());
        let probe = Arc::new(Filling { found, through: Notify::new() });
        let (decided, stop) = (Decided::default(), CancellationToken::new());
        let ids = || Ids::new(store.clone(), probe.clone(), decided.clone());
        let (one, other, namespace) = (ids(), ids(), Namespace::new("shop", "items"));
        let through = async {
            for _ in 0..2 {
                tokio::task::yield_now().await;
                probe.through.notify_one();
            }
        };
        let (one, other, ()) = tokio::join!(
            one.of(&namespace, RawBsonRef::Int32(1), &stop),
            other.of(&namespace, RawBsonRef::String("a"), &stop),
            through,
        );
        assert_eq!(one.unwrap(), of(&[IdType::Number]));
        assert_eq!(other.unwrap(), of(&[IdType::Number]));
        let again = Ids::new(store, probe, Decided::default());
        let stored = again.of(&namespace, RawBsonRef::String("a"), &stop).await.unwrap();
        assert_eq!(stored, of(&[IdType::Number]));
    }

    /// The one that decides waits for the source.
    #[tokio::test]
    async fn who_waits_for_the_decision_of_another_can_be_stopped() {
        let store = Arc::new(MemoryStore::new("shop"));
        let found = Mutex::new([of(&[])].into_iter().collect());
        let probe = Arc::new(Filling { found, through: Notify::new() });
        let (decided, namespace) = (Decided::default(), Namespace::new("shop", "items"));
        let ids = || Ids::new(store.clone(), probe.clone(), decided.clone());
        let (one, other, goes_on) = (ids(), ids(), CancellationToken::new());
        let stopped = CancellationToken::new();
        let deciding = one.of(&namespace, RawBsonRef::Int32(1), &goes_on);
        tokio::pin!(deciding);
        assert!(futures_util::poll!(&mut deciding).is_pending());
        stopped.cancel();
        let waited = other.of(&namespace, RawBsonRef::Int32(1), &stopped).await;
        assert!(matches!(waited, Err(Halt::Stopped)));
    }
}
