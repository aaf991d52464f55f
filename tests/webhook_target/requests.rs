//! What is sent where: documents as resources, scripts, certificates, and what is shown instead.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bson::rawdoc;
use mongosync::{
    change::{Cause, ClusterTime, DocumentKey, Namespace, Phase},
    rules::{self, model::TargetKind},
    target::{
        Action, Item, Operation, Outcome, Placed, Placing, Pressure, Request, Standing, Target,
        webhook::WebhookTarget,
    },
    transform::Meta,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

use super::*;

/// The target that a rule file would make, in this folder.
fn target(folder: &Path, url: &str, settings: &str) -> Result<WebhookTarget> {
    let text = format!(
        "source: mongodb://h/?replicaSet=rs0\ntargets: {{ notify: {{ webhook: {{ url: \"{url}\"{settings} }} \
         }} }}\nrules: [{{ namespace: shop.orders, delivery: documents, to: notify }}]\n"
    );
    let loaded = rules::parse(&text, &folder.join("rules.yaml"), &|_| None)
        .map_err(|report| anyhow::anyhow!("{}", report.render(false)))?;
    let target = &loaded.rules.targets[0];
    let TargetKind::Webhook(webhook) = &target.kind else { anyhow::bail!("a webhook") };
    Ok(WebhookTarget::new(webhook, "test", &target.delivery)?)
}

/// What is told of one document.
struct Message<'a> {
    id: i32,
    /// Whose place it is at.
    tenant: &'a str,
    /// What a script chose.
    meta: Meta,
    removes: bool,
}

fn message(id: i32, tenant: &str, removes: bool) -> Message<'_> {
    Message { id, tenant, meta: Meta::default(), removes }
}

