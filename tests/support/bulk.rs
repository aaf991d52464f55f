//! The body of a bulk request, item by item, and the answer to one.

use axum::body::Bytes;
use serde_json::{Value, json};

/// One item of a bulk request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// `index` or `delete`.
    pub op: String,
    /// Index, id and routing: what the engine takes for one document.
    pub place: Place,
    /// The external version.
    pub version: u64,
    /// Its lines.
    range: std::ops::Range<usize>,
}

/// Where a document lies.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Place {
    pub index: String,
    pub id: String,
    pub routing: Option<String>,
}

/// An item is refused with this.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub status: u16,
    /// The engine's name for it.
    pub kind: &'static str,
    pub reason: &'static str,
}

impl Refusal {
    /// What an engine says whose queue is full.
    pub const BUSY: Self = Self {
        status: 429,
        kind: "es_rejected_execution_exception",
        reason: "rejected execution of a coordinating operation",
    };
    /// What an engine says to a document that does not fit its mapping.
    pub const UNFIT: Self = Self {
        status: 400,
        kind: "mapper_parsing_exception",
        reason: "failed to parse field [n] of type [long]",
    };
}

/// The items of a body.
pub fn items(body: &[u8]) -> Vec<Item> {
    let mut found: Vec<Item> = Vec::new();
    let mut at = 0;
    let mut lines = body.split_inclusive(|byte| *byte == b'\n');
    while let Some(line) = lines.next() {
        let action: Value = serde_json::from_slice(line).expect("an action line is JSON");
        let (op, action) = action.as_object().and_then(|a| a.iter().next()).expect("an action");
        let text = |field: &str| action[field].as_str().map(str::to_owned);
        let mut end = at + line.len();
        if op != "delete" {
            end += lines.next().map_or(0, <[u8]>::len);
        }
        found.push(Item {
            op: op.clone(),
            place: Place {
                index: text("_index").unwrap_or_default(),
                id: text("_id").unwrap_or_default(),
                routing: text("routing"),
            },
            version: action["version"].as_u64().unwrap_or_default(),
            range: at..end,
        });
        at = end;
    }
    found
}

/// The body without the items that are refused.
pub fn without(body: &Bytes, items: &[Item], refused: &[(usize, Refusal)]) -> Bytes {
    if refused.is_empty() {
        return body.clone();
    }
    let kept = items.iter().enumerate().filter(|(place, _)| !is_among(refused, *place));
    kept.flat_map(|(_, item)| &body[item.range.clone()]).copied().collect::<Vec<u8>>().into()
}

fn is_among(refused: &[(usize, Refusal)], place: usize) -> bool {
    refused.iter().any(|(own, _)| *own == place)
}

/// The engine's answer with the refused items at their places.
pub fn merged(status: u16, answer: Bytes, refused: &[(usize, Refusal)]) -> Bytes {
    if refused.is_empty() || status != 200 {
        return answer;
    }
    let mut answer: Value = serde_json::from_slice(&answer).expect("an engine answers with JSON");
    let mut items = answer["items"].as_array().cloned().unwrap_or_default();
    let mut refused = refused.to_vec();
    refused.sort_by_key(|(place, _)| *place);
    for (place, Refusal { status, kind, reason }) in refused {
        let error = json!({ "type": kind, "reason": reason });
        items.insert(place, json!({ "index": { "status": status, "error": error } }));
    }
    answer["items"] = items.into();
    answer["errors"] = true.into();
    answer.to_string().into()
}

/// The status of every item of an answer; `None` where it is not the answer to a bulk request.
pub fn statuses(status: u16, answer: &[u8]) -> Option<Vec<u16>> {
    if status != 200 {
        return None;
    }
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let items = answer["items"].as_array()?;
    let status = |item: &Value| {
        let item = item.as_object()?.values().next()?;
        u16::try_from(item["status"].as_u64()?).ok()
    };
    items.iter().map(status).collect()
}

#[test]
fn a_body_is_read_and_cut_item_by_item() {
    let body = Bytes::from_static(
        b"{\"index\":{\"_index\":\"a\",\"_id\":\"1\",\"version\":7}}\n{\"n\":1}\n\
          {\"delete\":{\"_index\":\"a\",\"_id\":\"2\",\"routing\":\"r\",\"version\":8}}\n\
          {\"index\":{\"_index\":\"a\",\"_id\":\"3\",\"version\":9}}\n{\"n\":3}\n",
    );
    let found = items(&body);
    let short: Vec<_> = found.iter().map(|i| (i.op.as_str(), &*i.place.id, i.version)).collect();
    assert_eq!(short, [("index", "1", 7), ("delete", "2", 8), ("index", "3", 9)]);
    assert_eq!(found[1].place.routing.as_deref(), Some("r"));
    let refused = [(2, Refusal::BUSY), (0, Refusal::UNFIT)];
    let rest = without(&body, &found, &refused);
    assert_eq!(items(&rest).len(), 1);
    assert!(rest.starts_with(b"{\"delete\""));
    let answer = merged(200, r#"{"items":[{"delete":{"status":404}}]}"#.into(), &refused);
    assert_eq!(statuses(200, &answer), Some(vec![400, 404, 429]));
    assert_eq!(statuses(503, &answer), None);
}
