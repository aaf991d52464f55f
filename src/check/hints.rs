//! What a file that is in order still does that its author may not expect. Told from the file alone.

use bson::{Bson, Document, RawDocumentBuf};
use reqwest::Url;

use crate::{
    change::Namespace,
    finding::{Finding, Part},
    rules::{
        model::{
            CheckpointStore, Destination, Engine, EngineAuth, EnginePlace, EventSettings,
            FullDocument, NamespacePattern, OnDrop, Place, Rule, RuleFile, Target, TargetKind, Tls,
            Webhook, WebhookFormat,
        },
        template::{Part as Piece, Template},
        units::written_size,
    },
    source::stream::Scope,
    target::http::{check_certificates, is_loopback},
};

use super::{
    account::{places_are_kept, projected},
    online::causes,
};

/// Engines refuse a larger request, unless told otherwise (`http.max_content_length`).
const MOST_BYTES: usize = 100 << 20;

/// In the order of the file: targets, rules, then what concerns several of them.
pub fn hints(rules: &RuleFile) -> Vec<Finding> {
    let mut found = Vec::new();
    for target in &rules.targets {
        let part = || Part::Target(target.name.clone());
        match &target.kind {
            TargetKind::Engine(engine) => connection(engine, part, &mut found),
            TargetKind::Webhook(webhook) => {
                let documents =
                    rules.deliveries(&target.name).any(|(rule, _)| rule.events.is_none());
                told(webhook, documents, part, &mut found);
            }
            TargetKind::MongoDb(_) => {}
            TargetKind::File(_) | TargetKind::Stdout(_) | TargetKind::Own => {}
        }
        let engine = matches!(target.kind, TargetKind::Engine(_));
        if engine && target.delivery.max_bytes > MOST_BYTES {
            let words = format!(
                "`max_bytes` is {}, and an engine takes {} in one request where nobody told it otherwise",
                written_size(target.delivery.max_bytes),
                written_size(MOST_BYTES)
            );
            found.push(Finding::warning("large_requests", part(), words).help(
                "larger requests are refused and sent again in halves: choose less, or raise \
                 `http.max_content_length` in the engine",
            ));
        }
        let whole = |own: &Vec<&Rule>| {
            let followed = own.iter().filter(|rule| rule.changes.is_some());
            let mut selectors = followed.map(|rule| &rule.namespaces).peekable();
            selectors.peek().is_some() && Scope::of(selectors) == Scope::Deployment
        };
        if rules.pipelines(&target.name).iter().any(|(_, own)| whole(own)) {
            let words = "its rules read several databases, so that it follows the changes of the whole \
                         deployment";
            found.push(Finding::note("whole_deployment", part(), words).help(
                "that needs `find` and `changeStream` on all databases, as the role `readAnyDatabase` \
                 has them; rules over one database in a file of their own do without",
            ));
        }
    }
    if let CheckpointStore::File { path } = &rules.checkpoint.store {
        let words = format!(
            "positions lie in the folder {}, which keeps no two processes on two machines apart",
            path.display()
        );
        found.push(Finding::note("store_of_one_machine", Part::Checkpoint, words).help(
            "run the file on one machine alone, or keep positions in a MongoDB: `checkpoint: { mongodb: \
             { uri: … } }`",
        ));
    }
    for rule in &rules.rules {
        reading(rule, &mut found);
        scripted(rule, &mut found);
        events(rule, &mut found);
        for destination in &rule.to {
            let target = rules.targets.iter().find(|target| target.name == destination.target);
            let target = target.expect("a rule that leads nowhere is no rule file");
            placed(rule, target, destination, &mut found);
        }
    }
    for target in &rules.targets {
        let deliveries: Vec<_> = rules.deliveries(&target.name).collect();
        for (number, later) in deliveries.iter().enumerate() {
            for earlier in &deliveries[..number] {
                same_place(&target.name, earlier, later, &mut found);
            }
        }
    }
    let told: Vec<_> = rules.targets.iter().flat_map(|target| hooked(rules, target)).collect();
    for (number, later) in told.iter().enumerate() {
        for earlier in &told[..number] {
            same_url(earlier, later, &mut found);
        }
    }
    found
}

