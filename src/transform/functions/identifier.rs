//! ObjectIds, UUIDs, timestamps and binary values.

use bson::{DateTime, Timestamp, Uuid, oid::ObjectId};
use rhai::{Blob, ImmutableString, Module};

use super::{getter, pure};
use crate::{
    change::{ClusterTime, text::write_hex},
    transform::{
        failure::{Answer, refuse},
        value::Binary,
    },
};

/// Registers `==` and its like for a type that is ordered.
macro_rules! ordered {
    ($module:ident, $type:ty, $compare:expr) => {{
        use std::cmp::Ordering;
        let compare: fn(&$type, &$type) -> Ordering = $compare;
        pure($module, "==", move |a: $type, b: $type| compare(&a, &b) == Ordering::Equal);
        pure($module, "!=", move |a: $type, b: $type| compare(&a, &b) != Ordering::Equal);
        pure($module, "<", move |a: $type, b: $type| compare(&a, &b) == Ordering::Less);
        pure($module, "<=", move |a: $type, b: $type| compare(&a, &b) != Ordering::Greater);
        pure($module, ">", move |a: $type, b: $type| compare(&a, &b) == Ordering::Greater);
        pure($module, ">=", move |a: $type, b: $type| compare(&a, &b) != Ordering::Less);
    }};
}
pub(super) use ordered;

fn hex(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    write_hex(bytes, &mut out);
    String::from_utf8(out).expect("hex digits are ASCII")
}

fn timestamp_text(timestamp: &Timestamp) -> String {
    ClusterTime::from(*timestamp).to_string()
}

pub(super) fn register(module: &mut Module) {
    register_object_id(module);
    register_uuid(module);

    module.set_custom_type::<Timestamp>("Timestamp");
    ordered!(module, Timestamp, |a, b| (a.time, a.increment).cmp(&(b.time, b.increment)));
    getter(module, "seconds", |time: &mut Timestamp| i64::from(time.time));
    getter(module, "increment", |time: &mut Timestamp| i64::from(time.increment));
    pure(module, "date", |time: &mut Timestamp| DateTime::from_millis(i64::from(time.time) * 1000));
    pure(module, "to_string", |time: &mut Timestamp| timestamp_text(time));
    pure(module, "to_debug", |time: &mut Timestamp| timestamp_text(time));

    module.set_custom_type::<Binary>("Binary");
    ordered!(module, Binary, Ord::cmp);
    getter(module, "subtype", |binary: &mut Binary| i64::from(binary.subtype));
    pure(module, "len", |binary: &mut Binary| binary.bytes().len() as i64);
    pure(module, "hex", |binary: &mut Binary| hex(binary.bytes()));
    pure(module, "to_blob", |binary: &mut Binary| -> Blob { binary.bytes().to_vec() });
    for name in ["to_string", "to_debug"] {
        pure(module, name, |binary: &mut Binary| super::digest::encode(binary.bytes()));
    }
}

fn register_object_id(module: &mut Module) {
    module.set_custom_type::<ObjectId>("ObjectId");
    pure(module, "object_id", ObjectId::new);
    pure(module, "object_id", |text: ImmutableString| -> Answer<ObjectId> {
        ObjectId::parse_str(text.as_str())
            .map_err(|_| refuse(format!("{text:?} is no ObjectId: 24 hex characters")))
    });
    pure(module, "object_id", |id: ObjectId| id);
    ordered!(module, ObjectId, Ord::cmp);
    getter(module, "timestamp", |id: &mut ObjectId| id.timestamp());
    pure(module, "hex", |id: &mut ObjectId| id.to_hex());
    pure(module, "to_string", |id: &mut ObjectId| id.to_hex());
    pure(module, "to_debug", |id: &mut ObjectId| id.to_hex());
}

fn register_uuid(module: &mut Module) {
    module.set_custom_type::<Uuid>("Uuid");
    pure(module, "uuid", Uuid::new);
    pure(module, "uuid", |text: ImmutableString| -> Answer<Uuid> {
        Uuid::parse_str(text.as_str()).map_err(|_| refuse(format!("{text:?} is no UUID")))
    });
    pure(module, "uuid", |uuid: Uuid| uuid);
    ordered!(module, Uuid, |a, b| a.bytes().cmp(&b.bytes()));
    pure(module, "hex", |uuid: &mut Uuid| hex(&uuid.bytes()));
    pure(module, "to_string", |uuid: &mut Uuid| uuid.to_string());
    pure(module, "to_debug", |uuid: &mut Uuid| uuid.to_string());
}
