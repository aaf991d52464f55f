//! Messages as they are made: formats, ids, what is shown and what is not.

use std::path::Path;

use bson::{RawDocumentBuf, rawdoc};

use super::*;
use crate::{
    change::{Cause, Document, DocumentKey},
    rules::{model::TargetKind, parse},
};

const SECRET: &str = "hunter2hunter2";
const KEY: &str = "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==";
const TIME: ClusterTime = ClusterTime(1_795_227_029 << 32 | 1);

/// Settings as a rule file has them.
fn settings(yaml: &str) -> (Webhook, DeliverySettings) {
    let text = format!(
        "source: mongodb://h/?replicaSet=rs0\ntargets: {{ notify: {{ webhook: {yaml} }} }}\nrules: [{{ \
         namespace: shop.orders, delivery: documents, to: notify }}]\n"
    );
    let environment = |name: &str| match name {
        "SECRET" => Some(SECRET.to_owned()),
        "KEY" => Some(KEY.to_owned()),
        _ => None,
    };
    let loaded = parse(&text, Path::new("rules.yaml"), &environment);
    let mut rules = loaded.unwrap_or_else(|report| panic!("{report}")).rules;
    let target = rules.targets.remove(0);
    let TargetKind::Webhook(webhook) = target.kind else { panic!("a webhook") };
    (webhook, target.delivery)
}

fn target(yaml: &str) -> WebhookTarget {
    let (webhook, delivery) = settings(yaml);
    WebhookTarget::new(&webhook, "shop 1", &delivery).expect("it can be used")
}

fn order() -> RawDocumentBuf {
    rawdoc! { "_id": 7, "tenant": "acme/eu", "total": 12.5 }
}

fn operation(target: &WebhookTarget, meta: &Meta, document: Option<RawDocumentBuf>) -> Operation {
    let key = key();
    let namespace = Namespace::new("shop", "orders");
    let op = if document.is_some() { "put" } else { "remove" };
    let placing = Placing {
        namespace: &namespace,
        key: &key,
        id: "7",
        op,
        document: document.as_deref(),
        event: None,
        meta,
    };
    let Placed { place, extra } = target.place("orders", &placing).expect("a place");
    let action = document.map_or(Action::Remove, |raw| Action::Put(Document::from(raw)));
    let cause = Cause::Event(TIME);
    Operation { place, action, time: TIME, cause, extra, namespace, phase: Phase::Changes }
}

/// Sharded by a region.
fn key() -> DocumentKey {
    DocumentKey::from_document_key(&rawdoc! { "_id": 7, "region": "eu" }).expect("a key")
}

/// The removal of a document that was told where this says.
fn remembered(target: &WebhookTarget, place: &PlaceKey) -> Operation {
    let (key, namespace, meta) = (key(), Namespace::new("shop", "orders"), Meta::default());
    let document = None;
    let placing = Placing {
        namespace: &namespace,
        key: &key,
        id: "7",
        op: "remove",
        document,
        event: None,
        meta: &meta,
    };
    let extra = target.removal("orders", place, &placing);
    let (place, action, cause) = (place.clone(), Action::Remove, Cause::Event(TIME));
    Operation { place, action, time: TIME, cause, extra, namespace, phase: Phase::Changes }
}

/// The first line and the headers.
fn head(message: &str) -> &str {
    message.split_once("\n\n").expect("a head").0
}

fn encoded(target: &WebhookTarget, operation: &Operation) -> Result<String, String> {
    let mut body = Vec::new();
    target.encode(operation, &mut body)?;
    Ok(String::from_utf8(body).expect("text"))
}

fn put(target: &WebhookTarget) -> String {
    encoded(target, &operation(target, &Meta::default(), Some(order()))).expect("a message")
}

fn removal(target: &WebhookTarget) -> Result<String, String> {
    encoded(target, &operation(target, &Meta::default(), None))
}

