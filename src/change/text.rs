//! The texts that ids, templates and JSON share: hex, UUIDs, dates, and strings escaped for JSON.
//!
//! All of them append bytes that are valid UTF-8. Nothing here knows of documents or settings.

use bson::{
    RawBsonRef, RawDocumentBuf,
    raw::{RawDbPointerRef, cstr},
};

/// The two hex digits of each byte.
const HEX: [[u8; 2]; 256] = pairs(b"0123456789abcdef");
/// The two decimal digits of each number below 100.
const DECIMAL: [[u8; 2]; 100] = pairs(b"0123456789");
const MILLIS_PER_DAY: i64 = 86_400_000;
/// In 400 years.
const DAYS_PER_ERA: u32 = 146_097;
/// Days from 1 March of the year -400 to 1970.
const FROM_MARCH: i64 = 719_468 + DAYS_PER_ERA as i64;
/// 0000-01-01T00:00:00.000Z.
const YEAR_0: i64 = -62_167_219_200_000;
/// The first millisecond of the year 10000.
const YEAR_10000: i64 = 253_402_300_800_000;

/// Appends two lower-case hex digits a byte.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.extend_from_slice(&HEX[usize::from(*byte)]);
    }
}

/// All numbers of two digits, in order, `SIZE` of them.
const fn pairs<const BASE: usize, const SIZE: usize>(digits: &[u8; BASE]) -> [[u8; 2]; SIZE] {
    let mut pairs = [[0; 2]; SIZE];
    let mut number = 0;
    while number < SIZE {
        pairs[number] = [digits[number / BASE], digits[number % BASE]];
        number += 1;
    }
    pairs
}

/// The 24 hex characters of an ObjectId.
pub fn object_id_hex(bytes: [u8; 12]) -> [u8; 24] {
    let mut text = [0; 24];
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&HEX[usize::from(byte)]);
    }
    text
}

/// The canonical text of a UUID: lower case with hyphens.
pub fn uuid_text(bytes: [u8; 16]) -> [u8; 36] {
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at..at + 2].copy_from_slice(&HEX[usize::from(byte)]);
        at += 2;
    }
    text
}

/// RFC 3339 in UTC with milliseconds (`2026-11-21T02:10:29.000Z`) of milliseconds since 1970;
/// `None` outside the years 0 to 9999, which the format cannot say.
pub fn rfc3339(millis: i64) -> Option<[u8; 24]> {
    if !(YEAR_0..YEAR_10000).contains(&millis) {
        return None;
    }
    // From here on nothing is negative, nor over 32 bits.
    let (year, month, day) = civil((millis.div_euclid(MILLIS_PER_DAY) + FROM_MARCH) as u32);
    let clock = millis.rem_euclid(MILLIS_PER_DAY) as u32;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    two_digits(&mut text[0..2], year / 100);
    two_digits(&mut text[2..4], year % 100);
    two_digits(&mut text[5..7], month);
    two_digits(&mut text[8..10], day);
    two_digits(&mut text[11..13], clock / 3_600_000);
    two_digits(&mut text[14..16], clock / 60_000 % 60);
    two_digits(&mut text[17..19], clock / 1000 % 60);
    text[20] = b'0' + (clock % 1000 / 100) as u8;
    two_digits(&mut text[21..23], clock % 100);
    Some(text)
}

fn two_digits(at: &mut [u8], value: u32) {
    at.copy_from_slice(&DECIMAL[value as usize]);
}

/// Year, month and day of a day counted from 1 March of the year -400, in the proleptic Gregorian
/// calendar, for years from 0 on. Years are counted from March, so that the leap day is the last
/// (Howard Hinnant's `civil_from_days`).
fn civil(days: u32) -> (u32, u32, u32) {
    let (era, of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + u32::from(month <= 2) - 400;
    (year, month, day)
}

/// The namespace and the ObjectId of a DBPointer, which the driver keeps to itself: they are read
/// from the bytes that it writes.
pub fn db_pointer_parts(pointer: RawDbPointerRef<'_>) -> (String, [u8; 12]) {
    // Length, type, an empty name, the length of the namespace.
    const NAMESPACE: usize = 4 + 1 + 1 + 4;
    let mut document = RawDocumentBuf::new();
    document.append(cstr!(""), RawBsonRef::DbPointer(pointer));
    let bytes = &document.as_bytes()[NAMESPACE..document.as_bytes().len() - 1];
    let (namespace, id) = bytes.split_last_chunk().expect("an ObjectId is the last part");
    let text = String::from_utf8(namespace[..namespace.len() - 1].to_vec())
        .expect("the driver writes the text that it read");
    (text, *id)
}

/// Appends a text as the inside of a JSON string, without the quotes.
pub fn escape_into(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    loop {
        let run = clean_run::<false>(rest);
        append(&rest[..run], out);
        let Some((&byte, after)) = rest[run..].split_first() else { return };
        rest = after;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                write_hex(&[byte], out);
            }
        }
    }
}

/// Appends bytes that ought to be UTF-8 as the inside of a JSON string: what is not valid becomes
/// U+FFFD. MongoDB does not check the strings that it stores.
pub fn escape_lossy_into(bytes: &[u8], out: &mut Vec<u8>) {
    // Most strings are ASCII without anything to escape: one scan, one copy.
    let run = clean_run::<true>(bytes);
    append(&bytes[..run], out);
    let rest = &bytes[run..];
    if rest.is_empty() {
        return;
    }
    match std::str::from_utf8(rest) {
        Ok(text) => escape_into(text, out),
        Err(_) => {
            for chunk in rest.utf8_chunks() {
                escape_into(chunk.valid(), out);
                if !chunk.invalid().is_empty() {
                    out.extend_from_slice("\u{fffd}".as_bytes());
                }
            }
        }
    }
}

