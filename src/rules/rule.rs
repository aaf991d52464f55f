//! One entry of `rules:`.

use bson::{Bson, RawDocumentBuf};

use super::{
    ddl,
    delivery::{self, Delivery},
    destination::{self, Placed},
    diagnostic::Span,
    extended_json, fingerprint,
    keys::{self, Map},
    model::{
        ChangesSettings, CopySettings, EventSettings, OnDelete, OnDrop, OnHistoryLost,
        OnRuleChange, Rule, Selector, Since,
    },
    namespace,
    node::{Node, Typed, Value},
    query,
    reader::{Fields, Reader},
    script::{self, Transform},
    targets::Named,
    units, wording,
};

/// What could be read of a rule. Checks across rules look at the parts, so that a slip in one rule
/// does not hide those between others.
pub struct Read {
    /// `name:`, else the one exact namespace.
    pub name: Option<String>,
    /// What to point at for the whole rule.
    pub span: Span,
    /// Whether a message may repeat the name and the namespaces.
    pub shown: bool,
    /// `namespace:`
    pub namespace_span: Span,
    /// `namespace:` and `exclude:`
    pub selector: Option<Selector>,
    /// `to:`
    pub placed: Option<Vec<Placed>>,
    /// The rest.
    pub rest: Option<Rest>,
}

/// What only the rule itself is concerned with.
pub struct Rest {
    copy: Option<CopySettings>,
    changes: Option<ChangesSettings>,
    events: Option<EventSettings>,
    filter: Option<RawDocumentBuf>,
    project: Option<RawDocumentBuf>,
    pipeline: Vec<RawDocumentBuf>,
    transform: Option<Transform>,
    limits: crate::transform::Limits,
    ddl: bool,
    on_delete: OnDelete,
    on_drop: OnDrop,
    on_rule_change: OnRuleChange,
    on_history_lost: OnHistoryLost,
}

impl Rest {
    /// Whether the rule follows changes.
    pub fn follows(&self) -> bool {
        self.changes.is_some()
    }

    /// Whether the script may choose where documents lie.
    pub fn may_move(&self) -> bool {
        self.transform.as_ref().is_some_and(|transform| transform.script.may_move())
    }
}

impl Read {
    /// Whether its script reads the source; `None` where the script could not be read.
    pub fn looks_up(&self) -> Option<bool> {
        let script = self.rest.as_ref()?.transform.as_ref();
        Some(script.is_some_and(|transform| transform.script.looks_up()))
    }

    /// Whether it delivers events; `None` where that could not be read.
    pub fn delivers_events(&self) -> Option<bool> {
        Some(self.rest.as_ref()?.events.is_some())
    }

    /// The rule, where all of it could be read.
    pub fn finish(self, targets: &[Named]) -> Option<Rule> {
        let (name, namespaces, rest) = (self.name?, self.selector?, self.rest?);
        let to: Vec<_> = self.placed?.into_iter().map(|placed| placed.destination).collect();
        let fingerprint = fingerprint::of(&fingerprint::Delivered {
            namespaces: &namespaces,
            filter: rest.filter.as_ref(),
            project: rest.project.as_ref(),
            pipeline: &rest.pipeline,
            transform: rest.transform.as_ref(),
            limits: rest.limits,
            events: rest.events.as_ref(),
            to: &to,
            targets,
        });
        Some(Rule {
            name,
            namespaces,
            copy: rest.copy,
            changes: rest.changes,
            events: rest.events,
            filter: rest.filter,
            project: rest.project,
            pipeline: rest.pipeline,
            transform: rest.transform.map(|transform| transform.script),
            ddl: rest.ddl,
            on_delete: rest.on_delete,
            on_drop: rest.on_drop,
            on_rule_change: rest.on_rule_change,
            on_history_lost: rest.on_history_lost,
            to,
            fingerprint,
        })
    }
}

/// Reads a rule.
pub fn read(reader: &mut Reader<'_>, node: &Node, targets: Option<&[Named]>) -> Option<Read> {
    let fields = reader.fields(node, "a rule", &keys::RULE)?;
    let span = fields.entries().first().map_or(&node.span, |first| &first.key_span).clone();
    let missing = |reader: &mut Reader<'_>, key: &str, help: &str| {
        reader.error(&span, format!("this rule has no `{key}`")).help(help);
    };
    let selector = match fields.get("namespace") {
        Some(node) => namespace::selector(reader, node, fields.get("exclude")),
        None if !fields.lacks("namespace") => None,
        None => {
            missing(reader, "namespace", "add what it reads, such as `namespace: shop.products`");
            None
        }
    };
    let name = name(reader, fields, selector.as_ref(), &span);
    let placed = match fields.get("to") {
        Some(node) => destination::destinations(reader, node, targets),
        None if !fields.lacks("to") => None,
        None => {
            missing(reader, "to", "add the name of a target");
            None
        }
    };
    // Without it, what else is wrong with the rule is told all the same.
    let delivery = delivery::delivery(reader, fields, &span, placed.as_deref());
    let rest = rest(reader, fields, delivery.unwrap_or(Delivery::Documents));
    let ddl = ddl::ddl(reader, fields, placed.as_deref(), delivery, rest.as_ref());
    let rest = delivery.and(rest).zip(ddl).map(|(rest, ddl)| Rest { ddl, ..rest });
    let namespace_span = fields.get("namespace").map_or(&span, |node| &node.span).clone();
    let span = fields.get("name").map_or(&namespace_span, |node| &node.span).clone();
    let shown = ["name", "namespace"]
        .into_iter()
        .all(|key| !fields.get(key).is_some_and(destination::substituted));
    Some(Read { name, span, shown, namespace_span, selector, placed, rest })
}

