//! What becomes of what an endpoint answers.

use super::*;

/// A state of the endpoint is waited for and shown, and makes no dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_not_in_order_is_waited_for() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_waits.orders");
    let settings = ", headers: { Authorization: \"Bearer hunter2hunter2\" }";
    std::fs::write(world.folder.path().join("token"), "hunter2hunter2")?;
    let rules = "  - { delivery: documents, namespace: hook_waits.orders, to: notify }";
    let file = world.file("/${file:token}", settings, rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    for (id, status) in
        [401_i32, 403, 404, 408, 409, 410, 425, 429, 500, 503].into_iter().enumerate()
    {
        let code = u16::try_from(status)?;
        // It says back what it was told.
        world.receiver.answer(move |request| {
            let (path, said) = (&request.path, request.header("authorization"));
            Reply::with(code, &format!("no: {said} {path}"))
        });
        // Inserts, updates and deletes in turn.
        let id = i32::try_from(id)?;
        match id % 3 {
            0 => {
                orders.insert_one(doc! { "_id": id, "n": 1 }).await?;
            }
            1 => {
                orders.update_one(doc! { "_id": id - 1 }, doc! { "$inc": { "n": 1 } }).await?;
            }
            _ => {
                orders.delete_one(doc! { "_id": id - 2 }).await?;
            }
        }
        let said = format!("HTTP {status}: no: Bearer … /…");
        let shown = run
            .until("waiting", |status| {
                let notify = &status["targets"]["notify"];
                let error = notify["last_error"].to_string();
                notify["state"] == "waiting" && error.contains(&said)
            })
            .await?;
        ensure!(!shown.to_string().contains("hunter2"), "{shown}");
        world.receiver.answer(|_| Reply::of(200));
        world.caught_up(&mut run).await?;
        assert_eq!(held(&world.receiver.received()), source(&orders).await?);
        let told = world.receiver.received();
        let accepted: Vec<_> = told.iter().filter(|it| it.is_accepted()).cloned().collect();
        assert_eq!(first_of_each(&accepted).len(), usize::try_from(id)? + 1);
    }
    assert_eq!(file.dead_letters().await?.len(), 0);
    ensure!(!run.log().contains("hunter2"), "{}", run.log());
    assert!(run.terminate().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() -> Result<()> {
    let world = Hooked::new().await?;
    let elsewhere = Receiver::start().await?;
    let orders = world.collection("hook_redirects.orders");
    let location = format!("{}/other", elsewhere.url());
    world.receiver.answer(move |_| Reply::of(307).header("location", &location));
    let file = world.file(
        "/in",
        "",
        "  - { delivery: documents, namespace: hook_redirects.orders, to: notify }",
    )?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    orders.insert_one(doc! { "_id": 1 }).await?;
    run.until("waiting", |status| {
        let error = status["targets"]["notify"]["last_error"].to_string();
        error.contains("/other, which is not followed")
    })
    .await?;
    assert_eq!(elsewhere.received().len(), 0);
    assert_eq!(file.dead_letters().await?.len(), 0);
    Ok(())
}

/// What is refused for good is a dead letter in the endpoint's own words; a later success settles it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_does_not_hold_up_the_rest() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_refused.orders");
    orders.insert_many((0..30).map(|id| doc! { "_id": id, "total": id })).await?;
    world.receiver.answer(|request| {
        let total = request.json()["data"]["document"]["total"].as_i64();
        match total {
            Some(7) => {
                let signature = request.header("x-api-key").to_owned();
                Reply::with(422, &format!("no\n such   total: {signature}"))
            }
            Some(8) => Reply::of(400),
            Some(9) => Reply::of(413),
            _ => Reply::of(202),
        }
    });
    let settings = ", headers: { X-Api-Key: hunter2hunter2 }";
    let file = world.file(
        "/in",
        settings,
        "  - { delivery: documents, namespace: hook_refused.orders, to: notify }",
    )?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    assert_eq!(held(&world.receiver.received()).len(), 27);
    let letters = file.dead_letters().await?;
    let words: BTreeMap<String, &str> = letters
        .iter()
        .map(|letter| {
            (letter["key_text"].to_string(), letter["words"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(words.len(), 3, "{letters:?}");
    ensure!(!format!("{letters:?}").contains("hunter2"), "{letters:?}");
    let all: Vec<&str> = words.into_values().collect();
    assert_eq!(all[0], "HTTP 422: no such total: …");
    assert_eq!((all[1], all[2].contains("HTTP 413")), ("HTTP 400", true));

    orders
        .update_many(doc! { "total": { "$in": [7, 8] } }, doc! { "$set": { "total": 0 } })
        .await?;
    world.caught_up(&mut run).await?;
    assert_eq!(file.dead_letters().await?.len(), 1);
    // The last one is tried again once the endpoint takes it.
    world.receiver.answer(|_| Reply::of(200));
    let retried = file.command("dead-letters", &["retry", "--all"]).await?;
    ensure!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert_eq!(held(&world.receiver.received()), source(&orders).await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// Of an array, the one that is to blame is found, and the others arrive.
#[tokio::test(flavor = "multi_thread")]
async fn an_array_is_halved_until_the_guilty_one_is_alone() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_arrays.orders");
    orders.insert_many((0..200).map(|id| doc! { "_id": id })).await?;
    world.receiver.answer(|request| {
        let all = request.json();
        let bad = |one: &Value| one["data"]["_id"] == 17;
        match all.as_array().map(Vec::as_slice).unwrap_or_default() {
            [] => Reply::with(400, "an array was expected"),
            all if all.iter().any(bad) => Reply::with(400, "one of them is 17"),
            all if all.len() > 100 => Reply::of(413),
            _ => Reply::of(200),
        }
    });
    let settings = ", batch: { max_actions: 150, concurrency: 2 }, secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let file = world.file(
        "/in",
        settings,
        "  - { delivery: documents, namespace: hook_arrays.orders, to: notify }",
    )?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let received = world.receiver.received();
    let mut ids = BTreeSet::new();
    for request in received.iter().filter(|request| request.is_accepted()) {
        verified(request, SECRETS[0])?;
        for one in request.json().as_array().context("an array")? {
            ids.insert(one["data"]["_id"].as_i64().context("a number")?);
            ensure!(one["id"].as_str().is_some_and(|id| id.starts_with("msg_")), "{one}");
        }
    }
    assert_eq!(ids, (0..200).filter(|id| *id != 17).collect::<BTreeSet<i64>>());
    let letters = file.dead_letters().await?;
    assert_eq!((letters.len(), &letters[0]["words"]), (1, &json!("HTTP 400: one of them is 17")));
    assert!(run.terminate().await?.success());
    Ok(())
}

/// What a removal was refused with is a letter, and is told again where it was refused.
#[rstest]
#[case::what_is_dropped_goes("hook_removals", "remove")]
#[case::what_is_dropped_stays("hook_removals_keep", "keep")]
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_refused_is_told_again(
    #[case] database: &str,
    #[case] on_drop: &str,
) -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection(&format!("{database}.orders"));
    orders.insert_one(doc! { "_id": 1, "at": "a" }).await?;
    orders.insert_one(doc! { "_id": 2, "at": "a" }).await?;
    let rules = format!(
        "  - {{ delivery: documents, namespace: {database}.orders, on_drop: {on_drop}, to: notify }}"
    );
    let file = world.file("/in/{at}", "", &rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    world.receiver.answer(|request| {
        Reply::of(if request.json()["data"]["op"] == "remove" { 422 } else { 200 })
    });
    orders.delete_one(doc! { "_id": 1 }).await?;
    orders.update_one(doc! { "_id": 2 }, doc! { "$set": { "at": "b" } }).await?;
    world.caught_up(&mut run).await?;
    assert_eq!(file.dead_letters().await?.len(), 2);
    let count = world.receiver.received().len();
    world.receiver.answer(|_| Reply::of(200));
    let retried = file.command("dead-letters", &["retry", "--all"]).await?;
    ensure!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    assert_eq!(file.dead_letters().await?.len(), 0);
    let received = world.receiver.received();
    let removed: BTreeSet<(String, String)> = received[count..]
        .iter()
        .filter(|request| request.json()["data"]["op"] == "remove")
        .map(|request| (request.path.clone(), request.json()["data"]["_id"].to_string()))
        .collect();
    let both = ["1", "2"].map(|id| ("/in/a".to_owned(), id.to_owned()));
    assert_eq!(removed, both.into());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An endpoint has to take a `DELETE` of what it does not have; one that does not is told so.
#[tokio::test(flavor = "multi_thread")]
async fn a_delete_of_what_is_not_there_is_told() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_deletes.orders");
    orders.insert_many((1..=3).map(|id| doc! { "_id": id })).await?;
    let rules = "  - { delivery: documents, namespace: hook_deletes.orders, to: notify }";
    let file = world.file("/o/{_id}", ", method: PUT, format: document", rules)?;
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let deleted = |request: &Received| request.method == "DELETE";
    let refuse = |status: u16| {
        let reply = move |it: &Received| Reply::of(if deleted(it) { status } else { 200 });
        world.receiver.answer(reply);
    };
    refuse(404);
    orders.delete_one(doc! { "_id": 1 }).await?;
    run.until("waiting", |status| {
        let notify = &status["targets"]["notify"];
        let error = notify["last_error"].to_string();
        notify["state"] == "waiting"
            && error.contains(
                "HTTP 404 (to a DELETE of what is not there, an endpoint has to answer 2xx)",
            )
    })
    .await?;
    refuse(204);
    world.caught_up(&mut run).await?;
    assert_eq!(file.dead_letters().await?.len(), 0);
    refuse(422);
    orders.delete_one(doc! { "_id": 2 }).await?;
    world.caught_up(&mut run).await?;
    assert_eq!(file.dead_letters().await?.len(), 1);
    refuse(204);
    let retried = file.command("dead-letters", &["retry", "--all"]).await?;
    ensure!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    assert_eq!(file.dead_letters().await?.len(), 0);
    let accepted: BTreeSet<String> = world
        .receiver
        .received()
        .into_iter()
        .filter(|it| deleted(it) && it.is_accepted())
        .map(|it| it.path)
        .collect();
    assert_eq!(accepted, ["/o/1", "/o/2"].map(str::to_owned).into());
    assert!(run.terminate().await?.success());
    Ok(())
}

/// All that an endpoint was not told of in time is in the dead letters, durably, and is told when it
/// is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_stays_away_is_given_up() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_given_up.orders");
    orders.insert_many((0..40).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let (url, batch) = (world.receiver.url(), "batch: { concurrency: 2 }");
    let retry = "retry: { initial: 20ms, max: 100ms, give_up_after: 2s }";
    let target = format!("  notify: {{ webhook: {{ url: \"{url}/in\", {retry}, {batch} }} }}\n");
    let rules = "  - { delivery: documents, namespace: hook_given_up.orders, to: notify }";
    world.receiver.answer(|_| Reply::with(503, "closed"));
    let file = world.file_of(&target, "100ms", rules)?;
    let mut run = file.run(&[])?;
    // Twenty a lane: with a limit for each of them it would take forty seconds.
    run.until("the letters", |status| {
        status["targets"]["notify"]["rules"]["hook_given_up.orders"]["dead_letters"] == 40
    })
    .await?;
    run.kill().await?;
    let letters = file.dead_letters().await?;
    let given_up = |letter: &Value| {
        let words = letter["words"].as_str().unwrap_or_default();
        words.starts_with("given up after 2s: ") && words.ends_with("HTTP 503: closed")
    };
    ensure!(letters.len() == 40 && letters.iter().all(given_up), "{letters:?}");
    world.receiver.answer(|_| Reply::of(200));
    let mut run = file.run(&[])?;
    copied(&mut run).await?;
    let retried = file.command("dead-letters", &["retry", "--all"]).await?;
    ensure!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    assert_eq!(file.dead_letters().await?.len(), 0);
    assert_eq!(held(&world.receiver.received()), source(&orders).await?);
    assert!(run.terminate().await?.success());
    Ok(())
}

/// An endpoint need know nothing but what it is told: not even how to say that it is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_answers_no_other_request_is_told() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_asked.orders");
    orders.insert_many((0..3).map(|id| doc! { "_id": id, "n": 0 })).await?;
    let replies = [
        ("fails", Reply::of(502)),
        ("cuts", Reply { cut: true, ..Reply::default() }),
        ("hangs", Reply { hang: true, ..Reply::default() }),
    ];
    let (mut targets, mut receivers) = (world.target("/in", ""), Vec::new());
    for (name, reply) in replies {
        let receiver = Receiver::start().await?;
        receiver.answer_who_asks(reply);
        targets += &format!("  {name}: {{ webhook: {{ url: \"{}/in\" }} }}\n", receiver.url());
        receivers.push(receiver);
    }
    let rules = "  - { delivery: documents, namespace: hook_asked.orders, to: [notify, fails, cuts, hangs] }";
    let file = world.file_of(&targets, "100ms", rules)?;
    let run = file.run(&[])?;
    for receiver in &receivers {
        let received = receiver.until(|received| held(received).len() == 3).await?;
        assert_eq!(held(&received), source(&orders).await?);
    }
    drop(run);
    Ok(())
}

/// What was accepted before a clean stop is not told again after it, but for what the position can't
/// tell apart, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_with_a_backlog_tells_nothing_twice() -> Result<()> {
    let world = Hooked::new().await?;
    let orders = world.collection("hook_backlog.orders");
    let slow = || Reply { after: std::time::Duration::from_millis(20), ..Reply::of(200) };
    world.receiver.answer(move |_| slow());
    let rules = "  - { delivery: documents, namespace: hook_backlog.orders, to: notify }";
    // A position is stored at the stop alone, and passes what came in one reply of the stream together.
    let target = world.target("/in", ", ordering: total");
    let file = world.file_of(&target, "1h", rules)?;
    let uri = world.mongo.uri();
    let by_one = format!("source: {{ uri: \"{uri}\", batch_size: 1 }}\n");
    file.rewrite(|text| text.replace(&format!("source: {uri}\n"), &by_one))?;
    let mut run = file.run(&[])?;
    run.until("following", |status| status["targets"]["notify"]["state"] == "following").await?;
    for id in 0..300 {
        orders.insert_one(doc! { "_id": id, "n": 0 }).await?;
    }
    world.receiver.until(|received| held(received).len() >= 50).await?;
    assert!(run.terminate().await?.success());
    let before = held(&world.receiver.received());
    let count = world.receiver.received().len();
    ensure!(before.len() < 300, "there was no backlog");
    let mut run = file.run(&[])?;
    world.caught_up(&mut run).await?;
    let received = world.receiver.received();
    assert_eq!(held(&received), source(&orders).await?);
    let again: Vec<_> =
        held(&received[count..]).into_keys().filter(|id| before.contains_key(id)).collect();
    // A position never covers the last event that a reply has shown, and the stream begins at it.
    ensure!(again.len() <= 2, "{again:?}");
    assert!(run.terminate().await?.success());
    Ok(())
}
