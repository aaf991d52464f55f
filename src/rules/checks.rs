//! What no part of a rule file can see by itself: names that stand twice, targets that nobody
//! writes to, documents of two namespaces that would fall on one another in an index.

use crate::change::Namespace;

use super::{
    destination::{Placed, index_fault},
    diagnostic::Span,
    model::{
        Checkpoint, CheckpointStore, NamespacePattern, Place, Selector, Source, TargetKind,
        WebhookFormat,
    },
    node::{Node, Value},
    reader::Reader,
    rule::Read,
    targets::Named,
    template::{Part, Template},
    wording::shown_text,
};

/// All checks, over what could be read.
pub fn all(reader: &mut Reader<'_>, rules: &[Read], targets: &[Named]) {
    names(reader, rules);
    for rule in rules {
        let (Some(selector), Some(placed)) = (&rule.selector, &rule.placed) else { continue };
        for placed in placed {
            index_name(reader, rule, selector, placed);
            match rule.delivers_events() {
                Some(true) => event_id(reader, placed),
                _ => shared_index(reader, rule, selector, placed),
            }
        }
    }
    between_rules(reader, rules);
    for target in targets {
        shared_url(reader, rules, target);
    }
}

/// A rule that reads where this very file keeps its positions would follow its own writes for ever.
pub fn own_records(
    reader: &mut Reader<'_>,
    rules: &[Read],
    source: &Source,
    checkpoint: &Checkpoint,
) {
    let CheckpointStore::MongoDb { uri, database } = &checkpoint.store else { return };
    if uri.as_ref().is_some_and(|uri| uri.expose() != source.uri.expose()) {
        return;
    }
    for rule in rules {
        let Some(selector) = &rule.selector else { continue };
        let own = selector.include.iter().find(|pattern| match pattern {
            NamespacePattern::Exact(namespace) => {
                namespace.database() == database
                    && CheckpointStore::COLLECTIONS.contains(&namespace.collection())
            }
            // Patterns pass over that database.
            NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => false,
        });
        if own.is_some() {
            reader
                .error(&rule.namespace_span, "a rule can't read where positions are kept")
                .label("mongosync's own: it would follow its own writes")
                .help("`checkpoint` says where positions are kept");
        }
    }
}

/// Every event has an id of its own, and no other would tell two of one document apart.
fn event_id(reader: &mut Reader<'_>, placed: &Placed) {
    if let Some(span) = &placed.id_span {
        reader
            .error(span, "this rule delivers events, and each has an id of its own")
            .label("an `id` is for documents")
            .help("leave it out; a field of the document can be put into `routing` or `index`");
    }
}

fn names(reader: &mut Reader<'_>, rules: &[Read]) {
    for (index, later) in rules.iter().enumerate() {
        let Some(name) = &later.name else { continue };
        let earlier = rules[..index].iter().find(|rule| rule.name.as_ref() == Some(name));
        if let Some(earlier) = earlier {
            let message = match later.shown && earlier.shown {
                true => format!("two rules are named {}", shown_text(name)),
                false => "two rules have one name".to_owned(),
            };
            reader
                .error(&later.span, message)
                .label("again here")
                .also(earlier.span.clone(), "first here")
                .help("give one of them a `name` of its own");
        }
    }
}

/// Warns of targets that no `to` names. It takes the nodes, so that a rule with a fault elsewhere
/// still counts.
pub fn unused(reader: &mut Reader<'_>, rules: &[Node], targets: &[Named]) {
    let mut named = Vec::new();
    for to in rules.iter().filter_map(|rule| rule.get("to")) {
        let entries = match &to.value {
            Value::List(entries) => entries.as_slice(),
            _ => std::slice::from_ref(to),
        };
        for entry in entries {
            let target = entry.get("target").unwrap_or(entry);
            named.extend(target.scalar().map(|scalar| scalar.text.as_str()));
        }
    }
    // A name that is no target is most likely this one, written wrong.
    if named.iter().any(|name| !targets.iter().any(|target| target.name == *name)) {
        return;
    }
    // What a program brings in vain it is told itself.
    let is_own = |target: &&Named| {
        target.target.as_ref().is_some_and(|target| matches!(target.kind, TargetKind::Own))
    };
    let unused = targets.iter().filter(|target| !named.contains(&target.name.as_str()));
    for target in unused.filter(|target| !is_own(target)) {
        let message = format!("no rule writes to the target {}", target.shown);
        reader.warning(&target.span, message);
    }
}