/// A request with all of these.
fn request(target: &WebhookTarget, messages: &[Message<'_>]) -> Result<Request> {
    let mut body = Vec::new();
    let mut items = Vec::new();
    let namespace = Namespace::new("shop", "orders");
    for Message { id, tenant, meta, removes } in messages {
        let key = DocumentKey::from_id(bson::RawBsonRef::Int32(*id))?;
        let text = id.to_string();
        let document = rawdoc! { "_id": *id, "tenant": *tenant };
        let placing = Placing {
            namespace: &namespace,
            key: &key,
            id: &text,
            op: "put",
            document: Some(&document),
            event: None,
            meta,
        };
        let Placed { place, extra } =
            target.place("shop.orders", &placing).map_err(anyhow::Error::msg)?;
        let gone = Placing { op: "remove", document: None, ..placing };
        let (action, extra) = match removes {
            true => (Action::Remove, target.removal("shop.orders", &place, &gone)),
            false => (Action::Put(document.clone().into()), extra),
        };
        let time = ClusterTime(1_795_227_029 << 32);
        let operation = Operation {
            place: place.clone(),
            action,
            time,
            cause: Cause::Event(time),
            extra,
            namespace: namespace.clone(),
            phase: Phase::Changes,
        };
        let start = body.len();
        target.encode(&operation, &mut body).map_err(anyhow::Error::msg)?;
        items.push(Item { range: start..body.len(), place });
    }
    Ok(Request { body: body.into(), items, lane: 0, right: None, standing: None })
}

/// A request with a removal of each of these.
fn removals(target: &WebhookTarget, ids: &[i32]) -> Result<Request> {
    let messages: Vec<_> = ids.iter().map(|id| message(*id, "acme", true)).collect();
    request(target, &messages)
}

/// What becomes of one message that a script sends elsewhere.
async fn sent_to(target: &WebhookTarget, url: &str) -> Result<Outcome> {
    let meta = Meta { url: Some(url.to_owned()), ..Meta::default() };
    let message = Message { meta, ..message(1, "acme", false) };
    let outcomes = target.send(&request(target, &[message])?).await;
    Ok(outcomes.map_err(|retry| anyhow::anyhow!("{retry:?}"))?.remove(0))
}

async fn sent(target: &WebhookTarget) -> Result<Outcome> {
    let outcomes = target.send(&removals(target, &[1])?).await;
    let mut outcomes = outcomes.map_err(|retry| anyhow::anyhow!("{retry:?}"))?;
    ensure!(outcomes.len() == 1);
    Ok(outcomes.remove(0))
}

/// Seconds or a date; delivery keeps to it, which is tested there with a clock of its own.
#[tokio::test]
async fn the_pause_that_an_endpoint_asks_for_is_told() -> Result<()> {
    let receiver = Receiver::start().await?;
    let target = target(Path::new(""), receiver.url(), "")?;
    let hour = chrono::Utc::now() + chrono::Duration::hours(1);
    let date = hour.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for (status, header, least, most) in
        [(429, "7", 7, 7), (503, "120", 120, 120), (503, date.as_str(), 3_000, 3_600)]
    {
        let value = header.to_owned();
        receiver.answer(move |_| Reply::of(status).header("retry-after", &value));
        let Outcome::Retry(retry) = sent(&target).await? else { anyhow::bail!("it passes") };
        let after = retry.after.context("a pause")?.as_secs();
        ensure!((least..=most).contains(&after), "{after} for {header}");
    }
    receiver.answer(|_| Reply::of(503));
    let Outcome::Retry(retry) = sent(&target).await? else { anyhow::bail!("it passes") };
    assert_eq!((retry.after, retry.pressure), (None, Pressure::Same));
    Ok(())
}

/// The status decides, whatever becomes of the rest: what was accepted is not told again for ever.
#[tokio::test]
async fn an_answer_is_its_status() -> Result<()> {
    let receiver = Receiver::start().await?;
    let target = target(Path::new(""), receiver.url(), ", timeout: 30s")?;
    let refused = |words: &str| Outcome::Rejected(words.to_owned());
    let long = "x".repeat(100_000);
    for (status, body, end, expected) in [
        (200, "ok", End::Never, Outcome::Applied),
        (200, "ok", End::Cut, Outcome::Applied),
        (202, long.as_str(), End::Whole, Outcome::Applied),
        (422, "no such total", End::Never, refused("HTTP 422: no such total")),
        (422, "no such total", End::Cut, refused("HTTP 422: no such total")),
        (422, long.as_str(), End::Whole, refused(&format!("HTTP 422: {}…", &long[..500]))),
    ] {
        let body = body.to_owned();
        receiver.answer(move |_| Reply { end, ..Reply::with(status, &body) });
        assert_eq!(sent(&target).await?, expected, "{status} {end:?}");
    }
    receiver.answer(|_| Reply { end: End::Cut, ..Reply::with(503, "closed") });
    let Outcome::Retry(retry) = sent(&target).await? else { anyhow::bail!("it passes") };
    ensure!(retry.message.ends_with("HTTP 503: closed"), "{retry:?}");
    Ok(())
}

/// What no time is left for is sent in a request of its own, without a pause.
#[tokio::test]
async fn a_slow_url_takes_the_time_of_those_behind_it() -> Result<()> {
    let receiver = Receiver::start().await?;
    let url = format!("{}/in/{{tenant}}", receiver.url());
    let target = target(Path::new(""), &url, ", timeout: 1s, batch: { max_actions: 10 }")?;
    receiver.answer(|_| Reply { hang: true, ..Reply::default() });
    let both = request(&target, &[message(1, "a", false), message(2, "b", false)])?;
    let outcomes = target.send(&both).await.expect("an answer");
    let told: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Retry(retry) => {
                (retry.reason, retry.pressure, retry.message.contains("time was left"))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [("timeout", Pressure::Same, false), ("timeout", Pressure::Split, true)]);
    assert_eq!(receiver.received().len(), 1);
    Ok(())
}

/// Another process may have taken over while a message was waited for.
#[tokio::test]
async fn nothing_more_is_told_once_the_lease_is_lost() -> Result<()> {
    let receiver = Receiver::start().await?;
    let url = format!("{}/in/{{_id}}", receiver.url());
    let target = target(Path::new(""), &url, ", batch: { max_actions: 10 }")?;
    receiver.answer(|_| Reply::of(204));
    let all = request(&target, &[1, 2, 3].map(|id| message(id, "acme", false)))?;
    let told = Arc::new(AtomicUsize::new(0));
    let standing = Standing::new(move || told.fetch_add(1, Ordering::AcqRel) < 2);
    let all = Request { standing: Some(standing), ..all };
    let outcomes = target.send(&all).await.expect("an answer");
    assert_eq!(outcomes[..2], [Outcome::Applied, Outcome::Applied]);
    let Outcome::Retry(retry) = &outcomes[2] else { anyhow::bail!("{outcomes:?}") };
    assert_eq!((retry.reason, retry.pressure), ("lease", Pressure::Same));
    assert_eq!(receiver.received().len(), 2);
    Ok(())
}

/// It would be told again, and with each of several that are slow it all would, for ever.
#[tokio::test]
async fn each_of_several_slow_urls_has_its_own_time() -> Result<()> {
    let receiver = Receiver::start().await?;
    let url = format!("{}/in/{{_id}}", receiver.url());
    let target = target(Path::new(""), &url, ", timeout: 3s, batch: { max_actions: 10 }")?;
    receiver.answer(|_| Reply { after: Duration::from_millis(1_700), ..Reply::of(204) });
    let all = request(&target, &[1, 2, 3].map(|id| message(id, "acme", false)))?;
    let outcomes = target.send(&all).await.expect("an answer");
    assert_eq!(outcomes[..2], [Outcome::Applied, Outcome::Applied]);
    // It is told in the next request.
    let Outcome::Retry(retry) = &outcomes[2] else { anyhow::bail!("{outcomes:?}") };
    assert_eq!((retry.reason, retry.pressure), ("timeout", Pressure::Split));
    assert_eq!(receiver.received().len(), 2);
    Ok(())
}

/// What goes to another URL is another request, and one that fails takes no other with it.
#[tokio::test]
async fn trouble_with_one_url_leaves_the_others_alone() -> Result<()> {
    let receiver = Receiver::start().await?;
    let url = format!("{}/in/{{_id}}", receiver.url());
    let target = target(Path::new(""), &url, ", batch: { max_actions: 10 }")?;
    receiver.answer(|request| match request.path.as_str() {
        "/in/1" => Reply::of(503),
        "/in/2" => Reply { cut: true, ..Reply::default() },
        "/in/3" => Reply::of(400),
        _ => Reply::of(200),
    });
    let outcomes = target.send(&removals(&target, &[1, 2, 3, 4])?).await.expect("an answer");
    let told: Vec<String> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Retry(retry) => retry.reason.to_owned(),
            Outcome::Rejected(words) => words.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["unavailable", "network", "HTTP 400", "Applied"]);
    Ok(())
}

