//! What a user copies: the rule files in `rules/`, each run against real servers.

mod logs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{
    self, World, checker,
    receiver::{Receiver, first_of_each},
    run::RuleFile,
};

#[path = "../examples/quickstart/shop.rs"]
mod shop;

pub const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The file with the servers of `world` and another database in it, in a folder with all that it
/// names.
fn ready(world: &World, name: &str, database: &str) -> Result<RuleFile> {
    let engine = world.engine.url();
    let variables = [("${MONGODB_URI}", world.mongo.uri()), ("${ELASTICSEARCH_URL}", &engine)];
    ready_in(world.folder.path(), name, database, &variables)
}

/// The same with these variables, as they stand in it, in this folder.
fn ready_in(
    folder: &Path,
    name: &str,
    database: &str,
    variables: &[(&str, &str)],
) -> Result<RuleFile> {
    copy_folder(&Path::new(ROOT).join("rules"), folder)?;
    let text = fs::read_to_string(Path::new(ROOT).join("rules").join(name))?;
    let text = text.replace("namespace: shop.", &format!("namespace: {database}."));
    let put = |text: String, (name, value): &(&str, &str)| text.replace(name, value);
    let text = variables.iter().fold(text, put);
    ensure!(!text.contains("${"), "{name} needs no other variables");
    let http = "http: { listen: \"127.0.0.1:${STATUS_PORT}\" }";
    RuleFile::written(folder, &format!("{text}\n{http}\n"))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

/// The id of a document and the body that is expected in the index.
fn expected(document: &Document, change: impl FnOnce(&mut Value)) -> Option<(String, Value)> {
    let id = checker::plain_id(document.get("_id")?)?;
    let mut body = checker::body(document);
    change(&mut body);
    Some((id, body))
}

fn is_active(product: &Document) -> bool {
    product.get_bool("active").unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn search_yaml_keeps_an_index_of_products() -> Result<()> {
    let world = World::new().await?;
    shop::fill(&world.client.database("ready_search")).await?;
    let products = world.collection("ready_search.products");
    let mut run = ready(&world, "search.yaml", "ready_search")?.run(&[])?;
    run.copied().await?;
    let shaped = |product: &Document| {
        let price = product.get_f64("price").ok().filter(|price| *price > 0.0)?;
        is_active(product).then_some(())?;
        expected(product, |body| {
            let fields = body.as_object_mut().expect("an object");
            fields.remove("supplier");
            let stock = fields.remove("stock");
            fields.insert("slug".into(), json!(slug(product)));
            fields.insert("in_stock".into(), json!(stock.is_some_and(|stock| stock != 0)));
            let list_price = product.get_f64("list_price").ok();
            fields.insert("on_sale".into(), json!(list_price.is_some_and(|list| price < list)));
        })
    };
    let same = checker::compare_shaped(&products, &world.engine, "products", shaped).await?;
    assert_eq!(same.none()?, 2_640);
    let categories = world.collection("ready_search.categories");
    let same = checker::compare(&categories, &world.engine, "ready_search-categories").await?;
    assert_eq!(same.none()?, 5);

    let active = |active: bool| doc! { "$set": { "active": active } };
    products.update_many(doc! { "_id": { "$lt": 100 } }, active(false)).await?;
    products.update_many(doc! { "_id": { "$gt": 2_900 } }, active(true)).await?;
    products.delete_many(doc! { "_id": { "$gt": 2_950 } }).await?;
    run.caught_up(&world.client).await?;
    let same = checker::compare_shaped(&products, &world.engine, "products", shaped).await?;
    same.none()?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn search_joined_yaml_puts_the_category_into_the_product() -> Result<()> {
    let world = World::new().await?;
    shop::fill(&world.client.database("ready_joined")).await?;
    let (products, categories) =
        (world.collection("ready_joined.products"), world.collection("ready_joined.categories"));
    products.update_one(doc! { "_id": 1 }, doc! { "$set": { "category": "none" } }).await?;
    let mut run = ready(&world, "search-joined.yaml", "ready_joined")?.run(&[])?;
    run.copied().await?;
    let lighting = categories.find_one(doc! { "_id": "lighting" }).await?.context("lighting")?;
    assert_eq!(lighting.get_str("buyer")?, "someone@shop.example");
    joined(&world).await?;

    // A product is joined when it changes.
    let new_name = doc! { "$set": { "name": "Light" } };
    categories.update_one(doc! { "_id": "lighting" }, new_name).await?;
    products.update_many(doc! {}, doc! { "$inc": { "stock": 1 } }).await?;
    products.delete_one(doc! { "_id": 2 }).await?;
    run.caught_up(&world.client).await?;
    joined(&world).await?;
    world.engine_json("GET", "/products-joined-000001/_count", "").await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_yaml_tells_of_each_status() -> Result<()> {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mongo = support::mongo().await?;
    let (client, receiver) = (mongo.client(), Receiver::start().await?);
    let folder = tempfile::TempDir::new()?;
    let variables = [
        ("${MONGODB_URI}", mongo.uri()),
        ("${WEBHOOK_URL}", receiver.url()),
        ("${WEBHOOK_SECRET}", SECRET),
    ];
    let file = ready_in(folder.path(), "webhook.yaml", "ready_webhook", &variables)?;
    let orders = client.database("ready_webhook").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 1, "status": "paid" }).await?;
    let mut run = file.run(&[])?;
    run.until("following", |status| status["targets"]["notify"]["state"] == "following").await?;
    let told = async |run: &mut crate::support::run::Run| -> Result<Vec<Value>> {
        let time = crate::support::run::cluster_time(&client).await?;
        run.target_reaches("notify", time).await?;
        let messages = first_of_each(&receiver.received());
        Ok(messages.iter().map(|request| request.json()["data"].clone()).collect())
    };
    // Neither what was there before nor a cart.
    orders.insert_one(doc! { "_id": 2, "status": "cart", "customer": "someone" }).await?;
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "lines": 3 } }).await?;
    let before = told(&mut run).await?;
    ensure!(before.iter().all(|data| data["op"] == "remove"), "{before:?}");
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "status": "paid" } }).await?;
    told(&mut run).await?;
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "status": "shipped" } }).await?;
    let after = told(&mut run).await?;
    let last = |n: usize| after[after.len() - n]["document"].clone();
    let order = |status: &str, words: &str| json!({ "_id": 2, "status": status, "message": words });
    assert_eq!(last(2), order("paid", "has been paid"));
    assert_eq!(last(1), order("shipped", "is on its way"));
    ensure!(receiver.received().iter().all(|it| it.header("webhook-signature").starts_with("v1,")));
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_webhook_yaml_tells_from_what_to_what() -> Result<()> {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let mongo = support::mongo().await?;
    let (client, receiver) = (mongo.client(), Receiver::start().await?);
    let folder = tempfile::TempDir::new()?;
    let variables = [
        ("${MONGODB_URI}", mongo.uri()),
        ("${WEBHOOK_URL}", receiver.url()),
        ("${WEBHOOK_SECRET}", SECRET),
    ];
    let file = ready_in(folder.path(), "status-webhook.yaml", "ready_status", &variables)?;
    let orders = client.database("ready_status").collection::<Document>("orders");
    orders.insert_one(doc! { "_id": 0, "status": "placed" }).await?;
    let mut run = file.run(&[])?;
    run.until("following", |status| status["targets"]["notify"]["position"].is_string()).await?;
    orders.insert_one(doc! { "_id": 1, "status": "placed" }).await?;
    // Each is looked up before the next one.
    for set in [doc! { "lines": 3 }, doc! { "status": "paid" }, doc! { "status": "shipped" }] {
        orders.update_one(doc! { "_id": 1 }, doc! { "$set": set }).await?;
        let time = crate::support::run::cluster_time(&client).await?;
        run.target_reaches("notify", time).await?;
    }
    orders.delete_one(doc! { "_id": 1 }).await?;
    let time = crate::support::run::cluster_time(&client).await?;
    run.target_reaches("notify", time).await?;
    let received = first_of_each(&receiver.received());
    let told: Vec<Value> =
        received.iter().map(|request| request.json()["data"]["document"].clone()).collect();
    let step = |from: Value, to: &str| json!({ "order": 1, "from": from, "to": to });
    let expected = [
        step(Value::Null, "placed"),
        step(json!("placed"), "paid"),
        step(json!("paid"), "shipped"),
    ];
    assert_eq!(told, expected);
    ensure!(received.iter().all(|it| it.header("webhook-signature").starts_with("v1,")));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Compares with a join that is made here.
async fn joined(world: &World) -> Result<()> {
    let mut names = std::collections::HashMap::new();
    let mut found = world.collection("ready_joined.categories").find(doc! {}).await?;
    while found.advance().await? {
        let category: Document = found.deserialize_current()?;
        names.insert(category.get_str("_id")?.to_owned(), category);
    }
    let shaped = |product: &Document| {
        is_active(product).then_some(())?;
        let title = product.get_str("title").ok()?;
        let category = names.get(product.get_str("category").ok()?);
        expected(product, |body| {
            let fields = body.as_object_mut().expect("an object");
            fields.remove("supplier");
            fields.remove("category");
            let stock = fields.remove("stock");
            fields.insert("slug".into(), json!(slug(product)));
            fields.insert("in_stock".into(), json!(stock.is_some_and(|stock| stock != 0)));
            let mut words = title.to_owned();
            if let Some(category) = category {
                let text = |field: &str| category.get_str(field).expect("a text").to_owned();
                words = format!("{words} {} {}", text("name"), text("department"));
                fields.insert(
                    "category".into(),
                    json!({
                        "_id": text("_id"), "name": text("name"), "department": text("department")
                    }),
                );
            }
            fields.insert("words".into(), json!(words));
        })
    };
    let products = world.collection("ready_joined.products");
    let same = checker::compare_shaped(&products, &world.engine, "products-joined", shaped).await?;
    assert!(same.none()? > 2_600);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_yaml_sums_up_what_was_placed() -> Result<()> {
    let world = World::new().await?;
    shop::fill(&world.client.database("ready_orders")).await?;
    let orders = world.collection("ready_orders.orders");
    let file = ready(&world, "orders.yaml", "ready_orders")?;
    let mut run = file.run(&[])?;
    run.copied().await?;
    let same = checker::compare_shaped(&orders, &world.engine, "orders", order).await?;
    assert_eq!(same.none()?, 398, "of 500, a fifth are carts, one is a test, one has a fault");
    let listed = file.command("dead-letters", &["list"]).await?;
    let listed = String::from_utf8(listed.stdout)?;
    assert!(listed.contains("the quantity of product"), "{listed}");

    // The fault is mended, a cart is paid, and what is deleted stays on the dashboard.
    let quantity = doc! { "$set": { "lines.$[].quantity": 2 } };
    orders.update_one(doc! { "_id": 2 }, quantity).await?;
    orders.update_one(doc! { "_id": 5 }, doc! { "$set": { "status": "paid" } }).await?;
    run.caught_up(&world.client).await?;
    let same = checker::compare_shaped(&orders, &world.engine, "orders", order).await?;
    assert_eq!(same.none()?, 400);
    orders.delete_one(doc! { "_id": 3 }).await?;
    run.caught_up(&world.client).await?;
    let same = checker::compare_shaped(&orders, &world.engine, "orders", order).await?;
    assert_eq!((same.checked, same.extra), (399, vec!["3".to_owned()]));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What `orders.yaml` makes of an order.
fn order(order: &Document) -> Option<(String, Value)> {
    (order.get_str("status").ok()? != "cart").then_some(())?;
    let email = order.get_document("customer").ok()?.get_str("email").ok()?;
    let lines: Vec<(i32, f64)> = order
        .get_array("lines")
        .ok()?
        .iter()
        .filter_map(|line| {
            let line = line.as_document()?;
            Some((line.get_i32("quantity").ok()?, line.get_f64("price").ok()?))
        })
        .collect();
    if email.ends_with("@test.example") || lines.iter().any(|(quantity, _)| *quantity <= 0) {
        return None;
    }
    expected(order, |body| {
        let fields = body.as_object_mut().expect("an object");
        fields.remove("notes");
        let total: f64 = lines.iter().map(|(quantity, price)| f64::from(*quantity) * price).sum();
        fields.insert("total".into(), json!((total * 100.0).round() / 100.0));
        fields.insert("pieces".into(), json!(lines.iter().map(|line| line.0).sum::<i32>()));
        fields.insert("customer".into(), json!(sha256(email)));
        fields.entry("country").or_insert_with(|| json!("unknown"));
    })
}

fn slug(product: &Document) -> String {
    product.get_str("title").expect("a title").to_lowercase().replace(", ", "-").replace(' ', "-")
}

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn variable(name: &str) -> Option<String> {
    let value = match name {
        "MONGODB_URI" => "mongodb://127.0.0.1:27017/?replicaSet=rs0",
        "MIRROR_URI" => "mongodb://127.0.0.1:27018/?replicaSet=rs1",
        "ELASTICSEARCH_URL" => "http://127.0.0.1:9200",
        "ES_PASSWORD" | "STATUS_TOKEN" => "a-secret",
        "WEBHOOK_URL" => "https://example.com/hooks/orders",
        "WEBHOOK_SECRET" => "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        _ => return None,
    };
    Some(value.to_owned())
}

#[test]
fn every_rule_file_is_without_errors_and_warnings() -> Result<()> {
    let mut tests = String::new();
    for name in ["ready_rules.rs", "ready_rules/logs.rs", "mongo_target.rs"] {
        tests.push_str(&fs::read_to_string(Path::new(ROOT).join("tests").join(name))?);
    }
    for file in files(&Path::new(ROOT).join("rules"), "yaml")? {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).context("a name")?;
        let test = format!("async fn {}_yaml_", stem.replace('-', "_"));
        ensure!(tests.contains(&test), "{} has no test of its own", file.display());
        let loaded = mongosync::rules::load(&file, &variable)
            .map_err(|report| anyhow::anyhow!("{}", report.render(false)))?;
        assert_eq!(loaded.warnings.render(false), "", "{}", file.display());
    }
    Ok(())
}

#[tokio::test]
async fn every_test_of_the_rule_files_passes() -> Result<()> {
    let mut tested = 0;
    for file in files(&Path::new(ROOT).join("rules"), "yaml")? {
        // One without a script has nothing to try.
        if fs::read_to_string(&file)?.contains("transform:") {
            tests_pass(&file).await?;
            tested += 1;
        }
    }
    ensure!(tested > 5, "only {tested} have a script");
    Ok(())
}

/// Runs `mongosync test`, which has to find some.
pub async fn tests_pass(file: &Path) -> Result<()> {
    let ran = tokio::process::Command::new(env!("CARGO_BIN_EXE_mongosync"))
        .arg("test")
        .arg(file)
        .env("MONGODB_URI", "mongodb://127.0.0.1:1/?replicaSet=rs0")
        .env("ELASTICSEARCH_URL", "http://127.0.0.1:1")
        .env("WEBHOOK_URL", "http://127.0.0.1:1")
        .env("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .output()
        .await?;
    let shown = String::from_utf8_lossy(&ran.stdout);
    let problem = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{}\n{shown}{problem}", file.display());
    ensure!(shown.lines().count() > 2, "{} has no tests: {shown}", file.display());
    Ok(())
}

pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