/// The name of an index, where it follows from the namespace, has to be one that an engine takes.
fn index_name(reader: &mut Reader<'_>, rule: &Read, selector: &Selector, placed: &Placed) {
    let Place::Engine(place) = &placed.destination.place else { return };
    for pattern in &selector.include {
        let NamespacePattern::Exact(namespace) = pattern else { continue };
        let template = place.index.name.as_ref();
        let name = place.index.name_for(namespace, rule.name.as_deref());
        let Some(name) = name else { continue };
        let Some((fault, _)) = index_fault(&name, true, true) else { continue };
        let name = shown_text(&name);
        let shown = rule.shown && placed.shown;
        let (span, help, message) = match &placed.index_span {
            Some(span) if template.is_some() => (
                span,
                "an engine takes lower-case names, without `/`, `*` and the like",
                format!("for `{namespace}` the index would be named {name}, which {fault}"),
            ),
            _ => (
                &rule.namespace_span,
                "name one with `index:` under `to:`",
                format!("the default index, {name}, {fault}"),
            ),
        };
        let message = if shown { message } else { "an engine takes no index of this name".into() };
        reader.error(span, message).help(help);
    }
}

/// What has to stand in index or id for the namespaces of one rule to stay apart.
fn shared_index(reader: &mut Reader<'_>, rule: &Read, selector: &Selector, placed: &Placed) {
    let Place::Engine(place) = &placed.destination.place else { return };
    let Some(index) = &place.index.name else { return };
    let has = |part: &Part| {
        let in_id = place.id.as_ref().is_some_and(|id| id.parts().contains(part));
        in_id || index.parts().contains(part)
    };
    let include: Vec<_> = selector.include.iter().collect();
    let Some(missing) = missing(&include, has) else { return };
    let missing = missing.join("-");
    let (span, label) = match (&placed.id_span, &placed.index_span) {
        (Some(id), _) => (id, "this id does not tell them apart"),
        (None, Some(index)) => (index, "one index for all of them"),
        (None, None) => (&placed.target_span, ""),
    };
    let span = span.clone();
    let id = place.id.as_ref().filter(|_| placed.shown);
    let id = id.map_or("{_id}", Template::as_str);
    reader
        .error(&span, "documents of several namespaces would meet in one index under one id")
        .label(label)
        .also(rule.namespace_span.clone(), "several namespaces")
        .help(format!("put the namespace into the id: `id: \"{missing}-{id}\"`"));
}

/// What a webhook's URL has to say for documents of several namespaces to stay apart, where a `DELETE`
/// of it takes a document away.
fn shared_url(reader: &mut Reader<'_>, rules: &[Read], named: &Named) {
    let Some(TargetKind::Webhook(webhook)) = named.target.as_ref().map(|target| &target.kind)
    else {
        return;
    };
    let url = &webhook.url;
    if webhook.format != WebhookFormat::Document || !url.is_of_one_document() {
        return;
    }
    let told: Vec<(&Read, &Selector)> = rules
        .iter()
        .filter_map(|rule| {
            let mut placed = rule.placed.iter().flatten();
            let leads = placed.any(|placed| placed.destination.target == named.name);
            rule.selector.as_ref().filter(|_| leads).map(|selector| (rule, selector))
        })
        .collect();
    let apart: Vec<&[(&Read, &Selector)]> = match url.names(&Part::Rule) {
        true => told.chunks(1).collect(),
        false => vec![&told],
    };
    for told in apart {
        let include: Vec<_> = told.iter().flat_map(|(_, selector)| &selector.include).collect();
        let Some(missing) = missing(&include, |part| url.names(part)) else { continue };
        let missing = missing.join("/");
        let error = reader.error(
            &named.span,
            "documents of several namespaces would have one URL, and a `DELETE` of one would take away \
             another",
        );
        for (rule, _) in told {
            error.also(rule.namespace_span.clone(), "read here");
        }
        error.help(format!("put the namespace into the path of `url`: `…/{missing}/{{_id}}`"));
    }
}

