//! Which parts of a rule file must never be shown.
//!
//! Asked once per file, before the first diagnostic is rendered, for the ranges that
//! [`super::diagnostic::SourceText`] hides. It errs on the side of hiding: a misspelt `pasword:`
//! holds a password all the same, and so may a comment. What a `${…}` stands for is not in the
//! text at all; its name is shown, its default is not where the place is a secret one.

use std::ops::Range;

use super::{
    address,
    diagnostic::Span,
    node::{Node, Value},
    yaml::Tree,
};

/// Words that give a secret away wherever they stand in a key, without case, `_` and `-`.
const WORDS: [&str; 11] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "bearer",
    "credential",
    "authorization",
    "cookie",
];

/// Keys under a rule that hold field names and values of documents, not logins.
const DOCUMENT_KEYS: [&str; 5] = ["filter", "project", "pipeline", "mappings", "settings"];

/// Keys whose value is an address, or is likely to be one where a map belongs.
const ADDRESS_KEYS: [&str; 12] = [
    "source",
    "uri",
    "uris",
    "url",
    "urls",
    "listen",
    "checkpoint",
    "mongodb",
    "elasticsearch",
    "opensearch",
    "webhook",
    "targets",
];

/// The ranges to hide in a file that is YAML.
pub fn in_tree(text: &str, tree: &Tree) -> Vec<Span> {
    let mut hide = in_comments(text);
    let nothing = Place { holds: Holds::Nothing, in_rules: false, in_documents: false };
    if let Some(root) = tree.root.as_ref().filter(|root| root.map().is_none()) {
        walk(text, root, nothing, &mut hide);
    }
    for entry in tree.root.as_ref().and_then(Node::map).unwrap_or_default() {
        let mut place = nothing;
        match (&*entry.key, entry.value.map()) {
            // The keys of `targets:` are names.
            ("targets", Some(targets)) => {
                place.holds = Holds::Address;
                targets.iter().for_each(|target| walk(text, &target.value, place, &mut hide));
            }
            (key, _) => {
                place.in_rules = is_of_documents(key);
                walk(text, &entry.value, place.below(&entry.key), &mut hide);
            }
        }
    }
    for dropped in &tree.dropped {
        let mut place = nothing;
        for (depth, key) in dropped.path.iter().enumerate() {
            let name = depth == 1 && dropped.path[0] == "targets";
            place.in_rules |= depth == 0 && is_of_documents(key);
            place = if name { place } else { place.below(key) };
        }
        // What stood under no text at all may be anything.
        if dropped.path.last().is_none_or(String::is_empty) {
            place.holds = Holds::Secret;
        }
        walk(text, &dropped.value, place, &mut hide);
    }
    hide
}

/// The ranges to hide in a text that is not YAML, or not known to be: line by line.
pub fn in_text(text: &str) -> Vec<Span> {
    let mut hide = Vec::new();
    // The indentation of a key whose value may go on below, and whether that is a map of keys.
    let mut below: Option<(usize, bool)> = None;
    for line in lines(text) {
        let content = &text[line.clone()];
        let indent = content.len() - content.trim_start().len();
        match below {
            Some((key, map)) if indent > key || content.trim().is_empty() => {
                let value = content.find(": ").filter(|_| map).map_or(indent, |colon| colon + 2);
                hide.push(line.start + value..line.end);
                continue;
            }
            _ => below = None,
        }
        if let Some((value, map)) = secret_value(content) {
            below = Some((indent, map));
            hide.push(line.start + value..line.end);
        }
        let (key, value) = key_and_value(content);
        let written = &content[value..];
        match key {
            "headers" if written.is_empty() => below = Some((indent, true)),
            // A map that goes on in this line has keys of its own.
            "headers" if !written.starts_with('{') => hide.push(line.start + value..line.end),
            "http" if !written.starts_with('{') && !address::is_plain(unquoted(written)) => {
                hide.push(line.start + value..line.end);
            }
            key if ADDRESS_KEYS.contains(&key) && !written.starts_with(['{', '[']) => {
                let value = line.start + value..line.end;
                hide_address(text, value, &mut hide);
            }
            _ => {}
        }
        line_login(content, line.start, &mut hide);
        uri_logins(content, line.start, &mut hide);
    }
    hide
}

