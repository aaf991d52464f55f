//! What a script imports, found in its text.
//!
//! A rule's fingerprint has to change when a file that its script imports changes, so the names are
//! needed before anything runs. Comments and strings are passed over as Rhai does.

use super::diagnostic::Span;

/// One `import`.
#[derive(Debug, PartialEq, Eq)]
pub struct Import {
    /// What is imported; `None` where it is not plain text.
    pub name: Option<String>,
    /// Where the name stands in the script.
    pub span: Span,
}

/// Every `import` of a script, in order.
pub fn of(script: &str) -> Vec<Import> {
    let mut imports = Vec::new();
    let mut at = 0;
    let mut before = ' ';
    while let Some(first) = script[at..].chars().next() {
        let rest = &script[at..];
        let end = at + token(rest);
        let word = &script[at..end];
        if word == "import" && before != '.' {
            let space = rest[6..].len() - rest[6..].trim_start().len();
            imports.push(import(script, end + space));
        }
        if !first.is_whitespace() {
            before = first;
        }
        at = end;
    }
    imports
}

fn import(script: &str, at: usize) -> Import {
    let rest = &script[at..];
    let span = at..at + token(rest);
    let written = &script[span.clone()];
    let behind = script[span.end..].trim_start();
    let ends = behind.is_empty() || behind.starts_with([';', '}']) || behind.starts_with("as");
    let name = written
        .strip_prefix('"')
        .and_then(|name| name.strip_suffix('"'))
        .filter(|name| ends && !name.contains('\\'))
        .map(str::to_owned);
    Import { name, span }
}

/// The length of the token at the start of a text.
fn token(text: &str) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let length = |found: Option<usize>, closing: usize| found.map_or(text.len(), |at| at + closing);
    match first {
        '/' if text.starts_with("//") => length(text.find('\n'), 0),
        '/' if text.starts_with("/*") => comment(text),
        '"' | '`' | '\'' => quoted(text, first),
        '#' => {
            let hashes = text.len() - text.trim_start_matches('#').len();
            if text[hashes..].starts_with('"') {
                let closing = format!("\"{}", "#".repeat(hashes));
                let inner = hashes + 1;
                let end = text[inner..].find(&closing).map(|at| inner + at);
                return length(end, closing.len());
            }
            hashes
        }
        _ if first.is_alphanumeric() || first == '_' => {
            length(text.find(|c: char| !c.is_alphanumeric() && c != '_'), 0)
        }
        _ => first.len_utf8(),
    }
}

/// Comments nest.
fn comment(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            // Between backticks a backslash is just one.
            '\\' if quote != '`' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_found_and_what_only_looks_like_one_is_not() {
        for (script, expected) in [
            ("import \"a\" as a; import \"b/c\";", vec![Some("a"), Some("b/c")]),
            ("if x { import \"d\" as d }", vec![Some("d")]),
            (
                "// import \"a\"\n/* import \"b\" /* */ import \"c\" */ import \"e\";",
                vec![Some("e")],
            ),
            ("let s = \"import \\\" \"; let t = `import \"x\"`;", vec![]),
            ("let s = #\"import \"a\" \"#; doc.import \"x\";", vec![]),
            ("important(); re_import \"x\"", vec![]),
            ("import name as n; import \"a\" + x;", vec![None, None]),
            ("import", vec![None]),
            ("import \"é", vec![None]),
        ] {
            let found = of(script);
            let names: Vec<_> = found.iter().map(|import| import.name.as_deref()).collect();
            assert_eq!(names, expected, "{script}");
            for import in &found {
                assert!(script.get(import.span.clone()).is_some(), "{script}");
            }
        }
    }
}