/// A document that leaves one URL for another is told to the second only behind the first.
#[tokio::test]
async fn what_is_told_of_a_document_waits_for_what_was_told_before() -> Result<()> {
    let receiver = Receiver::start().await?;
    let url = format!("{}/in/{{tenant}}", receiver.url());
    let target = target(Path::new(""), &url, ", batch: { max_actions: 10 }")?;
    let told = || -> Vec<(String, Vec<Value>)> {
        let of = |request: &Received| {
            request.messages().iter().map(|it| it["data"]["_id"].clone()).collect()
        };
        receiver.received().iter().map(|request| (request.path.clone(), of(request))).collect()
    };
    // The second one leaves a place in whose stead another has come to lie earlier.
    let both = [message(2, "b", false), message(1, "a", true), message(1, "b", false)];
    let outcomes = target.send(&request(&target, &both)?).await.expect("an answer");
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Applied, Outcome::Applied]);
    let path = |at: &str| format!("/in/{at}");
    let in_order =
        [(path("b"), vec![json!(2)]), (path("a"), vec![json!(1)]), (path("b"), vec![json!(1)])];
    assert_eq!(told(), in_order);

    receiver.answer(|request| Reply::of(if request.path == "/in/a" { 503 } else { 200 }));
    let outcomes = target.send(&request(&target, &both)?).await.expect("an answer");
    let again =
        |outcome: &Outcome| matches!(outcome, Outcome::Retry(it) if it.reason == "unavailable");
    ensure!(outcomes[0] == Outcome::Applied && outcomes[1..].iter().all(again), "{outcomes:?}");
    assert_eq!(told()[3..], in_order[..2]);
    Ok(())
}

