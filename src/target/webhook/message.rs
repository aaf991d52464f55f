//! One message in the body of a request: how delivery carries it from where it is made to where it is
//! sent, and how `try` and a dry run show it. A head as HTTP has it, an empty line, the payload.
//!
//! What is the same for every message (certificates, the rule file's own headers) and what is new at
//! every try (time and signature) is not in it.

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::{change::ClusterTime, target::PlaceKey};

/// The last line of a head.
const ID: &str = "webhook-id";

/// A message's id: the same whenever this state of the document is told by this rule, at every retry
/// and after every restart; another one for every other state, document, rule, target and file.
///
/// It is made from the time of the change and not from what is told: the present state may have
/// changed when a change is delivered for the second time, and then a later change brings it with an
/// id of its own, so that a receiver who drops what he knows loses nothing. What is told of one change
/// is told in several places only where the document has moved between them.
pub(super) fn message_id(owner: &str, place: &PlaceKey, time: ClusterTime) -> String {
    let mut hash = Sha256::new();
    for part in [owner.as_bytes(), &place.0] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(time.0.to_le_bytes());
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
    use super::*;

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
        let place = |text: &'static str| PlaceKey(Bytes::from_static(text.as_bytes()));
        let time = ClusterTime(7_710_508_021_874_655_233);
        let id = message_id("shop 1", &place("a"), time);
        assert_eq!(id, "msg_f69b2b5e5d9266f9d80b89ffe601ce42");
        assert_eq!(id, message_id("shop 1", &place("a"), time));
        for other in [
            message_id("shop 2", &place("a"), time),
            message_id("shop 1", &place("b"), time),
            message_id("shop 1a", &place(""), time),
            message_id("shop 1", &place("a"), ClusterTime(time.0 + 1)),
        ] {
            assert_ne!(id, other);
        }
    }
}
