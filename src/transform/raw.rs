//! BSON as bytes: where elements begin and end, which kind they are, and whether two are equal.
//!
//! [`view`](super::view) and [`value`](super::value) stand on this. Nothing here allocates for a
//! value or knows the script engine, and nothing here trusts the bytes: a document of which only
//! the length prefix was checked is an error, never a panic.

use super::decimal;

/// The kinds of BSON elements, as the byte before the name.
pub(super) mod kind {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0A;
    pub const REGEX: u8 = 0x0B;
    pub const DB_POINTER: u8 = 0x0C;
    pub const CODE: u8 = 0x0D;
    pub const SYMBOL: u8 = 0x0E;
    pub const CODE_WITH_SCOPE: u8 = 0x0F;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL: u8 = 0x13;
    pub const MIN_KEY: u8 = 0xFF;
    pub const MAX_KEY: u8 = 0x7F;
}

/// How deep documents may nest: MongoDB's own bound is 100 levels, and what recurses here stops
/// there.
pub(super) const MAX_DEPTH: usize = 100;

/// An empty document.
pub(super) const EMPTY: [u8; 5] = [5, 0, 0, 0, 0];

/// The bytes are not the BSON that they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the document is not valid BSON")]
pub(super) struct Malformed;

/// One element of a document: its kind, its name, and where its value lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Element {
    pub kind: u8,
    pub name: (usize, usize),
    pub value: (usize, usize),
}

impl Element {
    /// The name's bytes, without the closing zero.
    pub fn name_in<'a>(&self, document: &'a [u8]) -> &'a [u8] {
        &document[self.name.0..self.name.1]
    }

    /// The value's bytes.
    pub fn value_in<'a>(&self, document: &'a [u8]) -> &'a [u8] {
        &document[self.value.0..self.value.1]
    }
}

/// The elements of one document or array, in order; after an error there is nothing more.
pub(super) struct Elements<'a> {
    bytes: &'a [u8],
    at: usize,
    over: bool,
}

/// Walks over a document or an array, from its length prefix to its closing zero.
pub(super) fn elements(bytes: &[u8]) -> Elements<'_> {
    elements_from(bytes, 4)
}

/// The same, from an element on that begins at `at`.
pub(super) fn elements_from(bytes: &[u8], at: usize) -> Elements<'_> {
    Elements { bytes, at, over: false }
}

impl Elements<'_> {
    #[inline]
    fn element(&self) -> Option<Element> {
        let kind = *self.bytes.get(self.at)?;
        let name = self.at + 1;
        let name_end = name + zero(self.bytes.get(name..)?)?;
        let value = name_end + 1;
        let end = value + size(kind, self.bytes.get(value..)?)?;
        // The document's own closing zero comes after every element.
        (end < self.bytes.len()).then_some(Element {
            kind,
            name: (name, name_end),
            value: (value, end),
        })
    }
}

impl Iterator for Elements<'_> {
    type Item = Result<Element, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if self.at + 1 == self.bytes.len() && self.bytes[self.at] == 0 {
            self.over = true;
            return None;
        }
        let element = self.element();
        match &element {
            Some(element) => self.at = element.value.1,
            None => self.over = true,
        }
        Some(element.ok_or(Malformed))
    }
}

/// Where the first zero lies, looked for in eight bytes at a time: names are short, and every element
/// before the one that is looked for has one.
#[inline]
fn zero(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let zeros = word.wrapping_sub(ONES) & !word & HIGH;
        if zeros != 0 {
            return Some(at * 8 + zeros.trailing_zeros() as usize / 8);
        }
    }
    let found = rest.iter().position(|byte| *byte == 0)?;
    Some(words.len() * 8 + found)
}

/// A little-endian length prefix.
pub(super) fn length(bytes: &[u8]) -> Option<usize> {
    let prefix = i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    usize::try_from(prefix).ok()
}

/// How many of the bytes the value of this kind takes, at the front of `bytes`; `None` where they
/// are too few, or the kind is unknown.
pub(super) fn size(kind: u8, bytes: &[u8]) -> Option<usize> {
    let zero =
        |from: usize| Some(from + bytes.get(from..)?.iter().position(|byte| *byte == 0)? + 1);
    let text = |least: usize| {
        let length = length(bytes)?;
        (length >= least).then_some(length)
    };
    let size = match kind {
        kind::DOUBLE | kind::DATE | kind::TIMESTAMP | kind::INT64 => 8,
        kind::INT32 => 4,
        kind::OBJECT_ID => 12,
        kind::BOOLEAN => 1,
        kind::DECIMAL => 16,
        kind::NULL | kind::UNDEFINED | kind::MIN_KEY | kind::MAX_KEY => 0,
        kind::STRING | kind::CODE | kind::SYMBOL => 4 + text(1)?,
        kind::DOCUMENT | kind::ARRAY => text(5)?,
        kind::CODE_WITH_SCOPE => text(14)?,
        kind::BINARY => 5 + text(0)?,
        kind::DB_POINTER => 16 + text(1)?,
        kind::REGEX => zero(zero(0)?)?,
        _ => return None,
    };
    (size <= bytes.len()).then_some(size)
}