fn name(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    selector: Option<&Selector>,
    span: &Span,
) -> Option<String> {
    if let Some(node) = fields.get("name") {
        let name = reader.text(node, "`name`")?;
        if name.chars().any(char::is_control) {
            reader.error(&node.span, "`name` can't hold control characters");
            return None;
        }
        return Some(name);
    }
    let selector = selector?;
    match selector.exact() {
        Some(namespace) => Some(namespace.to_string()),
        None => {
            let span = fields.get("namespace").map_or(span, |node| &node.span);
            reader
                .error(span, "this rule needs a `name`")
                .label("more than one namespace")
                .help("a rule is named after its namespace only where that is one exact name");
            None
        }
    }
}

fn rest(reader: &mut Reader<'_>, fields: Fields<'_>, delivery: Delivery) -> Option<Rest> {
    let copy = match fields.get("copy") {
        Some(node) => copy(reader, node),
        None => Some((delivery == Delivery::Documents).then_some(COPY)),
    };
    let changes = match fields.get("changes") {
        Some(node) => changes(reader, node, copy),
        None => Some(Some(ChangesSettings { since: Since::Now })),
    };
    let events = delivery::events(reader, fields, delivery);
    if let (Some(None), Some(None), Some(entry)) = (copy, changes, fields.entry("changes")) {
        let error = reader.error(&entry.value.span, "this rule does nothing");
        let help = match fields.get("copy") {
            Some(_) => "take one of the two out, or the whole rule",
            None => "events are not copied unless `copy: true` says so",
        };
        error.label("without copy and without changes").help(help);
        if let Some(copy) = fields.get("copy") {
            error.also(copy.span.clone(), "");
        }
    }
    let piped = fields.get("pipeline").is_some();
    let filter = optional(fields, "filter", |node| query::filter(reader, node, piped));
    let project = optional(fields, "project", |node| query::project(reader, node));
    let pipeline = optional(fields, "pipeline", |node| query::pipeline(reader, node));
    let limits = match fields.get("limits") {
        Some(node) => script::limits(reader, node),
        None => Some(script::DEFAULT_LIMITS),
    };
    if let (Some(entry), None) = (fields.entry("limits"), fields.get("transform")) {
        reader
            .warning(&entry.key_span, "`limits` has no effect without a `transform`")
            .help("it limits the rule's script");
    }
    let transform = optional(fields, "transform", |node| {
        script::transform(reader, node, limits.unwrap_or(script::DEFAULT_LIMITS))
    });
    let on_delete = match fields.get("on_delete") {
        Some(node) => {
            let words = [("remove", OnDelete::Remove), ("keep", OnDelete::Keep)];
            reader.word(node, "`on_delete`", &words)
        }
        None => Some(OnDelete::Remove),
    };
    let on_drop = match fields.get("on_drop") {
        Some(node) => {
            let words = [("remove", OnDrop::Remove), ("keep", OnDrop::Keep)];
            reader.word(node, "`on_drop`", &words)
        }
        None => Some(OnDrop::Remove),
    };
    let on_rule_change = match fields.get("on_rule_change") {
        Some(node) => {
            let words = [("warn", OnRuleChange::Warn), ("resync", OnRuleChange::Resync)];
            reader.word(node, "`on_rule_change`", &words).filter(|word| {
                *word != OnRuleChange::Resync
                    || can_copy(reader, node, "on_rule_change: resync", copy)
            })
        }
        None => Some(OnRuleChange::Warn),
    };
    let on_history_lost = on_history_lost(reader, fields, copy, delivery);
    Some(Rest {
        copy: copy?,
        changes: changes?,
        events: events?,
        filter: filter?,
        project: project?,
        pipeline: pipeline?.unwrap_or_default(),
        transform: transform?,
        limits: limits?,
        // Read once the rest is known.
        ddl: false,
        on_delete: on_delete?,
        on_drop: on_drop?,
        on_rule_change: on_rule_change?,
        on_history_lost: on_history_lost?,
    })
}

