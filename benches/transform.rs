//! One script of six lines on one document of 1.1 KB and 15 fields, in documents a second.

use std::hint::black_box;

use bson::{DateTime, RawBsonRef, RawDocumentBuf, doc, oid::ObjectId};
use criterion::{Criterion, Throughput};
use mongosync::{
    change::{ClusterTime, Document, Namespace},
    transform::{Event, Input, Limits, Script},
};

const SIX_LINES: &str = r#"
if !doc.active { skip() }
doc.title = doc.title.to_upper();
doc.margin = doc.price - doc.cost;
doc.remove("description");
doc.country = doc.supplier.country;
doc.stock += 1;
"#;

const TWO_LINES: &str = r#"
if !doc.active { skip() }
doc.country = doc.supplier.country;
"#;

fn product() -> RawDocumentBuf {
    let document = doc! {
        "_id": ObjectId::from_bytes([0x64, 0xb0, 7, 9, 1, 2, 3, 4, 5, 6, 7, 8]),
        "sku": "SKU-0001234567",
        "title": "Stainless steel water bottle, insulated, 750 ml",
        "description": "Keeps drinks cold for twenty-four hours and hot for twelve. ".repeat(7),
        "price": 24.95,
        "cost": 11.2,
        "stock": 1_250,
        "views": 9_876_543_210_i64,
        "active": true,
        "created": DateTime::from_millis(1_795_227_029_007),
        "category": ObjectId::from_bytes([0x64; 12]),
        "tags": ["kitchen", "outdoor", "steel", "Größe L", "new"],
        "dimensions": { "width": 7.5, "height": 26.0, "depth": 7.5, "unit": "cm" },
        "supplier": { "name": "Müller & Söhne \"Nord\"", "country": "DE", "rating": 4.5 },
        "reviews": [
            { "user": "anna", "stars": 5, "text": "Exactly what I was looking for." },
            { "user": "ben", "stars": 4, "text": "Good, but the lid\nis a bit tight." },
        ],
    };
    RawDocumentBuf::try_from(&document).expect("the document is valid")
}

fn transform(criterion: &mut Criterion) {
    let document = Document::from(product());
    let namespace = Namespace::new("shop", "products");
    let mut group = criterion.benchmark_group("transform");
    group.throughput(Throughput::Elements(1));
    for (name, text) in [("six lines", SIX_LINES), ("two lines", TWO_LINES)] {
        let script = Script::compile(text, Limits::default(), None).expect("the script is valid");
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let input = Input {
                    document: Some(black_box(&document)),
                    event: Event {
                        op: "put",
                        namespace: &namespace,
                        id: RawBsonRef::Int32(1),
                        cluster_time: ClusterTime::ZERO,
                        wall_time: None,
                        copy: true,
                        happened: None,
                    },
                    reads: None,
                };
                black_box(script.run(input).expect("the script does not fail"))
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    transform(&mut criterion);
    criterion.final_summary();
}