/// Appends bytes. Most texts are short: two words that overlap are written before a copy of any length
/// is set up.
fn append(bytes: &[u8], out: &mut Vec<u8>) {
    let end = out.len() + bytes.len();
    match (ends::<8>(bytes), ends::<4>(bytes)) {
        (Some(_), _) if bytes.len() > 16 => out.extend_from_slice(bytes),
        (Some((first, last)), _) => {
            out.extend_from_slice(first);
            out.truncate(end - 8);
            out.extend_from_slice(last);
        }
        (None, Some((first, last))) => {
            out.extend_from_slice(first);
            out.truncate(end - 4);
            out.extend_from_slice(last);
        }
        (None, None) => bytes.iter().for_each(|byte| out.push(*byte)),
    }
}

/// The first and the last `N` bytes, which overlap where there are fewer than twice as many.
fn ends<const N: usize>(bytes: &[u8]) -> Option<(&[u8; N], &[u8; N])> {
    Some((bytes.first_chunk()?, bytes.last_chunk()?))
}

/// How many bytes at the start need no escape; with `ASCII`, how many are ASCII as well.
fn clean_run<const ASCII: bool>(bytes: &[u8]) -> usize {
    let dirty =
        |byte: u8| (byte < 0x20) | (byte == b'"') | (byte == b'\\') | (ASCII && byte >= 0x80);
    // No early exit within a block, so that it is compared as one vector.
    let is_dirty = |block: &[u8; 16]| block.iter().fold(false, |found, byte| found | dirty(*byte));
    let mut clean = 0;
    for block in bytes.as_chunks::<16>().0 {
        if is_dirty(block) {
            break;
        }
        clean += 16;
    }
    let tail = &bytes[clean..];
    if tail.len() < 16 {
        // What overlaps with the tail has been found clean.
        let found = match (bytes.last_chunk::<16>(), ends::<8>(tail), ends::<4>(tail)) {
            (Some(last), ..) => is_dirty(last),
            (_, Some((first, last)), _) => {
                let (first, last) = (u64::from_le_bytes(*first), u64::from_le_bytes(*last));
                (dirty_bytes::<ASCII>(first) | dirty_bytes::<ASCII>(last)) != 0
            }
            (_, _, Some((first, last))) => {
                let (first, last) = (u32::from_le_bytes(*first), u32::from_le_bytes(*last));
                dirty_bytes::<ASCII>(u64::from(first) << 32 | u64::from(last)) != 0
            }
            _ => true,
        };
        if !found {
            return bytes.len();
        }
    }
    clean + tail.iter().position(|byte| dirty(*byte)).unwrap_or(tail.len())
}

/// The highest bit of each byte of a word that `clean_run` ends at, and no other bit.
fn dirty_bytes<const ASCII: bool>(word: u64) -> u64 {
    const EACH: u64 = u64::from_le_bytes([1; 8]);
    const HIGHEST: u64 = EACH * 0x80;
    let low = word & !HIGHEST;
    // No sum leaves its byte: the highest bit says whether the rest is so much at the least.
    let below = |least: u64| !(low + EACH * (0x80 - least));
    let is = |byte: u8| !((low ^ (EACH * u64::from(byte))) + EACH * 0x7f);
    let found = below(0x20) | is(b'"') | is(b'\\');
    HIGHEST & if ASCII { found | word } else { found & !word }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn date(millis: i64) -> Option<String> {
        rfc3339(millis).map(|text| String::from_utf8(text.to_vec()).unwrap())
    }

    #[test]
    fn dates() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_227_029_007, "2026-11-21T02:10:29.007Z"),
            (YEAR_0, "0000-01-01T00:00:00.000Z"),
            (YEAR_0 + 60 * MILLIS_PER_DAY, "0000-03-01T00:00:00.000Z"),
            (YEAR_10000 - 1, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(date(millis).as_deref(), Some(text));
        }
        assert_eq!(date(YEAR_0 - 1), None);
        assert_eq!(date(YEAR_10000), None);
        assert_eq!(date(i64::MIN), None);
        assert_eq!(date(i64::MAX), None);
    }

    #[test]
    fn hex_and_uuid() {
        let bytes = std::array::from_fn(|index| index as u8 * 17);
        assert_eq!(&uuid_text(bytes), b"00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(&object_id_hex([0xa5; 12]), b"a5a5a5a5a5a5a5a5a5a5a5a5");
        let mut out = Vec::new();
        write_hex(&[0, 0x7f, 0xff], &mut out);
        assert_eq!(out, b"007fff");
    }

    proptest! {
        #[test]
        fn dates_agree_with_chrono(millis in YEAR_0..YEAR_10000) {
            let expected = chrono::DateTime::from_timestamp_millis(millis).unwrap();
            prop_assert_eq!(
                date(millis).unwrap(),
                expected.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
            );
        }

        #[test]
        fn escaped_text_is_read_back(text in "(\\PC|[\\x00-\\x1f\"\\\\]|[a-z ]{15,40}){0,12}") {
            let mut out = vec![b'"'];
            escape_into(&text, &mut out);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn bytes_that_are_not_utf8_are_replaced(bytes: Vec<u8>) {
            let mut out = vec![b'"'];
            escape_lossy_into(&bytes, &mut out);
            out.push(b'"');
            let expected = String::from_utf8_lossy(&bytes).into_owned();
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), expected);
        }
    }
}