/// An endpoint that a script chose gets nothing by which it could pass for us, or know us.
#[tokio::test]
async fn another_host_gets_no_header_signature_or_certificate() -> Result<()> {
    let folder = TempDir::new()?;
    let authority = authority(folder.path())?;
    let key = KeyPair::generate()?;
    let own = CertificateParams::new(["mongosync".to_owned()])?.signed_by(&key, &authority)?;
    fs::write(folder.path().join("own.pem"), own.pem())?;
    fs::write(folder.path().join("own.key"), key.serialize_pem())?;
    let receiver = Receiver::start_tls(acceptor(&authority, true)?).await?;
    let other = Receiver::start_tls(acceptor(&authority, false)?).await?;
    let strict = Receiver::start_tls(acceptor(&authority, true)?).await?;
    let settings = format!(
        ", tls: {{ ca: ca.pem, cert: own.pem, key: own.key }}, secret: {}, headers: {{ Authorization: Bearer \
         hunter2hunter2, X-Of: \"hunter2-{{tenant}}\" }}",
        SECRETS[0]
    );
    let target = target(folder.path(), receiver.url(), &settings)?;
    assert_eq!(sent_to(&target, &format!("{}/x", receiver.url())).await?, Outcome::Applied);
    assert_eq!(sent_to(&target, &format!("{}/x", other.url())).await?, Outcome::Applied);
    let [told] = &receiver.received()[..] else { anyhow::bail!("one") };
    verified(told, SECRETS[0])?;
    assert_eq!(
        (told.header("authorization"), told.header("x-of")),
        ("Bearer hunter2hunter2", "hunter2-acme")
    );
    let [told] = &other.received()[..] else { anyhow::bail!("one") };
    assert_eq!(told.header("webhook-signature"), "");
    ensure!(!told.id().is_empty() && !format!("{told:?}").contains("hunter2"), "{told:?}");
    // One that asks for a certificate is shown none.
    let Outcome::Retry(retry) = sent_to(&target, &format!("{}/x", strict.url())).await? else {
        anyhow::bail!("it has seen a certificate")
    };
    assert_eq!((retry.reason, strict.received().len()), ("network", 0));
    Ok(())
}

/// An authority, which a rule file in this folder can name as `ca.pem`.
fn authority(folder: &Path) -> Result<CertifiedIssuer<'static, KeyPair>> {
    let mut params = CertificateParams::new([])?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    fs::write(folder.join("ca.pem"), authority.pem())?;
    Ok(authority)
}

/// An endpoint's TLS, with or without asking for a certificate.
fn acceptor(authority: &CertifiedIssuer<'static, KeyPair>, asks: bool) -> Result<TlsAcceptor> {
    let key = KeyPair::generate()?;
    let node = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, authority)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match asks {
        true => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone())?;
            let roots = Arc::new(roots);
            config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(roots, provider).build()?,
            )
        }
        false => config.with_no_client_auth(),
    };
    let config = config.with_single_cert(
        vec![node.der().clone()],
        PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?,
    )?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test]
async fn an_authority_of_ones_own_is_trusted_where_the_file_says_so() -> Result<()> {
    let folder = TempDir::new()?;
    let authority = authority(folder.path())?;
    let receiver = Receiver::start_tls(acceptor(&authority, false)?).await?;
    for settings in [", tls: { ca: ca.pem }", ", tls: { insecure: true }"] {
        let target = target(folder.path(), receiver.url(), settings)?;
        target.reach().await.expect("it is there");
        assert_eq!(sent(&target).await?, Outcome::Applied);
    }
    let stranger = target(folder.path(), receiver.url(), "")?;
    let Outcome::Retry(retry) = sent(&stranger).await? else { anyhow::bail!("it is trusted") };
    ensure!(retry.reason == "network" && retry.message.contains("certificate"), "{retry:?}");
    assert_eq!(receiver.received().len(), 2);
    // What is said of the one endpoint is not said of those that a script chooses.
    let other = Receiver::start_tls(acceptor(&authority, false)?).await?;
    let careless = target(folder.path(), receiver.url(), ", tls: { insecure: true }")?;
    let Outcome::Retry(retry) = sent_to(&careless, &format!("{}/x", other.url())).await? else {
        anyhow::bail!("it is trusted")
    };
    ensure!(retry.message.contains("certificate") && other.received().is_empty(), "{retry:?}");
    Ok(())
}

