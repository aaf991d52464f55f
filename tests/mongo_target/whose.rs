//! What is removed because it is gone from the source, and what is never touched: what is not ours.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mongodb::{
    Collection,
    bson::{Document, doc},
};
use mongosync_servers::MongoDb;
use tokio::time::interval;

use crate::support::{
    fail_command::FailCommand,
    fault::{Fault, Gate, Moment},
    mongo_proxy::MongoProxy,
    run::{RuleFile, Run},
};

use super::{Worlds, in_front_of, same};

/// The ids of a collection, in order, as text.
pub async fn ids(collection: &Collection<Document>) -> Result<String> {
    use futures_util::TryStreamExt;
    let found: Vec<Document> =
        collection.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?;
    Ok(found
        .iter()
        .filter_map(|it| it.get("_id"))
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" "))
}

/// Starts, waits until it is at rest, and returns the run.
async fn rested(worlds: &Worlds, file: &RuleFile) -> Result<Run> {
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    Ok(run)
}

/// Writes the rules anew so that all is copied again, with other documents than before.
fn only_even(file: &RuleFile) -> Result<()> {
    file.rewrite(|text| text.replace("to: search", "filter: { even: true }, to: search"))
}

const AGAIN: &str = "on_rule_change: resync";

/// What is gone while nobody looks is removed by the next copy, from collections that were empty.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_swept_and_what_was_there_before_stays() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (from, to) = (worlds.from.database("swept"), worlds.to.database("swept"));
    let (own, foreign): (Collection<Document>, Collection<Document>) =
        (from.collection("own"), from.collection("foreign"));
    own.insert_many((0..3_000).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    foreign.insert_many((0..10).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    to.collection("foreign").insert_one(doc! { "_id": "before" }).await?;
    let rules = "  - name: all\n    namespace: swept.*\n    on_rule_change: resync\n    to: search";
    let file = worlds.rule_file(rules)?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(same(&worlds, "swept.own", "swept.own").await?, 3_000);
    assert!(run.terminate().await?.success());

    // Half of it leaves the rule; what comes meanwhile stays.
    file.rewrite(|text| text.replace("to: search", "filter: { even: true }\n    to: search"))?;
    own.insert_one(doc! { "_id": 9_000, "even": true }).await?;
    let mut run = file.run(&[])?;
    worlds.at_rest(&mut run).await?;
    let held = to.collection::<Document>("own");
    assert_eq!(held.count_documents(doc! {}).await?, 1_501);
    assert_eq!(held.count_documents(doc! { "even": false }).await?, 0);
    assert_eq!(to.collection::<Document>("foreign").count_documents(doc! {}).await?, 11);
    ensure!(run.log().contains("it held documents before mongosync came"), "{}", run.log());

    // A collection that is dropped is emptied.
    own.drop().await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(held.count_documents(doc! {}).await?, 0);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Two rule files write to one collection; one of them is copied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_of_two_rule_files_is_not_swept() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("both");
    let (a, b): (Collection<Document>, Collection<Document>) =
        (from.collection("a"), from.collection("b"));
    a.insert_many((0..4).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    b.insert_many((10..14).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let rule = |name: &str| {
        format!(
            "  - {{ namespace: both.{name}, {AGAIN}, \
             to: [{{ target: search, namespace: both_to.all }}] }}"
        )
    };
    let (one, other) = (worlds.rule_file(&rule("a"))?, worlds.rule_file(&rule("b"))?);
    assert!(rested(&worlds, &one).await?.terminate().await?.success());
    assert!(rested(&worlds, &other).await?.terminate().await?.success());
    one.rewrite(|text| text.replace("to: [{", "filter: { even: true }, to: [{"))?;
    let run = rested(&worlds, &one).await?;
    let held: Collection<Document> = worlds.to.database("both_to").collection("all");
    assert_eq!(ids(&held).await?, "0 1 2 3 10 11 12 13");
    ensure!(run.log().contains("another rule file writes there too"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Somebody drops what mongosync has made and makes his own of the same name.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_somebody_else_made_is_not_swept() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("remade").collection("items");
    items.insert_many((0..4).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let rule = format!("  - {{ namespace: remade.items, {AGAIN}, to: search }}");
    let file = worlds.rule_file(&rule)?;
    assert!(rested(&worlds, &file).await?.terminate().await?.success());
    let held: Collection<Document> = worlds.to.database("remade").collection("items");
    held.drop().await?;
    held.insert_one(doc! { "_id": 100 }).await?;
    only_even(&file)?;
    let run = rested(&worlds, &file).await?;
    assert_eq!(ids(&held).await?, "0 2 100");
    ensure!(run.log().contains("stays in the"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The same between the look at whose it is and the look at what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_is_replaced_while_it_is_listed_is_not_swept() -> Result<()> {
    let worlds = Worlds::new().await?;
    let node = worlds.mirror.node_uri(0);
    let address = node.strip_prefix("mongodb://").and_then(|rest| rest.split('/').next());
    let proxy = MongoProxy::start(address.context("an address")?).await?;
    let items: Collection<Document> = worlds.from.database("listed").collection("listed_items");
    items.insert_many((0..4).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let rule = format!("  - {{ namespace: listed.listed_items, {AGAIN}, to: search }}");
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&proxy.uri(), &rule))?;
    assert!(rested(&worlds, &file).await?.terminate().await?.success());
    let held: Collection<Document> = worlds.to.database("listed").collection("listed_items");
    only_even(&file)?;
    let (gate, looks) = (Gate::closed(), AtomicUsize::new(0));
    let fault = Fault::Hold(Moment::Before, gate.clone());
    // The first one asks before the first write whether it is empty.
    proxy.play(move |command| {
        let looks_at_it = command.name == "find" && command.collection == "listed_items";
        (looks_at_it && looks.fetch_add(1, Ordering::SeqCst) == 1).then(|| fault.clone())
    });
    let mut run = file.run(&[])?;
    gate.met(1).await;
    held.drop().await?;
    held.insert_many([doc! { "_id": 1 }, doc! { "_id": 100 }]).await?;
    gate.open();
    worlds.at_rest(&mut run).await?;
    assert_eq!(ids(&held).await?, "1 100");
    ensure!(run.log().contains("it is not the collection that mongosync made"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A copy that was broken off goes on by the rule that began it, or is begun anew; what it had put there by
/// then goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_broken_off_is_begun_anew_by_another_rule() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("broken_off").collection("items");
    items.insert_many((0..3_000).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let node = worlds.mirror.node_uri(0);
    let address = node.strip_prefix("mongodb://").and_then(|rest| rest.split('/').next());
    let proxy = MongoProxy::start(address.context("an address")?).await?;
    let rule = "  - { name: items, namespace: broken_off.items, to: search }";
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&proxy.uri(), rule))?;
    let (gate, written) = (Gate::closed(), AtomicUsize::new(0));
    let held = Fault::Hold(Moment::Before, gate.clone());
    proxy.play(move |command| {
        let writes =
            command.collection == "items" && ["insert", "update"].contains(&command.name.as_str());
        (writes && written.fetch_add(1, Ordering::AcqRel) >= 3).then(|| held.clone())
    });
    let mut run = file.run(&[])?;
    run.meets("the middle of the copy", &gate, 1).await?;
    run.kill().await?;
    gate.discard();
    proxy.pass_on();
    let held: Collection<Document> = worlds.to.database("broken_off").collection("items");
    let odd = held.count_documents(doc! { "even": false }).await?;
    ensure!(odd > 0, "nothing was put there that the other rule does not deliver");
    only_even(&file)?;
    let run = rested(&worlds, &file).await?;
    assert_eq!(held.count_documents(doc! { "even": false }).await?, 0);
    assert_eq!(held.count_documents(doc! {}).await?, 1_500);
    ensure!(run.log().contains("the copy is begun anew"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// One rule delivers documents as they are, another makes some of its own beside them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_script_makes_is_not_swept() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("made").collection("items");
    items.insert_many((0..3).map(|id| doc! { "_id": id.to_string(), "n": id })).await?;
    let rules = format!(
        "  - {{ name: plain, namespace: made.items, {AGAIN}, to: search }}\n  \
         - name: parts\n    namespace: made.items\n    {AGAIN}\n    to: search\n    transform: |\n      \
         doc = [#{{ _id: `${{doc._id}}-a` }}, #{{ _id: `${{doc._id}}-b` }}];"
    );
    let file = worlds.rule_file(&rules)?;
    assert!(rested(&worlds, &file).await?.terminate().await?.success());
    let held: Collection<Document> = worlds.to.database("made").collection("items");
    let all = r#""0" "0-a" "0-b" "1" "1-a" "1-b" "2" "2-a" "2-b""#;
    assert_eq!(ids(&held).await?, all);
    file.rewrite(|text| text.replace("name: plain,", "name: plain, filter: { n: { $gte: 0 } },"))?;
    let run = rested(&worlds, &file).await?;
    assert_eq!(ids(&held).await?, all);
    ensure!(run.log().contains("chooses where its documents lie"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A namespace leaves a rule.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_reads_no_more_is_removed() -> Result<()> {
    let worlds = Worlds::new().await?;
    let from = worlds.from.database("left");
    for name in ["a", "b"] {
        let items: Collection<Document> = from.collection(name);
        items.insert_many((0..300).map(|id| doc! { "_id": id })).await?;
    }
    let rule = format!("  - {{ name: all, namespace: left.*, {AGAIN}, to: search }}");
    let file = worlds.rule_file(&rule)?;
    assert!(rested(&worlds, &file).await?.terminate().await?.success());
    file.rewrite(|text| text.replace("namespace: left.*,", "namespace: left.*, exclude: left.b,"))?;
    let mut run = rested(&worlds, &file).await?;
    assert_eq!(same(&worlds, "left.a", "left.a").await?, 300);
    let held: Collection<Document> = worlds.to.database("left").collection("b");
    let mut look = interval(Duration::from_millis(50));
    while held.count_documents(doc! {}).await? > 0 {
        run.status().await;
        look.tick().await;
    }
    worlds.at_rest(&mut run).await?;
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A template that makes one name of two namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_never_fall_on_one_another() -> Result<()> {
    let worlds = Worlds::new().await?;
    let (one, other): (Collection<Document>, Collection<Document>) = (
        worlds.from.database("met_a").collection("b"),
        worlds.from.database("met").collection("a_b"),
    );
    one.insert_many((0..3).map(|id| doc! { "_id": id, "of": 1 })).await?;
    other.insert_many((0..3).map(|id| doc! { "_id": id, "of": 2 })).await?;
    let to = "to: [{ target: search, namespace: 'met_to.{db}_{collection}' }]";
    let rule = format!("  - {{ name: all, namespace: met_a.b, {AGAIN}, {to} }}");
    let file = worlds.rule_file(&rule)?;
    assert!(rested(&worlds, &file).await?.terminate().await?.success());
    // It is remembered over a restart.
    file.rewrite(|text| text.replace("met_a.b", "met.a_b"))?;
    let run = rested(&worlds, &file).await?;
    let held: Collection<Document> = worlds.to.database("met_to").collection("met_a_b");
    assert_eq!(held.count_documents(doc! { "of": 1 }).await?, 3);
    let letters = file.dead_letters().await?;
    assert_eq!(letters.len(), 3, "{letters:?}");
    ensure!(letters[0].to_string().contains("would fall on them"), "{letters:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_would_read_what_it_writes_is_refused() -> Result<()> {
    let worlds = Worlds::new().await?;
    let items: Collection<Document> = worlds.from.database("looped").collection("items");
    items.insert_many((0..5).map(|id| doc! { "_id": id })).await?;
    let rules = "  - name: all\n    namespace: looped.*\n    \
                 to: [{ target: search, namespace: 'looped.copy_{collection}' }]";
    let text = worlds.text(worlds.source.uri(), rules);
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let checked = file.command("check", &[]).await?;
    assert_eq!(checked.status.code(), Some(2));
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    ensure!(told.contains("the target is the source"), "{told}");

    // By another name it is found out once it is reached.
    let (_proxy, target) = in_front_of(&worlds.source).await?;
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&target, rules))?;
    let checked = file.command("check", &["--online"]).await?;
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    ensure!(!checked.status.success() && told.contains("the target is the source"), "{told}");
    let (code, log) = file.run_to_end(&[]).await?;
    ensure!(code == Some(1) && log.contains("the target is the source"), "{code:?} {log}");
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    let names = worlds.from.database("looped").list_collection_names().await?;
    assert_eq!(names, ["items"]);
    Ok(())
}

/// The same where the login may read nothing about the deployment, and where two targets write into
/// one another's namespaces.
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_is_found_by_a_login_without_rights() -> Result<()> {
    let worlds = Worlds::new().await?;
    let locked = MongoDb::builder().login("root", "secret").start().await?;
    let client = locked.client();
    let roles: Vec<Document> = ["ring_a", "ring_b", "mongosync"]
        .iter()
        .map(|name| doc! { "role": "readWrite", "db": *name })
        .chain([doc! { "role": "readAnyDatabase", "db": "admin" }])
        .collect();
    let user = doc! { "createUser": "sync", "pwd": "secret", "roles": roles };
    client.database("admin").run_command(user).await?;
    let items: Collection<Document> = client.database("ring_a").collection("items");
    items.insert_many((0..3).map(|id| doc! { "_id": id })).await?;
    let (_proxy, plain) = in_front_of(&locked).await?;
    let by_name = |name: &str| {
        plain.replace("mongodb://", "mongodb://sync:secret@") + "&authSource=admin&appName=" + name
    };
    let text = format!(
        "source: \"{}\"\nhttp: {{ listen: \"127.0.0.1:${{STATUS_PORT}}\" }}\n\
         checkpoint: {{ every: 100ms }}\n\
         targets:\n  search: {{ mongodb: {{ uri: \"{}\" }} }}\n  \
         back: {{ mongodb: {{ uri: \"{}\" }} }}\nrules:\n  \
         - {{ name: there, namespace: ring_a.items, \
         to: [{{ target: search, namespace: 'ring_b.items' }}] }}\n  \
         - {{ name: back, namespace: ring_b.items, \
         to: [{{ target: back, namespace: 'ring_a.items' }}] }}\n",
        locked.uri_of("sync", "secret"),
        by_name("one"),
        by_name("other"),
    );
    let file = RuleFile::written(worlds.folder.path(), &text)?;
    let (code, log) = file.run_to_end(&[]).await?;
    ensure!(code == Some(1) && log.contains("the target is the source"), "{code:?} {log}");
    assert_eq!(file.dead_letters().await?, Vec::<serde_json::Value>::new());
    assert_eq!(client.database("ring_b").list_collection_names().await?.len(), 0);
    Ok(())
}

/// An insert of a process that is no more lands after the next one has found the collection empty.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_into_an_empty_collection_is_swept() -> Result<()> {
    let worlds = Worlds::new().await?;
    let mirror = MongoDb::start().await?;
    let items: Collection<Document> = worlds.from.database("late_insert").collection("items");
    items.insert_many((0..100).map(|id| doc! { "_id": id, "even": id % 2 == 0 })).await?;
    let target = format!("{}&appName=late_insert", mirror.uri());
    let rule = format!("  - {{ namespace: late_insert.items, {AGAIN}, to: search }}");
    let file = RuleFile::written(worlds.folder.path(), &worlds.text(&target, &rule))?;
    assert!(rested(&worlds, &file).await?.terminate().await?.success());
    let held: Collection<Document> = mirror.client().database("late_insert").collection("items");
    held.delete_many(doc! {}).await?;
    only_even(&file)?;
    let data =
        doc! { "failCommands": ["insert"], "errorCode": 91, "namespace": "late_insert.items" };
    let point = FailCommand::own(&mirror.client(), 1_000_000, "late_insert", data).await?;
    let mut run = file.run(&[])?;
    run.waiting().await?;
    held.insert_one(doc! { "_id": "late" }).await?;
    point.end().await?;
    worlds.at_rest(&mut run).await?;
    assert_eq!(held.count_documents(doc! {}).await?, 50);
    assert_eq!(held.count_documents(doc! { "_id": "late" }).await?, 0);
    assert!(run.terminate().await?.success());
    Ok(())
}