/// The first element with this name.
pub(super) fn find(document: &[u8], name: &[u8]) -> Result<Option<Element>, Malformed> {
    find_from(document, 4, name)
}

/// The same, from an element on that begins at `at`.
pub(super) fn find_from(
    document: &[u8],
    at: usize,
    name: &[u8],
) -> Result<Option<Element>, Malformed> {
    for element in elements_from(document, at) {
        let element = element?;
        if element.name_in(document) == name {
            return Ok(Some(element));
        }
    }
    Ok(None)
}

/// The characters of a BSON string (length prefix, characters, zero), `None` where they are not
/// UTF-8.
pub(super) fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.get(4..value.len().checked_sub(1)?)?).ok()
}

/// A fixed number of bytes.
pub(super) fn fixed<const N: usize>(value: &[u8]) -> [u8; N] {
    value.try_into().expect("the scanner checked the size of this kind")
}

/// An integer of either size.
pub(super) fn integer(kind: u8, value: &[u8]) -> Option<i64> {
    match kind {
        kind::INT32 => Some(i32::from_le_bytes(fixed(value)).into()),
        kind::INT64 => Some(i64::from_le_bytes(fixed(value))),
        _ => None,
    }
}

/// The name of a kind, as MongoDB's `$type` has it.
pub(super) fn name(kind: u8) -> &'static str {
    match kind {
        kind::DOUBLE => "double",
        kind::STRING => "string",
        kind::DOCUMENT => "object",
        kind::ARRAY => "array",
        kind::BINARY => "binData",
        kind::UNDEFINED => "undefined",
        kind::OBJECT_ID => "objectId",
        kind::BOOLEAN => "bool",
        kind::DATE => "date",
        kind::NULL => "null",
        kind::REGEX => "regex",
        kind::DB_POINTER => "dbPointer",
        kind::CODE => "javascript",
        kind::SYMBOL => "symbol",
        kind::CODE_WITH_SCOPE => "javascriptWithScope",
        kind::INT32 => "int",
        kind::TIMESTAMP => "timestamp",
        kind::INT64 => "long",
        kind::DECIMAL => "decimal",
        kind::MIN_KEY => "minKey",
        kind::MAX_KEY => "maxKey",
        _ => "unknown",
    }
}

