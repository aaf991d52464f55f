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
use smallvec::SmallVec;

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
/// Changes that most scripts make at the most.
const FEW: usize = 8;

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
    fn find(
        &self,
        document: &[u8],
        name: &[u8],
        tag: Tag,
    ) -> Result<Option<raw::Element>, Malformed> {
        if !self.asked.load(Ordering::Relaxed) && !self.asked.swap(true, Ordering::Relaxed) {
            return raw::find(document, name);
        }
        self.fields.get_or_init(|| Arc::new(Fields::of(document))).find(document, name, tag)
    }
}

/// The first elements of a document.
#[derive(Debug)]
struct Fields {
    /// Of each what its name is known by.
    tags: Tags,
    known: SmallVec<[Field; ORDINARY]>,
    /// Where the others begin.
    rest: usize,
}

/// What a name is known by at a glance: equal for equal names, and nearly always different for others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(u32);

impl Tag {
    /// Of both ends and the length.
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
        let long = name.first_chunk::<8>().zip(name.last_chunk::<8>());
        let short = name.first_chunk::<4>().zip(name.last_chunk::<4>());
        let ends = match (long, short) {
            (Some((first, last)), _) => {
                u64::from_le_bytes(*first) ^ u64::from_le_bytes(*last).rotate_left(29)
            }
            (None, Some((first, last))) => {
                u64::from(u32::from_le_bytes(*first)) << 32 | u64::from(u32::from_le_bytes(*last))
            }
            (None, None) => name.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
        };
        Self(((ends ^ name.len() as u64).wrapping_mul(SPREAD) >> 32) as u32)
    }
}

/// The tags of names, in order.
#[derive(Default, Debug)]
struct Tags(SmallVec<[u32; ORDINARY]>);

impl Tags {
    /// The first place at or behind `from` where this one stands.
    #[inline]
    fn find(&self, tag: Tag, from: usize) -> Option<usize> {
        // No early exit within a block, so that it is compared as one vector.
        let holds = |block: &[u32; 8]| block.iter().fold(false, |found, it| found | (*it == tag.0));
        let mut at = from;
        for block in self.0.get(from..)?.as_chunks().0 {
            if holds(block) {
                break;
            }
            at += block.len();
        }
        Some(at + self.0[at..].iter().position(|it| *it == tag.0)?)
    }
}

/// The name of a field that a script writes to.
#[derive(Clone, Debug)]
pub(super) struct Name {
    /// In place where it is short: the script's own names are all threads'.
    text: Identifier,
    tag: Tag,
}

impl Name {
    pub fn of(name: &str) -> Self {
        Self { text: name.into(), tag: Tag::of(name.as_bytes()) }
    }

