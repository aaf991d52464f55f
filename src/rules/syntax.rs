//! What to say where a rule file is not YAML.
//!
//! Called by [`super::yaml`] with the parser's error. The parser says what it expected; a person
//! needs to hear which of the usual slips this is: text that should be in quotes, indentation, a
//! bracket that is not closed.

use serde_yaml::granit_parser::{ErrorKind, ScanError};

use super::diagnostic::{Diagnostic, Span};

const QUOTE_FLOW: &str = "in `[ … ]` and `{ … }`, text that holds `{`, `}`, `[`, `]` or `,` needs \
                          quotes";

/// The diagnostic for a parser's error; `last_end` is where the last good value or key ended.
/// `open` is where the innermost list or map that has not ended begins.
pub fn explain(text: &str, last_end: usize, open: Option<Span>, error: &ScanError) -> Diagnostic {
    let at = boundary(text, error.marker().byte_offset().unwrap_or(last_end));
    let last_end = boundary(text, last_end).min(at);
    let here = at..next_character(text, at);
    match error.kind() {
        ErrorKind::MissingAnchorOrAliasName => {
            if text[..here.end].ends_with('*') {
                return star(text, here);
            }
            let mut error = Diagnostic::error(here, "`&` begins a YAML anchor, and has no name");
            error.help("where plain text is meant, put it in quotes");
            error
        }
        ErrorKind::UnexpectedCharacter { character: character @ ('@' | '`' | '%') } => {
            let message = format!("text can't begin with `{character}`");
            let mut error = Diagnostic::error(here, message);
            error.help("put it in quotes");
            error
        }
        ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabNotAllowed
        | ErrorKind::TabAtBlockScalarStart => {
            let tab = text[..here.end].rfind('\t').unwrap_or(at);
            let mut error = Diagnostic::error(tab..tab + 1, "a tab can't be indentation in YAML");
            error.label("a tab").help("indent with spaces");
            error
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator => {
            flow(text, at, here, open)
        }
        ErrorKind::UnclosedFlowCollection { open } => {
            Diagnostic::error(here, format!("this `{open}` is not closed"))
        }
        ErrorKind::MismatchedFlowCollectionEnd { open, close } => {
            Diagnostic::error(here, format!("`{open}` is closed by `{close}`"))
        }
        ErrorKind::MisplacedFlowCollectionEnd => {
            Diagnostic::error(here, "this bracket closes nothing")
        }
        ErrorKind::InvalidQuotedScalarIndent
        | ErrorKind::UnclosedQuotedScalar
        | ErrorKind::DocumentIndicatorInQuotedScalar => {
            let quote = text[last_end..at].find(['"', '\'']);
            let quote = quote.map_or(here, |offset| last_end + offset..last_end + offset + 1);
            let mut error = Diagnostic::error(quote, "this quote is not closed");
            error.help("text ends with the quote that it begins with");
            error
        }
        ErrorKind::InvalidTrailingSingleQuotedScalar
        | ErrorKind::InvalidTrailingDoubleQuotedScalar => {
            let mut error = Diagnostic::error(here, "there is more text behind the closing quote");
            error.help("put the whole of it in quotes; inside '…' a quote is written twice");
            error
        }
        ErrorKind::UnknownQuotedScalarEscape => {
            let mut error = Diagnostic::error(here, "no such escape in \"…\"");
            error.help("in '…' a backslash is just a backslash; in \"…\" it is written twice");
            error
        }
        ErrorKind::TabInPlainScalar => {
            let tab = text[at..].find('\t').map_or(at, |offset| at + offset);
            let mut error = Diagnostic::error(tab..tab + 1, "a tab can't be indentation in YAML");
            error.label("a tab").help("indent with spaces");
            error
        }
        ErrorKind::MappingValueNotAllowed | ErrorKind::MappingKeyNotAllowed => {
            colon(text, at, here)
        }
        ErrorKind::SimpleKeyExpected => {
            let mut error = Diagnostic::error(rest_of_line(text, at), "this key has no `:`");
            error
                .label("expected `key: value`")
                .help("the lines of a script or text are indented deeper than their key");
            error
        }
        ErrorKind::ExpectedBlockMappingKey => after_map(text, at, last_end),
        ErrorKind::BlockSequenceEntryNotAllowed => {
            let mut error = Diagnostic::error(here, "a list can't begin here");
            error.help("put each `- …` on a line of its own, or write `[a, b]`");
            error
        }
        ErrorKind::ExpectedBlockSequenceEntry => {
            let mut error = Diagnostic::error(rest_of_line(text, at), "this belongs to no list");
            error.label("expected `- `").help("look at the indentation of this line");
            error
        }
        ErrorKind::RecursionLimitExceeded => {
            Diagnostic::error(here, "lists and maps are nested too deep")
        }
        other => {
            let mut error = Diagnostic::error(here, "this is not YAML");
            error.label(other.to_string());
            error
        }
    }
}

/// A `:` where no key can be. Where it is the first of its line, the line before is most often to
/// blame.
fn colon(text: &str, at: usize, here: Span) -> Diagnostic {
    let line = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let key = text[line..at].trim_start();
    let before = text[..line]
        .split_inclusive('\n')
        .scan(0, |end, line| {
            *end += line.len();
            Some((*end - line.len(), line))
        })
        .filter(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'))
        .last();
    let Some((start, before)) = before.filter(|_| !key.contains([':', '"', '\''])) else {
        return plain_colon(here);
    };
    let start = start + before.len() - before.trim_start().len();
    let written = before.trim();
    let is_name = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if let Some(rest) = written.strip_prefix('-')
        && rest.starts_with(|first: char| first.is_ascii_alphabetic())
    {
        let mut error = Diagnostic::error(start..start + 1, "a space is missing behind this `-`");
        error.help("an entry of a list is written `- namespace: shop.products`");
        return error;
    }
    let entry = written.trim_start_matches("- ");
    let entry_start = start + written.len() - entry.len();
    match entry.split_once(':') {
        Some((name, value)) if is_name(name) && value.starts_with(|c: char| !c.is_whitespace()) => {
            let colon = entry_start + name.len();
            let mut error =
                Diagnostic::error(colon..colon + 1, "a space is missing behind this `:`");
            error.help(format!("write `{name}: …`"));
            error
        }
        Some((name, value)) if is_name(name) && !value.trim().is_empty() => {
            let message = format!("`{name}` has its value already, and nothing can lie below it");
            let mut error = Diagnostic::error(line..line + (at - line), message);
            error.label("indented as if it did").help("keys of one map begin in the same column");
            error
        }
        _ => plain_colon(here),
    }
}

fn plain_colon(here: Span) -> Diagnostic {
    let mut error = Diagnostic::error(here, "a `:` can't stand here");
    error.help(
        "text that holds `: ` needs quotes; otherwise look at the indentation of this line and the \
         one before",
    );
    error
}

/// A `*` that leads to no anchor: nearly always a pattern without quotes.
pub fn star(text: &str, span: Span) -> Diagnostic {
    let rest = &text[span.start..];
    let end = rest.find([' ', '\t', '\r', '\n', ',', ']', '}']).unwrap_or(rest.len());
    let written = &rest[..end];
    let mut error = Diagnostic::error(
        span.start..span.start + end,
        "`*` begins a YAML alias, and there is no anchor of that name",
    );
    let example = if written.contains('.') { written } else { "*.*" };
    error.help(format!("a pattern that begins with `*` needs quotes: \"{example}\""));
    error
}

/// Inside `[ … ]` or `{ … }` something other than `,` or the bracket follows.
fn flow(text: &str, at: usize, here: Span, open: Option<Span>) -> Diagnostic {
    let before = &text[..at];
    if before.ends_with('$') && text[at..].starts_with('{') {
        let close = text[at..].find('}').map_or(at + 1, |offset| at + offset + 1);
        let reference = at - 1..close;
        let written = text[reference.clone()].split(":-").next().unwrap_or_default();
        let written = written.trim_end_matches('}');
        let mut error =
            Diagnostic::error(reference, "in `[ … ]` and `{ … }`, a `${…}` needs quotes");
        error.help(format!("write \"{written}}}\" with the quotes"));
        return error;
    }
    if text[at..].starts_with(['{', '[']) {
        let mut error = Diagnostic::error(here, "a bracket can't stand inside plain text here");
        error.help(QUOTE_FLOW);
        return error;
    }
    let message = "a `,` or a closing bracket is missing";
    let mut error = Diagnostic::error(rest_of_line(text, at), message);
    error.label("before this").help(QUOTE_FLOW);
    if let Some(open) = open {
        error.also(open.start..open.start + 1, "it was opened here");
    }
    error
}

/// A key was expected and something else stands there.
fn after_map(text: &str, at: usize, last_end: usize) -> Diagnostic {
    let between = text.get(last_end..at).unwrap_or_default();
    if text[..last_end].ends_with(['}', ']']) && !between.contains('\n') {
        let mut error =
            Diagnostic::error(rest_of_line(text, at), "there is more text behind the bracket");
        error.help("text that begins with `{` or `[` needs quotes, and so does a template");
        return error;
    }
    let mut error = Diagnostic::error(rest_of_line(text, at), "this line fits no map around it");
    error
        .label("expected a key as deep as the keys above it")
        .help("look at the indentation of this line and the ones before");
    error
}

fn rest_of_line(text: &str, at: usize) -> Span {
    let rest = &text[at..];
    let line = rest.find('\n').map_or(rest, |newline| &rest[..newline]).trim_end();
    at..at + line.len()
}

fn boundary(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

fn next_character(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(0, char::len_utf8)
}