/// An event with all that one can say, and one without a document.
fn told(target: &WebhookTarget, whole: bool) -> String {
    use crate::{
        change::event::{Happened, Op, Truncated},
        target::Appended,
    };
    let (key, namespace, meta) = (key(), Namespace::new("shop", "orders"), Meta::default());
    let document = whole.then(|| Document::from(order()));
    let event = Happened {
        id: "e1".into(),
        op: if whole { Op::Update } else { Op::Delete },
        copy: false,
        raw: None,
        document: document.clone(),
        before: whole.then(|| rawdoc! { "_id": 7, "total": 10 }.into()),
        updated: whole.then(|| rawdoc! { "total": 12.5, "lines.0.price": 3 }.into()),
        removed: whole.then(|| "coupon\"s".to_owned()).into_iter().collect(),
        truncated: whole
            .then(|| Truncated { field: "list".to_owned(), new_size: 3 })
            .into_iter()
            .collect(),
        lacks: None,
    };
    let placing = Placing {
        namespace: &namespace,
        key: &key,
        id: "7",
        op: event.op.as_str(),
        document: document.as_ref().map(Document::raw),
        event: Some("e1"),
        meta: &meta,
    };
    let Placed { place, extra } = target.place("orders", &placing).expect("a place");
    let appended = Appended {
        id: "e1".to_owned(),
        namespace: namespace.clone(),
        key: key.clone(),
        document_id: "7".to_owned(),
        wall_time: None,
        event: event.into(),
        document,
    };
    let (action, cause) = (Action::Append(Box::new(appended)), Cause::Event(TIME));
    let operation =
        Operation { place, action, time: TIME, cause, extra, namespace, phase: Phase::Changes };
    encoded(target, &operation).expect("a message")
}

/// What each format makes of an event. A header that is made from a field is left out where there is no
/// document.
#[test]
fn formats_of_events() {
    let mut shown = String::new();
    for yaml in [
        "{ url: https://h/x, headers: { X-Op: \"{op}\", X-Tenant: \"{tenant}\" } }",
        "{ url: https://h/x, format: cloudevents, batch: { max_actions: 10 } }",
        "{ url: https://h/x, format: document }",
    ] {
        let target = target(yaml);
        shown.push_str(&format!("--- {yaml}\n{}\n{}\n", told(&target, true), told(&target, false)));
    }
    insta::assert_snapshot!(shown);
}

/// What a template lacks is told with what it is made for.
#[test]
fn what_is_missing_is_told_with_where_it_was_to_stand() {
    let refused = |yaml: &str, document: RawDocumentBuf| {
        let (key, namespace) = (key(), Namespace::new("shop", "orders"));
        let placing = Placing {
            namespace: &namespace,
            key: &key,
            id: "7",
            op: "put",
            document: Some(&document),
            event: None,
            meta: &Meta::default(),
        };
        target(yaml).place("r", &placing).map(drop).expect_err("a value is missing")
    };
    for (yaml, expected) in [
        (
            "{ url: https://h/x, headers: { X-Tenant: \"{none}\" } }",
            "the document has no field none, and the header `x-tenant` is made from it",
        ),
        (
            "{ url: \"https://h/{nothing}\" }",
            "the field nothing of the document is null, and `url` is made from it",
        ),
    ] {
        assert_eq!(refused(yaml, rawdoc! { "_id": 7, "nothing": null }), expected);
    }
}

/// What each format makes of a document that is there, and of one that is gone.
#[test]
fn formats() {
    let mut shown = String::new();
    for yaml in [
        "{ url: \"https://h/{collection}?id={_id}\" }",
        "{ url: https://h/x, format: cloudevents }",
        "{ url: \"https://h/x/{_id}\", format: document, method: PUT }",
        "{ url: https://h/x, batch: { max_actions: 10 } }",
        "{ url: https://h/x, json: extended, headers: { X-Tenant: \"{tenant}\", X-Op: \"{op}\" } }",
    ] {
        let target = target(yaml);
        let gone = removal(&target).expect("a message");
        shown += &format!("# {yaml}\n{}\n{gone}\n", put(&target));
    }
    insta::assert_snapshot!(shown);
}

/// A `DELETE` goes to what is the document's own, and to nothing else.
#[test]
fn a_document_alone_tells_of_no_removal_without_a_url_of_its_own() {
    let place = |target: &WebhookTarget, meta: &Meta| operation(target, meta, Some(order())).place;
    for (path, deleted) in [
        ("x", None),
        ("customers/{tenant}/orders", None),
        ("regions/{key.region}", None),
        ("x?id={_id}", None),
        // One of 1 and "1" is as good as another.
        ("{key._id}", None),
        ("{tenant}-{_id}", None),
        ("{_id}", Some("DELETE https://h/7")),
        ("{tenant}/{_id:typed}", Some("DELETE https://h/acme%2Feu/number~7")),
    ] {
        let target = target(&format!("{{ url: \"https://h/{path}\", format: document }}"));
        let gone = remembered(&target, &place(&target, &Meta::default()));
        let message = encoded(&target, &gone).expect("it can be made, or is not to be");
        assert_eq!(message.lines().next(), deleted, "{path}");
        // Nobody knows whose the URL is that a script chose.
        let meta = Meta { url: Some("https://h/shared".to_owned()), ..Meta::default() };
        let told = encoded(&target, &remembered(&target, &place(&target, &meta)));
        assert_eq!(told, Ok(String::new()));
    }
    let one_for_all = target("{ url: https://h/x, format: document }");
    assert_eq!(removal(&one_for_all), Ok(String::new()));
    // One that can't be made is no such one, and leaves no trace.
    let tenant = target("{ url: \"https://h/{tenant}/{_id}\", format: document }");
    let gone = remembered(&tenant, &place(&one_for_all, &Meta::default()));
    let mut body = b"before".to_vec();
    assert!(tenant.encode(&gone, &mut body).unwrap_err().contains("has no tenant"));
    assert_eq!(body, b"before");
}

