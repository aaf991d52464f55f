//! Reading BSON from the front of a slice. Every length is checked before it is believed; what is
//! wrong is an error, never a panic.
//!
//! The driver's own iterator checks each name and string for UTF-8 and refuses what is not; here
//! that falls to the writer, which replaces it.

use super::JsonError;

/// The type bytes of elements.
pub(super) mod kind {
    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const UNDEFINED: u8 = 0x06;
    pub const OBJECT_ID: u8 = 0x07;
    pub const BOOL: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0a;
    pub const REGEX: u8 = 0x0b;
    pub const DB_POINTER: u8 = 0x0c;
    pub const JAVASCRIPT: u8 = 0x0d;
    pub const SYMBOL: u8 = 0x0e;
    pub const JAVASCRIPT_WITH_SCOPE: u8 = 0x0f;
    pub const INT32: u8 = 0x10;
    pub const TIMESTAMP: u8 = 0x11;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL: u8 = 0x13;
    pub const MAX_KEY: u8 = 0x7f;
    pub const MIN_KEY: u8 = 0xff;
}

/// The subtype whose content has a second length in front.
const BINARY_OLD: u8 = 2;
const PREFIX: usize = size_of::<i32>();
const CUT: JsonError = JsonError::Malformed("it ends within a value");

/// What is left to read.
pub(super) struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The type byte of the next element, `None` at the end.
    pub fn next_kind(&mut self) -> Option<u8> {
        let (kind, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*kind)
    }

    /// A value of fixed size.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], JsonError> {
        let (value, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        self.0 = rest;
        Ok(*value)
    }

    pub fn bool(&mut self) -> Result<bool, JsonError> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(JsonError::Malformed("a boolean is neither true nor false")),
        }
    }

    /// Bytes up to a zero, which is taken too.
    pub fn cstring(&mut self) -> Result<&'a [u8], JsonError> {
        let end = first_zero(self.0).ok_or(CUT)?;
        let text = &self.0[..end];
        self.0 = &self.0[end + 1..];
        Ok(text)
    }

    /// The content of a string, which may hold zeros.
    pub fn string(&mut self) -> Result<&'a [u8], JsonError> {
        let length = self.length()?;
        match self.take(length)?.split_last() {
            Some((0, text)) => Ok(text),
            _ => Err(JsonError::Malformed("a string does not end in a zero")),
        }
    }

    /// The elements of a document or an array.
    pub fn document(&mut self) -> Result<Self, JsonError> {
        let length = self.length()?;
        let inner = length.checked_sub(PREFIX).ok_or(CUT)?;
        match self.take(inner)?.split_last() {
            Some((0, elements)) => Ok(Self(elements)),
            _ => Err(JsonError::Malformed("a document does not end in a zero")),
        }
    }

    /// Subtype and content of a binary.
    pub fn binary(&mut self) -> Result<(u8, &'a [u8]), JsonError> {
        let length = self.length()?;
        let [subtype] = self.array()?;
        let content = self.take(length)?;
        if subtype == BINARY_OLD
            && let Some((inner, rest)) = content.split_first_chunk()
            && usize::try_from(i32::from_le_bytes(*inner)) == Ok(rest.len())
        {
            return Ok((subtype, rest));
        }
        Ok((subtype, content))
    }

    /// The string and the document of a JavaScript value with scope.
    pub fn code_with_scope(&mut self) -> Result<Self, JsonError> {
        let length = self.length()?;
        let inner = length.checked_sub(PREFIX).ok_or(CUT)?;
        self.take(inner).map(Self)
    }

    /// # Errors
    /// Where something is left.
    pub fn end(&self) -> Result<(), JsonError> {
        match self.0 {
            [] => Ok(()),
            _ => Err(JsonError::Malformed("a value is longer than what it holds")),
        }
    }

    fn length(&mut self) -> Result<usize, JsonError> {
        usize::try_from(i32::from_le_bytes(self.array()?))
            .map_err(|_| JsonError::Malformed("a length is negative"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], JsonError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Where the first zero stands. Names are short: word by word it is found before a vector search is set
/// up.
fn first_zero(bytes: &[u8]) -> Option<usize> {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    let (words, rest) = bytes.as_chunks::<8>();
    let mut before = 0;
    for word in words {
        let word = u64::from_le_bytes(*word);
        // The highest bit of each zero byte; behind the first, of some others too.
        let zeros = word.wrapping_sub(EACH) & !word & (EACH * 0x80);
        if zeros != 0 {
            return Some(before + zeros.trailing_zeros() as usize / 8);
        }
        before += 8;
    }
    rest.iter().position(|byte| *byte == 0).map(|at| before + at)
}
