//! A small shop: categories, products and orders, the same ones every time.
//!
//! What the rule files in `rules/` are written for. It knows nothing of mongosync.

use anyhow::Result;
use mongodb::{
    Database,
    bson::{DateTime, Document, doc},
};

/// How many products there are.
pub const PRODUCTS: i32 = 3_000;
/// How many orders there are.
pub const ORDERS: i32 = 500;

const THINGS: [(&str, &str); 12] = [
    ("Desk lamp", "lighting"),
    ("Floor lamp", "lighting"),
    ("Candle holder", "lighting"),
    ("Chair", "seating"),
    ("Stool", "seating"),
    ("Bench", "seating"),
    ("Side table", "tables"),
    ("Writing desk", "tables"),
    ("Bookshelf", "storage"),
    ("Coat rack", "storage"),
    ("Wall mirror", "walls"),
    ("Picture frame", "walls"),
];
const MATERIALS: [&str; 10] =
    ["brass", "oak", "steel", "ash", "glass", "walnut", "marble", "cork", "rattan", "linen"];
const COLOURS: [&str; 25] = [
    "green", "white", "black", "red", "blue", "grey", "sand", "teal", "rose", "mint", "amber",
    "navy", "olive", "rust", "cream", "plum", "coral", "slate", "moss", "sky", "gold", "ink",
    "clay", "snow", "lime",
];
const CATEGORIES: [(&str, &str, &str); 5] = [
    ("lighting", "Lamps and light", "Living"),
    ("seating", "Chairs and benches", "Living"),
    ("tables", "Tables and desks", "Working"),
    ("storage", "Shelves and racks", "Working"),
    ("walls", "Mirrors and frames", "Decoration"),
];
/// 2026-01-01
const FIRST_DAY: i64 = 1_767_225_600_000;
const HOUR: i64 = 3_600_000;

/// Fills the three collections, which must be empty.
///
/// # Errors
/// Those of the database.
pub async fn fill(shop: &Database) -> Result<()> {
    let categories = CATEGORIES.map(|(id, name, department)| {
        doc! { "_id": id, "name": name, "department": department, "buyer": "someone@shop.example" }
    });
    shop.collection::<Document>("categories").insert_many(categories).await?;
    shop.collection::<Document>("products").insert_many((1..=PRODUCTS).map(product)).await?;
    shop.collection::<Document>("orders").insert_many((1..=ORDERS).map(order)).await?;
    Ok(())
}

/// The product with this number. One in ten is not active, one in fifty has no price yet.
pub fn product(id: i32) -> Document {
    let at = |index: i32| usize::try_from(index).expect("numbers of products are not negative");
    let (thing, category) = THINGS[at(id % 12)];
    let (material, colour) = (MATERIALS[at(id / 12 % 10)], COLOURS[at(id / 120 % 25)]);
    let price = if id % 50 == 0 { 0.0 } else { cents(590 + id * 37 % 24_000) };
    let mut product = doc! {
        "_id": id,
        "title": format!("{thing}, {material}, {colour}"),
        "category": category,
        "price": price,
        "stock": id * 7 % 50,
        "active": id % 10 != 3,
        "tags": [material, colour],
        "supplier": { "name": "Nord", "cost": cents(290 + id * 17 % 11_000) },
        "added": DateTime::from_millis(FIRST_DAY + i64::from(id) * HOUR),
    };
    if id % 4 == 0 {
        product.insert("list_price", cents(890 + id * 37 % 24_000));
    }
    product
}

/// The order with this number. One in five is still a cart; the first is a test, the second has a
/// quantity that can't be.
pub fn order(id: i32) -> Document {
    let customer = id % 90;
    let domain = if id == 1 { "test.example" } else { "mail.example" };
    let lines: Vec<Document> = (0..=id % 3)
        .map(|line| {
            let product = 1 + (id * 31 + line * 7) % PRODUCTS;
            let quantity = if id == 2 { 0 } else { 1 + (id + line) % 4 };
            doc! { "product": product, "quantity": quantity, "price": cents(590 + product * 3) }
        })
        .collect();
    let status =
        ["cart", "paid", "shipped", "shipped", "returned"][(id.unsigned_abs() % 5) as usize];
    let mut order = doc! {
        "_id": id,
        "status": status,
        "customer": {
            "name": format!("Customer {customer}"),
            "email": format!("customer-{customer}@{domain}"),
            "card": "4111 1111 1111 1111",
        },
        "lines": lines,
        "notes": "please ring twice",
        "placed": DateTime::from_millis(FIRST_DAY + i64::from(id) * HOUR),
    };
    if id % 7 != 0 {
        order.insert("country", ["SE", "DE", "FR", "PL"][(id.unsigned_abs() % 4) as usize]);
    }
    order
}

fn cents(cents: i32) -> f64 {
    f64::from(cents) / 100.0
}