/// What a receiver knows it by, whichever rule tells of it and whatever was remembered of its key.
#[test]
fn a_thing_is_a_document_at_a_url() {
    let meta = Meta { url: Some("https://h/acme%2Feu".to_owned()), ..Meta::default() };
    let place = |path: &str, rule: &str, meta: &Meta| {
        let target = target(&format!("{{ url: \"https://h/{path}\" }}"));
        let (key, namespace, document) = (key(), Namespace::new("shop", "orders"), order());
        let document = Some(&*document);
        let placing = Placing {
            namespace: &namespace,
            key: &key,
            id: "7",
            op: "put",
            document,
            event: None,
            meta,
        };
        target.place(rule, &placing).expect("a place").place
    };
    let none = &Meta::default();
    for (today, first, second, same) in [
        ("{tenant}", place("{tenant}", "r", none), place("{tenant}", "q", none), true),
        ("{tenant}", place("{tenant}", "r", none), place("{tenant}/{_id}", "r", none), true),
        ("{tenant}", place("{tenant}", "r", none), place("x", "r", &meta), true),
        ("x", place("x", "r", none), place("x", "q", none), true),
        ("x", place("x", "r", none), place("x", "r", &meta), false),
        ("{rule}", place("x", "r", none), place("x", "q", none), false),
        // Nobody knows where the one is.
        ("{total}", place("{tenant}", "r", none), place("{total}", "r", none), false),
    ] {
        let target = target(&format!("{{ url: \"https://h/{today}\" }}"));
        assert_eq!(
            target.thing(&first) == target.thing(&second),
            same,
            "{today} {first:?} {second:?}"
        );
    }
    let target = target("{ url: https://h/x }");
    assert!(target.is_scripted(&place("x", "r", &meta)));
    assert!(!target.is_scripted(&place("{tenant}", "r", none)));
}

/// A document that moves is told to be gone where it was, and a fixed URL needs no memory for that.
#[test]
fn places_are_fixed_where_no_field_of_the_document_is_in_the_url() {
    for (url, fixed) in
        [("https://h", true), ("https://h/{db}/{_id}/{key.a}", true), ("https://h/{tenant}", false)]
    {
        let target = target(&format!("{{ url: \"{url}\" }}"));
        assert_eq!(target.place_is_fixed("orders"), fixed, "{url}");
        let namespace = Namespace::new("shop", "orders");
        assert_eq!(target.container("orders", &namespace).is_some(), fixed, "{url}");
    }
}

#[test]
fn a_script_chooses_what_is_sent() {
    let target = target("{ url: https://h/x, headers: { X-Env: \"{tenant}\" } }");
    let headers = [("x-env", "own"), ("x-name", "Zoë\r\nX-Admin: yes")];
    let meta = Meta {
        url: Some("https://other/ü?x=1".to_owned()),
        method: Some("put".to_owned()),
        body: Some("text=hello\n\nworld".to_owned()),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Meta::default()
    };
    let operation = operation(&target, &meta, Some(order()));
    let text = encoded(&target, &operation).expect("a message");
    let (head, body) = text.split_once("\n\n").expect("a head");
    let expected = "PUT https://other/%C3%BC?x=1\nx-env: own\nx-name: Zo%C3%AB%0D%0AX-Admin: yes\n";
    assert!(head.starts_with(expected), "{head}");
    assert_eq!(body, "text=hello\n\nworld\n");
    let meta = target.meta(&operation);
    assert_eq!(meta.field("url"), Some("https://other/%C3%BC"));
    assert_eq!((meta.field("method"), meta.field("headers.x-env")), (Some("PUT"), Some("own")));
}

