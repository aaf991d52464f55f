//! What goes with one message beside its place: what a script chose for it, and the headers that are
//! made from the document.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::address::{fill_header, header_value};
use crate::{
    rules::{
        model::{MOST_HEADERS, header_fault},
        template::Template,
    },
    target::Placing,
};

/// Methods that a script may choose. `DELETE` says that a document is gone.
const METHODS: [&str; 4] = ["POST", "PUT", "PATCH", "DELETE"];

/// See [`Operation::extra`](crate::target::Operation::extra).
#[derive(Default, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Extra {
    pub method: Option<String>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Option<String>,
}

impl Extra {
    /// Of a document that is told. `own` are the rule file's templates, in so far as they are sent there.
    ///
    /// # Errors
    /// Where a value is missing, or a script chose what can't be sent.
    pub fn of_put(
        own: &[(String, Template)],
        rule: &str,
        placing: &Placing<'_>,
    ) -> Result<Self, String> {
        let meta = placing.meta;
        let mut extra = Self { body: meta.body.clone(), ..Self::default() };
        if let Some(method) = &meta.method {
            let method = method.to_ascii_uppercase();
            if !METHODS.contains(&method.as_str()) {
                return Err(format!("`meta.method` is one of {}", METHODS.join(", ")));
            }
            extra.method = Some(method);
        }
        if meta.headers.len() > MOST_HEADERS {
            let count = meta.headers.len();
            return Err(format!("`meta.headers` holds {count}, and {MOST_HEADERS} are the most"));
        }
        for (name, template) in own {
            if meta.headers.contains_key(name) {
                continue;
            }
            match fill_header((name, template), rule, placing) {
                Ok(value) => extra.headers.push((name.clone(), value)),
                // An event without a document has what follows from its key, as a removal has.
                Err(_) if placing.document.is_none() => {}
                Err(words) => return Err(words),
            }
        }
        for (name, value) in &meta.headers {
            if let Some(fault) = header_fault(name) {
                return Err(format!("`meta.headers` can't set {name:?}: {fault}"));
            }
            extra.headers.push((name.to_owned(), header_value(value)?));
        }
        Ok(extra)
    }

    /// Of a document that is gone: the headers that follow from its key.
    pub fn of_removal(own: &[(String, Template)], rule: &str, placing: &Placing<'_>) -> Self {
        let headers = own
            .iter()
            .filter_map(|(name, value)| {
                Some((name.clone(), fill_header((name, value), rule, placing).ok()?))
            })
            .collect();
        Self { headers, ..Self::default() }
    }

    pub fn encode(&self) -> Bytes {
        match *self == Self::default() {
            true => Bytes::new(),
            false => serde_json::to_vec(self).expect("texts make JSON").into(),
        }
    }

    pub fn decode(bytes: &Bytes) -> Self {
        if bytes.is_empty() {
            return Self::default();
        }
        serde_json::from_slice(bytes)
            .expect("only `place` and `removal` make what goes with an operation")
    }
}