/// `on_history_lost:`. What a rule without a copy has missed can't be read again, and of events that
/// were missed nothing is told by a copy either.
fn on_history_lost(
    reader: &mut Reader<'_>,
    fields: Fields<'_>,
    copy: Option<Option<CopySettings>>,
    delivery: Delivery,
) -> Option<OnHistoryLost> {
    let Some(node) = fields.get("on_history_lost") else {
        return Some(match copy {
            Some(None) => OnHistoryLost::Stop,
            _ if delivery == Delivery::Events => OnHistoryLost::Stop,
            _ => OnHistoryLost::Resync,
        });
    };
    let words = [
        ("resync", OnHistoryLost::Resync),
        ("stop", OnHistoryLost::Stop),
        ("now", OnHistoryLost::Now),
    ];
    let word = reader.word(node, "`on_history_lost`", &words)?;
    let possible =
        word != OnHistoryLost::Resync || can_copy(reader, node, "on_history_lost: resync", copy);
    possible.then_some(word)
}

/// Whether the rule copies, which a resync does again; says so where it does not.
fn can_copy(
    reader: &mut Reader<'_>,
    node: &Node,
    what: &str,
    copy: Option<Option<CopySettings>>,
) -> bool {
    if copy != Some(None) {
        return true;
    }
    reader
        .error(&node.span, format!("`{what}` needs a rule that copies"))
        .label("this rule does not copy")
        .help("say `copy: true`, or choose another word");
    false
}

/// A key that may be absent: the outer `None` is a fault.
fn optional<T>(
    fields: Fields<'_>,
    key: &str,
    read: impl FnOnce(&Node) -> Option<T>,
) -> Option<Option<T>> {
    match fields.get(key) {
        Some(node) => read(node).map(Some),
        None => Some(None),
    }
}

const COPY: CopySettings = CopySettings::DEFAULT;

/// `copy:`: the inner `None` is `false`.
fn copy(reader: &mut Reader<'_>, node: &Node) -> Option<Option<CopySettings>> {
    if !matches!(node.value, Value::Map(_)) {
        return switch(reader, node, "`copy`", &keys::COPY).map(|copy| copy.then_some(COPY));
    }
    let fields = reader.fields(node, "`copy`", &keys::COPY)?;
    let parallel = match fields.get("parallel") {
        Some(node) => reader
            .whole(node, "`parallel`", 1..=64)
            .and_then(|parallel| usize::try_from(parallel).ok()),
        None => Some(COPY.parallel),
    };
    let chunk = match fields.get("chunk") {
        Some(node) => reader.size(node, "`chunk`"),
        None => Some(COPY.chunk),
    };
    let allow_disk_use = match fields.get("allow_disk_use") {
        Some(node) => reader.boolean(node, "`allow_disk_use`"),
        None => Some(COPY.allow_disk_use),
    };
    let copy = CopySettings { parallel: parallel?, chunk: chunk?, allow_disk_use: allow_disk_use? };
    Some(Some(copy))
}

/// `true` or `false`, where a map would do too.
fn switch(reader: &mut Reader<'_>, node: &Node, what: &str, map: &'static Map) -> Option<bool> {
    match &node.value {
        Value::Scalar(scalar) if matches!(scalar.setting(), Typed::Bool(_)) => {
            reader.boolean(node, what)
        }
        Value::Poison => None,
        _ => {
            let takes = format!("`true`, `false` or a map with {}", wording::list(&map.names()));
            reader.mismatch(node, what, takes);
            None
        }
    }
}

/// `changes:`: the inner `None` is `false`.
fn changes(
    reader: &mut Reader<'_>,
    node: &Node,
    copy: Option<Option<CopySettings>>,
) -> Option<Option<ChangesSettings>> {
    if !matches!(node.value, Value::Map(_)) {
        let changes = switch(reader, node, "`changes`", &keys::CHANGES)?;
        return Some(changes.then_some(ChangesSettings { since: Since::Now }));
    }
    let fields = reader.fields(node, "`changes`", &keys::CHANGES)?;
    let Some(since_node) = fields.get("since") else {
        return Some(Some(ChangesSettings { since: Since::Now }));
    };
    let since = since(reader, since_node)?;
    if let (Some(Some(_)), Since::Time(_)) = (copy, since) {
        reader
            .warning(&since_node.span, "`since` has no effect where the rule copies")
            .help("the changes begin where the copy began; write `copy: false` to begin elsewhere");
    }
    Some(Some(ChangesSettings { since }))
}

/// `since:`
fn since(reader: &mut Reader<'_>, node: &Node) -> Option<Since> {
    const HELP: &str = "write `now`, a time such as `2026-11-20T00:00:00Z`, or a cluster time as \
                        `seconds.increment`, such as `1795227029.1`";
    let time = match &node.value {
        Value::Map(_) => match extended_json::value(reader, node)? {
            Bson::DateTime(date) => units::at_millis(date.timestamp_millis()),
            Bson::Timestamp(time) => Some(time),
            _ => None,
        },
        Value::Scalar(scalar) if !scalar.absent => match scalar.text.as_str() {
            "now" => return Some(Since::Now),
            text => units::point_in_time(text),
        },
        Value::Poison => return None,
        _ => None,
    };
    if time.is_none() {
        let day = node.scalar().is_some_and(|scalar| scalar.text.len() == 10);
        let error = reader.error(&node.span, "`since` takes a point in time");
        error.help(HELP);
        if day {
            error.label("the time of day and the zone are missing");
        }
    }
    time.map(Since::Time)
}