/// An endpoint that holds documents as resources ends up with those of the collection, also where
/// a document moves, or something stands in a field that means something in a URL.
#[tokio::test(flavor = "multi_thread")]
async fn documents_are_put_and_deleted_where_they_are() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_rest.orders");
    let tenants = ["acme", "a/b", "?x=1", "#", "%2F", "ü €", "..."];
    let tenant = |id: usize| tenants[id % tenants.len()];
    let documents =
        (0..70).map(|id| doc! { "_id": id, "tenant": tenant(usize::try_from(id).unwrap_or(0)) });
    orders.insert_many(documents).await?;
    // Neither can be a part of a path.
    orders
        .insert_many([doc! { "_id": 100, "tenant": ".." }, doc! { "_id": 101, "tenant": "" }])
        .await?;
    let settings = ", method: PUT, format: document, headers: { X-Tenant: \"{tenant}\" }";
    let rules = "  - { delivery: documents, namespace: hook_rest.orders, to: notify }";
    let file = world.file("/t/{tenant}/o/{_id}", settings, rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let letters = file.dead_letters().await?;
    let is_place = |letter: &Value| letter["reason"] == "place";
    ensure!(letters.len() == 2 && letters.iter().all(is_place), "{letters:?}");
    orders.delete_many(doc! { "_id": { "$gte": 100 } }).await?;
    orders.delete_many(doc! { "_id": { "$lt": 10 } }).await?;
    orders
        .update_many(doc! { "_id": { "$lt": 30 } }, doc! { "$set": { "tenant": "moved" } })
        .await?;
    world.caught_up(&mut run).await?;
    // With what they were about.
    assert_eq!(file.dead_letters().await?.len(), 0);

    let mut held: BTreeMap<String, Value> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for request in world.receiver.received() {
        match request.method.as_str() {
            "PUT" => {
                let document = request.json();
                let elsewhere = held
                    .iter()
                    .find(|(path, held)| **path != request.path && held["_id"] == document["_id"]);
                ensure!(elsewhere.is_none(), "{document} has not left {elsewhere:?} before");
                known.insert(request.path.clone());
                held.insert(request.path.clone(), document);
            }
            "DELETE" => {
                ensure!(request.body.is_empty() && request.header("content-type").is_empty());
                ensure!(known.contains(&request.path), "{} was never told of", request.path);
                held.remove(&request.path);
            }
            other => anyhow::bail!("{other}"),
        }
    }
    let mut expected = BTreeMap::new();
    for (id, document) in source(&orders).await? {
        let tenant = document["tenant"].as_str().context("a text")?;
        let mut url = reqwest::Url::parse("http://h")?;
        // `...` is an ordinary name.
        url.path_segments_mut().expect("a path").extend(["t", tenant, "o", &id]);
        expected.insert(url.path().to_owned(), document);
    }
    let decoded = |path: &String| {
        let url = reqwest::Url::parse(&format!("http://h{path}")).expect("a URL");
        url.path_segments().expect("a path").map(percent_decoded).collect::<Vec<_>>()
    };
    let by_segments = |all: &BTreeMap<String, Value>| -> BTreeMap<Vec<String>, Value> {
        all.iter().map(|(path, value)| (decoded(path), value.clone())).collect()
    };
    assert_eq!(by_segments(&held), by_segments(&expected));
    assert_eq!(held.len(), 60);
    assert!(run.terminate().await?.success());
    Ok(())
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).expect("hex digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("hex digits"));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("text")
}