/// A rule that a webhook is told by.
type Hooked<'r> = (&'r Rule, &'r str, &'r Webhook);

fn hooked<'r>(rules: &'r RuleFile, target: &'r Target) -> Vec<Hooked<'r>> {
    let TargetKind::Webhook(webhook) = &target.kind else { return Vec::new() };
    let deliveries = rules.deliveries(&target.name);
    deliveries.map(|(rule, _)| (rule, target.name.as_str(), webhook)).collect()
}

fn connection(engine: &Engine, part: impl Fn() -> Part, found: &mut Vec<Finding>) {
    let secret = !matches!(engine.auth, EngineAuth::None);
    let open = engine.urls.iter().find(|url| url.starts_with("http://") && !is_near(url));
    if let Some(url) = open.filter(|_| secret) {
        let words = format!("the login is sent to {url} in clear text");
        found.push(Finding::warning("login_in_clear", part(), words).help("use https"));
    }
    any_certificate(&engine.tls, "the engine's own authority", part, found);
}

/// Certificates that the file names and that can't be used.
pub fn certificates(rules: &RuleFile) -> Vec<Finding> {
    let unusable = |target: &Target| {
        let tls = match &target.kind {
            TargetKind::Engine(engine) => &engine.tls,
            TargetKind::Webhook(webhook) => &webhook.tls,
            TargetKind::MongoDb(_)
            | TargetKind::File(_)
            | TargetKind::Stdout(_)
            | TargetKind::Own => return None,
        };
        let error = check_certificates(tls).err()?;
        let part = Part::Target(target.name.clone());
        Some(
            Finding::error("settings", part, causes(&error))
                .help("paths below `tls` start from the rule file's folder"),
        )
    };
    rules.targets.iter().filter_map(unusable).collect()
}

fn any_certificate(tls: &Tls, instead: &str, part: impl Fn() -> Part, found: &mut Vec<Finding>) {
    if tls.insecure {
        let words = "`insecure` accepts any certificate: whoever stands between is not noticed";
        found.push(
            Finding::warning("any_certificate", part(), words)
                .help(format!("name {instead} under `tls.ca` in its place")),
        );
    }
}

/// What a webhook's settings lead to.
fn told(webhook: &Webhook, documents: bool, part: impl Fn() -> Part, found: &mut Vec<Finding>) {
    let origin = &webhook.url.origin;
    let open = origin.starts_with("http://") && !is_near(origin);
    if open && webhook.headers.iter().any(|header| !header.shown) {
        let words = format!("secret headers are sent to {origin} in clear text");
        found.push(Finding::warning("login_in_clear", part(), words).help("use https"));
    }
    any_certificate(&webhook.tls, "the endpoint's own authority", &part, found);
    if webhook.secrets.is_empty() {
        let words = "messages are not signed: whoever knows the URL can send others like them";
        found.push(
            Finding::note("unsigned", part(), words)
                .help("add a `secret`, and let the receiver verify `webhook-signature`"),
        );
    }
    if !documents || webhook.format != WebhookFormat::Document {
        return;
    }
    if webhook.url.is_of_one_document() {
        let words = "with `format: document`, a removal is a `DELETE`, also of what the endpoint does not \
                     have: whatever it answers but 2xx is waited for or becomes a dead letter";
        found.push(Finding::note("deletes", part(), words).help(
            "have it answer 2xx to a `DELETE` of what is not there: after a restart some are sent again",
        ));
    } else {
        let words = "with `format: document` and a URL that several documents share, nothing is sent of \
                     a document that is gone: a `DELETE` could take others away";
        found.push(Finding::note("removals", part(), words).help(
            "put `{_id}` into the path of the `url`, beside no other value of the document, or \
                     take another `format`",
        ));
    }
}

fn is_near(url: &str) -> bool {
    Url::parse(url).map_or(true, |url| is_loopback(&url))
}

