//! Keys as bytes that sort as the keys do: part by part, so that a prefix of parts is one range.
//!
//! Shared by the stores. Bytes 0, 1 and 2 within a part are escaped, so that byte 1 can end a part
//! and be below everything that a longer part has in its place. Plain text stays readable.

use super::store::RecordKey;

/// Ends a part.
const END: u8 = 1;
/// Comes before a byte up to itself, which is then raised by `RAISE`.
const ESCAPE: u8 = 2;
/// Keeps escaped bytes off 0 to 2.
const RAISE: u8 = 3;

/// The bytes of a key. Those of a key that begins with the same parts begin with the same bytes.
pub fn encode(key: &RecordKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.0.iter().map(|part| part.len() + 1).sum());
    for part in &key.0 {
        for &byte in part {
            if byte <= ESCAPE {
                bytes.extend([ESCAPE, byte + RAISE]);
            } else {
                bytes.push(byte);
            }
        }
        bytes.push(END);
    }
    bytes
}

/// The key that has these bytes; `None` where no key has.
pub fn decode(bytes: &[u8]) -> Option<RecordKey> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let mut rest = bytes.iter();
    while let Some(&byte) = rest.next() {
        match byte {
            0 => return None,
            END => parts.push(std::mem::take(&mut part)),
            ESCAPE => part.push(rest.next()?.checked_sub(RAISE).filter(|byte| *byte <= ESCAPE)?),
            byte => part.push(byte),
        }
    }
    part.is_empty().then_some(RecordKey(parts))
}

/// The least bytes above all keys that begin with the parts of `prefix`; `None` where there are no
/// parts, and so no bound.
pub fn end_of(prefix: &RecordKey) -> Option<Vec<u8>> {
    let mut bytes = encode(prefix);
    *bytes.last_mut()? = END + 1;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> impl Strategy<Value = RecordKey> {
        let byte = prop_oneof![4 => 0..5u8, 1 => any::<u8>()];
        prop::collection::vec(prop::collection::vec(byte, 0..4), 0..4).prop_map(RecordKey)
    }

    proptest! {
        #[test]
        fn a_key_comes_back(key in key()) {
            prop_assert_eq!(decode(&encode(&key)), Some(key));
        }

        #[test]
        fn bytes_sort_as_keys_do(a in key(), b in key()) {
            prop_assert_eq!(encode(&a).cmp(&encode(&b)), a.cmp(&b));
        }

        #[test]
        fn a_prefix_is_a_range(prefix in key(), key in key()) {
            let bytes = encode(&key);
            let within = bytes >= encode(&prefix)
                && end_of(&prefix).is_none_or(|end| bytes < end);
            prop_assert_eq!(within, key.0.starts_with(&prefix.0));
        }
    }

    #[test]
    fn text_stays_readable_and_damage_is_noticed() {
        assert_eq!(encode(&RecordKey::text(&["search", "shop.a"])), b"search\x01shop.a\x01");
        for damaged in [&b"open"[..], b"\x00\x01", b"\x02", b"\x02\x01\x01", b"\x02\x06\x01"] {
            assert_eq!(decode(damaged), None, "{damaged:?}");
        }
    }
}
