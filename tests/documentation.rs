//! What a reader takes for true: every piece of a rule file, every test and every command that the
//! README and the documentation show, where their links lead, and the names in ARCHITECTURE.md.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use mongosync::{
    cli::arguments::Arguments,
    transform::{Limits, Script},
};

use crate::ready_rules::{ROOT, files, tests_pass, variable};

#[tokio::test]
async fn every_test_of_the_documentation_passes() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    let mut found = 0;
    for page in files(&Path::new(ROOT).join("docs"), "md")? {
        for (line, kind, block) in blocks(&fs::read_to_string(&page)?) {
            if kind == "yaml" && block.lines().any(|line| line == "tests:") {
                let file = folder.path().join(format!("line-{line}.yaml"));
                fs::write(&file, block)?;
                tests_pass(&file).await?;
                found += 1;
            }
        }
    }
    ensure!(found > 0, "there is one in the chapter on tests");
    Ok(())
}

/// A block is a whole file (`yaml`), an entry of `rules:` or of `targets:` (`yaml rule`,
/// `yaml target`), or something else that nobody loads (`yaml fragment`).
#[test]
fn every_piece_of_yaml_in_the_documentation_loads() -> Result<()> {
    let mut pages = files(&Path::new(ROOT).join("docs"), "md")?;
    pages.push(Path::new(ROOT).join("README.md"));
    let mut loaded = 0;
    for page in pages {
        let text = fs::read_to_string(&page)?;
        for (line, kind, block) in blocks(&text) {
            let place = format!("{}:{line}", page.display());
            let file = match kind {
                "yaml" => block,
                "yaml rule" => format!("{SOURCE}{TARGET}rules:\n{block}"),
                "yaml target" => format!("{SOURCE}targets:\n{block}{RULE}"),
                "yaml top" => format!("{block}{}{TARGET}{RULE}", without(SOURCE, &block)),
                "yaml fragment" => continue,
                other if other.starts_with("yaml") => anyhow::bail!("{place}: what is `{other}`?"),
                _ => continue,
            };
            let path = Path::new(ROOT).join("rules/shop.yaml");
            let found = mongosync::rules::parse(&file, &path, &variable)
                .map_err(|report| anyhow::anyhow!("{place}\n{}", report.render(false)))?;
            let warnings = found.warnings.render(false);
            ensure!(warnings.is_empty() || kind == "yaml target", "{place}\n{warnings}");
            loaded += 1;
        }
    }
    ensure!(loaded >= 10, "only {loaded} blocks were found");
    Ok(())
}

/// A block says which example it is of, and its lines stand there so, one after the other; `// …` stands
/// for lines between.
#[test]
fn every_piece_of_rust_in_the_documentation_is_of_an_example() -> Result<()> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/library.md"))?;
    let mut found = 0;
    for (line, kind, block) in blocks(&page) {
        let Some(example) = kind.strip_prefix("rust ") else {
            ensure!(!kind.starts_with("rust"), "line {line}: of which example is it?");
            continue;
        };
        let text = fs::read_to_string(Path::new(ROOT).join(example))?;
        let mut rest = text.as_str();
        for piece in block.split("    // …\n") {
            let at = rest.find(piece);
            let at = at.with_context(|| format!("line {line}: not in {example}:\n{piece}"))?;
            rest = &rest[at + piece.len()..];
            found += 1;
        }
    }
    ensure!(found >= 10, "only {found}");
    Ok(())
}

/// Every command that is shown can be given as it stands.
#[test]
fn every_command_of_the_documentation_is_one() -> Result<()> {
    let mut pages = files(&Path::new(ROOT).join("docs"), "md")?;
    pages.push(Path::new(ROOT).join("README.md"));
    let mut parsed = 0;
    for page in pages {
        let text = fs::read_to_string(&page)?;
        for (line, kind, block) in blocks(&text) {
            let lines = block.lines().filter_map(|line| match kind {
                "sh" => line.strip_prefix("mongosync "),
                "" => line.strip_prefix("$ mongosync "),
                _ => None,
            });
            for command in lines {
                let words = words(command);
                let given = std::iter::once("mongosync").chain(words.iter().map(String::as_str));
                Arguments::try_parse_from(given)
                    .with_context(|| format!("{}:{line}: mongosync {command}", page.display()))?;
                parsed += 1;
            }
        }
    }
    ensure!(parsed > 25, "only {parsed} commands were found");
    Ok(())
}