/// The logins of the URIs in a text.
pub fn logins(text: &str) -> Vec<Span> {
    let mut found = Vec::new();
    uri_logins(text, 0, &mut found);
    found.retain(|span| !span.is_empty());
    found
}

/// Whether a value must not be repeated in a message.
pub fn looks_secret(text: &str) -> bool {
    !logins(text).is_empty() || address::in_line(text).is_some()
}

/// What stands at a place, as far as it decides what of it may be shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Nothing secret, but for the logins of URIs.
    Nothing,
    /// An address, with a login in it perhaps.
    Address,
    /// A map, with a token in it perhaps: what stands in place of the map may be the token.
    Http,
    /// A map from the names of headers to their values: what stands in its place may be one.
    Headers,
    /// A secret, all of it.
    Secret,
}

#[derive(Clone, Copy)]
struct Place {
    holds: Holds,
    in_rules: bool,
    in_documents: bool,
}

impl Place {
    /// The place of a key's value.
    fn below(mut self, key: &str) -> Self {
        self.in_documents |= self.in_rules && DOCUMENT_KEYS.contains(&key);
        self.holds = match self.holds {
            // Of a login, the user name alone may be shown.
            Holds::Secret if key != "username" => Holds::Secret,
            Holds::Headers if is_secret_header(&key.to_ascii_lowercase()) => Holds::Secret,
            Holds::Secret | Holds::Headers => Holds::Nothing,
            _ if self.in_documents => Holds::Nothing,
            _ if is_secret_key(key) => Holds::Secret,
            _ if self.in_rules => Holds::Nothing,
            _ if key == "headers" => Holds::Headers,
            _ if key == "http" => Holds::Http,
            _ if ADDRESS_KEYS.contains(&key) => Holds::Address,
            _ => Holds::Nothing,
        };
        self
    }
}

/// Whether what stands at this key of the file holds texts of documents, where an `@` means nothing.
fn is_of_documents(key: &str) -> bool {
    matches!(key, "rules" | "tests")
}

fn walk(text: &str, node: &Node, place: Place, hide: &mut Vec<Span>) {
    match &node.value {
        Value::List(items) => {
            let holds = if place.holds == Holds::Headers { Holds::Secret } else { place.holds };
            let place = Place { holds, ..place };
            items.iter().for_each(|item| walk(text, item, place, hide));
        }
        Value::Map(entries) => {
            for entry in entries.iter() {
                walk(text, &entry.value, place.below(&entry.key), hide);
            }
        }
        // Nobody reads a poisoned value, but its line may be shown.
        Value::Scalar(_) | Value::Poison => {
            let span = node.span.clone();
            let Some(written) = text.get(span.clone()) else { return };
            match place.holds {
                Holds::Secret | Holds::Headers => hide_scalar(text, span, hide),
                Holds::Http if !address::is_plain(unquoted(written)) => {
                    hide_scalar(text, span, hide);
                }
                Holds::Address => hide_address(text, span, hide),
                // Any key may be a misspelt one.
                _ if !place.in_rules && written.contains('@') => hide_address(text, span, hide),
                _ => {}
            }
            uri_logins(written, node.span.start, hide);
        }
    }
}

/// What of an address may be a login, the names of its `${…}` excepted.
fn hide_address(text: &str, span: Span, hide: &mut Vec<Span>) {
    let Some(written) = text.get(span.clone()) else { return };
    let plain = unquoted(written);
    let start = span.start + if plain.len() < written.len() { 1 } else { 0 };
    for part in address::secrets(plain) {
        hide_parts(plain, part, start, hide);
    }
}