/// Which of database and collection would have to stand where documents of these namespaces meet, and
/// do not.
fn missing(
    patterns: &[&NamespacePattern],
    has: impl Fn(&Part) -> bool,
) -> Option<Vec<&'static str>> {
    let (databases, collections) = spread(patterns);
    let (database, collection) = (has(&Part::Database), has(&Part::Collection));
    // Exact names may be told apart by either of the two.
    let exact: Vec<&Namespace> = patterns
        .iter()
        .filter_map(|pattern| match pattern {
            NamespacePattern::Exact(namespace) => Some(namespace),
            _ => None,
        })
        .collect();
    if exact.len() == patterns.len() {
        let told_apart = |a: &Namespace, b: &Namespace| {
            a == b
                || (database && a.database() != b.database())
                || (collection && a.collection() != b.collection())
        };
        if exact.iter().all(|a| exact.iter().all(|b| told_apart(a, b))) {
            return None;
        }
    }
    let parts = [("{db}", databases && !database), ("{collection}", collections && !collection)];
    let missing: Vec<_> = parts.into_iter().filter(|(_, it)| *it).map(|(part, _)| part).collect();
    (!missing.is_empty()).then_some(missing)
}

/// Whether there can be more than one database among these, and more than one collection.
pub fn spread(patterns: &[&NamespacePattern]) -> (bool, bool) {
    let mut databases: Vec<&str> = Vec::new();
    let mut collections: Vec<&str> = Vec::new();
    let (mut any_database, mut any_collection) = (false, false);
    for pattern in patterns {
        match pattern {
            NamespacePattern::Exact(namespace) => {
                databases.push(namespace.database());
                collections.push(namespace.collection());
            }
            NamespacePattern::Glob(glob) => {
                match &glob.literal_database {
                    Some(database) => databases.push(database),
                    None => any_database = true,
                }
                match glob.text.split_once('.').map(|(_, collection)| collection) {
                    Some(name) if !name.contains(['*', '?', '[', '{', '\\']) => {
                        collections.push(name);
                    }
                    _ => any_collection = true,
                }
            }
            // Nearly always one over the collections of a database.
            NamespacePattern::Regex(_) => any_collection = true,
        }
    }
    let several = |names: &mut Vec<&str>| {
        names.sort_unstable();
        names.dedup();
        names.len() > 1
    };
    (any_database || several(&mut databases), any_collection || several(&mut collections))
}

/// One exact namespace in one index whose name is known.
struct Lies<'r> {
    namespace: &'r Namespace,
    target: &'r str,
    index: String,
    default: bool,
    id: Option<&'r Template>,
    rule: usize,
    events: bool,
    span: Span,
    shown: bool,
}

