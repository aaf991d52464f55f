//! `namespace:` and `exclude:`: exact names, globs and regular expressions.

use globset::{GlobBuilder, GlobMatcher};
use regex::Regex;

use crate::change::Namespace;

use super::{
    diagnostic::Span,
    model::{NamespaceGlob, NamespacePattern, Selector},
    node::{Node, Value},
    reader::{Reader, reason_for, shown},
    wording::{shown_character, shown_text},
};

/// What makes a side of a name a pattern.
const WILDCARDS: [char; 6] = ['*', '?', '[', ']', '{', '}'];
const LONGEST_DATABASE: usize = 63;
const LONGEST_NAMESPACE: usize = 255;

/// Both keys, where what they say can be used.
pub fn selector(
    reader: &mut Reader<'_>,
    namespace: &Node,
    exclude: Option<&Node>,
) -> Option<Selector> {
    let include = patterns(reader, namespace, "`namespace`");
    let exclude = match exclude {
        Some(exclude) => patterns(reader, exclude, "`exclude`"),
        None => Some(Vec::new()),
    };
    let selector = Selector { include: include?, exclude: exclude? };
    let nothing_left = selector.include.iter().all(|pattern| {
        let NamespacePattern::Exact(name) = pattern else { return false };
        selector.exclude.iter().any(|exclude| exclude.matches(name))
    });
    if nothing_left {
        reader
            .error(&namespace.owner, "`exclude` takes out all that `namespace` names")
            .help("leave something for the rule to read");
        return None;
    }
    Some(selector)
}