/// Two rules tell one endpoint of one collection: what the one puts, the other does not take away,
/// also where the one leaves it as it is.
#[rstest]
#[case::in_messages("hook_two", "/in", "")]
#[case::as_resources("hook_two_own", "/o/{_id}", ", method: PUT, format: document")]
#[tokio::test(flavor = "multi_thread")]
async fn two_rules_of_a_collection_take_away_nothing_of_one_another(
    #[case] database: &str,
    #[case] path: &str,
    #[case] settings: &str,
) -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection(&format!("{database}.orders"));
    orders.insert_one(doc! { "_id": 7, "status": "paid", "n": 0 }).await?;
    let rules = format!(
        "  - {{ name: paid, namespace: {database}.orders, delivery: documents, filter: {{ status: paid }}, to: \
         notify }}
  - name: shipped
    namespace: {database}.orders
    delivery: documents
    filter: {{ status: shipped }}
    transform: |
      if \"skipped\" in doc {{ skip(); }}
    to: notify"
    );
    let file = world.file(path, settings, &rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    world.caught_up(&mut run).await?;
    let count = world.receiver.received().len();
    let status = |status: &str| doc! { "$set": { "status": status }, "$inc": { "n": 1 } };
    orders.update_one(doc! {}, status("shipped")).await?;
    world.caught_up(&mut run).await?;
    orders.update_one(doc! {}, doc! { "$set": { "skipped": true } }).await?;
    world.caught_up(&mut run).await?;
    let is_removal =
        |request: &Received| request.method == "DELETE" || request.json()["data"]["op"] == "remove";
    let received = world.receiver.received();
    ensure!(received.len() > count && !received.iter().any(is_removal), "{received:?}");
    // Nobody's any more, and told once.
    orders.update_one(doc! {}, status("returned")).await?;
    world.caught_up(&mut run).await?;
    let received = first_of_each(&world.receiver.received());
    assert_eq!(received.iter().filter(|it| is_removal(it)).count(), 1);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// The URL of a script that has turned to another one need not be there any more: that is a letter,
/// and holds up nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_a_script_has_left_holds_up_nothing() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_left.orders");
    orders.insert_many((1..=3).map(|id| doc! { "_id": id, "t": 1 })).await?;
    let url = world.receiver.url();
    let rules = format!(
        "  - namespace: hook_left.orders
    delivery: documents
    transform: |
      meta.url = \"{url}/T\" + doc.t;
    to: notify"
    );
    let file = world.file("/in", ", batch: { concurrency: 1 }", &rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    world.caught_up(&mut run).await?;
    world.receiver.answer(|it| Reply::of(if it.path == "/T1" { 404 } else { 200 }));
    for n in 0..3 {
        orders.update_many(doc! {}, doc! { "$set": { "t": 2, "n": n } }).await?;
        world.caught_up(&mut run).await?;
        let letters = file.dead_letters().await?;
        let missing = |letter: &Value| letter["words"].to_string().contains("HTTP 404");
        ensure!(letters.len() == 3 && letters.iter().all(missing), "{letters:?}");
    }
    let at = |path: &str| {
        let received = world.receiver.received();
        received.iter().filter(|it| it.path == path).count()
    };
    ensure!(at("/T2") >= 9);
    // They are told again where that is asked for, and forgotten where that is.
    world.receiver.answer(|_| Reply::of(200));
    let letters = file.dead_letters().await?;
    let first = letters[0]["id"].as_str().context("an id")?;
    let before = at("/T1");
    let retried = file.command("dead-letters", &["retry", first]).await?;
    ensure!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    assert_eq!((file.dead_letters().await?.len(), at("/T1")), (2, before + 1));
    let purged = file.command("dead-letters", &["purge", "--all"]).await?;
    ensure!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
    orders.update_many(doc! {}, doc! { "$set": { "n": 9 } }).await?;
    world.caught_up(&mut run).await?;
    assert_eq!((file.dead_letters().await?.len(), at("/T1")), (0, before + 1));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// A script says what is sent, to which host, and the file's own headers stay with their host.
#[tokio::test(flavor = "multi_thread")]
async fn a_script_sends_what_it_likes() -> Result<()> {
    let world = Hooked::new().await?;
    let other = Receiver::start().await?;
    let orders = world.collection("hook_script.orders");
    orders.insert_one(doc! { "_id": 1, "text": "a\r\nb", "name": "Zoë" }).await?;
    orders.insert_one(doc! { "_id": 2 }).await?;
    let url = other.url();
    let rules = format!(
        "  - namespace: hook_script.orders
    delivery: documents
    transform: |
      if \"text\" in doc {{
        meta.url = \"{url}/chat?x=1\";
        meta.method = \"patch\";
        meta.headers = #{{ \"Content-Type\": \"text/plain\", \"X-Name\": doc.name }};
        meta.body = doc.text;
      }}
    to: notify"
    );
    let settings = format!(
        ", secret: {}, headers: {{ Authorization: Bearer hunter2hunter2, X-Of: \"{{_id}}\" }}",
        SECRETS[0]
    );
    let file = world.file("/in", &settings, &rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let [own] = &first_of_each(&world.receiver.received())[..] else { anyhow::bail!("one") };
    assert_eq!(own.header("authorization"), "Bearer hunter2hunter2");
    assert_eq!(own.header("x-of"), "2");
    verified(own, SECRETS[0])?;
    let [request] = &first_of_each(&other.received())[..] else { anyhow::bail!("one") };
    assert_eq!((request.method.as_str(), request.path.as_str()), ("PATCH", "/chat?x=1"));
    assert_eq!(&request.body[..], b"a\r\nb");
    assert_eq!(request.header("content-type"), "text/plain");
    assert_eq!((request.header("x-name"), request.header("authorization")), ("Zo%C3%AB", ""));
    assert_eq!((request.header("x-of"), request.header("webhook-signature")), ("", ""));
    // It is removed where it was told.
    orders.delete_one(doc! { "_id": 1 }).await?;
    world.caught_up(&mut run).await?;
    let received = first_of_each(&other.received());
    assert_eq!((received.len(), &received[1].json()["data"]["op"]), (2, &json!("remove")));
    assert_eq!((received[1].header("x-of"), received[1].header("webhook-signature")), ("", ""));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// `try`, a dry run and `check` show what would be sent and where, and no secret.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_sent_is_shown_without_secrets() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_shown.orders");
    orders.insert_one(doc! { "_id": 1, "total": 5 }).await?;
    let rules = "  - { delivery: documents, namespace: hook_shown.orders, to: notify }";
    fs::write(world.folder.path().join("token"), "hunter2hunter2")?;
    let settings = format!(
        ", secret: {}, headers: {{ X-Env: prod, X-Token: \"${{file:token}}\" }}",
        SECRETS[0]
    );
    let file = world.file("/in/${file:token}", &settings, rules)?;
    let text = |output: std::process::Output| {
        let (out, err) = (output.stdout, output.stderr);
        format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err))
    };
    let tried = text(file.command("try", &["--rule", "hook_shown.orders", "--id", "1"]).await?);
    let dry = {
        let run = file.run(&["--dry-run", "--copy-only"])?;
        run.until_end().await?
    };
    let checked = text(file.command("check", &["--online"]).await?);
    let head = format!("POST {}/…\ncontent-type: application/json\n", world.receiver.url());
    for shown in [&tried, &dry] {
        ensure!(shown.contains(&head), "{shown}");
        ensure!(shown.contains("x-env: prod\nx-token: …\nwebhook-id: msg_"), "{shown}");
        ensure!(shown.contains("\"document\":{\"_id\":1,\"total\":5}"), "{shown}");
    }
    ensure!(checked.contains(&format!("webhook at {}/…", world.receiver.url())), "{checked}");
    ensure!(checked.contains("signed, headers x-env, x-token"), "{checked}");
    for shown in [tried, dry, checked] {
        ensure!(!shown.contains("hunter2") && !shown.contains("MfKQ9r8G"), "{shown}");
    }
    assert_eq!(world.receiver.received().len(), 0);

    // An endpoint that is not there is told.
    let nowhere = "  notify: { webhook: { url: \"http://127.0.0.1:1/in\" } }\n";
    let file = world.file_of(nowhere, "1s", rules)?;
    let checked = file.command("check", &["--online", "--wait", "1s"]).await?;
    let code = checked.status.code();
    let checked = text(checked);
    ensure!(code == Some(3) && checked.contains("127.0.0.1:1"), "{code:?}: {checked}");
    Ok(())
}