/// What a rule reads, and from when.
fn reading(rule: &Rule, found: &mut Vec<Finding>) {
    let part = || Part::Rule(rule.name.clone());
    let joins = rule.pipeline.iter().any(|stage| {
        let name = stage.iter().flatten().next().map(|(name, _)| name.as_str());
        matches!(name, Some("$lookup" | "$graphLookup"))
    });
    if joins {
        found.push(
            Finding::note(
                "join",
                part(),
                "a join is as of the document's own last change: when only the other collection \
                 changes, the target keeps what it had",
            )
            .help("where that matters, change the document too"),
        );
    }
    let reads: Vec<&RawDocumentBuf> =
        rule.filter.iter().chain(&rule.project).chain(&rule.pipeline).collect();
    let mentions = |wanted: &[&str]| {
        reads.iter().any(|read| {
            Document::try_from(read.as_ref())
                .is_ok_and(|read| mentions(&Bson::Document(read), wanted))
        })
    };
    if mentions(&["$$NOW", "$$CLUSTER_TIME"]) {
        let words = "`$$NOW` is the time of the document's own last change: nothing enters or leaves \
                     the target because time passes";
        found.push(Finding::note("now", part(), words));
    }
    if mentions(&["$rand", "$sampleRate"]) {
        let words = "what is random is drawn anew whenever a document is read, and copy and changes \
                     differ in it";
        found.push(Finding::warning("random", part(), words));
    }
    match (rule.copy, rule.changes) {
        // What is told of changes tells of no more.
        (None, Some(_)) if rule.events.is_some() => {}
        (None, Some(_)) => found.push(Finding::note(
            "no_copy",
            part(),
            "what is there already reaches the target only once it changes",
        )),
        (Some(_), None) => found.push(Finding::note(
            "no_changes",
            part(),
            "what was copied stays as it was, whatever becomes of it in the source",
        )),
        _ => {}
    }
}

/// What a rule that delivers events asks of MongoDB, and what it does not bring.
fn events(rule: &Rule, found: &mut Vec<Finding>) {
    let Some(events) = &rule.events else { return };
    let part = || Part::Rule(rule.name.clone());
    if events.needs_images() && rule.changes.is_some() {
        let words = "images of the documents are required: mongosync switches them on \
                     (`changeStreamPreAndPostImages`, by `collMod`) in the collections that do not keep \
                     them";
        found.push(Finding::note("images", part(), words).help(
            "they take room in MongoDB's database `config` until they expire \
             (`changeStreamOptions.preAndPostImages.expireAfterSeconds`)",
        ));
    }
    let skips =
        rule.transform.as_ref().is_some_and(|it| it.calls("skip()") || it.calls("remove()"));
    if rule.copy.is_some() && rule.changes.is_some() && skips {
        let words = "`copy` has gaps where the script skips changes: a document that changes while it is \
                     copied is told by that change alone, and by nothing where the script skips it";
        found.push(Finding::warning("copy_gaps", part(), words).help(
            "let a rule with `delivery: documents` bring what is there, or skip nothing that a receiver \
             needs to know a document by",
        ));
    }
}

/// Whether a value holds one of these as a key or as the beginning of a text.
fn mentions(value: &Bson, wanted: &[&str]) -> bool {
    match value {
        Bson::String(text) => wanted.iter().any(|wanted| {
            text.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        }),
        Bson::Array(items) => items.iter().any(|item| mentions(item, wanted)),
        Bson::Document(fields) => fields
            .iter()
            .any(|(name, value)| wanted.contains(&name.as_str()) || mentions(value, wanted)),
        _ => false,
    }
}

fn scripted(rule: &Rule, found: &mut Vec<Finding>) {
    let Some(script) = &rule.transform else { return };
    let part = || Part::Rule(rule.name.clone());
    if script.calls("lookup") || script.calls("lookup_all") {
        let words = "what `lookup()` finds is as of the document's own last change: when only the other \
                     collection changes, the target keeps what it had";
        found.push(Finding::note("join", part(), words));
    }
    if script.calls("now()") {
        let words = "`now()` is the time at which a document was last delivered: it differs between \
                     two deliveries of one change, and nothing follows the time as it passes";
        found.push(Finding::note("now", part(), words));
    }
    if script.calls("uuid()") || script.calls("object_id()") {
        let words = "`uuid()` and `object_id()` without an argument give another value at each \
                     delivery, also where one change is delivered twice";
        found.push(
            Finding::warning("random", part(), words)
                .help("make the value from the document: `sha256(…)` of its `_id`, for one"),
        );
    }
}

