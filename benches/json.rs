//! BSON → JSON for one document of 1.1 KB, in bytes of BSON a second.

use std::hint::black_box;

use bson::{DateTime, RawDocumentBuf, doc, oid::ObjectId};
use criterion::{Criterion, Throughput};
use mongosync::target::json::{Mode, Options, write_document};

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
        "discount": bson::Bson::Null,
        "created": DateTime::from_millis(1_795_227_029_007),
        "updated": DateTime::from_millis(1_795_300_000_123),
        "category": ObjectId::from_bytes([0x64; 12]),
        "tags": ["kitchen", "outdoor", "steel", "Größe L", "new"],
        "dimensions": { "width": 7.5, "height": 26.0, "depth": 7.5, "unit": "cm" },
        "supplier": { "name": "Müller & Söhne \"Nord\"", "country": "DE", "rating": 4.5, "id": 8_211 },
        "reviews": [
            { "user": "anna", "stars": 5, "text": "Exactly what I was looking for." },
            { "user": "ben", "stars": 4, "text": "Good, but the lid\nis a bit tight." },
        ],
    };
    RawDocumentBuf::try_from(&document).expect("the document is valid")
}

fn json(criterion: &mut Criterion) {
    let document = product();
    let mut group = criterion.benchmark_group("json");
    group.throughput(Throughput::Bytes(document.as_bytes().len() as u64));
    for (name, mode) in [("plain", Mode::Plain), ("extended", Mode::Extended)] {
        let options = Options { mode, skip_id: true };
        let mut out = Vec::with_capacity(8 << 10);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                write_document(black_box(&document), options, &mut out).expect("it is BSON");
                black_box(&out);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    json(&mut criterion);
    criterion.final_summary();
}
