//! The table of situations: what is brought about, and what source and target held afterwards.
//!
//! Every test that brings one about reports into it. A run with `MONGOSYNC_WRITE_SITUATIONS` set
//! writes `docs/situations.md`, the rows of what it ran anew and the others as they were; any other
//! run holds that file to the list here.

mod list;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use anyhow::{Context, Result, ensure};

use super::checker::Differences;
use list::{Row, SITUATIONS};

/// What a test has found so far in one situation. It is told when it is dropped, so that a failure
/// is in the table too.
pub struct Situation {
    name: &'static str,
    found: Found,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Found {
    checked: usize,
    lost: usize,
    stale: usize,
    extra: usize,
}

/// A situation of the list.
pub fn situation(name: &'static str) -> Situation {
    assert!(rows().any(|row| row.name == name), "{name:?} is not in the list of situations");
    Situation { name, found: Found::default() }
}

impl Situation {
    /// Counts what a comparison found, and fails where there is any difference. Returns the number
    /// of documents.
    pub fn compared(&mut self, differences: &Differences) -> Result<usize> {
        self.found.checked += differences.checked;
        self.found.lost += differences.missing.len();
        self.found.stale += differences.stale.len();
        self.found.extra += differences.extra.len();
        differences.none().with_context(|| self.name)
    }
}

impl Drop for Situation {
    fn drop(&mut self) {
        if std::env::var_os("MONGOSYNC_WRITE_SITUATIONS").is_some() {
            write(self.name, self.found).expect("docs/situations.md can be written");
        }
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    SITUATIONS.iter().flat_map(|(_, rows)| *rows)
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/situations.md")
}

/// One at a time: tests run side by side.
static WRITING: Mutex<()> = Mutex::new(());

fn write(name: &str, found: Found) -> Result<()> {
    let _turn = WRITING.lock();
    let mut known = read(&fs::read_to_string(path()).unwrap_or_default());
    known.insert(name.to_owned(), Some(found));
    Ok(fs::write(path(), page(&known))?)
}

/// The numbers of each row, by the name of its situation.
fn read(page: &str) -> BTreeMap<String, Option<Found>> {
    let mut known = BTreeMap::new();
    for line in page.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, _, _, numbers @ ..] = cells.as_slice() else { continue };
        let numbers: Option<Vec<usize>> =
            numbers.iter().map(|number| number.replace(',', "").parse().ok()).collect();
        let found = match numbers.as_deref() {
            Some(&[checked, lost, stale, extra]) => Some(Found { checked, lost, stale, extra }),
            _ => None,
        };
        known.insert((*name).to_owned(), found);
    }
    known
}

fn page(known: &BTreeMap<String, Option<Found>>) -> String {
    let mut page = HEAD.to_owned();
    for (group, rows) in SITUATIONS {
        write!(page, "\n## {group}\n\n{COLUMNS}").expect("a string takes all");
        for Row { name, done, test } in *rows {
            let found = known.get(*name).copied().flatten();
            let numbers = found.map_or_else(
                || "– | – | – | –".to_owned(),
                |Found { checked, lost, stale, extra }| {
                    format!("{checked} | {lost} | {stale} | {extra}")
                },
            );
            writeln!(page, "| {name} | {done} | `{test}` | {numbers} |")
                .expect("a string takes all");
        }
    }
    page
}

const COLUMNS: &str = "\
| situation | what is done | test | documents checked | lost | stale | extra |
|---|---|---|---:|---:|---:|---:|
";

const HEAD: &str = "\
# Situations

What was brought about with real servers and the real program, and what was found afterwards, when
source and target were compared document by document: documents that the target does not have (lost),
has in another state (stale), or has although the source does not (extra).

The tests of `tests/` do this at every run; [guarantees](guarantees.md) says what they hold. This page is
written by

```
MONGOSYNC_WRITE_SITUATIONS=1 cargo test --test main
```
";

/// The page names exactly the situations of the tests, and each is reported by the test that it
/// names.
#[test]
fn the_page_of_situations_is_that_of_the_tests() -> Result<()> {
    let written = fs::read_to_string(path()).context("docs/situations.md")?;
    let known = read(&written);
    let as_listed = page(&known);
    ensure!(
        written == as_listed,
        "docs/situations.md is not what the tests say; write it anew with \
         MONGOSYNC_WRITE_SITUATIONS=1"
    );
    for Row { name, .. } in rows() {
        let found = known.get(*name).copied().flatten();
        let found =
            found.with_context(|| format!("nobody has brought about {name:?} for the page"))?;
        let Found { checked, lost, stale, extra } = found;
        ensure!(checked > 0 && lost + stale + extra == 0, "{name}: {found:?}");
    }
    let mut names: Vec<_> = rows().map(|row| row.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two situations have one name");
    let mut code = String::new();
    gather(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut code)?;
    for Row { name, test, .. } in rows() {
        ensure!(code.contains(&format!("fn {test}(")), "there is no test {test}");
        ensure!(code.contains(&format!("\"{name}\"")), "nobody reports {name:?}");
    }
    Ok(())
}

fn gather(folder: &Path, code: &mut String) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            gather(&path, code)?;
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("situations/list.rs")
        {
            code.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}
