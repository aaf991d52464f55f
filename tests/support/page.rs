//! Pages of `docs/` whose numbers the tests find: a table whose rows are listed in the tests.
//!
//! A run with `MONGOSYNC_WRITE_SITUATIONS` set writes the numbers of what it ran, and leaves the others
//! as they were; any other run holds the page to the list.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};

/// The numbers of each row, by its first cell; `None` where nobody has found one yet.
pub type Numbers = BTreeMap<String, Vec<Option<usize>>>;

/// A page.
pub struct Page {
    /// Its file.
    pub file: &'static str,
    /// How many cells of a row stand before its numbers.
    pub words: usize,
    /// All of it, with these numbers.
    pub text: fn(&Numbers) -> String,
}

/// One at a time: tests run side by side.
static WRITING: Mutex<()> = Mutex::new(());

impl Page {
    fn path(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.file)
    }

    /// Puts down what was found for a row, where this run is to write.
    pub fn note(&self, row: &str, change: impl FnOnce(&mut Vec<Option<usize>>)) {
        if std::env::var_os("MONGOSYNC_WRITE_SITUATIONS").is_none() {
            return;
        }
        let _turn = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut known = self.read(&fs::read_to_string(self.path()).unwrap_or_default());
        change(known.entry(row.to_owned()).or_default());
        fs::write(self.path(), (self.text)(&known)).expect("a page of docs/ can be written");
    }

    /// The numbers of the page that is there.
    ///
    /// # Errors
    /// Where it is not what its numbers and the list of rows make.
    pub fn checked(&self) -> Result<Numbers> {
        let written = fs::read_to_string(self.path()).context(self.file)?;
        let known = self.read(&written);
        ensure!(
            written == (self.text)(&known),
            "{} is not what the tests say; write it anew with MONGOSYNC_WRITE_SITUATIONS=1",
            self.file
        );
        Ok(known)
    }

    fn read(&self, page: &str) -> Numbers {
        let mut known = Numbers::new();
        for line in page.lines().filter(|line| line.starts_with('|')) {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            if let Some((words, numbers)) = cells.split_at_checked(self.words) {
                let numbers = numbers.iter().map(|number| number.parse().ok());
                known.insert(words[0].to_owned(), numbers.collect());
            }
        }
        known
    }
}
