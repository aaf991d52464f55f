//! One message in the body of a request: how delivery carries it from where it is made to where it is
//! sent, and how `try` and a dry run show it. A head as HTTP has it, an empty line, the payload.
//!
//! What is the same for every message (certificates, the rule file's own headers) and what is new at
//! every try (time and signature) is not in it.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::payload::Subject;
use crate::change::Cause;

/// The last line of a head.
const ID: &str = "webhook-id";

/// A message's id: the same whenever what this change (or this copy) has made of the document is told
/// by this rule, at every retry and after every restart; another one for every other change, copy,
/// document, rule, target and file, and for a removal.
///
/// It is made from what brought the message about and not from what is told: the present state may
/// have changed when a change is delivered for the second time, and then a later change brings it with
/// an id of its own, so that a receiver who drops what he knows loses nothing. Of the URL it knows what
/// follows from the document: one change may be told in several places. What else stands in it, such as
/// a token that is replaced, makes no difference.
///
/// An event is told once, wherever the document of the moment has it told: its own id is all that counts
/// beside the rule and the file.
///
/// `moving` is what of the place may be another one when the document is, `event` the id of an event.
pub(in crate::target) fn message_id<'m>(
    owner: &str,
    subject: Subject<'_>,
    moving: impl Iterator<Item = (&'m str, &'m str)>,
    op: &str,
    (cause, event): (Cause, Option<&str>),
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    let Subject { rule, namespace, id, id_json } = subject;
    if let Some(event) = event {
        [owner, rule, event].into_iter().for_each(|text| part(text.as_bytes()));
        return id_of(hash);
    }
    for text in [owner, rule, namespace, id, id_json.get(), op] {
        part(text.as_bytes());
    }
    match cause {
        Cause::Event(time) => part(&time.0.to_le_bytes()),
        Cause::Copy(plan) => part(&plan.bytes()),
    }
    for (name, value) in moving {
        part(name.as_bytes());
        part(value.as_bytes());
    }
    id_of(hash)
}

/// The id of a request with several messages.
pub(super) fn request_id<'a>(ids: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    ids.for_each(|id| hash.update(id));
    id_of(hash)
}

fn id_of(hash: Sha256) -> String {
    let digest = hash.finalize();
    let mut id = b"msg_".to_vec();
    crate::change::text::write_hex(&digest[..16], &mut id);
    String::from_utf8(id).expect("hex digits are text")
}

/// Appends a head. Neither the URL nor a header holds a line feed.
pub(super) fn write_head<'a>(
    (method, url): (&str, &str),
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    id: &'a str,
    out: &mut Vec<u8>,
) {
    let mut text = format!("{method} {url}\n");
    for (name, value) in headers.chain([(ID, id)]) {
        text.extend([name, ": ", value, "\n"]);
    }
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
}

/// A message, read back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Message<'a> {
    /// Method, URL and headers, without the id: messages with the same can go out together.
    pub head: &'a str,
    /// See [`message_id`].
    pub id: &'a str,
    /// Where the payload lies.
    pub payload: std::ops::Range<usize>,
}

impl<'a> Message<'a> {
    /// Reads the message that lies in `range` of a body.
    pub fn read(body: &'a Bytes, range: std::ops::Range<usize>) -> Self {
        let item = &body[range.clone()];
        let end = item.windows(2).position(|two| two == b"\n\n").expect("a message has a head");
        let head = str::from_utf8(&item[..end]).expect("a head is text");
        let (head, id) = head.rsplit_once('\n').expect("a head ends with the id");
        let id = id.strip_prefix(ID).and_then(|id| id.strip_prefix(": "));
        Self {
            head,
            id: id.expect("a head ends with the id"),
            // Without the line feed that ends a message.
            payload: range.start + end + 2..range.end - 1,
        }
    }

    /// Method and URL.
    pub fn address(&self) -> (&'a str, &'a str) {
        let line = self.head.lines().next().expect("a head has a first line");
        line.split_once(' ').expect("a head begins with method and URL")
    }

    /// The headers that are the message's own.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.head.lines().skip(1).filter_map(|line| line.split_once(": "))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use bson::Uuid;

