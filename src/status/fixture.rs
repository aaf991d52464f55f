//! A rule file in code, for the tests of `status` and `cli`.

use std::time::Duration;

use crate::{
    change::Namespace,
    rules::model::{
        ChangesSettings, Checkpoint, CheckpointStore, CopySettings, DeliverySettings, Destination,
        Engine, EngineAuth, EngineFlavor, EngineIndex, EnginePlace, Http, NamespacePattern,
        OnDelete, OnDrop, OnHistoryLost, OnRejected, OnRuleChange, Place, Rule, RuleFile, Secret,
        Selector, Since, Source, Target, TargetKind, Tls,
    },
};

/// `products` goes to `search` and `mirror`, `orders` to `search`.
pub(crate) fn rules() -> RuleFile {
    RuleFile {
        tests: Vec::new(),
        path: "shop.yaml".into(),
        name: "shop".into(),
        source: Source {
            uri: Secret::new("mongodb://127.0.0.1/?replicaSet=rs0"),
            max_await: Duration::from_secs(1),
            batch_size: 2000,
        },
        checkpoint: Checkpoint {
            every: Duration::from_secs(1),
            store: CheckpointStore::File { path: ".mongosync/shop".into() },
        },
        http: None,
        targets: vec![target("search"), target("mirror")],
        rules: vec![rule("products", &["search", "mirror"]), rule("orders", &["search"])],
    }
}

/// On any free port.
pub(crate) fn http(token: Option<&str>) -> Http {
    Http { listen: ([127, 0, 0, 1], 0).into(), listen_written: true, token: token.map(Secret::new) }
}

fn target(name: &str) -> Target {
    Target {
        name: name.into(),
        kind: TargetKind::Engine(Engine {
            flavor: EngineFlavor::Elasticsearch,
            urls: vec!["http://127.0.0.1:9200".into()],
            auth: EngineAuth::None,
            tls: Tls::default(),
            gzip: false,
            extended_json: false,
        }),
        delivery: DeliverySettings {
            max_bytes: 8 << 20,
            max_actions: 5000,
            max_delay: Duration::from_millis(50),
            concurrency: 2,
            timeout: Duration::from_secs(60),
            retry_initial: Duration::from_millis(100),
            retry_max: Duration::from_secs(30),
            give_up_after: None,
            on_rejected: OnRejected::DeadLetter,
        },
    }
}

fn rule(name: &str, targets: &[&str]) -> Rule {
    let place = Place::Engine(EnginePlace {
        id: None,
        routing: None,
        ingest_pipeline: None,
        index: EngineIndex { name: None, alias: false, settings: None, mappings: None },
    });
    Rule {
        name: name.into(),
        namespaces: Selector {
            include: vec![NamespacePattern::Exact(Namespace::new("shop", name))],
            exclude: Vec::new(),
        },
        copy: Some(CopySettings { parallel: 4, chunk: 32 << 20, allow_disk_use: true }),
        changes: Some(ChangesSettings { since: Since::Now }),
        events: None,
        filter: None,
        project: None,
        pipeline: Vec::new(),
        transform: None,
        ddl: false,
        on_delete: OnDelete::Remove,
        on_drop: OnDrop::Remove,
        on_rule_change: OnRuleChange::Warn,
        on_history_lost: OnHistoryLost::Resync,
        to: targets
            .iter()
            .map(|&target| Destination { target: target.into(), place: place.clone() })
            .collect(),
        fingerprint: String::new(),
    }
}
