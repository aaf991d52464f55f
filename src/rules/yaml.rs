//! YAML text → a tree in which every value knows its place in the file.
//!
//! It comes first in reading a rule file. serde stops at the first thing it dislikes and forgets
//! where values stood, so the tree is built from the parser's own events; the readers then walk it
//! and collect everything that is wrong. What is broken but leaves the rest readable (a key that
//! stands twice, an alias that leads nowhere) is told here and becomes [`Value::Poison`], which no
//! reader complains about a second time.
//!
//! Nothing here knows a key of the rule file.

use std::{collections::HashMap, rc::Rc};

use serde_yaml::granit_parser::{Event, Options, Parser, ScalarStyle, Tag, options};

use super::{
    diagnostic::{Diagnostic, Span},
    interpolate::Interpolate,
    node::{Entry, Node, Scalar, Style, Value},
    syntax,
    wording::shown_text,
};

/// The largest file that is read, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Values in a file, those behind aliases counted once for each alias: aliases of aliases can stand
/// for more values than any memory holds.
const MAX_NODES: usize = 200_000;
/// Lists and maps inside one another.
const MAX_DEPTH: usize = 64;

/// The tree of a file that is YAML, and what was found on the way.
pub struct Tree {
    /// The topmost value; `None` for a file in which nothing is written.
    pub root: Option<Node>,
    /// What is wrong without keeping the rest from being read.
    pub found: Vec<Diagnostic>,
    /// What could not be used, because its key was no text or stood there before.
    pub dropped: Vec<Dropped>,
}

/// The value of a key that could not be used.
pub struct Dropped {
    /// The keys from the top down, its own as the last; empty where a key is no text.
    pub path: Vec<String>,
    /// The value.
    pub value: Node,
}

/// Builds the tree. `replace` is asked for `${…}` in every scalar but those whose path
/// `is_verbatim` names: keys from the top, a list as `-`.
///
/// # Errors
/// One diagnostic, where the text is not YAML or is larger than it may be.
pub fn parse(
    text: &str,
    replace: &dyn Interpolate,
    is_verbatim: fn(&[&str]) -> bool,
) -> Result<Tree, Box<Diagnostic>> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Box::new(Diagnostic::error(0..0, message)));
    }
    let mut builder = Builder {
        text,
        replace,
        is_verbatim,
        open: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        documents: 0,
        root: None,
        found: Vec::new(),
        dropped: Vec::new(),
    };
    let mut last_end = 0;
    for event in Parser::new_from_str_with_options(text, parser_options()) {
        let (event, span) = event.map_err(|error| {
            let open = builder.open.last().map(|open| open.span.clone());
            Box::new(syntax::explain(text, last_end, open, &error))
        })?;
        let tag = span.tag_span().and_then(|tag| tag.byte_range());
        let span = span.byte_range().unwrap_or(last_end..last_end);
        last_end = span.end.max(last_end);
        builder.take(event, span, tag)?;
    }
    Ok(Tree { root: builder.root, found: builder.found, dropped: builder.dropped })
}

fn parser_options() -> Options {
    options! {
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH * 2,
        block_nesting_limit: MAX_DEPTH * 2,
    }
}

/// A list or map whose end has not come yet.
struct Open {
    span: Span,
    anchor: usize,
    /// `None` for a list.
    key: Option<Option<Key>>,
    items: Vec<Node>,
    entries: Vec<Entry>,
    /// Where each key stands; a search through the entries would take for ever in a huge map.
    seen: HashMap<Rc<str>, Span>,
    merges: Vec<Node>,
    size: Size,
}

/// What an alias of a value costs again.
#[derive(Clone, Copy)]
struct Size {
    /// Values in it, itself included.
    nodes: usize,
    /// Lists and maps inside one another, itself included where it is one.
    depth: usize,
}

impl Size {
    const ONE: Self = Self { nodes: 1, depth: 0 };
}

struct Key {
    text: Rc<str>,
    written: Option<Rc<str>>,
    span: Span,
    /// A merge key is `<<` without quotes.
    merge: bool,
    /// The value is thrown away: the key was no text, or stood there before.
    ignore: bool,
}

struct Builder<'a> {
    text: &'a str,
    replace: &'a dyn Interpolate,
    is_verbatim: fn(&[&str]) -> bool,
    open: Vec<Open>,
    /// Finished anchors and how much each stands for.
    anchors: HashMap<usize, (Node, Size)>,
    nodes: usize,
    documents: usize,
    root: Option<Node>,
    found: Vec<Diagnostic>,
    dropped: Vec<Dropped>,
}