fn patterns(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Vec<NamespacePattern>> {
    let items = match &node.value {
        Value::List(_) => reader.list(node, what, "namespaces")?,
        _ => std::slice::from_ref(node),
    };
    // All of them are read before any that is wrong ends it.
    let patterns: Vec<_> = items.iter().map(|item| pattern(reader, item, what)).collect();
    patterns.into_iter().collect()
}

fn pattern(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<NamespacePattern> {
    let takes = "a namespace such as `shop.products`, or a list of them";
    match &node.value {
        Value::Map(_) | Value::List(_) => {
            reader
                .mismatch(node, what, takes)
                .help("a pattern with `{` or `[` at its beginning needs quotes");
            return None;
        }
        Value::Scalar(scalar) if scalar.absent => {
            reader.mismatch(node, what, takes);
            return None;
        }
        Value::Scalar(_) | Value::Poison => {}
    }
    let text = reader.text(node, what)?;
    match text.strip_prefix('/') {
        Some(regex) => self::regex(reader, node, regex),
        None if is_servers_own(&text) && what == "`namespace`" => {
            servers_own(reader, node);
            None
        }
        None if text.contains(WILDCARDS) => glob(reader, node, &text),
        None => exact(reader, node, &text),
    }
}

/// Whether a name or a pattern is one of a database that each server keeps for itself: no change stream
/// shows anything of it.
fn is_servers_own(text: &str) -> bool {
    let database = text.split_once('.').map(|(database, _)| database);
    matches!(database, Some("admin" | "config" | "local"))
}

fn servers_own(reader: &mut Reader<'_>, node: &Node) {
    let shown = shown(node);
    reader
        .error(&node.span, format!("{shown} is MongoDB's own, and is not read"))
        .label("no change stream shows what happens there")
        .help("`admin`, `config` and `local` are each server's own; name a database of yours");
}

fn exact(reader: &mut Reader<'_>, node: &Node, text: &str) -> Option<NamespacePattern> {
    let shown = shown(node);
    let Some((database, collection)) = text.split_once('.') else {
        let error = reader.error(&node.span, format!("{shown} is no namespace: it has no dot"));
        error.label("expected `database.collection`");
        if node.scalar().is_some_and(|scalar| !scalar.substituted) {
            let all = shown_text(&format!("{text}.*"));
            error.help(format!("all collections of a database are written {all}"));
        }
        return None;
    };
    let wrong = fault(database, collection);
    if let Some(wrong) = wrong.map(|wrong| reason_for(node, wrong)) {
        reader
            .error(&node.span, format!("{shown} is no namespace: {wrong}"))
            .label("expected `database.collection`");
        return None;
    }
    Namespace::parse(text).map(NamespacePattern::Exact)
}

fn fault(database: &str, collection: &str) -> Option<String> {
    database_fault(database).or_else(|| {
        if collection.is_empty() {
            Some("the collection's name is missing".to_owned())
        } else if collection.starts_with('.') {
            Some("a collection's name can't begin with a dot".to_owned())
        } else if collection.contains('$') {
            Some("a collection's name can't hold `$`".to_owned())
        } else if database.len() + 1 + collection.len() > LONGEST_NAMESPACE {
            Some(format!("a namespace has at most {LONGEST_NAMESPACE} bytes"))
        } else {
            None
        }
    })
}

/// What keeps a text from being a namespace that is written to.
pub fn written_fault(text: &str) -> Option<String> {
    let Some((database, collection)) = text.split_once('.') else {
        return Some("it has no dot: a namespace is `database.collection`".to_owned());
    };
    fault(database, collection).or_else(|| {
        let own =
            collection.starts_with("system.") || matches!(database, "admin" | "config" | "local");
        own.then(|| "it is MongoDB's own".to_owned())
    })
}

/// What keeps a text from being a database's name.
pub fn database_fault(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("the database's name is missing".to_owned());
    }
    if name.len() > LONGEST_DATABASE {
        return Some(format!("a database's name has at most {LONGEST_DATABASE} bytes"));
    }
    name.chars()
        .find(|c| matches!(c, '/' | '\\' | '.' | ' ' | '"' | '$') || c.is_control())
        .map(|character| format!("a database's name can't hold {}", shown_character(character)))
}

fn glob(reader: &mut Reader<'_>, node: &Node, text: &str) -> Option<NamespacePattern> {
    let Some((database, collection)) = text.split_once('.') else {
        let shown = shown(node);
        reader
            .error(&node.span, format!("{shown} is no pattern of namespaces: it has no dot"))
            .label("expected `database.collection`")
            .help("database and collection are matched apart; everything is \"*.*\"");
        return None;
    };
    if database.is_empty() || collection.is_empty() {
        let side = if database.is_empty() { "before" } else { "behind" };
        reader.error(&node.span, format!("there is nothing {side} the dot of this pattern"));
        return None;
    }
    if unbalanced(database) {
        reader.error(&node.span, "this pattern's brackets reach over its first dot").help(
            "database and collection are matched apart, split at the first dot: write a list \
                 of patterns",
        );
        return None;
    }
    let database_glob = side(reader, node, database)?;
    let collection = side(reader, node, collection)?;
    let literal_database = (!database.contains(WILDCARDS)).then(|| database.to_owned());
    if let Some(wrong) = literal_database.as_deref().and_then(database_fault) {
        let wrong = reason_for(node, wrong);
        reader.error(&node.span, format!("this pattern matches nothing: {wrong}"));
        return None;
    }
    Some(NamespacePattern::Glob(Box::new(NamespaceGlob {
        text: text.to_owned(),
        database: database_glob,
        literal_database,
        collection,
    })))
}

fn unbalanced(side: &str) -> bool {
    let count = |c: char| side.matches(c).count();
    count('{') != count('}') || count('[') != count(']')
}

fn side(reader: &mut Reader<'_>, node: &Node, side: &str) -> Option<GlobMatcher> {
    match GlobBuilder::new(side).literal_separator(false).backslash_escape(true).build() {
        Ok(glob) => Some(glob.compile_matcher()),
        Err(error) => {
            let span = reader.part(node, side);
            reader
                .error(&span, "this is no pattern")
                .label(reason_for(node, error.kind().to_string()))
                .help("patterns know `*`, `?`, `[ab]` and `{a,b}`");
            None
        }
    }
}

fn regex(reader: &mut Reader<'_>, node: &Node, text: &str) -> Option<NamespacePattern> {
    let Some((pattern, flags)) = text.rsplit_once('/') else {
        reader
            .error(&node.span, "this regular expression is not closed")
            .label("expected a `/` at its end");
        return None;
    };
    if let Some(flag) = flags.chars().find(|flag| *flag != 'i') {
        let span: Span = reader.part(node, &format!("/{flags}"));
        reader
            .error(&span, reason_for(node, format!("no such flag: {}", shown_character(flag))))
            .help("the one flag is `i`, for upper and lower case alike");
        return None;
    }
    // The flag goes into the pattern, so that `Regex::as_str` tells all of it.
    let with_flag = if flags.is_empty() { pattern.to_owned() } else { format!("(?i){pattern}") };
    match Regex::new(&with_flag) {
        Ok(regex) => Some(NamespacePattern::Regex(regex)),
        Err(error) => {
            // The rest of the text repeats the pattern.
            let error = error.to_string();
            let reason = error.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason).to_owned();
            let span = reader.part(node, pattern);
            reader.error(&span, "this is no regular expression").label(reason_for(node, reason));
            None
        }
    }
}
