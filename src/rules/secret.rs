//! Which parts of a rule file must never be shown.
//!
//! Asked once per file, before the first diagnostic is rendered, for the ranges that
//! [`super::diagnostic::SourceText`] hides. It errs on the side of hiding: a misspelt `pasword:`
//! holds a password all the same, and so may a comment. What a `${…}` stands for is not in the
//! text at all; its name is shown, its default is not where the place is a secret one.

use std::ops::Range;

use super::{
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

/// The ranges to hide in a file that is YAML.
pub fn in_tree(text: &str, tree: &Tree) -> Vec<Span> {
    let mut hide = in_comments(text);
    let nothing = Place { secret: false, in_rules: false, in_documents: false };
    if let Some(root) = tree.root.as_ref().filter(|root| root.map().is_none()) {
        walk(text, root, nothing, &mut hide);
    }
    for entry in tree.root.as_ref().and_then(Node::map).unwrap_or_default() {
        let mut place = nothing;
        match (&*entry.key, entry.value.map()) {
            // The keys of `targets:` are names.
            ("targets", Some(targets)) => {
                targets.iter().for_each(|target| walk(text, &target.value, place, &mut hide));
            }
            (key, _) => {
                place.in_rules = key == "rules";
                walk(text, &entry.value, place.below(&entry.key), &mut hide);
            }
        }
    }
    for dropped in &tree.dropped {
        let mut place = nothing;
        for (depth, key) in dropped.path.iter().enumerate() {
            let name = depth == 1 && dropped.path[0] == "targets";
            place.in_rules |= depth == 0 && key == "rules";
            place = if name { place } else { place.below(key) };
        }
        // What stood under no text at all may be anything.
        place.secret |= dropped.path.last().is_none_or(String::is_empty);
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
    !logins(text).is_empty()
}

#[derive(Clone, Copy)]
struct Place {
    secret: bool,
    in_rules: bool,
    in_documents: bool,
}

impl Place {
    /// The place of a key's value.
    fn below(mut self, key: &str) -> Self {
        self.in_documents |= self.in_rules && DOCUMENT_KEYS.contains(&key);
        if self.secret {
            // Of a login, the user name alone may be shown.
            self.secret = key != "username";
        } else if !self.in_documents {
            self.secret = is_secret_key(key);
        }
        self
    }
}

fn walk(text: &str, node: &Node, place: Place, hide: &mut Vec<Span>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| walk(text, item, place, hide)),
        Value::Map(entries) => {
            for entry in entries.iter() {
                walk(text, &entry.value, place.below(&entry.key), hide);
            }
        }
        // Nobody reads a poisoned value, but its line may be shown.
        Value::Scalar(_) | Value::Poison if place.secret => {
            hide_scalar(text, node.span.clone(), hide);
        }
        Value::Scalar(_) | Value::Poison => {
            if let Some(written) = text.get(node.span.clone()) {
                uri_logins(written, node.span.start, hide);
            }
        }
    }
}

/// All of a scalar but its quotes and the names of its `${…}`.
fn hide_scalar(text: &str, span: Span, hide: &mut Vec<Span>) {
    let Some(written) = text.get(span.clone()) else { return };
    let quotes = written.len() >= 2 && written.starts_with(['"', '\'']);
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
    }
}