impl Builder<'_> {
    fn take(
        &mut self,
        event: Event<'_>,
        span: Span,
        tag_span: Option<Span>,
    ) -> Result<(), Box<Diagnostic>> {
        let tag_span = tag_span.as_ref().unwrap_or(&span).clone();
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let mut error = Diagnostic::error(span, "a rule file is one YAML document");
                    error
                        .label("a second one begins here")
                        .help("take this line out, or put what follows into a file of its own");
                    return Err(Box::new(error));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, &span)?;
                let node =
                    self.scalar(&text, style, tag.as_deref().map(|tag| (tag, &tag_span)), span);
                self.finish(node, anchor, Size::ONE);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &tag_span, "seq");
                self.begin(span, anchor, None)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(tag.as_deref(), &tag_span, "map");
                self.begin(span, anchor, Some(None))?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let open = self.open.pop().expect("the parser ends only what it began");
                self.end(open, span);
            }
            Event::Alias(id) => self.alias(id, span)?,
            Event::UnresolvedAlias(_) => {
                self.found.push(syntax::star(self.text, span.clone()));
                self.finish(poison(span), 0, Size::ONE);
            }
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, span: &Span) -> Result<(), Box<Diagnostic>> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            let mut error = Diagnostic::error(
                span.clone(),
                format!("the file holds more than {MAX_NODES} values"),
            );
            error.label("here").help("a value behind an anchor counts once for each alias");
            return Err(Box::new(error));
        }
        Ok(())
    }

    fn check_depth(&self, more: usize, span: &Span) -> Result<(), Box<Diagnostic>> {
        if self.open.len() + more <= MAX_DEPTH {
            return Ok(());
        }
        let message = format!("lists and maps are nested deeper than {MAX_DEPTH} levels");
        let mut error = Diagnostic::error(span.clone(), message);
        error.help("no rule needs that: look at the brackets and the indentation above");
        Err(Box::new(error))
    }

    fn begin(
        &mut self,
        span: Span,
        anchor: usize,
        key: Option<Option<Key>>,
    ) -> Result<(), Box<Diagnostic>> {
        self.count(1, &span)?;
        self.check_depth(1, &span)?;
        let size = Size { nodes: 1, depth: 1 };
        self.open.push(Open {
            span,
            anchor,
            key,
            items: Vec::new(),
            entries: Vec::new(),
            seen: HashMap::new(),
            merges: Vec::new(),
            size,
        });
        Ok(())
    }

    fn end(&mut self, mut open: Open, end: Span) {
        let span = open.span.start..end.end.max(open.span.end);
        let owner = span.clone();
        let value = if open.key.is_none() {
            Value::List(Rc::new(open.items))
        } else {
            self.merge(&mut open);
            Value::Map(Rc::new(open.entries))
        };
        self.finish(Node { value, span, owner }, open.anchor, open.size);
    }

    /// `<<: *defaults`: what the map does not say itself.
    fn merge(&mut self, open: &mut Open) {
        for source in std::mem::take(&mut open.merges) {
            let sources = match &source.value {
                Value::List(items) => items.to_vec(),
                _ => vec![source],
            };
            for source in sources {
                match source.value {
                    Value::Map(entries) => {
                        for entry in entries.iter() {
                            if !open.seen.contains_key(&entry.key) {
                                open.seen.insert(entry.key.clone(), entry.key_span.clone());
                                open.entries.push(entry.clone());
                            }
                        }
                    }
                    Value::Poison => {}
                    _ => self.found.push(Diagnostic::error(
                        source.span,
                        "`<<` takes a map, or a list of maps, to be merged into this one",
                    )),
                }
            }
        }
    }

    fn alias(&mut self, id: usize, span: Span) -> Result<(), Box<Diagnostic>> {
        let Some((node, size)) = self.anchors.get(&id).cloned() else {
            let mut error = Diagnostic::error(span.clone(), "an anchor can't hold its own alias");
            error.help("write out here what is meant");
            self.found.push(error);
            self.finish(poison(span), 0, Size::ONE);
            return Ok(());
        };
        self.count(size.nodes, &span)?;
        self.check_depth(size.depth, &span)?;
        self.finish(node, 0, size);
        Ok(())
    }

    /// Puts a finished value into what it stands in.
    fn finish(&mut self, mut node: Node, anchor: usize, size: Size) {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(mut open) = self.open.pop() else {
            self.root = Some(node);
            return;
        };
        open.size.nodes = open.size.nodes.saturating_add(size.nodes);
        open.size.depth = open.size.depth.max(size.depth + 1);
        match &mut open.key {
            None => open.items.push(node),
            Some(slot) => match slot.take() {
                None => *slot = Some(self.key(&node, &mut open.seen)),
                Some(key) if key.ignore => {
                    let mut path: Vec<_> = self.path().into_iter().map(str::to_owned).collect();
                    path.push(key.text.to_string());
                    self.dropped.push(Dropped { path, value: node });
                }
                Some(key) if key.merge => open.merges.push(node),
                Some(key) => {
                    node.owner = key.span.clone();
                    let (written, key_span) = (key.written, key.span);
                    open.entries.push(Entry { key: key.text, written, key_span, value: node });
                }
            },
        }
        self.open.push(open);
    }

    fn key(&mut self, node: &Node, seen: &mut HashMap<Rc<str>, Span>) -> Key {
        let span = node.span.clone();
        let Value::Scalar(scalar) = &node.value else {
            if !matches!(node.value, Value::Poison) {
                let mut error = Diagnostic::error(span.clone(), "a key must be plain text");
                error.label("this is a list or a map").help(
                    "text that begins with `{` or `[` needs quotes, and so does a template: \"{_id}\"",
                );
                self.found.push(error);
            }
            return Key { text: "".into(), written: None, span, merge: false, ignore: true };
        };
        let merge = scalar.style == Style::Plain && scalar.text == "<<";
        let text: Rc<str> = scalar.text.as_str().into();
        let first = seen.get(&text);
        let ignore = first.is_some();
        if let Some(first) = first {
            let name = shown_text(&self.text[span.clone()]);
            let mut error = Diagnostic::error(span.clone(), format!("the key {name} stands twice"));
            error.label("again here").also(first.clone(), "first here");
            self.found.push(error);
        }
        // One merge key after another is allowed.
        if !ignore && !merge {
            seen.insert(text.clone(), span.clone());
        }
        let written = scalar.substituted.then(|| self.text[span.clone()].into());
        Key { text, written, span, merge, ignore }
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<(&Tag, &Span)>,
        span: Span,
    ) -> Node {
        // The parser hands out `~` where nothing stands.
        let absent = span.is_empty() && style == ScalarStyle::Plain;
        let mut style = match style {
            ScalarStyle::Plain => Style::Plain,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => Style::Quoted,
            ScalarStyle::Literal => Style::Literal,
            ScalarStyle::Folded => Style::Folded,
        };
        match tag {
            // `!` alone and `!!str` make text of a plain scalar.
            Some((tag, _)) if tag.is_yaml_core_schema_tag("str") || tag.suffix() == "!" => {
                style = if style == Style::Plain { Style::Quoted } else { style };
            }
            Some((tag, tag_span)) => {
                self.unknown_tag(tag, tag_span);
                return poison(span);
            }
            None => {}
        }
        let mut scalar = Scalar { text: text.to_owned(), style, substituted: false, absent };
        if absent {
            scalar.text.clear();
        } else if !(self.is_verbatim)(&self.path()) {
            let (replaced, faults) = self.replace.interpolate(text);
            if !faults.is_empty() {
                for fault in faults {
                    let written = &self.text[span.clone()];
                    let place = match written.find(&fault.written) {
                        Some(at) => span.start + at..span.start + at + fault.written.len(),
                        None => span.clone(),
                    };
                    let mut error = Diagnostic::error(place, fault.message);
                    if let Some(help) = fault.help {
                        error.help(help);
                    }
                    self.found.push(error);
                }
                return poison(span);
            }
            if let Some(replaced) = replaced {
                (scalar.text, scalar.substituted) = (replaced.text, replaced.substituted);
            }
        }
        Node { value: Value::Scalar(Rc::new(scalar)), owner: span.clone(), span }
    }

    /// The keys from the top down to the value that comes next.
    fn path(&self) -> Vec<&str> {
        self.open
            .iter()
            .map(|open| match &open.key {
                None => "-",
                Some(Some(key)) => &key.text,
                Some(None) => "",
            })
            .collect()
    }

    /// A list or map may be tagged as what it is.
    fn tag(&mut self, tag: Option<&Tag>, span: &Span, core: &str) {
        if let Some(tag) = tag.filter(|tag| !tag.is_yaml_core_schema_tag(core)) {
            self.unknown_tag(tag, span);
        }
    }

    fn unknown_tag(&mut self, tag: &Tag, span: &Span) {
        let mut error = Diagnostic::error(
            span.clone(),
            format!("the tag `{}` means nothing here", tag.original().escape_debug()),
        );
        error.help(if tag.original().starts_with("!!") {
            "types are written as Extended JSON, such as `{ $oid: … }`"
        } else {
            "text that begins with `!` needs quotes"
        });
        self.found.push(error);
    }
}

fn poison(span: Span) -> Node {
    Node { value: Value::Poison, owner: span.clone(), span }
}
