//! Where a document of a rule lies behind a webhook: which document it is, and what of the URL that is
//! told of it is its own. Kept by the checkpoint store where it depends on the document, so it holds
//! what a removal needs of the document, and nothing of the rule file: that may be a secret, and may
//! be another one tomorrow, when the removal is to go there.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{address::Address, payload::Subject};
use crate::{
    change::DocumentKey,
    target::{
        PlaceKey, Placing,
        json::{Mode, write_value},
    },
};

/// A place, taken apart.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct WebhookPlace<'a> {
    /// The rule, since each of two rules tells of a document by itself.
    pub rule: String,
    /// Where the document lives in the source.
    pub namespace: String,
    /// The id as text, distinct from that of any other document of the namespace.
    pub id: String,
    /// The id as JSON, as a document would hold it.
    #[serde(borrow)]
    pub id_json: &'a RawValue,
    /// Where it is told.
    pub address: Address,
    /// Of which event, where events are told.
    #[serde(default)]
    pub event: Option<String>,
    /// Of which document that event is, as text; [`Self::id`] where there is none.
    #[serde(default)]
    document: Option<String>,
}

/// The bytes are no place of a webhook: another kind of target wrote them.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this place is none of a webhook's: the target was of another kind when it was written")]
pub(super) struct PlaceError;

/// The place of a document, or of an event of it; `id_json` is JSON. Of an event it is said which one it is,
/// and of which document, whatever id a script has given it: that is what it keeps its order with.
pub(super) fn place_key(
    rule: &str,
    namespace: &str,
    (id, id_json): (&str, &[u8]),
    address: &Address,
    event: Option<(&str, &str)>,
) -> PlaceKey {
    let mut bytes = Vec::with_capacity(128 + id_json.len());
    let mut separator = b'[';
    for text in [rule, namespace, id] {
        bytes.push(separator);
        write_text(text, &mut bytes);
        separator = b',';
    }
    bytes.push(b',');
    bytes.extend_from_slice(id_json);
    bytes.push(b',');
    serde_json::to_writer(&mut bytes, address).expect("writing to memory does not fail");
    if let Some((event, document)) = event {
        for text in [Some(event), (document != id).then_some(document)].into_iter().flatten() {
            bytes.push(b',');
            write_text(text, &mut bytes);
        }
    }
    bytes.push(b']');
    PlaceKey(bytes.into())
}

/// The id of a document, as text and as JSON: that which a script has set, else the document's own.
///
/// # Errors
/// Where it is not BSON.
pub(in crate::target) fn id_of<'a>(
    placing: &Placing<'a>,
    mode: Mode,
) -> Result<(&'a str, Vec<u8>), String> {
    let mut json = Vec::new();
    if let Some(id) = &placing.meta.id {
        write_text(id, &mut json);
        return Ok((id, json));
    }
    // A script may have made another document of it, with an `_id` of its own.
    let own = placing.document.and_then(|document| document.get("_id").ok().flatten());
    let own = own.filter(|own| {
        DocumentKey::from_id(*own)
            .is_ok_and(|own| DocumentKey::from_id(placing.key.id()).is_ok_and(|key| key != own))
    });
    let id = own.unwrap_or(placing.key.id());
    write_value(id, mode, &mut json).map_err(|error| error.to_string())?;
    Ok((placing.id, json))
}

/// Appends text as JSON.
pub(in crate::target) fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("writing to memory does not fail");
}

impl<'a> WebhookPlace<'a> {
    /// Takes a place apart.
    ///
    /// # Errors
    /// Where it is none of a webhook's.
    pub fn decode(place: &'a PlaceKey) -> Result<Self, PlaceError> {
        if place.0.first() != Some(&b'[') {
            return Err(PlaceError);
        }
        serde_json::from_slice(&place.0).map_err(|_| PlaceError)
    }

    /// The document, as whatever is told of it keeps its order.
    pub fn ordered(self) -> (String, String) {
        (self.namespace, self.document.unwrap_or(self.id))
    }

    /// Which document it is.
    pub fn subject(&self) -> Subject<'_> {
        let Self { rule, namespace, id, id_json, .. } = self;
        Subject { rule, namespace, id, id_json }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_it_was_made_from() {
        for address in [
            Address::Whole("https://h?x=%20".to_owned()),
            Address::Filled([("a.b".to_owned(), "\u{0}\"".to_owned())].into()),
            Address::Filled([].into()),
        ] {
            let id = ("\u{0}x", &b"{\"a\":1}"[..]);
            for event in [None, Some(("e:1", "7")), Some(("e:1", id.0))] {
                let key = place_key("r", "shop.a", id, &address, event);
                let place = WebhookPlace::decode(&key).unwrap();
                assert_eq!(place.event.as_deref(), event.map(|(event, _)| event));
                let document = event.map_or(id.0, |(_, document)| document);
                assert_eq!(place.ordered(), ("shop.a".to_owned(), document.to_owned()));
            }
            let key = place_key("r \"1\"", "shop.a\u{1}b", id, &address, None);
            let place = WebhookPlace::decode(&key).unwrap();
            assert_eq!(
                (place.rule.as_str(), place.namespace.as_str(), place.id.as_str()),
                ("r \"1\"", "shop.a\u{1}b", "\u{0}x")
            );
            assert_eq!((place.id_json.get(), place.address), ("{\"a\":1}", address));
        }
    }

    #[test]
    fn a_place_of_another_target_is_told() {
        let other = PlaceKey((*b"\x08products\x011").into());
        assert!(WebhookPlace::decode(&other).is_err());
    }
}
