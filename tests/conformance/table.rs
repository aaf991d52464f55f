//! The page of what passed.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Result, ensure};

use super::{
    CASES,
    side::{Kind, TROUBLES},
};
use crate::support::page::{Numbers, Page};

/// A case, or a trouble.
pub struct Row {
    pub name: &'static str,
    pub done: &'static str,
    pub kinds: &'static [Kind],
}

const COLUMNS: [(&str, Kind); 6] = [
    ("Elasticsearch", Kind::Engine),
    ("OpenSearch", Kind::Engine),
    ("MongoDB", Kind::MongoDb),
    ("webhook", Kind::Webhook),
    ("file", Kind::File),
    ("stdout", Kind::Stdout),
];

/// Why a case does not concern a target.
const DASHES: &[(&str, Kind, &str)] = &[
    ("outcomes per item", Kind::Stdout, NOTHING_REFUSED),
    ("rejection", Kind::Stdout, NOTHING_REFUSED),
];
const NOTHING_REFUSED: &str =
    "a pipe takes every line: nothing is refused but by a script, before it";

const PAGE: Page = Page { file: "docs/conformance.md", words: 2, text: page };

/// One cell of the table, empty until it is said to be passed.
pub struct Cell {
    row: &'static str,
    kind: Kind,
}

/// Of a case or a trouble, and a target.
pub fn cell(row: &'static str, kind: Kind) -> Cell {
    let cell = Cell { row, kind };
    cell.put(None);
    cell
}

impl Cell {
    /// So many documents, or events, were compared, and nothing differed.
    pub fn passed(self, checked: usize) {
        self.put(Some(checked));
    }

    fn put(&self, number: Option<usize>) {
        PAGE.note(self.row, |numbers| {
            numbers.resize(COLUMNS.len(), None);
            numbers[self.kind.column()] = number;
        });
    }
}

fn page(known: &Numbers) -> String {
    let mut page = HEAD.to_owned();
    let mut reasons: Vec<&str> = Vec::new();
    write_table("case", CASES, known, &mut page, &mut reasons);
    page.push('\n');
    for (number, reason) in (1..).zip(&reasons) {
        writeln!(page, "{number}. {reason}").expect("a string takes all");
    }
    page.push_str(MIDDLE);
    write_table("trouble", &troubles(), known, &mut page, &mut Vec::new());
    page
}

fn troubles() -> Vec<Row> {
    let row = |&(_, name, done, kinds): &(_, _, _, _)| Row { name, done, kinds };
    TROUBLES.iter().map(row).collect()
}

fn write_table(
    what: &str,
    rows: &[Row],
    known: &Numbers,
    page: &mut String,
    reasons: &mut Vec<&'static str>,
) {
    let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
    let lines = "---:|".repeat(COLUMNS.len());
    writeln!(page, "| {what} | what is done | {} |\n|---|---|{lines}", names.join(" | "))
        .expect("a string takes all");
    for Row { name, done, kinds } in rows {
        write!(page, "| {name} | {done} |").expect("a string takes all");
        for (column, (_, kind)) in COLUMNS.iter().enumerate() {
            let number =
                known.get(*name).and_then(|numbers| numbers.get(column).copied().flatten());
            let reason = DASHES.iter().find(|(row, of, _)| row == name && of == kind);
            let cell = match (number, reason) {
                (Some(number), _) if kinds.contains(kind) => number.to_string(),
                (_, Some((_, _, reason))) => {
                    let known = reasons.iter().position(|it| it == reason);
                    let at = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("– ({})", at + 1)
                }
                _ => "–".to_owned(),
            };
            write!(page, " {cell} |").expect("a string takes all");
        }
        page.push('\n');
    }
}

const HEAD: &str = "\
# Conformance

One suite of tests is run for every kind of target, by the real program against real servers. A number says that
the case passed, and how many documents, or events, of source and target were compared at its end without a
difference. [Guarantees](guarantees.md) says what is promised, [situations](situations.md) what else was brought
about. This page is written by

```
MONGOSYNC_WRITE_SITUATIONS=1 cargo test --test main conformance
MONGOSYNC_WRITE_SITUATIONS=1 MONGOSYNC_TEST_ENGINE=opensearch cargo test --test main conformance
```

";

const MIDDLE: &str = "
## Away, and back

The troubles of the case \"retry\". A dash is a trouble that this kind of target can't be in.

";

/// Every case was passed by every target, or there is a reason why not.
#[test]
fn the_page_of_conformance_is_that_of_the_tests() -> Result<()> {
    let known = PAGE.checked()?;
    let mut names = BTreeSet::new();
    let troubles = troubles();
    for Row { name, kinds, .. } in CASES.iter().chain(&troubles) {
        ensure!(names.insert(name), "two rows have the name {name:?}");
        for (column, (target, kind)) in COLUMNS.iter().enumerate() {
            if kinds.contains(kind) {
                let number = known.get(*name).and_then(|numbers| numbers[column]);
                ensure!(
                    number.is_some_and(|number| number > 0),
                    "{name} was not passed by {target}"
                );
            }
        }
    }
    for Row { name, kinds, .. } in CASES {
        for (target, kind) in COLUMNS {
            let reason = DASHES.iter().any(|(row, of, _)| row == name && *of == kind);
            ensure!(kinds.contains(&kind) != reason, "{name} for {target}: run it, or say why not");
        }
    }
    Ok(())
}
