//! What can be wrong with the collections that rules write to in a MongoDB: names that it does not
//! take, documents of two namespaces that would fall on one another, and rules that would read what
//! they write.

use mongodb::options::{ConnectionString, HostInfo};

use crate::change::Namespace;

use super::{
    checks::spread,
    destination::Placed,
    model::{MongoPlace, NamespacePattern, Place, Secret, Selector, Source, TargetKind},
    namespace::written_fault,
    reader::Reader,
    rule::Read,
    targets::Named,
    template::Part,
    wording::shown_text,
};

/// A rule and one of its destinations in a MongoDB.
struct Written<'r> {
    number: usize,
    rule: &'r Read,
    selector: &'r Selector,
    placed: &'r Placed,
    place: &'r MongoPlace,
}

impl Written<'_> {
    fn shown(&self) -> bool {
        self.rule.shown && self.placed.shown
    }

    fn span(&self) -> super::diagnostic::Span {
        self.placed.index_span.as_ref().unwrap_or(&self.placed.target_span).clone()
    }

    /// Whether events lie there. What could not be read is told on its own.
    fn events(&self) -> bool {
        self.rule.delivers_events() == Some(true)
    }

    /// Where documents of a namespace lie.
    fn name_for(&self, namespace: &Namespace) -> Option<String> {
        self.place.name_for(namespace, self.rule.name.as_deref())
    }

    fn exact(&self) -> impl Iterator<Item = &Namespace> {
        self.selector.include.iter().filter_map(|pattern| match pattern {
            NamespacePattern::Exact(namespace) => Some(namespace),
            NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
        })
    }
}

/// All checks, over what could be read.
pub fn all(
    reader: &mut Reader<'_>,
    rules: &[Read],
    source: Option<&Source>,
    targets: Option<&[Named]>,
) {
    let mut written = Vec::new();
    for (number, rule) in rules.iter().enumerate() {
        let (Some(selector), Some(placed)) = (&rule.selector, &rule.placed) else { continue };
        for placed in placed {
            if let Place::MongoDb(place) = &placed.destination.place {
                written.push(Written { number, rule, selector, placed, place });
            }
        }
    }
    for written in &written {
        name(reader, written);
        shared(reader, written);
    }
    between_rules(reader, &written, targets.unwrap_or_default());
    if let (Some(source), Some(targets)) = (source, targets) {
        loops(reader, &written, source, targets);
    }
}

/// A name that follows from the namespace has to be one that MongoDB takes.
fn name(reader: &mut Reader<'_>, written: &Written<'_>) {
    for namespace in written.exact() {
        let Some(name) = written.name_for(namespace) else { continue };
        let Some(fault) = written_fault(&name) else { continue };
        let message = match written.shown() {
            true => {
                let name = shown_text(&name);
                format!("documents of `{namespace}` can't lie in {name}: {fault}")
            }
            false => format!("documents can't lie in what this stands for: {fault}"),
        };
        let error = reader.error(&written.span(), message);
        if written.place.namespace.is_none() {
            error.help("name another with `namespace:` under `to:`");
        }
    }
}

/// What has to stand in the name for the namespaces of one rule to stay apart. Events have ids of their
/// own.
fn shared(reader: &mut Reader<'_>, written: &Written<'_>) {
    if written.events() {
        return;
    }
    let Some(template) = &written.place.namespace else { return };
    let has = |part: &Part| template.parts().contains(part);
    let (database, collection) = (has(&Part::Database), has(&Part::Collection));
    let exact: Vec<&Namespace> = written.exact().collect();
    if exact.len() == written.selector.include.len() {
        let told_apart = |a: &Namespace, b: &Namespace| {
            a == b
                || (database && a.database() != b.database())
                || (collection && a.collection() != b.collection())
        };
        if exact.iter().all(|a| exact.iter().all(|b| told_apart(a, b))) {
            return;
        }
    }
    let (databases, collections) = spread(&written.selector.include.iter().collect::<Vec<_>>());
    let name = match (databases && !database, collections && !collection) {
        (false, false) => return,
        (true, _) => "mirror.{db}_{collection}",
        (false, true) => "mirror.{collection}",
    };
    reader
        .error(
            &written.span(),
            "documents of several namespaces would meet in one collection under one `_id`",
        )
        .label("one collection for all of them")
        .also(written.rule.namespace_span.clone(), "several namespaces")
        .help(format!("put the namespace into the name: \"{name}\""));
}