/// The words of a command as a shell takes them, up to a redirection or a pipe.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
    for letter in command.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '>' | '|' if !quoted => break,
            ' ' if !quoted => words.extend(word.take()),
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[test]
fn every_link_of_the_documentation_leads_somewhere() -> Result<()> {
    let mut pages = files(&Path::new(ROOT).join("docs"), "md")?;
    pages.extend(["README.md", "ARCHITECTURE.md"].map(|page| Path::new(ROOT).join(page)));
    let mut followed = 0;
    for page in pages {
        let text = fs::read_to_string(&page)?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let to = match file {
                "" => page.clone(),
                file => page.parent().context("a folder")?.join(file),
            };
            let place = format!("{}: {link}", page.display());
            ensure!(to.exists(), "{place}");
            if !heading.is_empty() {
                let text = fs::read_to_string(&to)?;
                ensure!(headings(&text).any(|known| known == heading), "{place}");
            }
            followed += 1;
        }
    }
    ensure!(followed > 30, "only {followed} links were found");
    Ok(())
}

/// What links call the headings of a page.
fn headings(page: &str) -> impl Iterator<Item = String> {
    page.lines().filter(|line| line.starts_with('#')).map(|line| {
        let letters = line.trim_start_matches('#').trim().to_lowercase();
        let kept = letters.chars().filter(|&it| it.is_alphanumeric() || " -_".contains(it));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    })
}

const SOURCE: &str = "source: mongodb://127.0.0.1:27017/?replicaSet=rs0\n";
const TARGET: &str = "targets:\n  search: { elasticsearch: { urls: [http://127.0.0.1:9200] } }\n";
const RULE: &str = "rules:\n  - namespace: shop.products\n    to: search\n";

/// `source`, where the block has none of its own.
fn without<'a>(source: &'a str, block: &str) -> &'a str {
    if block.lines().any(|line| line.starts_with("source:")) { "" } else { source }
}

/// Line, info string and text of every fenced block.
fn blocks(text: &str) -> Vec<(usize, &str, String)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, &str, String)> = None;
    for (number, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => open = Some((number + 1, info.trim(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some((_, _, block)), None) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

#[test]
fn every_function_of_transforms_is_documented() -> Result<()> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/transforms.md"))?;
    for function in mongosync::transform::FUNCTIONS {
        let signature = function.signature.replace('|', "\\|");
        ensure!(page.contains(&format!("| `{signature}` | ")), "{signature}");
        ensure!(page.contains(&function.text.replace('|', "\\|")), "{}", function.text);
        // What ends the script, or is too plain, has no example there. A test runs each.
        if !["remove()", "skip()", "fail(text)", "doc.to_map()"].contains(&function.signature) {
            let example = format!("`{}` → `{}`", function.example, function.result);
            let example = example.replace('|', "\\|");
            ensure!(page.contains(&example), "{example}");
        }
    }
    Ok(())
}

#[test]
fn every_script_of_the_documentation_compiles() -> Result<()> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/transforms.md"))?;
    let mut compiled = 0;
    for (line, kind, block) in blocks(&page) {
        ensure!(kind.is_empty(), "line {line}: what is `{kind}`?");
        let script = Script::compile(&block, Limits::default(), None)
            .with_context(|| format!("docs/transforms.md:{line}"))?;
        ensure!(script.unknown_calls().is_empty(), "line {line}: {:?}", script.unknown_calls());
        compiled += 1;
    }
    ensure!(compiled >= 2, "only {compiled} scripts were found");
    Ok(())
}

#[test]
fn every_test_that_the_architecture_names_is_there() -> Result<()> {
    let text = fs::read_to_string(Path::new(ROOT).join("ARCHITECTURE.md"))?;
    let (_, invariants) = text.split_once("## Invariants").context("a chapter of invariants")?;
    let (invariants, _) = invariants.split_once("\n## ").context("a chapter behind it")?;
    let named = tests_named_in(invariants)?;
    ensure!(named > 20, "only {named}");
    Ok(())
}

/// Every promise names the tests that hold it.
#[test]
fn every_test_that_the_guarantees_name_is_there() -> Result<()> {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/guarantees.md"))?;
    for promise in text.split("\n## ").skip(1) {
        let (_, tests) = promise.split_once("\nTests: ").with_context(|| promise.to_owned())?;
        ensure!(tests_named_in(tests)? > 0, "{promise}");
    }
    Ok(())
}

/// How many names of tests there are; each one exists.
fn tests_named_in(text: &str) -> Result<usize> {
    let mut code = String::new();
    for folder in ["src", "tests"] {
        gather(&Path::new(ROOT).join(folder), &mut code)?;
    }
    let is_name =
        |name: &&str| name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let named: Vec<&str> = text.split('`').skip(1).step_by(2).filter(is_name).collect();
    for name in &named {
        ensure!(code.contains(&format!("fn {name}(")), "there is no test {name}");
    }
    Ok(named.len())
}

fn gather(folder: &Path, code: &mut String) -> Result<()> {
    for file in files(folder, "rs")? {
        code.push_str(&fs::read_to_string(file)?);
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            gather(&entry.path(), code)?;
        }
    }
    Ok(())
}
