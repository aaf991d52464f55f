//! The table of situations: what is brought about, and what source and target held afterwards.
//!
//! Every test that brings one about reports into it; the table is the page `docs/situations.md`.

mod list;

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    checker::Differences,
    page::{Numbers, Page},
};
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
        let Found { checked, lost, stale, extra } = self.found;
        PAGE.note(self.name, |numbers| *numbers = [checked, lost, stale, extra].map(Some).into());
    }
}

fn rows() -> impl Iterator<Item = &'static Row> {
    SITUATIONS.iter().flat_map(|(_, rows)| *rows)
}

const PAGE: Page = Page { file: "docs/situations.md", words: 3, text: page };

fn page(known: &Numbers) -> String {
    let mut page = HEAD.to_owned();
    for (group, rows) in SITUATIONS {
        write!(page, "\n## {group}\n\n{COLUMNS}").expect("a string takes all");
        for Row { name, done, test } in *rows {
            let numbers = match known.get(*name).and_then(|numbers| found(numbers)) {
                Some(Found { checked, lost, stale, extra }) => {
                    format!("{checked} | {lost} | {stale} | {extra}")
                }
                None => "– | – | – | –".to_owned(),
            };
            writeln!(page, "| {name} | {done} | `{test}` | {numbers} |")
                .expect("a string takes all");
        }
    }
    page
}

fn found(numbers: &[Option<usize>]) -> Option<Found> {
    let &[Some(checked), Some(lost), Some(stale), Some(extra)] = numbers else { return None };
    Some(Found { checked, lost, stale, extra })
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
    let known = PAGE.checked()?;
    for Row { name, .. } in rows() {
        let found = known.get(*name).and_then(|numbers| found(numbers));
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
