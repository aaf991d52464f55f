//! Record keys as `_id`s.

use bson::{Document, doc};

use crate::checkpoint::{sort_key, store::RecordKey};

/// The key with the name before it: names lie side by side in one collection.
fn full(name: &str, key: &RecordKey) -> RecordKey {
    let mut parts = vec![name.as_bytes().to_vec()];
    parts.extend(key.0.iter().cloned());
    RecordKey(parts)
}

/// A character a byte. Strings compare as their UTF-8 does, which is the order of the characters
/// and so of the bytes.
fn as_text(bytes: Vec<u8>) -> String {
    bytes.into_iter().map(char::from).collect()
}

/// The `_id` of a key.
pub(super) fn id(name: &str, key: &RecordKey) -> String {
    as_text(sort_key::encode(&full(name, key)))
}

/// The key of an `_id`; `None` where it is none.
pub(super) fn key(id: &str) -> Option<RecordKey> {
    let bytes: Option<Vec<u8>> = id.chars().map(|c| u8::try_from(c).ok()).collect();
    let mut key = sort_key::decode(&bytes?)?;
    (!key.0.is_empty()).then(|| key.0.remove(0))?;
    Some(key)
}

/// The condition on `_id` for all records under a prefix.
pub(super) fn range(name: &str, prefix: &RecordKey) -> Document {
    let end = sort_key::end_of(&full(name, prefix)).expect("the name is always a part");
    doc! { "$gte": id(name, prefix), "$lt": as_text(end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_readable_and_lead_back_to_their_keys() {
        let key_of = key;
        let key = RecordKey::text(&["search", "shop.products"]).with([0, 1, 0x7f, 0xff]);
        let text = id("shop", &key);
        assert!(text.starts_with("shop\u{1}search\u{1}shop.products\u{1}"), "{text:?}");
        assert_eq!(key_of(&text), Some(key));
        assert_eq!(key_of("ł\u{1}"), None);
        assert_eq!(key_of(""), None);
        let empty = RecordKey(Vec::new());
        assert_eq!(key_of(&id("shop", &empty)), Some(empty));
    }
}