    pub fn tag(&self) -> Tag {
        self.tag
    }
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
        let mut fields = Self { tags: Tags::default(), known: SmallVec::new(), rest: 4 };
        for element in raw::elements(document).take(MOST_KNOWN).map_while(Result::ok) {
            let Some(field) = Field::of(&element) else { break };
            fields.tags.0.push(Tag::of(element.name_in(document)).0);
            fields.known.push(field);
            fields.rest = field.end as usize;
        }
        fields
    }

    fn find(
        &self,
        document: &[u8],
        name: &[u8],
        tag: Tag,
    ) -> Result<Option<raw::Element>, Malformed> {
        let mut from = 0;
        while let Some(at) = self.tags.find(tag, from) {
            let element = self.known[at].element();
            if element.name_in(document) == name {
                return Ok(Some(element));
            }
            from = at + 1;
        }
        raw::find_from(document, self.rest, name)
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
    name: Name,
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
pub(super) enum Held {
    /// As it is stored.
    Stored(u8, Bytes),
    /// Set by the script.
    Set(Dynamic),
}

impl Changes {
    fn find(&self, name: &str, tag: Tag) -> Option<usize> {
        if self.list.len() > INDEXED {
            return self.index.get(name).copied();
        }
        let is = |it: &Change| it.name.tag == tag && it.name.text == name && !it.is_dead();
        self.list.iter().position(is)
    }

    fn push(&mut self, change: Change) {
        if self.list.capacity() == 0 {
            self.list.reserve(FEW);
        }
        self.list.push(change);
        let from = match self.list.len().cmp(&(INDEXED + 1)) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Equal => 0,
            std::cmp::Ordering::Greater => self.list.len() - 1,
        };
        for (at, change) in self.list.iter().enumerate().skip(from) {
            if !change.is_dead() {
                self.index.insert(change.name.text.clone(), at);
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

    /// The same of a whole document, of which `many` fields are looked for, or perhaps.
    pub fn of_document(base: Bytes, most: usize, many: bool) -> Self {
        let index = Index { asked: many.into(), ..Index::default() };
        Self { index: Some(index), ..Self::new(base, most) }
    }

    /// Where a field of the stored document lies.
    fn stored(&self, name: &str, tag: Tag) -> Answer<Option<raw::Element>> {
        let found = match &self.index {
            Some(index) => index.find(&self.base, name.as_bytes(), tag),
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

    /// How deep documents and arrays nest in what was written to it.
    pub fn depth(&self) -> usize {
        self.changes.as_ref().map_or(1, |changes| changes.depth.max(1))
    }

    fn change(&self, name: &str, tag: Tag) -> Option<&Change> {
        let changes = self.changes.as_ref()?;
        changes.find(name, tag).map(|at| &changes.list[at])
    }

    /// What a field holds.
    pub fn find(&self, name: &str, tag: Tag) -> Answer<Found<'_>> {
        if let Some(change) = self.change(name, tag) {
            return Ok(match &change.value {
                None => Found::Nothing,
                Some(Held::Set(value)) => Found::Set(value),
                Some(Held::Stored(kind, bytes)) => Found::Stored(*kind, bytes, (0, bytes.len())),
            });
        }
        Ok(self.stored(name, tag)?.map_or(Found::Nothing, |element| {
            Found::Stored(element.kind, &self.base, element.value)
        }))
    }

    /// The value of a field, `()` where it is not there.
    pub fn get(&self, name: &str) -> Answer<Dynamic> {
        match self.find(name, Tag::of(name.as_bytes()))? {
            Found::Nothing => Ok(Dynamic::UNIT),
            Found::Set(value) => Ok(value.clone()),
            Found::Stored(kind, bytes, range) => value::read(kind, bytes, range, self.most),
        }
    }

    /// Whether the field is there, null or not.
    pub fn contains(&self, name: &str) -> Answer<bool> {
        let tag = Tag::of(name.as_bytes());
        match self.change(name, tag) {
            Some(change) => Ok(change.value.is_some()),
            None => Ok(self.stored(name, tag)?.is_some()),
        }
    }

    /// Whether the field is there and null.
    pub fn is_null(&self, name: &str) -> Answer<bool> {
        Ok(self.contains(name)? && self.get(name)?.is_unit())
    }

    /// Sets a field: in its place where it has one, else at the end.
    pub fn set(&mut self, name: &ImmutableString, value: Dynamic) -> Answer<()> {
        let depth = 1 + value::depth(&value)?;
        self.put(&Name::of(name), Held::Set(value), depth)
    }

    /// The same, of a value that nests so deep.
    pub fn put(&mut self, name: &Name, held: Held, depth: usize) -> Answer<()> {
        let Name { text, tag } = name;
        if text.as_bytes().contains(&0) {
            return Err(refuse("the name of a field can't hold a zero character"));
        }
        if depth > raw::MAX_DEPTH {
            return Err(value::too_deep());
        }
        if let Some(at) = self.changes.as_ref().and_then(|changes| changes.find(text, *tag)) {
            let changes = Arc::make_mut(self.changes.as_mut().expect("it was found there"));
            changes.list[at].value = Some(held);
            changes.depth = changes.depth.max(depth);
            return Ok(());
        }
        let place = self.stored(text, *tag)?.as_ref().map(Place::of);
        if let (Held::Set(value), Some(place)) = (&held, &place)
            && self.is_own(value, place)
        {
            return Ok(());
        }
        self.add(Change { name: name.clone(), place, value: Some(held) }, depth)
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
        self.take(&Name::of(name))?;
        Ok(value)
    }

    /// Takes a field out, whatever it held.
    pub fn discard(&mut self, name: &Name) -> Answer<()> {
        if self.change(&name.text, name.tag).is_some() {
            return self.take(name).map(drop);
        }
        let Some(element) = self.stored(&name.text, name.tag)? else { return Ok(()) };
        let place = Some(Place::of(&element));
        self.add(Change { name: name.clone(), place, value: None }, 0)
    }

    fn take(&mut self, name: &Name) -> Answer<Option<Held>> {
        let Name { text, tag } = name;
        if let Some(at) = self.changes.as_ref().and_then(|changes| changes.find(text, *tag)) {
            let changes = Arc::make_mut(self.changes.as_mut().expect("it was found there"));
            let taken = changes.list[at].value.take();
            if changes.list[at].place.is_none() {
                changes.index.remove(text.as_str());
            }
            return Ok(taken);
        }
        let Some(element) = self.stored(text, *tag)? else { return Ok(None) };
        let stored = Held::Stored(element.kind, self.base.slice(element.value.0..element.value.1));
        let place = Some(Place::of(&element));
        self.add(Change { name: name.clone(), place, value: None }, 0)?;
        Ok(Some(stored))
    }

    /// Gives a field another name, at the end or in the place of the one that had it. False where
    /// there is no such field.
    pub fn rename(&mut self, from: &str, to: &ImmutableString) -> Answer<bool> {
        if from == to.as_str() {
            return self.contains(from);
        }
        let Some(held) = self.take(&Name::of(from))? else { return Ok(false) };
        let depth = self.depth();
        self.put(&Name::of(to), held, depth).map(|()| true)
    }

    /// The names of the fields, in order.
    pub fn names(&self) -> Answer<Vec<ImmutableString>> {
        let mut names = Vec::new();
        for element in raw::elements(&self.base) {
            let element = element.map_err(malformed)?;
            let name = String::from_utf8_lossy(element.name_in(&self.base));
            let change = self.change(&name, Tag::of(name.as_bytes()));
            if change.is_none_or(|change| change.value.is_some()) {
                names.push(name.as_ref().into());
            }
        }
        let added = self.changes.iter().flat_map(|changes| &changes.list);
        names.extend(
            added
                .filter(|change| change.place.is_none() && change.value.is_some())
                .map(|change| change.name.text.as_str().into()),
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
        let mut placed: SmallVec<[_; FEW]> = changes
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
                value::write_element(self.name.text.as_bytes(), set, over, out, depth)
            }
            Some(Held::Stored(kind, bytes)) => {
                value::check_size(out.len() + bytes.len())?;
                out.push(*kind);
                out.extend_from_slice(self.name.text.as_bytes());
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