#[test]
fn what_a_script_can_not_choose_refuses_the_document() {
    let target = target("{ url: https://h/x }");
    let with = |meta: Meta| {
        let key = key();
        let namespace = Namespace::new("shop", "orders");
        let document = order();
        let document = Some(&*document);
        let placing = Placing {
            namespace: &namespace,
            key: &key,
            id: "7",
            op: "put",
            document,
            event: None,
            meta: &meta,
        };
        target.place("orders", &placing).expect_err("it is refused")
    };
    let header = |name: &str| Meta {
        headers: [(name.to_owned(), "x".to_owned())].into(),
        ..Meta::default()
    };
    for (meta, words) in [
        (Meta { url: Some("h/x".into()), ..Meta::default() }, "`meta.url` is no URL"),
        (Meta { id: Some("8".into()), ..Meta::default() }, "`meta.id` is for an index"),
        (Meta { method: Some("TRACE".into()), ..Meta::default() }, "`meta.method` is one of"),
        (header("webhook-id"), "mongosync makes"),
        (header("host"), "how HTTP works"),
        (header("x y"), "no name of a header"),
        (header("x\r\ny"), "no name of a header"),
        (
            Meta {
                headers: (0..101).map(|n| (format!("x-{n}"), String::new())).collect(),
                ..Meta::default()
            },
            "100 are the most",
        ),
        (
            Meta { url: Some(format!("https://h/{}", "x".repeat(70_000))), ..Meta::default() },
            "servers take 16384",
        ),
    ] {
        let refused = with(meta);
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn an_array_takes_only_json_of_a_script() {
    let target = target("{ url: https://h/x, batch: { max_actions: 2 } }");
    let with = |body: &str| {
        let meta = Meta { body: Some(body.to_owned()), ..Meta::default() };
        encoded(&target, &operation(&target, &meta, Some(order())))
    };
    assert!(with("{ \"a\": [1] }").is_ok());
    for body in ["", "text", "{}, {}", "]"] {
        assert!(with(body).is_err(), "{body}");
    }
}

/// A path that is changed, as a token in it, moves no document: what is told later goes where the file
/// says then, a removal too.
#[test]
fn a_path_that_is_changed_moves_no_document() {
    let [old, new] = ["hunter2hunter2", "another-token"]
        .map(|token| target(&format!("{{ url: \"https://h/{token}/{{tenant}}?id={{_id}}\" }}")));
    let [before, after] =
        [&old, &new].map(|target| operation(target, &Meta::default(), Some(order())).place);
    assert_eq!(before, after);
    assert!(!String::from_utf8_lossy(&before.0).contains("hunter2"), "{before:?}");
    let gone = encoded(&new, &remembered(&new, &before)).expect("a message");
    assert!(gone.starts_with("POST https://h/another-token/acme%2Feu?id=7\n"), "{gone}");
    // Its own id is known, also where the URL did not ask for it.
    let with_id = target("{ url: \"https://h/{tenant}/{_id}\" }");
    let place =
        operation(&target("{ url: \"https://h/{tenant}\" }"), &Meta::default(), Some(order()));
    let gone = encoded(&with_id, &remembered(&with_id, &place.place)).expect("a message");
    assert!(gone.starts_with("POST https://h/acme%2Feu/7\n"), "{gone}");
    // What is not remembered can't be filled in, and no other URL is told.
    let moved = target("{ url: \"https://h/{region}\" }");
    let words = encoded(&moved, &remembered(&moved, &before)).expect_err("it can't be made");
    assert!(words.contains("has no region, which `url` asks for"), "{words}");
    // Another kind of target has put it there.
    let other = PlaceKey((*b"\x08products\x011").into());
    assert_eq!(encoded(&moved, &remembered(&moved, &other)), Ok(String::new()));
}

/// What a script chose may be anybody's: there go its own headers, and none of the file's.
#[test]
fn another_host_is_told_no_header_of_the_file() {
    let target = target(
        "{ url: https://h/x, headers: { X-Of: \"hunter2-{tenant}\", X-Id: \"hunter2-{_id}\" } }",
    );
    for (url, told) in [
        ("https://h/other", true),
        ("https://h:8443/x", false),
        ("http://h/x", false),
        ("https://other/x", false),
    ] {
        let meta = Meta {
            url: Some(url.to_owned()),
            headers: [("x-own".to_owned(), "1".to_owned())].into(),
            ..Meta::default()
        };
        let put = operation(&target, &meta, Some(order()));
        let message = encoded(&target, &put).expect("a message");
        let head = head(&message);
        assert_eq!(head.contains("\nx-of: hunter2-acme/eu\nx-id: hunter2-7\n"), told, "{head}");
        assert_eq!(head.contains("hunter2"), told, "{head}");
        assert!(head.contains("\nx-own: 1\n"), "{head}");
        let gone = encoded(&target, &remembered(&target, &put.place)).expect("a message");
        assert_eq!(self::head(&gone).contains("hunter2"), told, "{gone}");
    }
}

/// Where the place is a function of the key, and where it is remembered.
#[test]
fn a_removal_has_the_headers_that_follow_from_the_key() {
    for path in ["x", "{tenant}"] {
        let target = target(&format!(
            "{{ url: \"https://h/{path}\", headers: {{ X-R: \"{{key.region}}\", X-T: \"{{_id:typed}}\", X-N: \
             \"{{tenant}}\", X-None: \"{{key.none}}\", X-Op: \"{{op}}\" }} }}"
        ));
        // One of them can't be made for a document that is there either.
        let key = key();
        let namespace = Namespace::new("shop", "orders");
        let address = Address::of(
            &target.url.path,
            "orders",
            &Placing {
                namespace: &namespace,
                key: &key,
                id: "7",
                op: "put",
                document: Some(&order()),
                event: None,
                meta: &Meta::default(),
            },
        );
        let place =
            place_key("orders", "shop.orders", ("7", b"7"), &address.expect("an address"), None);
        let gone = encoded(&target, &remembered(&target, &place)).expect("a message");
        let expected = "\nx-r: eu\nx-t: number~7\nx-op: remove\nwebhook-id: ";
        assert!(head(&gone).contains(expected), "{gone}");
        assert!(!head(&gone).contains("x-n"), "{gone}");
    }
}

/// The id tells two documents, rules, changes and files apart, and nothing else.
#[test]
fn an_id_is_that_of_the_change() {
    let target = target("{ url: https://h/x }");
    let id = |operation: &Operation| {
        let text = encoded(&target, operation).expect("a message");
        let line = text.lines().find(|line| line.starts_with("webhook-id: ")).expect("an id");
        line.to_owned()
    };
    let first = operation(&target, &Meta::default(), Some(order()));
    // The same change, told again after more of them.
    let again = operation(&target, &Meta::default(), Some(rawdoc! { "_id": 7, "total": 99 }));
    assert_eq!(id(&first), id(&again));
    // The change bears another time where a copy was planned meanwhile, and is told as what it is.
    let later = Operation { time: ClusterTime(TIME.0 + 1), ..first.clone() };
    assert_eq!(encoded(&target, &first), encoded(&target, &later));
    assert_ne!(id(&first), id(&Operation { cause: Cause::Event(later.time), ..later }));
    let copied = |plan| Operation {
        cause: Cause::Copy(bson::Uuid::from_bytes([plan; 16])),
        phase: Phase::Copy,
        ..first.clone()
    };
    assert_eq!(id(&copied(1)), id(&copied(1)));
    assert_ne!(id(&copied(1)), id(&copied(2)));
    // Wherever the file says that it is told.
    let elsewhere = self::target("{ url: https://other/y }");
    let told = encoded(&elsewhere, &operation(&elsewhere, &Meta::default(), Some(order())));
    assert!(told.expect("a message").contains(&id(&first)));
}

#[test]
fn nothing_secret_is_shown() {
    let yaml = "{ url: \"https://h/${SECRET}/{_id}?t=${SECRET}\", secret: [\"${KEY}\"], headers: { \
                Authorization: \"Bearer ${SECRET}\", X-Api-Key: hunter2hunter2, X-Env: prod, \
                X-Of: \"${SECRET}-{tenant}\", X-Op: \"{op}\" } }";
    let (webhook, delivery) = settings(yaml);
    let shown = WebhookTarget::to_show(&webhook, &delivery).expect("it can be shown");
    let operation = operation(&shown, &Meta::default(), Some(order()));
    let request = encoded(&shown, &operation).expect("a message");
    insta::assert_snapshot!(request);
    let described = shown.describe(&operation.place);
    assert_eq!(described, "shop.orders 7 at https://h/…");
    for text in [request, described, format!("{webhook:?}{shown:?}{:?}", shown.meta(&operation))] {
        assert!(!text.contains("hunter2") && !text.contains(KEY), "{text}");
    }
    let gone =
        encoded(&shown, &self::operation(&shown, &Meta::default(), None)).expect("a message");
    assert!(gone.contains("\nx-of: …\n") && gone.contains("\nx-op: remove\n"), "{gone}");
    // What is really sent has all of it.
    let sent = WebhookTarget::new(&webhook, "", &delivery).expect("it can be used");
    assert!(put(&sent).starts_with("POST https://h/hunter2hunter2/7?t=hunter2hunter2\n"));
}
