//! The quickstart: a MongoDB, an Elasticsearch, a small shop and `rules/search.yaml`, brought up,
//! kept in sync and shown.
//!
//!     cargo run --release --example quickstart
//!
//! With `--once` it ends by itself; it ends with an error wherever what it shows is not so. Beside
//! that it is an example of mongosync as a library: see [`Sync::start`].

mod screen;
mod shop;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use mongosync::{
    pipeline, rules,
    status::{Server, Snapshot, Status},
};
use mongosync_servers::{Engine, MongoDb};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long anything may take that should take milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

const RULE_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/rules/search.yaml");

#[tokio::main]
async fn main() -> Result<()> {
    let once = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--once") => true,
        Some(other) => bail!("{other:?} is not known here; there is only --once"),
    };
    let shop = Shop::open().await?;
    let (sync, mut tasks) = Sync::start(&shop).await?;
    let shown = tokio::select! {
        shown = show(&shop, &sync, once) => shown,
        // It goes on until it is told to stop: an end before that is a fault.
        ended = tasks.join_next() => match ended.context("the pipeline runs")?? {
            Ok(()) => bail!("the pipeline has ended before it was told to"),
            Err(error) => Err(error),
        },
        pressed = tokio::signal::ctrl_c() => pressed.context("can't listen to Ctrl-C"),
    };
    sync.stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    shown
}

/// The servers.
struct Shop {
    mongo: MongoDb,
    engine: Engine,
    products: Collection<Document>,
}

impl Shop {
    /// Brings up both servers, and fills the collections.
    async fn open() -> Result<Self> {
        screen::step("Two servers, on free ports, gone when this ends");
        let spinner = screen::spinner("starting MongoDB and Elasticsearch");
        let began = Instant::now();
        let started = tokio::try_join!(MongoDb::start(), Engine::elasticsearch().start());
        spinner.finish_and_clear();
        let (mongo, engine) = started?;
        screen::fact("MongoDB", mongo.uri());
        screen::fact("Elasticsearch", &engine.url());
        screen::fact("started in", &screen::duration(began.elapsed()));

        let database = mongo.client().database("shop");
        shop::fill(&database).await?;
        let count = screen::count(shop::PRODUCTS.unsigned_abs().into());
        screen::step(&format!("A small shop in MongoDB: {count} products, 5 categories"));
        let products = database.collection("products");
        Ok(Self { mongo, engine, products })
    }

    /// Asks Elasticsearch.
    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.engine.request(method, path, &body).await?;
        serde_json::from_str(&answer.body).with_context(|| format!("{method} {path}"))
    }

    /// What a customer sees: the cheapest desk lamps. Makes the index show what has just arrived.
    async fn search(&self) -> Result<Vec<Value>> {
        self.ask("POST", "/products/_refresh", &Value::Null).await?;
        let query = json!({
            "query": { "match": { "title": { "query": "desk lamp", "operator": "and" } } },
            "sort": [{ "price": "asc" }],
            "size": 4,
        });
        let mut answer = self.ask("POST", "/products/_search", &query).await?;
        match answer["hits"]["hits"].take() {
            Value::Array(hits) => Ok(hits),
            _ => bail!("Elasticsearch answers {answer}"),
        }
    }

    /// The product in the index, `None` where there is none.
    async fn indexed(&self, id: i32) -> Result<Option<Value>> {
        let mut answer = self.ask("GET", &format!("/products/_doc/{id}"), &Value::Null).await?;
        Ok((answer["found"] == true).then(|| answer["_source"].take()))
    }

    /// Waits until the product in the index is as it should be, and tells how long that took.
    async fn until(&self, id: i32, wanted: impl Fn(Option<&Value>) -> bool) -> Result<Duration> {
        let began = Instant::now();
        let mut look = interval(Duration::from_millis(2));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let arrival = async {
            loop {
                if wanted(self.indexed(id).await?.as_ref()) {
                    return Ok(began.elapsed());
                }
                look.tick().await;
            }
        };
        timeout(PATIENCE, arrival)
            .await
            .with_context(|| format!("product {id} did not arrive as it is in MongoDB"))?
    }
}

/// mongosync, in this process.
struct Sync {
    status: Arc<Status>,
    page: String,
    /// Ends its tasks: what is in flight is finished, and the position is stored.
    stop: CancellationToken,
}

