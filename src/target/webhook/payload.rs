//! What a webhook carries, in each of its formats.

use serde_json::value::RawValue;

use crate::{
    change::{ClusterTime, Document, event::Happened, text::rfc3339},
    rules::model::WebhookFormat,
    target::{
        event::{write_change, write_optional},
        json::{Mode, Options},
    },
};

use super::{address::segment, place::write_text};

/// Which document it is that is told of.
#[derive(Clone, Copy, Debug)]
pub(in crate::target) struct Subject<'a> {
    /// The rule; empty where it makes no difference to the target which one it is.
    pub rule: &'a str,
    /// Where the document lives in the source.
    pub namespace: &'a str,
    /// The id as text, distinct from that of any other document of the namespace.
    pub id: &'a str,
    /// The id as JSON, as a document would hold it.
    pub id_json: &'a RawValue,
}

/// What is told of one document.
pub(in crate::target) struct Told<'a> {
    /// The message's own id.
    pub id: &'a str,
    /// Which document.
    pub subject: Subject<'a>,
    /// `None` where it is gone.
    pub document: Option<&'a Document>,
    /// Of the change.
    pub time: ClusterTime,
    /// Whether it comes from the copy.
    pub copy: bool,
    /// What has happened, where events are told.
    pub event: Option<&'a Happened>,
}

/// How it is written.
#[derive(Clone, Copy, Debug)]
pub(in crate::target) struct Style {
    /// Which of the formats.
    pub format: WebhookFormat,
    /// Which JSON.
    pub mode: Mode,
    /// Whether several make a request, so that the header's id is not theirs.
    pub array: bool,
}

impl Style {
    /// The content type of a request.
    pub fn content_type(self) -> &'static str {
        match (self.format, self.array) {
            (WebhookFormat::CloudEvents, false) => "application/cloudevents+json",
            (WebhookFormat::CloudEvents, true) => "application/cloudevents-batch+json",
            (WebhookFormat::Standard | WebhookFormat::Document, _) => "application/json",
        }
    }

    /// Appends one document's payload, on one line. Of a document that is gone, `document` has none.
    ///
    /// # Errors
    /// Where the document is not BSON; `out` is then longer than before.
    pub fn write(self, told: &Told<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match self.format {
            WebhookFormat::Standard => {
                out.push(b'{');
                if self.array {
                    out.extend_from_slice(b"\"id\":");
                    write_text(told.id, out);
                    out.push(b',');
                }
                out.extend_from_slice(b"\"type\":");
                write_text(&told.kind(), out);
                told.write_time("timestamp", out);
                self.write_data(told, out)?;
            }
            WebhookFormat::CloudEvents => {
                out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
                write_text(told.id, out);
                out.extend_from_slice(b",\"source\":");
                write_text(&format!("/mongosync/{}", segment(told.subject.rule)), out);
                out.extend_from_slice(b",\"type\":");
                write_text(&told.kind(), out);
                // It is optional, and not to be empty.
                if !told.subject.id.is_empty() {
                    out.extend_from_slice(b",\"subject\":");
                    write_text(told.subject.id, out);
                }
                told.write_time("time", out);
                out.extend_from_slice(b",\"datacontenttype\":\"application/json\"");
                self.write_data(told, out)?;
            }
            WebhookFormat::Document => {
                return match (told.document, told.event) {
                    (Some(document), _) => write_optional(Some(document), self.options(), out),
                    // A message has a body, and every event is told.
                    (None, Some(_)) => {
                        out.extend_from_slice(b"null");
                        Ok(())
                    }
                    (None, None) => Ok(()),
                };
            }
        }
        out.push(b'}');
        Ok(())
    }

    fn options(self) -> Options {
        Options { mode: self.mode, skip_id: false }
    }

    fn write_data(self, told: &Told<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        out.extend_from_slice(b",\"data\":{\"op\":");
        write_text(told.op(), out);
        out.extend_from_slice(b",\"ns\":");
        write_text(told.subject.namespace, out);
        out.extend_from_slice(b",\"_id\":");
        out.extend_from_slice(RawValue::get(told.subject.id_json).as_bytes());
        out.extend_from_slice(b",\"cluster_time\":");
        write_text(&told.time.to_string(), out);
        out.extend_from_slice(b",\"copy\":");
        out.extend_from_slice(if told.copy { b"true" } else { b"false" });
        out.extend_from_slice(b",\"document\":");
        write_optional(told.document, self.options(), out)?;
        if let Some(event) = told.event {
            out.push(b',');
            write_change(event, self.options(), out)?;
        }
        out.push(b'}');
        Ok(())
    }
}

impl Told<'_> {
    /// What happened, as templates and payloads call it.
    pub fn op(&self) -> &'static str {
        match self.event {
            Some(event) => event.op.as_str(),
            None if self.document.is_some() => "put",
            None => "remove",
        }
    }

    fn kind(&self) -> String {
        format!("{}.{}", self.subject.namespace, self.op())
    }

    /// The second of the change, as a field that follows others.
    fn write_time(&self, name: &str, out: &mut Vec<u8>) {
        let time = rfc3339(i64::from(self.time.seconds()) * 1000)
            .expect("seconds of 32 bits end in the year 2106");
        out.push(b',');
        write_text(name, out);
        out.extend_from_slice(b":\"");
        out.extend_from_slice(&time);
        out.push(b'"');
    }
}
