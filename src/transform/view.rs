//! A document as the script sees it: the raw bytes, and over them what the script has changed.
//!
//! Reading a field walks the bytes, writing one adds to a list of changes, and at the end the bytes
//! are copied with the changes put in. A view is a value: a copy of it shares bytes and changes until
//! one of the two is written to. Nothing here knows the engine beyond its values and errors.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use rhai::{Dynamic, Identifier, ImmutableString};

use super::{
    failure::{Answer, refuse},
    raw::{self, Malformed},
    value::{self, Over},
};

/// Fields that most documents have at the most.
const ORDINARY: usize = 24;
/// Fields that are remembered of one document; others are looked for behind them each time.
const MOST_KNOWN: usize = 1_000;
/// From this many changes on, names are found through a hash map.
const INDEXED: usize = 16;

/// A document, or a document within one.
#[derive(Clone, Debug)]
pub(super) struct View {
    base: Bytes,
    /// Where its fields lie; only of a whole document, of which a script looks for many.
    index: Option<Index>,
    changes: Option<Arc<Changes>>,
    most: usize,
}

/// What is known of where fields lie, from the second one that is looked for on.
#[derive(Default, Debug)]
struct Index {
    asked: AtomicBool,
    fields: OnceLock<Arc<Fields>>,
}

impl Clone for Index {
    fn clone(&self) -> Self {
        let asked = self.asked.load(Ordering::Relaxed).into();
        Self { asked, fields: self.fields.clone() }
    }
}

impl Index {
    fn find(&self, document: &[u8], name: &[u8]) -> Result<Option<raw::Element>, Malformed> {
        if !self.asked.swap(true, Ordering::Relaxed) {
            return raw::find(document, name);
        }
        self.fields.get_or_init(|| Arc::new(Fields::of(document))).find(document, name)
    }
}

/// The first elements of a document.
#[derive(Debug)]
struct Fields {
    known: Vec<Field>,
    /// Where the others begin.
    rest: usize,
}

/// An element, in a few bytes: a document has no more than 16 MiB.
#[derive(Clone, Copy, Debug)]
struct Field {
    kind: u8,
    name: u32,
    value: u32,
    end: u32,
}

impl Field {
    fn of(element: &raw::Element) -> Option<Self> {
        let [name, value, end] =
            [element.name.0, element.value.0, element.value.1].map(|at| u32::try_from(at).ok());
        Some(Self { kind: element.kind, name: name?, value: value?, end: end? })
    }

    fn element(self) -> raw::Element {
        let [name, value, end] = [self.name, self.value, self.end].map(|at| at as usize);
        raw::Element { kind: self.kind, name: (name, value - 1), value: (value, end) }
    }
}

impl Fields {
    fn of(document: &[u8]) -> Self {
        let mut fields = Self { known: Vec::with_capacity(ORDINARY), rest: 4 };
        for element in raw::elements(document).take(MOST_KNOWN) {
            let Some(field) = element.ok().as_ref().and_then(Field::of) else { break };
            fields.known.push(field);
            fields.rest = field.end as usize;
        }
        fields
    }

    fn find(&self, document: &[u8], name: &[u8]) -> Result<Option<raw::Element>, Malformed> {
        let known = self.known.iter().map(|field| field.element());
        let mut found = known.filter(|element| element.name_in(document) == name);
        match found.next() {
            Some(element) => Ok(Some(element)),
            None => raw::find_from(document, self.rest, name),
        }
    }
}

#[derive(Clone, Default, Debug)]
struct Changes {
    list: Vec<Change>,
    index: HashMap<Identifier, usize>,
    /// How deep documents and arrays nest in the changes.
    depth: usize,
}

#[derive(Clone, Debug)]
struct Change {
    /// In place where it is short: the script's own names are all threads'.
    name: Identifier,
    /// Where the element lies that it stands for; `None` for a new field.
    place: Option<Place>,
    /// `None` where the field was removed.
    value: Option<Held>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    kind: u8,
    element: (usize, usize),
    value: (usize, usize),
}

/// What a field holds.
pub(super) enum Found<'a> {
    /// There is no such field.
    Nothing,
    /// A value of this kind, which lies there in these bytes.
    Stored(u8, &'a Bytes, (usize, usize)),
    /// What the script has set.
    Set(&'a Dynamic),
}

/// The value of a change.
#[derive(Clone, Debug)]
enum Held {
    /// Moved from elsewhere as it was stored.
    Stored(u8, Bytes),
    /// Set by the script.
    Set(Dynamic),
}

impl Changes {
    fn find(&self, name: &str) -> Option<usize> {
        if self.list.len() > INDEXED {
            return self.index.get(name).copied();
        }
        self.list.iter().position(|change| change.name == name && !change.is_dead())
    }

    fn push(&mut self, change: Change) {
        self.list.push(change);
        let from = match self.list.len().cmp(&(INDEXED + 1)) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => self.list.len() - 1,
        };
        for (at, change) in self.list.iter().enumerate().skip(from) {
            if !change.is_dead() {
                self.index.insert(change.name.clone(), at);
            }
        }
    }
}