/// Exact namespaces of different rules that lie in one collection of one target, or of two that lead to
/// the same servers.
fn between_rules(reader: &mut Reader<'_>, written: &[Written<'_>], targets: &[Named]) {
    for (index, later) in written.iter().enumerate() {
        let meets = written[..index].iter().find_map(|earlier| {
            let target = |written: &Written<'_>| written.placed.destination.target.clone();
            let (one, other) = (target(earlier), target(later));
            let (twice, both_events) = (one != other, earlier.events() && later.events());
            if (twice && !reach_the_same(targets, &one, &other))
                || (!twice && earlier.number == later.number)
                || both_events
            {
                return None;
            }
            let mixed = earlier.events() != later.events();
            earlier.exact().find_map(|a| {
                let b = later.exact().find(|b| {
                    (mixed || twice || a != *b)
                        && earlier.name_for(a).is_some_and(|name| later.name_for(b) == Some(name))
                })?;
                Some((earlier, a, b))
            })
        });
        let Some((earlier, a, b)) = meets else { continue };
        let shown = later.shown() && earlier.shown();
        if earlier.events() != later.events() {
            let message = match (shown, later.name_for(b)) {
                (true, Some(name)) => {
                    let name = shown_text(&name);
                    format!("documents and events would lie in one collection, {name}")
                }
                _ => "documents and events would lie in one collection".to_owned(),
            };
            reader.error(&later.span(), message).also(earlier.span(), "here too").help(
                "events are kept for ever, documents are removed: name another collection for one of \
                 them with `namespace:` under `to:`",
            );
            continue;
        }
        if a == b {
            let message = match shown {
                true => format!(
                    "two targets lead to one MongoDB, and both keep documents of `{a}` there"
                ),
                false => {
                    "two targets lead to one MongoDB, and both keep the same documents".to_owned()
                }
            };
            reader.error(&later.span(), message).also(earlier.span(), "here too").help(
                "what one of them puts, the other may remove: let the rules write to one target, or name \
                 another collection with `namespace:` under `to:`",
            );
            continue;
        }
        let message = match shown {
            true => format!("documents of `{a}` and `{b}` would meet in one collection"),
            false => "documents of two namespaces would meet in one collection".to_owned(),
        };
        let told = |name: &Namespace| if shown { format!("`{name}`") } else { "here".to_owned() };
        reader
            .error(&later.span(), message)
            .label(told(b))
            .also(earlier.span(), told(a))
            .help("put the namespace into the name: \"mirror.{db}_{collection}\"");
    }
}

/// Whether two targets are MongoDBs with a host in common.
fn reach_the_same(targets: &[Named], one: &str, other: &str) -> bool {
    let uri = |name: &str| {
        let target = targets.iter().find(|target| target.name == name)?.target.as_ref()?;
        match &target.kind {
            TargetKind::MongoDb(target) => Some(&target.uri),
            _ => None,
        }
    };
    uri(one).zip(uri(other)).is_some_and(|(one, other)| meet(one, other))
}

/// Rules whose target is their source, and that would read what they write.
fn loops(reader: &mut Reader<'_>, written: &[Written<'_>], source: &Source, targets: &[Named]) {
    let is_source = |written: &Written<'_>| {
        let name = &written.placed.destination.target;
        let target = targets.iter().find(|target| target.name == *name);
        target.and_then(|target| target.target.as_ref()).is_some_and(|target| match &target.kind {
            TargetKind::MongoDb(target) => meet(&source.uri, &target.uri),
            _ => false,
        })
    };
    let written: Vec<_> = written.iter().filter(|written| is_source(written)).collect();
    for writer in &written {
        let met = samples(writer.selector).into_iter().find_map(|namespace| {
            let name = Namespace::parse(&writer.name_for(&namespace)?)?;
            let reader = written.iter().find(|rule| rule.selector.matches(&name))?;
            Some((*reader, name))
        });
        let Some((other, name)) = met else { continue };
        let shown = writer.shown() && other.shown();
        let message = match shown && other.selector.names(&name) {
            true => format!("the target is the source, and `{name}`, which is written to, is read"),
            false => "the target is the source, and what is written would be read again".to_owned(),
        };
        reader
            .error(&writer.span(), message)
            .label("written here")
            .also(other.rule.namespace_span.clone(), "read here")
            .help(
                "write to a database that no rule reads: `namespace: \"mirror.{db}_{collection}\"`",
            );
    }
}

/// Namespaces that a selector takes; of a pattern one that it may take.
fn samples(selector: &Selector) -> Vec<Namespace> {
    let include = selector.include.iter().filter_map(|pattern| match pattern {
        NamespacePattern::Exact(namespace) => Some(namespace.clone()),
        NamespacePattern::Glob(glob) => {
            let (database, collection) = glob.text.split_once('.')?;
            let literal = |text: &str| text.replace(['*', '?'], "x");
            Some(Namespace::new(&literal(database), &literal(collection)))
        }
        NamespacePattern::Regex(_) => None,
    });
    include.filter(|namespace| selector.matches(namespace)).collect()
}

/// Whether two connection strings name a host in common.
fn meet(one: &Secret, other: &Secret) -> bool {
    let hosts = |uri: &Secret| -> Vec<String> {
        match ConnectionString::parse(uri.expose()).map(|parsed| parsed.host_info) {
            Ok(HostInfo::HostIdentifiers(hosts)) => hosts
                .iter()
                .map(|host| host.to_string().to_lowercase().replace("localhost", "127.0.0.1"))
                .collect(),
            Ok(HostInfo::DnsRecord(name)) => vec![name.to_lowercase()],
            _ => Vec::new(),
        }
    };
    let others = hosts(other);
    hosts(one).iter().any(|host| others.contains(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_common() {
        for (one, other, expected) in [
            ("mongodb://a:1,b:2/?replicaSet=x", "mongodb://user:p@B:2", true),
            ("mongodb://localhost:1", "mongodb://127.0.0.1:1", true),
            ("mongodb://a", "mongodb://a:27017", true),
            ("mongodb://a:1", "mongodb://a:2", false),
        ] {
            assert_eq!(meet(&Secret::new(one), &Secret::new(other)), expected, "{one} {other}");
        }
    }
}