/// Where a rule's documents lie.
fn placed(rule: &Rule, target: &Target, destination: &Destination, found: &mut Vec<Finding>) {
    let part = || Part::Rule(rule.name.clone());
    let kept = places_are_kept(rule, target, destination);
    let drops = rule.on_drop == OnDrop::Remove && rule.changes.is_some() && rule.events.is_none();
    let forgets = matches!(destination.place, Place::Webhook | Place::File | Place::Stdout);
    if forgets && drops && !kept {
        let words = format!(
            "where a collection is dropped or renamed away, {} is not told that its documents are gone: \
             nobody knows which ones it was told of",
            destination.target
        );
        found.push(
            Finding::note("dropped", part(), words).help(
                "`on_drop: keep` says as much; a document that is deleted is told of as ever",
            ),
        );
    }
    if kept {
        let words = format!(
            "in {} a document can move: where each one lies is kept in the checkpoint store, a record \
             a document",
            destination.target
        );
        found.push(Finding::note("places", part(), words));
    }
    let looked_up = |events: &EventSettings| events.full_document == FullDocument::UpdateLookup;
    if rule.events.as_ref().is_some_and(looked_up)
        && let Some((what, help)) = lies_by_field(&destination.place)
    {
        let words = format!(
            "in {} an event can lie twice: its {what} is made of the document's fields, and \
             `full_document: update_lookup` brings them as they are when the event is read, perhaps again \
             after a restart",
            destination.target
        );
        found.push(Finding::warning("event_places", part(), words).help(format!(
            "`full_document: required` brings the document as it was behind the change; or make {help}"
        )));
    }
    let Some(project) = rule.project.as_ref().map(projected) else { return };
    if project.keeps || !rule.pipeline.is_empty() || rule.transform.is_some() {
        return;
    }
    for (key, template) in templates(target, destination) {
        for piece in template.parts() {
            let Piece::Field(path) = piece else { continue };
            let path = path.join(".");
            let gone = project.fields.iter().any(|field| {
                path.strip_prefix(field)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            });
            if gone {
                let words = format!(
                    "`{key}` is made from `{path}`, which `project` takes out: every document would \
                     become a dead letter"
                );
                found.push(
                    Finding::warning("field_taken_out", part(), words)
                        .help("take it out in a `transform`, or name another field"),
                );
            }
        }
    }
}

/// What of an event's place is made of a field, and what to make it of instead.
fn lies_by_field(place: &Place) -> Option<(&'static str, &'static str)> {
    let by_field =
        |template: &Option<Template>| template.as_ref().is_some_and(Template::depends_on_document);
    match place {
        Place::Engine(place) if by_field(&place.index.name) || by_field(&place.routing) => {
            Some(("index or shard", "the index and the routing of the namespace or of `{_id}`"))
        }
        Place::MongoDb(place) if by_field(&place.namespace) => {
            Some(("collection", "`namespace` of `{db}`, `{collection}` and `{rule}`"))
        }
        _ => None,
    }
}

fn templates<'a>(
    target: &'a Target,
    destination: &'a Destination,
) -> Vec<(&'static str, &'a Template)> {
    match (&destination.place, &target.kind) {
        (Place::Engine(place), _) => [
            ("id", &place.id),
            ("routing", &place.routing),
            ("ingest_pipeline", &place.ingest_pipeline),
            ("index", &place.index.name),
        ]
        .into_iter()
        .filter_map(|(key, template)| Some((key, template.as_ref()?)))
        .collect(),
        (Place::MongoDb(place), _) => {
            place.namespace.iter().map(|template| ("namespace", template)).collect()
        }
        (Place::Webhook, TargetKind::Webhook(webhook)) => {
            let headers = webhook.headers.iter().map(|header| ("headers", &header.value));
            [("url", &webhook.url.path)].into_iter().chain(headers).collect()
        }
        (Place::File, TargetKind::File(file)) => vec![("path", &file.path)],
        (Place::Webhook | Place::File | Place::Stdout | Place::Own, _) => Vec::new(),
    }
}