    use super::{
        super::{
            address::Address,
            place::{WebhookPlace, place_key},
        },
        *,
    };
    use crate::{change::ClusterTime, target::PlaceKey};

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let mut body = b"before".to_vec();
        let start = body.len();
        let headers = [("x-a", "1: 2"), ("x-b", "")];
        write_head(("PUT", "https://h/x?y"), headers.into_iter(), "msg_1", &mut body);
        body.extend_from_slice(b"{\n\n}\n");
        let body = Bytes::from(body);
        let message = Message::read(&body, start..body.len());
        assert_eq!(message.address(), ("PUT", "https://h/x?y"));
        assert_eq!(message.headers().collect::<Vec<_>>(), headers);
        assert_eq!((message.id, &body[message.payload.clone()]), ("msg_1", &b"{\n\n}"[..]));
    }

    /// Whoever has seen an id before a restart or an update has to know it after.
    #[test]
    fn ids_do_not_change() {
        let place = |rule: &str, id: &str, address: Address| {
            place_key(rule, "shop.orders", (id, b"7"), &address, None)
        };
        let of_event = |event: &str| {
            let address = Address::Filled([].into());
            place_key("r", "shop.orders", ("7", b"7"), &address, Some((event, "7")))
        };
        let filled = |values: &[(&str, &str)]| {
            let owned =
                values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Address::Filled(owned.collect())
        };
        let id = |owner: &str, place: &PlaceKey, op: &str, cause: Cause| {
            let place = WebhookPlace::decode(place).expect("a place");
            let cause = (cause, place.event.as_deref());
            message_id(owner, place.subject(), place.address.moving(), op, cause)
        };
        let time = ClusterTime(7_710_508_021_874_655_233);
        let (event, fixed) = (Cause::Event(time), place("r", "7", filled(&[("_id", "7")])));
        let first = id("shop 1", &fixed, "put", event);
        assert_eq!(first, "msg_5a626ee7ad54a7a15f2c64e917a2ba87");
        // What a place holds of the key is no more than the key.
        assert_eq!(first, id("shop 1", &place("r", "7", filled(&[])), "put", event));
        let whole = Address::Whole("https://h/x".to_owned());
        let others = [
            id("shop 2", &fixed, "put", event),
            id("shop 1", &place("q", "7", filled(&[])), "put", event),
            id("shop 1", &place("r", "8", filled(&[])), "put", event),
            id("shop 1", &fixed, "remove", event),
            id("shop 1", &fixed, "put", Cause::Event(ClusterTime(time.0 + 1))),
            id("shop 1", &fixed, "put", Cause::Copy(Uuid::from_bytes([1; 16]))),
            id("shop 1", &fixed, "put", Cause::Copy(Uuid::from_bytes([2; 16]))),
            id("shop 1", &place("r", "7", filled(&[("tenant", "a")])), "put", event),
            id("shop 1", &place("r", "7", filled(&[("tenant", "b")])), "put", event),
            id("shop 1", &place("r", "7", whole), "put", event),
            id("shop 1", &of_event("1"), "update", event),
            id("shop 1", &of_event("2"), "update", event),
        ];
        let again = Cause::Event(ClusterTime(1));
        let known = id("shop 1", &of_event("1"), "update", again);
        assert_eq!(known, others[others.len() - 2]);
        assert_eq!(known, "msg_85423324753ecf4685f302edba2f471b");
        // What the document of the moment makes of the place makes no other event of it.
        for (document, address) in [
            (("7", &b"7"[..]), filled(&[("status", "paid")])),
            (("7", &b"7"[..]), filled(&[("status", "sent")])),
            (("7", &b"7"[..]), Address::Whole("https://h/x".to_owned())),
            (("a", &b"\"a\""[..]), filled(&[])),
        ] {
            let place = place_key("r", "shop.orders", document, &address, Some(("1", "7")));
            assert_eq!(id("shop 1", &place, "update", event), known);
        }
        let all: BTreeSet<_> = others.iter().chain([&first]).collect();
        assert_eq!(all.len(), others.len() + 1, "{others:?}");
    }
}
