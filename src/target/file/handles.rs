//! The files that are open: not more at a time than a process may well have, however many a template
//! makes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use tokio::sync::Mutex;

use super::open_file::OpenFile;

/// A file that may be open. Who holds the lock is the only one that writes.
pub(super) type Slot = Arc<Mutex<Option<OpenFile>>>;

/// Files by their paths; those that were not used for longest are closed.
#[derive(Debug)]
pub(super) struct Handles {
    most: usize,
    open: StdMutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    slots: HashMap<PathBuf, (Slot, u64)>,
    /// Counts uses.
    clock: u64,
}

impl Handles {
    /// Keeps so many open, and beyond them only what is in use.
    pub fn new(most: usize) -> Self {
        Self { most, open: StdMutex::default() }
    }

    /// The slot of a path, the same for all who ask while one of them has it.
    pub fn of(&self, path: &Path) -> Slot {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let clock = open.clock;
        if let Some((slot, used)) = open.slots.get_mut(path) {
            *used = clock;
            return slot.clone();
        }
        while open.slots.len() >= self.most {
            let idle = open.slots.iter().filter(|(_, (slot, _))| Arc::strong_count(slot) == 1);
            let oldest = idle.min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            let Some(oldest) = oldest else { break };
            open.slots.remove(&oldest);
        }
        let slot = Slot::default();
        open.slots.insert(path.to_owned(), (slot.clone(), clock));
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(handles: &Handles) -> Vec<String> {
        let open = handles.open.lock().unwrap();
        let mut names: Vec<_> = open.slots.keys().map(|path| path.display().to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_was_not_used_for_longest_is_closed() {
        let handles = Handles::new(2);
        for path in ["a", "b", "a", "c"] {
            drop(handles.of(Path::new(path)));
        }
        assert_eq!(known(&handles), ["a", "c"]);
    }

    /// Two that write to one file at a time would have two locks.
    #[test]
    fn what_is_in_use_stays_the_same() {
        let handles = Handles::new(1);
        let a = handles.of(Path::new("a"));
        let b = handles.of(Path::new("b"));
        assert!(Arc::ptr_eq(&a, &handles.of(Path::new("a"))));
        drop((a, b));
        drop(handles.of(Path::new("c")));
        assert_eq!(known(&handles), ["c"]);
    }
}