/// Two rules that put the same document in the same place.
fn same_place(
    target: &str,
    (one, first): &(&Rule, &Destination),
    (other, second): &(&Rule, &Destination),
    found: &mut Vec<Finding>,
) {
    let (first, second) = (&first.place, &second.place);
    let id = |place: &Place| match place {
        Place::Engine(EnginePlace { id: Some(template), .. }) => template.as_str().to_owned(),
        _ => "{_id}".to_owned(),
    };
    // Each event has a place for itself.
    if one.events.is_some() || other.events.is_some() {
        return;
    }
    if id(first) != id(second) || id(first).contains("{rule}") {
        return;
    }
    let both = both_read(one, other).find(|namespace| {
        let lies = |rule: &Rule, place: &Place| match place {
            Place::Engine(place) => place.index.name_for(namespace, Some(&rule.name)),
            Place::MongoDb(place) => place.name_for(namespace, Some(&rule.name)),
            Place::Webhook | Place::File | Place::Stdout | Place::Own => None,
        };
        lies(one, first).is_some_and(|name| Some(name) == lies(other, second))
    });
    let Some(namespace) = both else { return };
    let words = format!(
        "the rules {} and {} put the documents of {namespace} in the same place of {target}: one that \
         both take becomes a dead letter",
        one.name, other.name
    );
    let finding = match chooses(one) && chooses(other) {
        true => Finding::note,
        false => Finding::warning,
    };
    found.push(finding("same_place", Part::Rule(other.name.clone()), words).help(match second {
        Place::MongoDb(_) => {
            "give each a collection of its own, or filters that never take the same document"
        }
        _ => {
            "give each an index or an id of its own, such as \"{rule}-{_id}\", or filters that \
                 never take the same document"
        }
    }));
}

/// Two rules that tell one URL of the same documents, or of the same events. Who has one told both is
/// told two things.
fn same_url(
    (one, first, webhook): &Hooked<'_>,
    (other, second, same): &Hooked<'_>,
    found: &mut Vec<Finding>,
) {
    let url =
        |webhook: &Webhook| (webhook.url.origin.clone(), webhook.url.path.as_str().to_owned());
    let kinds_differ = one.events.is_some() != other.events.is_some();
    if one.name == other.name || kinds_differ || url(webhook) != url(same) {
        return;
    }
    if webhook.url.names(&Piece::Rule) {
        return;
    }
    let Some(namespace) = both_read(one, other).next() else { return };
    let targets = match first == second {
        true => (*first).to_owned(),
        false => format!("{first} and {second}, which is one URL,"),
    };
    let what = if one.events.is_some() { "each event" } else { "each document" };
    let words = format!(
        "the rules {} and {} tell {targets} of {namespace}: {what} that both take is told twice, under two \
         ids",
        one.name, other.name
    );
    let finding = match chooses(one) && chooses(other) {
        true => Finding::note,
        false => Finding::warning,
    };
    found.push(finding("same_url", Part::Rule(other.name.clone()), words).help(
        "put `{rule}` into the `url`, or give them filters that never take the same document",
    ));
}

/// Whether a rule may leave out some of what it reads.
fn chooses(rule: &Rule) -> bool {
    rule.filter.is_some() || !rule.pipeline.is_empty() || rule.transform.is_some()
}

/// The namespaces that are named exactly by one of two rules and read by both.
fn both_read<'r>(one: &'r Rule, other: &'r Rule) -> impl Iterator<Item = &'r Namespace> {
    let named = |rule: &'r Rule| {
        rule.namespaces.include.iter().filter_map(|pattern| match pattern {
            NamespacePattern::Exact(namespace) => Some(namespace),
            NamespacePattern::Glob(_) | NamespacePattern::Regex(_) => None,
        })
    };
    named(one).chain(named(other)).filter(|namespace| {
        one.namespaces.matches(namespace) && other.namespaces.matches(namespace)
    })
}