impl Change {
    /// A field that was added and removed again: it stands for nothing, and if it is added again it
    /// goes to the end.
    fn is_dead(&self) -> bool {
        self.place.is_none() && self.value.is_none()
    }
}

impl View {
    /// A view of one document's bytes, which may get so many fields.
    pub fn new(base: Bytes, most: usize) -> Self {
        Self { base, index: None, changes: None, most }
    }

    /// The same of a whole document.
    pub fn of_document(base: Bytes, most: usize) -> Self {
        Self { index: Some(Index::default()), ..Self::new(base, most) }
    }

    /// Where a field of the stored document lies.
    fn stored(&self, name: &str) -> Answer<Option<raw::Element>> {
        let found = match &self.index {
            Some(index) => index.find(&self.base, name.as_bytes()),
            None => raw::find(&self.base, name.as_bytes()),
        };
        found.map_err(malformed)
    }

    /// An empty document with the same bounds.
    pub fn empty(&self) -> Self {
        Self::new(Bytes::from_static(&raw::EMPTY), self.most)
    }

    /// Whether nothing was written to it.
    pub fn is_untouched(&self) -> bool {
        self.changes.is_none()
    }

    /// The bytes under the changes.
    pub fn base(&self) -> &Bytes {
        &self.base
    }

    /// How deep documents and arrays nest in what was written to it.
    pub fn depth(&self) -> usize {
        self.changes.as_ref().map_or(1, |changes| changes.depth.max(1))
    }

    fn change(&self, name: &str) -> Option<&Change> {
        let changes = self.changes.as_ref()?;
        changes.find(name).map(|at| &changes.list[at])
    }

