//! Opens the checkpoint store that a rule file names.

use std::sync::Arc;

use crate::{
    checkpoint::{
        open,
        store::{Store, StoreError},
    },
    rules::model::RuleFile,
};

/// The store of `checkpoint:`, to read: without the lease.
///
/// # Errors
/// Where it can't be reached or used.
pub async fn open_store(rules: &RuleFile) -> Result<Arc<dyn Store>, StoreError> {
    open::open(rules, None).await
}