/// A scalar without the quotes around it.
fn unquoted(written: &str) -> &str {
    ['"', '\'']
        .iter()
        .find_map(|&quote| written.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(written)
}

/// All of a scalar but its quotes and the names of its `${…}`.
fn hide_scalar(text: &str, span: Span, hide: &mut Vec<Span>) {
    let Some(written) = text.get(span.clone()) else { return };
    let quotes = unquoted(written).len() < written.len();
    let Range { start, end } = if quotes { span.start + 1..span.end - 1 } else { span };
    let mut at = start;
    while at < end {
        let Some(reference) = text[at..end].find("${").map(|offset| at + offset) else { break };
        let Some(close) = text[reference..end].find('}').map(|offset| reference + offset + 1)
        else {
            break;
        };
        hide.push(at..reference);
        if let Some(default) = text[reference..close].find(":-") {
            hide.push(reference + default + 2..close - 1);
        }
        at = close;
    }
    hide.push(at..end);
}

/// Whether a header's value is a secret, by its name.
pub fn is_secret_header(name: &str) -> bool {
    is_secret_key(name) || name.split('-').any(|part| matches!(part, "auth" | "key" | "signature"))
}

fn is_secret_key(key: &str) -> bool {
    let key: String =
        key.chars().filter(|c| !matches!(c, '_' | '-')).flat_map(char::to_lowercase).collect();
    let near = |word: &str| {
        let distance = word.len() / 4;
        key.len().abs_diff(word.len()) <= distance
            && strsim::damerau_levenshtein(&key, word) <= distance
    };
    near("auth") || WORDS.iter().any(|word| key.contains(word) || near(word))
}

/// Where in a line the value of a secret key begins, and whether it is a map of such keys.
fn secret_value(line: &str) -> Option<(usize, bool)> {
    line.match_indices(':').find_map(|(colon, _)| {
        let key = line[..colon].trim_end_matches(['"', '\'', ' ']);
        let begins = key
            .rfind(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-'))
            .map_or(0, |before| before + line[before..].chars().next().map_or(1, char::len_utf8));
        let key = &key[begins..];
        let rest = &line[colon + 1..];
        let value = line.len() - rest.trim_start().len();
        is_secret_key(key).then_some((value, key == "auth" && rest.trim().is_empty()))
    })
}

/// The key that a line begins with, behind a `- ` perhaps, and where its value begins.
fn key_and_value(line: &str) -> (&str, usize) {
    let Some(colon) = line.find(": ").or_else(|| line.ends_with(':').then(|| line.len() - 1))
    else {
        return ("", 0);
    };
    let key = line[..colon].trim_start().trim_start_matches("- ").trim_matches(['"', '\'', ' ']);
    let value = &line[colon + 1..];
    (key, line.len() - value.trim_start().len())
}

/// What looks like `user:password@`, whatever stands around it.
fn line_login(line: &str, offset: usize, hide: &mut Vec<Span>) {
    // With a scheme in front it is a URI, of which less has to be hidden.
    if let Some(login) = address::in_line(line).filter(|_| !line.contains("://")) {
        hide_parts(line, login, offset, hide);
    }
}

/// The passwords of `scheme://user:password@host`, and the values of options that hold one.
fn uri_logins(text: &str, offset: usize, hide: &mut Vec<Span>) {
    for line in lines(text) {
        let content = &text[line.clone()];
        let Some(scheme) = content.find("://") else { continue };
        // A password that should have been encoded may hold anything, `@`, `/` and `?` too, so that
        // the last `@` of the line counts.
        let login = scheme + 3;
        if let Some(at) = content.rfind('@').filter(|at| *at > login) {
            let from = content[login..at].find(':').map_or(login, |colon| login + colon + 1);
            hide_parts(content, from..at, offset + line.start, hide);
        }
        let mut begins = 0;
        for uri in content.split([' ', '\t', '"', '\'']) {
            if let Some(question) = uri.find('?') {
                options(content, begins + question + 1..begins + uri.len(), |range| {
                    hide_parts(content, range, offset + line.start, hide);
                });
            }
            begins += uri.len() + 1;
        }
    }
}

/// The values of a URI's options that are or hold a secret.
fn options(text: &str, range: Span, mut found: impl FnMut(Span)) {
    let mut at = range.start;
    for option in text[range].split('&') {
        if let Some((name, value)) = option.split_once('=')
            && (is_secret_key(name) || is_secret_key(value))
        {
            found(at + name.len() + 1..at + option.len());
        }
        at += option.len() + 1;
    }
}

/// Hides a range, the names of its `${…}` excepted.
fn hide_parts(text: &str, range: Span, offset: usize, hide: &mut Vec<Span>) {
    let mut parts = Vec::new();
    hide_scalar(text, range, &mut parts);
    hide.extend(parts.into_iter().map(|part| part.start + offset..part.end + offset));
}

/// Secrets in comments: a login that was commented out is still one.
fn in_comments(text: &str) -> Vec<Span> {
    let mut hide = Vec::new();
    for line in lines(text) {
        let content = &text[line.clone()];
        for (sign, _) in content.match_indices('#') {
            let begins = content[..sign].trim_end().len();
            if begins != 0 && begins == sign {
                continue;
            }
            let comment = &content[sign..];
            if let Some((value, _)) = secret_value(comment) {
                hide.push(line.start + sign + value..line.end);
            }
            line_login(comment, line.start + sign, &mut hide);
            uri_logins(comment, line.start + sign, &mut hide);
            // What looks like a second comment is part of the first.
            break;
        }
    }
    hide
}

fn lines(text: &str) -> impl Iterator<Item = Span> + '_ {
    let mut start = 0;
    text.split_inclusive('\n').map(move |line| {
        let span = start..start + line.trim_end_matches(['\r', '\n']).len();
        start += line.len();
        span
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, mut hide: Vec<Span>) -> String {
        hide.sort_by_key(|span| std::cmp::Reverse(span.start));
        hide.dedup();
        let mut shown = text.to_owned();
        for span in hide.into_iter().filter(|span| !span.is_empty()) {
            shown.replace_range(span, "*");
        }
        shown
    }

    #[test]
    fn logins_in_uris_are_hidden_and_names_of_variables_are_not() {
        for (text, expected) in [
            ("mongodb://db:27017/?replicaSet=rs0", "mongodb://db:27017/?replicaSet=rs0"),
            ("mongodb://u:p@db,db2/?x=1", "mongodb://u:*@db,db2/?x=1"),
            ("mongodb://u:p@ss/w?rd@db", "mongodb://u:*@db"),
            ("mongodb://u:${PW}@db", "mongodb://u:${PW}@db"),
            ("mongodb://u:${PW:-abc}x@db", "mongodb://u:${PW:-*}*@db"),
            ("https://key@host", "https://*@host"),
            (
                "mongodb://h/?tlsCertificateKeyFilePassword=abc&tls=true",
                "mongodb://h/?tlsCertificateKeyFilePassword=*&tls=true",
            ),
        ] {
            let mut hide = Vec::new();
            uri_logins(text, 0, &mut hide);
            assert_eq!(shown(text, hide), expected);
        }
    }

    #[test]
    fn text_that_is_not_yaml_hides_what_looks_like_a_login() {
        let text = "a: 1\nauth: { api_key: abc\nauth:\n  bearer: \"abc\npasword:\n  a: b\n\n  def\nb: \"\n# token: abc\n";
        let expected =
            "a: 1\nauth: *\nauth:\n  bearer: *\npasword:\n  *\n\n  *\nb: \"\n# token: *\n";
        assert_eq!(shown(text, in_text(text)), expected);
        let text = "source: mongodb//u:abc@h\nurls:\n  - u:abc@h:9200\nuri: mongodb://u:abc\nhttp: abc\n\
                    headers:\n  X-A: abc\nheaders: abc\n  # - u:abc@h\nb: \"\n";
        let expected = "source: mongodb//u:*@h\nurls:\n  - u:*@h:9200\nuri: mongodb://u:*\nhttp: *\n\
                    headers:\n  X-A: *\nheaders: *\n  # - u:*@h\nb: \"\n";
        assert_eq!(shown(text, in_text(text)), expected);
    }
}