/// Exact namespaces of whatever rules that lie in one index of one target.
fn between_rules(reader: &mut Reader<'_>, rules: &[Read]) {
    let mut lies: Vec<Lies<'_>> = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let (Some(selector), Some(placed)) = (&rule.selector, &rule.placed) else { continue };
        for pattern in &selector.include {
            let NamespacePattern::Exact(namespace) = pattern else { continue };
            for placed in placed {
                let Place::Engine(place) = &placed.destination.place else { continue };
                let name = &place.index.name;
                let index = place.index.name_for(namespace, rule.name.as_deref());
                let Some(index) = index else { continue };
                let default = name.is_none();
                let span = placed.index_span.as_ref().unwrap_or(&rule.namespace_span).clone();
                let id = place.id.as_ref();
                let target = placed.destination.target.as_str();
                let shown = rule.shown && placed.shown;
                let events = rule.delivers_events() == Some(true);
                let rule = number;
                lies.push(Lies {
                    namespace,
                    target,
                    index,
                    default,
                    id,
                    rule,
                    events,
                    span,
                    shown,
                });
            }
        }
    }
    for (number, later) in lies.iter().enumerate() {
        let mixed = lies[..number].iter().find(|earlier| {
            earlier.target == later.target
                && earlier.index == later.index
                && earlier.events != later.events
        });
        if let Some(earlier) = mixed {
            let index = shown_text(&later.index);
            let message = match earlier.shown && later.shown {
                true => format!("documents and events would lie in one index, {index}"),
                false => "documents and events would lie in one index".to_owned(),
            };
            reader
                .error(&later.span, message)
                .also(earlier.span.clone(), "here too")
                .help("events are kept for ever, documents are removed: name another index for one of them");
            continue;
        }
        let meets = lies[..number].iter().find(|earlier| {
            earlier.target == later.target
                && earlier.index == later.index
                && !later.events
                && earlier.namespace != later.namespace
                && meet(earlier, later)
        });
        if let Some(earlier) = meets {
            tell(reader, earlier, later);
        }
    }
}

fn meet(a: &Lies<'_>, b: &Lies<'_>) -> bool {
    if a.default && b.default {
        return true;
    }
    // Inside one rule and one named index it is told already.
    a.rule != b.rule && !apart(a, b)
}

fn tell(reader: &mut Reader<'_>, earlier: &Lies<'_>, later: &Lies<'_>) {
    let index = shown_text(&later.index);
    let (a, b) = (earlier.namespace, later.namespace);
    let (both_default, one_place) = (earlier.default && later.default, earlier.span == later.span);
    let message = match (both_default, earlier.shown && later.shown) {
        (true, true) => format!("`{a}` and `{b}` have one default index, {index}"),
        (true, false) => "two namespaces have one default index".to_owned(),
        (false, true) => format!("documents of `{a}` and `{b}` would meet in the index {index}"),
        (false, false) => "documents of two namespaces would meet in one index".to_owned(),
    };
    let told = |lies: &Lies<'_>| match lies.shown {
        true => format!("`{}`", lies.namespace),
        false => "here".to_owned(),
    };
    let part = if a.collection() == b.collection() { "{db}" } else { "{collection}" };
    let error = reader.error(&later.span, message);
    if !one_place {
        error.label(told(later)).also(earlier.span.clone(), told(earlier));
    }
    match both_default {
        true => error.help("name an index with `index:` under `to:` for one of them"),
        false => error.help(format!("put the namespace into the ids: `id: \"{part}-{{_id}}\"`")),
    };
}

/// Whether the ids of two places are distinct for certain.
fn apart(a: &Lies<'_>, b: &Lies<'_>) -> bool {
    ids_apart((a.id, a.namespace), (b.id, b.namespace), a.rule != b.rule)
}

/// Whether the ids that two templates (`None` is the default) make for documents of two namespaces
/// are distinct for certain. `rules` says whether they are of two rules.
pub fn ids_apart(
    (first, a): (Option<&Template>, &Namespace),
    (second, b): (Option<&Template>, &Namespace),
    rules: bool,
) -> bool {
    let (Some(first), Some(second)) = (first, second) else { return false };
    let both = |part: &Part| first.parts().contains(part) && second.parts().contains(part);
    if (both(&Part::Collection) && a.collection() != b.collection())
        || (both(&Part::Database) && a.database() != b.database())
        || (both(&Part::Rule) && rules)
    {
        return true;
    }
    // `a-{_id}` and `b-{_id}`.
    match (first.parts().first(), second.parts().first()) {
        (Some(Part::Literal(a)), Some(Part::Literal(b))) => {
            !a.starts_with(b.as_str()) && !b.starts_with(a.as_str())
        }
        _ => false,
    }
}
