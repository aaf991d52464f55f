//! Byte budgets: how much of what was read may lie in memory at once.
//!
//! A permit travels inside the buffer that it pays for ([`crate::source::reply::Reply`]), so memory
//! is given back exactly when the last document of a reply is let go of, wherever that is.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Notify;

/// A number of bytes that may be in use at once.
///
/// The size of a reply is known only once it has arrived, so a budget lets a read begin while there
/// is anything left, and may then be overdrawn by what that read returns: by one reply for each
/// reader, each at most the server's 16 MiB.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
}

/// Bytes taken from a [`Budget`]; given back on drop.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0), freed: Notify::new() })
    }

    /// Waits until the budget is not used up. Cancel safe.
    pub async fn available(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.used() < self.limit {
                return;
            }
            freed.await;
        }
    }

    /// Takes bytes that are in memory already, even where that overdraws the budget.
    pub fn take(self: &Arc<Self>, bytes: usize) -> Permit {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Permit { budget: self.clone(), bytes }
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
        if before >= self.budget.limit && before - self.bytes < self.budget.limit {
            self.budget.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_full_budget_waits_until_a_permit_is_dropped() {
        let budget = Budget::new(100);
        let first = budget.take(60);
        assert!(budget.available().now_or_never().is_some());
        let second = budget.take(60);
        assert!(budget.available().now_or_never().is_none());
        drop(first);
        assert!(budget.available().now_or_never().is_some());
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_waiter_is_woken() {
        let budget = Budget::new(1);
        let permit = budget.take(1);
        let waiter = {
            let budget = budget.clone();
            async move { budget.available().await }
        };
        tokio::join!(waiter, async move { drop(permit) });
    }
}