/// Whether two values are the same to a script: numbers by value, documents whatever the order of
/// their fields, null and undefined alike, everything else by its bytes.
pub(super) fn equal(a: (u8, &[u8]), b: (u8, &[u8]), depth: usize) -> Result<bool, Malformed> {
    if a == b {
        return Ok(true);
    }
    if depth > MAX_DEPTH {
        return Err(Malformed);
    }
    match (a.0, b.0) {
        (kind::DOCUMENT, kind::DOCUMENT) => {
            let mut count = 0usize;
            for element in elements(a.1) {
                let element = element?;
                let Some(other) = find(b.1, element.name_in(a.1))? else { return Ok(false) };
                let ours = (element.kind, element.value_in(a.1));
                if !equal(ours, (other.kind, other.value_in(b.1)), depth + 1)? {
                    return Ok(false);
                }
                count += 1;
            }
            Ok(count == elements(b.1).count())
        }
        (kind::ARRAY, kind::ARRAY) => {
            let mut others = elements(b.1);
            for element in elements(a.1) {
                let element = element?;
                let Some(other) = others.next().transpose()? else { return Ok(false) };
                let ours = (element.kind, element.value_in(a.1));
                if !equal(ours, (other.kind, other.value_in(b.1)), depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(others.next().is_none())
        }
        (kind::NULL | kind::UNDEFINED, kind::NULL | kind::UNDEFINED) => Ok(true),
        _ => Ok(equal_numbers(a, b)),
    }
}

fn equal_numbers(a: (u8, &[u8]), b: (u8, &[u8])) -> bool {
    let double = |(kind, value): (u8, &[u8])| {
        (kind == kind::DOUBLE).then(|| f64::from_le_bytes(fixed(value)))
    };
    let number = |(kind, value): (u8, &[u8])| {
        integer(kind, value)
            .map(decimal::from_int)
            .or_else(|| double((kind, value)).and_then(|value| decimal::from_float(value).ok()))
            .or_else(|| (kind == kind::DECIMAL).then(|| bson::Decimal128::from_bytes(fixed(value))))
    };
    if let (Some(a), Some(b)) = (integer(a.0, a.1), integer(b.0, b.1)) {
        return a == b;
    }
    if let (Some(a), Some(b)) = (double(a), double(b)) {
        return a == b;
    }
    match (number(a), number(b)) {
        (Some(a), Some(b)) => decimal::compare(&a, &b) == Some(std::cmp::Ordering::Equal),
        _ => false,
    }
}

/// Checks that nothing in the document nests deeper than [`MAX_DEPTH`].
///
/// # Errors
/// `Ok(false)` where it does; [`Malformed`] where the bytes are not BSON.
pub(super) fn shallow_enough(document: &[u8]) -> Result<bool, Malformed> {
    fn walk(document: &[u8], depth: usize) -> Result<bool, Malformed> {
        if depth > MAX_DEPTH {
            return Ok(false);
        }
        for element in elements(document) {
            let element = element?;
            if matches!(element.kind, kind::DOCUMENT | kind::ARRAY)
                && !walk(element.value_in(document), depth + 1)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
    walk(document, 1)
}

#[cfg(test)]
mod tests {
    use bson::{doc, oid::ObjectId, rawdoc};

    use super::*;

    #[test]
    fn elements_come_in_order_with_kind_name_and_value() {
        let document = rawdoc! { "a": 1_i32, "b": "x", "c": { "d": true }, "e": null };
        let bytes = document.as_bytes();
        let found: Vec<_> = elements(bytes)
            .map(|element| {
                let element = element.unwrap();
                let name = std::str::from_utf8(element.name_in(bytes)).unwrap().to_owned();
                (name, element.kind, element.value_in(bytes).len())
            })
            .collect();
        let expected = [("a", 0x10, 4), ("b", 2, 6), ("c", 3, 9), ("e", 10, 0)];
        assert_eq!(found, expected.map(|(name, kind, size)| (name.to_owned(), kind, size)));
    }

    #[test]
    fn the_first_zero_is_found_wherever_it_lies() {
        for length in 0..40 {
            // Bytes of which some seem to be zeros where a word is looked at.
            let mut bytes: Vec<u8> = (0..length).map(|at| [1, 0x80, 0xFF, 0x81][at % 4]).collect();
            assert_eq!(zero(&bytes), None);
            for at in (0..length).rev() {
                bytes[at] = 0;
                assert_eq!(zero(&bytes), Some(at), "{length}");
            }
        }
    }

    #[test]
    fn broken_bytes_are_an_error_once_and_never_a_panic() {
        let whole = bson::serialize_to_vec(&doc! {
            "a": 1, "s": "text", "d": { "x": [1, 2.5] }, "i": ObjectId::new(),
            "r": bson::Regex { pattern: "a".try_into().unwrap(), options: "i".try_into().unwrap() },
        })
        .unwrap();
        for cut in 0..whole.len() {
            let results: Vec<_> = elements(&whole[..cut]).collect();
            assert!(results.iter().filter(|result| result.is_err()).count() <= 1);
            if cut > 5 {
                assert!(results.last().is_some_and(Result::is_err), "cut at {cut}");
            }
        }
        for at in 4..whole.len() {
            for byte in [0, 1, 0x7F, 0x80, 0xFF] {
                let mut broken = whole.clone();
                broken[at] = byte;
                let _ = elements(&broken).count();
                let _ = equal((3, &whole), (3, &broken), 0);
                let _ = shallow_enough(&broken);
            }
        }
    }

    #[test]
    fn values_are_equal_as_a_script_sees_them() {
        let one: bson::Decimal128 = "1.0".parse().unwrap();
        let rows = [
            (doc! { "a": 1, "b": 2 }, doc! { "b": 2_i64, "a": 1.0 }, true),
            (doc! { "a": one }, doc! { "a": 1 }, true),
            (doc! { "a": 1 }, doc! { "a": 2 }, false),
            (doc! { "a": 1 }, doc! { "a": 1, "b": 1 }, false),
            (doc! { "a": [1, 2] }, doc! { "a": [1.0, 2_i64] }, true),
            (doc! { "a": [1, 2] }, doc! { "a": [2, 1] }, false),
            (doc! { "a": [1, 2] }, doc! { "a": [1] }, false),
            (doc! { "a": "1" }, doc! { "a": 1 }, false),
            (doc! { "a": null }, doc! { "a": bson::Bson::Undefined }, true),
            (doc! { "a": f64::NAN }, doc! { "a": 1.0 }, false),
        ];
        for (a, b, expected) in rows {
            let (left, right) =
                (bson::serialize_to_vec(&a).unwrap(), bson::serialize_to_vec(&b).unwrap());
            assert_eq!(equal((3, &left), (3, &right), 0), Ok(expected), "{a} {b}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| (1..levels).fold(doc! {}, |inner, _| doc! { "a": inner });
        for (levels, expected) in [(1, true), (MAX_DEPTH, true), (MAX_DEPTH + 1, false)] {
            let bytes = bson::serialize_to_vec(&nested(levels)).unwrap();
            assert_eq!(shallow_enough(&bytes), Ok(expected), "{levels}");
        }
    }
}
