//! Documents of every BSON type, from a seed.

use mongodb::bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, Uuid,
    doc, oid::ObjectId, spec::BinarySubtype,
};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Makes documents: the same ones for the same seed.
pub struct Documents {
    random: StdRng,
}

impl Documents {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed) }
    }

    /// To draw from elsewhere.
    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// A text of so many letters, some of which JSON must escape.
    pub fn text(&mut self, length: usize) -> String {
        const LETTERS: &[char] =
            &['a', 'e', 'i', 'n', 's', 't', 'r', ' ', '"', '\\', '\n', 'é', '東'];
        (0..length).map(|_| LETTERS[self.random.random_range(0..LETTERS.len())]).collect()
    }

    /// A document of about 1.1 KB, nested, with every BSON type in it.
    pub fn document(&mut self, id: impl Into<Bson>) -> Document {
        let number = self.random.random_range(-1_000_000..1_000_000);
        let title = self.text(40);
        let description = self.text(500);
        let bytes: [u8; 16] = self.random.random();
        doc! {
            "_id": id,
            "title": title,
            "description": description,
            "int": number,
            "long": i64::from(number) << 33,
            "double": f64::from(number) / 7.0,
            "whole": f64::from(number),
            "decimal": decimal(&format!("{number}.50")),
            "flag": number % 2 == 0,
            "nothing": Bson::Null,
            "object_id": ObjectId::from_bytes(bytes[..12].try_into().expect("12 bytes")),
            "date": DateTime::from_millis(1_700_000_000_000 + i64::from(number) * 1_000_003),
            "uuid": Uuid::from_bytes(bytes),
            "binary": Binary { subtype: BinarySubtype::Generic, bytes: bytes.to_vec() },
            "timestamp": Timestamp { time: 1_700_000_000, increment: 7 },
            "regex": Regex { pattern: "^a.b$".try_into().expect("no zero"), options: "i".try_into().expect("no zero") },
            "code": Bson::JavaScriptCode("f()".into()),
            "scoped": JavaScriptCodeWithScope { code: "g()".into(), scope: doc! { "x": 1 } },
            "symbol": Bson::Symbol("sym".into()),
            "min": Bson::MinKey,
            "max": Bson::MaxKey,
            "nan": f64::NAN,
            "nested": {
                "_id": 5,
                "tags": ["a", "b", self.text(6)],
                "deep": { "list": [1, number, [2]], "items": [{ "n": number }, {}], "empty": {} },
            },
        }
    }
}

/// A Decimal128 from its digits.
pub fn decimal(digits: &str) -> Decimal128 {
    digits.parse().expect("the digits of a decimal")
}