impl Sync {
    /// Reads the rule file and starts what it says; the tasks are the pipeline and the status server.
    async fn start(shop: &Shop) -> Result<(Self, JoinSet<Result<()>>)> {
        let (source, target) = (shop.mongo.uri().to_owned(), shop.engine.url());
        let variables = |name: &str| match name {
            "MONGODB_URI" => Some(source.clone()),
            "ELASTICSEARCH_URL" => Some(target.clone()),
            _ => None,
        };
        let loaded = rules::load(Path::new(RULE_FILE), &variables)
            .map_err(|report| anyhow::anyhow!("{}", report.render(false)))?;
        let status = Status::new(&loaded.rules);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();

        let http =
            loaded.rules.http.as_ref().context("the rule file leaves the status server on")?;
        let server = Server::bind(http).await?;
        let page = format!("http://{}", server.address());
        let serve = server.serve(status.clone(), stop.clone());
        tasks.spawn(async move { Ok(serve.await?) });

        let options = pipeline::Options {
            copy_only: false,
            changes_only: false,
            rules: Vec::new(),
            wait: Duration::from_secs(30),
            dry_run: None,
            own: pipeline::Own::default(),
        };
        let run = pipeline::run(Arc::new(loaded.rules), options, status.clone(), stop.clone());
        tasks.spawn(async move { Ok(run.await.map(drop)?) });
        Ok((Self { status, page, stop }, tasks))
    }

    fn look(&self) -> Snapshot {
        self.status.snapshot(SystemTime::now())
    }
}

/// The whole story.
async fn show(shop: &Shop, sync: &Sync, once: bool) -> Result<()> {
    copy(shop, sync).await?;
    let before = shop.search().await?;
    screen::step("A search for \"desk lamp\" in Elasticsearch, the cheapest first");
    screen::hits(&before);
    changes(shop, &before).await?;
    if once {
        println!("\nAll of this was checked. Without --once it goes on.");
        return Ok(());
    }
    suggest(shop, sync);
    follow(shop, sync).await
}

/// Shows the copy until it is complete, and that it is.
async fn copy(shop: &Shop, sync: &Sync) -> Result<()> {
    screen::step("mongosync copies them by rules/search.yaml");
    let began = Instant::now();
    let bar = screen::bar();
    let mut look = interval(Duration::from_millis(50));
    let copied = async {
        loop {
            look.tick().await;
            let snapshot = sync.look();
            let copies: Vec<_> = snapshot
                .targets
                .iter()
                .flat_map(|(_, target)| target.rules.iter().map(|(_, rule)| rule.copy))
                .collect();
            bar.set_length(copies.iter().filter_map(|copy| copy.expected).sum());
            bar.set_position(copies.iter().map(|copy| copy.documents).sum());
            if copies.iter().all(|copy| copy.complete) {
                return;
            }
        }
    };
    let in_time = timeout(PATIENCE, copied).await;
    bar.finish_and_clear();
    in_time.context("the copy did not end")?;
    let took = began.elapsed();

    let wanted = shop.products.count_documents(doc! { "active": true, "price": { "$gt": 0 } });
    let wanted = wanted.await?;
    shop.ask("POST", "/products/_refresh", &Value::Null).await?;
    let there = shop.ask("GET", "/products/_count", &Value::Null).await?;
    ensure!(there["count"] == wanted, "{wanted} products match the filter, but {there}");
    let all = shop.products.estimated_document_count().await?;
    screen::fact(
        "copied",
        &format!("{} documents in {}", screen::count(wanted + 5), screen::duration(took)),
    );
    screen::fact(
        "left out",
        &format!(
            "{} products that are not active or have no price (filter)",
            screen::count(all - wanted)
        ),
    );

    const EXAMPLE: i32 = 24;
    let original = shop.products.find_one(doc! { "_id": EXAMPLE }).await?.context("a product")?;
    let indexed = shop.indexed(EXAMPLE).await?.context("an active product is in the index")?;
    ensure!(indexed["title"] == original.get_str("title")?, "another title: {indexed}");
    ensure!(indexed.get("supplier").is_none(), "the projection holds `supplier` back: {indexed}");
    ensure!(indexed["slug"] == "desk-lamp-steel-green", "the script sets `slug`: {indexed}");
    screen::document(
        "a product in MongoDB",
        &mongodb::bson::Bson::Document(original).into_relaxed_extjson(),
    );
    screen::document("the same in Elasticsearch", &indexed);
    Ok(())
}