    /// What a field holds.
    pub fn find(&self, name: &str) -> Answer<Found<'_>> {
        if let Some(change) = self.change(name) {
            return Ok(match &change.value {
                None => Found::Nothing,
                Some(Held::Set(value)) => Found::Set(value),
                Some(Held::Stored(kind, bytes)) => Found::Stored(*kind, bytes, (0, bytes.len())),
            });
        }
        Ok(self.stored(name)?.map_or(Found::Nothing, |element| {
            Found::Stored(element.kind, &self.base, element.value)
        }))
    }

    /// The value of a field, `()` where it is not there.
    pub fn get(&self, name: &str) -> Answer<Dynamic> {
        match self.find(name)? {
            Found::Nothing => Ok(Dynamic::UNIT),
            Found::Set(value) => Ok(value.clone()),
            Found::Stored(kind, bytes, range) => value::read(kind, bytes, range, self.most),
        }
    }

    /// Whether the field is there, null or not.
    pub fn contains(&self, name: &str) -> Answer<bool> {
        match self.change(name) {
            Some(change) => Ok(change.value.is_some()),
            None => Ok(self.stored(name)?.is_some()),
        }
    }

    /// Whether the field is there and null.
    pub fn is_null(&self, name: &str) -> Answer<bool> {
        Ok(self.contains(name)? && self.get(name)?.is_unit())
    }

    /// Sets a field: in its place where it has one, else at the end.
    pub fn set(&mut self, name: &ImmutableString, value: Dynamic) -> Answer<()> {
        let depth = 1 + value::depth(&value)?;
        self.put(name, Held::Set(value), depth)
    }

    fn put(&mut self, name: &ImmutableString, held: Held, depth: usize) -> Answer<()> {
        if name.as_bytes().contains(&0) {
            return Err(refuse("the name of a field can't hold a zero character"));
        }
        if depth > raw::MAX_DEPTH {
            return Err(value::too_deep());
        }
        if let Some(at) = self.changes.as_ref().and_then(|changes| changes.find(name)) {
            let changes = Arc::make_mut(self.changes.as_mut().expect("it was found there"));
            changes.list[at].value = Some(held);
            changes.depth = changes.depth.max(depth);
            return Ok(());
        }
        let place = self.stored(name)?.as_ref().map(Place::of);
        if let (Held::Set(value), Some(place)) = (&held, &place)
            && self.is_own(value, place)
        {
            return Ok(());
        }
        self.add(Change { name: name.as_str().into(), place, value: Some(held) }, depth)
    }

    fn add(&mut self, change: Change, depth: usize) -> Answer<()> {
        let most = self.most;
        let changes = Arc::make_mut(self.changes.get_or_insert_default());
        if changes.list.len() >= most {
            return Err(refuse(format!(
                "the document gets more than {most} fields, the limit `limits.map`"
            )));
        }
        changes.depth = changes.depth.max(depth);
        changes.push(change);
        Ok(())
    }

    /// Whether a value is what lies at that place: what the engine hands back after a method was
    /// called on it.
    fn is_own(&self, value: &Dynamic, place: &Place) -> bool {
        value.read_lock::<Self>().is_some_and(|view| {
            view.is_untouched()
                && std::ptr::eq(view.base.as_ref(), &self.base[place.value.0..place.value.1])
        })
    }

    /// Takes a field out and gives what it held.
    pub fn remove(&mut self, name: &str) -> Answer<Dynamic> {
        let value = self.get(name)?;
        self.take(name)?;
        Ok(value)
    }

    /// Takes a field out, whatever it held.
    pub fn discard(&mut self, name: &str) -> Answer<()> {
        if self.change(name).is_some() {
            return self.take(name).map(drop);
        }
        let Some(element) = self.stored(name)? else { return Ok(()) };
        let place = Some(Place::of(&element));
        self.add(Change { name: name.into(), place, value: None }, 0)
    }

    fn take(&mut self, name: &str) -> Answer<Option<Held>> {
        if let Some(at) = self.changes.as_ref().and_then(|changes| changes.find(name)) {
            let changes = Arc::make_mut(self.changes.as_mut().expect("it was found there"));
            let taken = changes.list[at].value.take();
            if changes.list[at].place.is_none() {
                changes.index.remove(name);
            }
            return Ok(taken);
        }
        let Some(element) = self.stored(name)? else { return Ok(None) };
        let stored = Held::Stored(element.kind, self.base.slice(element.value.0..element.value.1));
        let place = Some(Place::of(&element));
        self.add(Change { name: name.into(), place, value: None }, 0)?;
        Ok(Some(stored))
    }

    /// Gives a field another name, at the end or in the place of the one that had it. False where
    /// there is no such field.
    pub fn rename(&mut self, from: &str, to: &ImmutableString) -> Answer<bool> {
        if from == to.as_str() {
            return self.contains(from);
        }
        let Some(held) = self.take(from)? else { return Ok(false) };
        let depth = self.depth();
        self.put(to, held, depth).map(|()| true)
    }

    /// The names of the fields, in order.
    pub fn names(&self) -> Answer<Vec<ImmutableString>> {
        let mut names = Vec::new();
        for element in raw::elements(&self.base) {
            let element = element.map_err(malformed)?;
            let name = String::from_utf8_lossy(element.name_in(&self.base));
            if self.change(&name).is_none_or(|change| change.value.is_some()) {
                names.push(name.as_ref().into());
            }
        }
        let added = self.changes.iter().flat_map(|changes| &changes.list);
        names.extend(
            added
                .filter(|change| change.place.is_none() && change.value.is_some())
                .map(|change| change.name.as_str().into()),
        );
        Ok(names)
    }

    /// The document's bytes with the changes in them.
    pub fn to_bytes(&self) -> Answer<Bytes> {
        if self.is_untouched() {
            return Ok(self.base.clone());
        }
        let mut out = Vec::with_capacity(self.base.len() + 256);
        self.write(&mut out, 1)?;
        Ok(out.into())
    }

    /// Appends the document with the changes in it.
    pub fn write(&self, out: &mut Vec<u8>, depth: usize) -> Answer<()> {
        if depth > raw::MAX_DEPTH {
            return Err(value::too_deep());
        }
        let Some(changes) = &self.changes else {
            value::check_size(out.len() + self.base.len())?;
            out.extend_from_slice(&self.base);
            return Ok(());
        };
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut placed: Vec<_> = changes
            .list
            .iter()
            .filter_map(|change| change.place.map(|place| (place, change)))
            .collect();
        placed.sort_unstable_by_key(|(place, _)| place.element.0);
        let mut copied = 4;
        for (place, change) in placed {
            out.extend_from_slice(&self.base[copied..place.element.0]);
            copied = place.element.1;
            let stored = &self.base[place.value.0..place.value.1];
            change.write(Some((place.kind, stored)), out, depth)?;
        }
        out.extend_from_slice(&self.base[copied..self.base.len() - 1]);
        for change in changes.list.iter().filter(|change| change.place.is_none()) {
            change.write(None, out, depth)?;
        }
        out.push(0);
        value::close(out, start)
    }
}

impl Place {
    fn of(element: &raw::Element) -> Self {
        Self {
            kind: element.kind,
            element: (element.name.0 - 1, element.value.1),
            value: element.value,
        }
    }
}

impl Change {
    fn write(&self, over: Over<'_>, out: &mut Vec<u8>, depth: usize) -> Answer<()> {
        match &self.value {
            None => Ok(()),
            Some(Held::Set(set)) => {
                value::write_element(self.name.as_bytes(), set, over, out, depth)
            }
            Some(Held::Stored(kind, bytes)) => {
                value::check_size(out.len() + bytes.len())?;
                out.push(*kind);
                out.extend_from_slice(self.name.as_bytes());
                out.push(0);
                out.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// What the engine is told where the bytes are no BSON.
pub(super) fn malformed(malformed: Malformed) -> Box<rhai::EvalAltResult> {
    refuse(malformed)
}
