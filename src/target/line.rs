//! One line of JSON that tells of one document, for files and for standard output: what a webhook's
//! message of the format `standard` carries, with the message's id in it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    change::Phase,
    rules::model::WebhookFormat,
    target::{
        Action, Operation, PlaceKey, Placing,
        json::Mode,
        webhook::{
            message::message_id,
            payload::{Style, Subject, Told},
            place::{id_of, write_text},
        },
    },
    transform::Meta,
};

/// What every line begins with: by this a line that was torn is known to be mongosync's own.
pub(super) const BEGINNING: &[u8] = b"{\"id\":\"msg_";

/// Where a document of a namespace lies, taken apart: the rule is no part of it, so that of two rules
/// that tell of one document in one file, one that puts it is not contradicted by one that does not.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LinePlace<'a> {
    /// The file as its template is filled in; empty for standard output.
    pub path: String,
    namespace: String,
    id: String,
    #[serde(borrow)]
    id_json: &'a RawValue,
    /// Of which event, where events are told.
    #[serde(default)]
    event: Option<String>,
}

impl<'a> LinePlace<'a> {
    /// Takes a place apart.
    ///
    /// # Errors
    /// Where it is none of a line's.
    pub fn decode(place: &'a PlaceKey) -> Result<Self, String> {
        let array = Some(&place.0).filter(|bytes| bytes.first() == Some(&b'['));
        let place = array.and_then(|bytes| serde_json::from_slice(bytes).ok());
        place.ok_or_else(|| {
            "this place is none of a file's: the target was of another kind when it was written"
                .into()
        })
    }

    /// The document, for dead letters and logs.
    pub fn document(&self) -> String {
        format!("{} {}", self.namespace, self.id)
    }

    fn subject(&self) -> Subject<'_> {
        let Self { namespace, id, id_json, .. } = self;
        Subject { rule: "", namespace, id, id_json }
    }
}

/// How lines are written.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    owner: String,
    style: Style,
}

impl Lines {
    /// `owner` is text that nobody else uses: it makes the ids one's own.
    pub fn new(owner: &str, extended_json: bool) -> Self {
        let mode = if extended_json { Mode::Extended } else { Mode::Plain };
        let style = Style { format: WebhookFormat::Standard, mode, array: true };
        Self { owner: owner.to_owned(), style }
    }

    /// The place of a document in a file.
    ///
    /// # Errors
    /// Where its id is not BSON.
    pub fn place(&self, path: &str, placing: &Placing<'_>) -> Result<PlaceKey, String> {
        let (id, id_json) = id_of(placing, self.style.mode)?;
        let mut bytes = Vec::with_capacity(128 + id_json.len());
        let mut separator = b'[';
        for text in [path, placing.namespace.as_str(), id] {
            bytes.push(separator);
            write_text(text, &mut bytes);
            separator = b',';
        }
        bytes.push(b',');
        bytes.extend_from_slice(&id_json);
        if let Some(event) = placing.event {
            bytes.push(b',');
            write_text(event, &mut bytes);
        }
        bytes.push(b']');
        Ok(PlaceKey(bytes.into()))
    }

    /// Appends the line of an operation, with the line feed that ends it and no other.
    ///
    /// # Errors
    /// Where the document is not BSON; the body is then as it was.
    pub fn encode(&self, operation: &Operation, body: &mut Vec<u8>) -> Result<(), String> {
        let place = match LinePlace::decode(&operation.place) {
            // Nothing of it was ever written here.
            Err(_) if matches!(operation.action, Action::Remove) => return Ok(()),
            place => place?,
        };
        let (document, event) = match &operation.action {
            Action::Put(document) => (Some(document), None),
            Action::Remove => (None, None),
            Action::Append(told) => (told.document.as_ref(), Some(&*told.event)),
        };
        let (subject, start) = (place.subject(), body.len());
        let moving = [("", place.path.as_str())].into_iter();
        let (time, copy) = (operation.told_time(), operation.phase == Phase::Copy);
        let mut told = Told { id: "", subject, document, time, copy, event };
        let cause = (operation.cause, place.event.as_deref());
        let id = message_id(&self.owner, subject, moving, told.op(), cause);
        told.id = &id;
        self.style.write(&told, body).inspect_err(|_| body.truncate(start))?;
        body.push(b'\n');
        Ok(())
    }

    /// See [`crate::target::Target::meta`].
    pub fn meta(&self, operation: &Operation) -> Meta {
        let id = LinePlace::decode(&operation.place).ok().map(|place| place.id);
        Meta { id, ..Meta::default() }
    }
}