/// Changes products in MongoDB, and shows that the search has changed.
async fn changes(shop: &Shop, before: &[Value]) -> Result<()> {
    screen::step("Four changes in MongoDB, and how long until Elasticsearch has them");
    let id = |hit: usize| -> Result<i32> {
        Ok(before.get(hit).and_then(|hit| hit["_id"].as_str()).context("four lamps")?.parse()?)
    };
    let (dearer, hidden, sold) = (id(0)?, id(1)?, id(2)?);
    let new = shop::PRODUCTS + 1;

    let set = doc! { "$set": { "price": 7.77 } };
    shop.products.update_one(doc! { "_id": dearer }, set).await?;
    let took = shop.until(dearer, |product| product.is_some_and(|it| it["price"] == 7.77)).await?;
    told("new price", dearer, "costs 7.77", took);

    let set = doc! { "$set": { "active": false } };
    shop.products.update_one(doc! { "_id": hidden }, set).await?;
    let took = shop.until(hidden, |product| product.is_none()).await?;
    told("leaves the filter", hidden, "is no longer active", took);

    shop.products.delete_one(doc! { "_id": sold }).await?;
    let took = shop.until(sold, |product| product.is_none()).await?;
    told("deleted", sold, "is gone", took);

    let lamp = doc! { "_id": new, "title": "Desk lamp, paper, orange", "category": "lighting",
    "price": 6.5, "stock": 3, "active": true };
    shop.products.insert_one(lamp).await?;
    let took = shop.until(new, |product| product.is_some()).await?;
    told("inserted", new, "is new", took);

    let after = shop.search().await?;
    screen::step("The same search again");
    screen::hits(&after);
    let ids: Vec<_> = after.iter().filter_map(|hit| hit["_id"].as_str()).collect();
    let missing = |id: i32| !ids.contains(&id.to_string().as_str());
    ensure!(
        ids.first() == Some(&new.to_string().as_str()),
        "the new lamp is the cheapest: {ids:?}"
    );
    ensure!(ids.get(1) == Some(&dearer.to_string().as_str()), "then the new price: {ids:?}");
    ensure!(missing(hidden) && missing(sold), "{hidden} and {sold} are out: {ids:?}");
    Ok(())
}

fn told(what: &str, id: i32, how: &str, took: Duration) {
    let text = format!("product {id} {how}");
    println!("  {what:<18} {text:<36} {:>8}", screen::duration(took));
}

/// What to try next.
fn suggest(shop: &Shop, sync: &Sync) {
    let (mongo, engine) = (shop.mongo.uri(), shop.engine.url());
    screen::step("It goes on until Ctrl-C. Press Enter for a change, or try:");
    screen::line("what it is doing");
    screen::command(&format!("curl {}/api/status", sync.page));
    screen::command(&format!("curl {}/metrics", sync.page));
    screen::line("a search");
    screen::command(&format!("curl '{engine}/products/_search?q=title:chair&size=3&pretty'"));
    screen::line("a change of your own");
    screen::command(&format!("mongosh '{mongo}'"));
    screen::command("> use shop");
    screen::command("> db.products.updateOne({ _id: 16 }, { $set: { price: 1 } })");
    screen::line("another rule file on these servers, with the real program");
    screen::command(&format!("export MONGODB_URI='{mongo}'"));
    screen::command(&format!("export ELASTICSEARCH_URL={engine}"));
    screen::command("cargo run --release -- run rules/search-joined.yaml");
    println!();
}

/// Shows what arrives until the end of the program, and makes a change for each line of input.
async fn follow(shop: &Shop, sync: &Sync) -> Result<()> {
    let mut lines = lines();
    let mut look = interval(Duration::from_millis(200));
    let mut shown = totals(&sync.look());
    let mut price = 10.0;
    loop {
        let line = tokio::select! {
            Some(()) = lines.recv() => true,
            _ = look.tick() => false,
        };
        if line {
            screen::take_back_line();
            price += 1.0;
            let set = doc! { "$set": { "price": price } };
            shop.products.update_one(doc! { "_id": 12 }, set).await?;
            let arrived = |product: Option<&Value>| product.is_some_and(|it| it["price"] == price);
            let took = shop.until(12, arrived).await?;
            told("new price", 12, &format!("costs {price:.2}"), took);
            // It is counted a moment after it can be seen, and is no news then.
            shown.0 += 1;
            continue;
        }
        let now = totals(&sync.look());
        let (written, removed) = (now.0.saturating_sub(shown.0), now.1.saturating_sub(shown.1));
        if written + removed > 0 {
            screen::line(&format!("a change of yours: {written} written, {removed} removed"));
            shown = now;
        }
    }
}

fn totals(snapshot: &Snapshot) -> (u64, u64) {
    let rules = snapshot.targets.iter().flat_map(|(_, target)| &target.rules);
    rules.fold((0, 0), |sum, (_, rule)| (sum.0 + rule.delivered, sum.1 + rule.removed))
}

/// A message a line of standard input. A thread, because reading it can't be called off.
fn lines() -> mpsc::Receiver<()> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        for _line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(()).is_err() {
                return;
            }
        }
    });
    receiver
}
