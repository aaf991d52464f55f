//! A look at an engine before anything is written to it: its nodes, what the login may do, blocks, the
//! indices and ingest pipelines that rules name. It only asks.
//!
//! For `check`; a run finds out by writing, and waits for what is in its way.

use std::collections::{BTreeMap, BTreeSet};

use elasticsearch::{
    cluster::ClusterStateParts,
    http::{Method, headers::HeaderMap},
    indices::IndicesGetParts,
    ingest::IngestGetPipelineParts,
};
use serde_json::{Map, Value, json};

use super::{
    About, EngineTarget, Greeting,
    answer::{Answer, refusal},
    indices::judge,
    mappings::differences,
    routes::Wanted,
};
use crate::{
    finding::{Finding, NOT_REACHED, Part, some},
    rules::model::EngineFlavor,
    target::{Look, Retry},
};

/// Indices that are looked at; of more, the rest is left out, and that is said.
const MOST: usize = 200;
/// What keeps documents from being written, among the settings of an index.
const BLOCKS: [&str; 3] = ["read_only_allow_delete", "read_only", "write"];

/// A look that is under way.
struct Inspection<'a> {
    target: &'a EngineTarget,
    look: Look<'a>,
    found: Vec<Finding>,
    /// The indices that are there, by the name that documents are written to, and the index behind.
    there: BTreeMap<String, String>,
    /// The names under which nothing is there yet.
    missing: BTreeSet<String>,
}

impl EngineTarget {
    /// All that the engine tells of what its rules want.
    ///
    /// # Errors
    /// Where no node is reached.
    pub(super) async fn look(&self, look: Look<'_>) -> Result<Vec<Finding>, Retry> {
        let mut inspection = Inspection {
            target: self,
            look,
            found: Vec::new(),
            there: BTreeMap::new(),
            missing: BTreeSet::new(),
        };
        if let Some(about) = inspection.nodes().await?
            && let Err(retry) = inspection.rest(about).await
        {
            let words = format!("the engine stopped answering: {}", retry.message);
            inspection.found.push(Finding::error(NOT_REACHED, inspection.part(), words));
        }
        Ok(inspection.found)
    }
}

impl Inspection<'_> {
    fn part(&self) -> Part {
        Part::Target(self.look.target.to_owned())
    }

    /// Asks every node what it is. `None` where there is no use in asking for more.
    async fn nodes(&mut self) -> Result<Option<Option<About>>, Retry> {
        let answers =
            self.target.nodes.ask_each(|engine| async move { engine.info().send().await }).await;
        let nodes = answers.len();
        let (mut away, mut abouts, mut silent) = (Vec::new(), Vec::new(), None);
        let mut refused = BTreeSet::new();
        for (address, answer) in answers {
            let answer = match answer {
                Ok(answer) if !answer.is_of_proxy() => answer,
                Ok(answer) => {
                    away.push((address, refusal(&answer)));
                    continue;
                }
                Err(retry) => {
                    away.push((address, retry));
                    continue;
                }
            };
            match self.target.about(&answer) {
                Ok(Greeting::Known(about)) => abouts.push((address, about)),
                Ok(Greeting::Silent(words)) => silent = Some(words),
                Err(retry) => drop(refused.insert((retry.reason, retry.message))),
            }
        }
        if away.len() == nodes {
            let (address, retry) = away.swap_remove(0);
            return Err(Retry { message: format!("{address}: {}", retry.message), ..retry });
        }
        for (address, retry) in away {
            let words = format!("the node {address} is not reached: {}", retry.message);
            self.found.push(
                Finding::warning("node_down", self.part(), words)
                    .help("it is passed over until it answers"),
            );
        }
        for (reason, message) in &refused {
            let finding = Finding::error("engine_refuses", self.part(), message.clone());
            self.found.push(match *reason {
                "unauthorized" => finding.help("set `auth` to a login that the engine knows"),
                _ => finding,
            });
        }
        if let Some(words) = &silent {
            let words = format!("the login may not ask what the engine is: {words}");
            self.found.push(
                Finding::warning("version_unknown", self.part(), words)
                    .help("grant it `monitor` on the cluster; writing does without"),
            );
        }
        self.clusters(&abouts);
        Ok(match abouts.into_iter().next() {
            Some((_, about)) => Some(Some(about)),
            None => silent.map(|_| None),
        })
    }

    fn clusters(&mut self, abouts: &[(&str, About)]) {
        let Some((first, about)) = abouts.first() else { return };
        let (flavor, version) = (about.flavor(), &about.version.number);
        let cluster = about.cluster_name.as_deref().unwrap_or_default();
        let reached = match abouts.len() {
            1 => String::new(),
            count => format!(", {count} nodes"),
        };
        let title = title(flavor);
        let words = format!("{title} {version}, cluster {cluster}{reached}");
        self.found.push(Finding::note("engine", self.part(), words));
        if flavor != self.target.flavor {
            let (is, written) = (flavor.as_str(), self.target.flavor.as_str());
            let words = format!("the engine is {title}, and the file says `{written}`");
            self.found.push(
                Finding::warning("other_engine", self.part(), words)
                    .help(format!("write `{is}:` in its place")),
            );
        }
        let other = abouts.iter().find(|(_, other)| {
            let known = |about: &About| about.cluster_uuid.clone().filter(|uuid| uuid != "_na_");
            matches!((known(about), known(other)), (Some(one), Some(two)) if one != two)
        });
        if let Some((second, _)) = other {
            let words = format!("{first} and {second} belong to two different clusters");
            self.found.push(
                Finding::error("two_clusters", self.part(), words)
                    .help("`urls` names nodes of one cluster; give the other a target of its own"),
            );
        }
    }

    async fn rest(&mut self, about: Option<About>) -> Result<(), Retry> {
        let wanted = self.target.routes.wanted(self.look.reads);
        for wanted in wanted.iter().take(MOST) {
            self.index(wanted).await?;
        }
        if wanted.len() > MOST {
            let words = format!("{} indices are not looked at", wanted.len() - MOST);
            self.found.push(Finding::note("more_indices", self.part(), words));
        }
        if !self.there.is_empty() {
            let words = format!("there already, and left as they are: {}", some(self.there.keys()));
            self.found.push(Finding::note("indices_there", self.part(), words));
        }
        if !self.missing.is_empty() {
            let words = format!("made by the next run: {}", some(&self.missing));
            self.found.push(Finding::note("indices_missing", self.part(), words));
        }
        self.blocks().await?;
        self.pipelines().await?;
        self.guessed_mappings(&wanted).await?;
        // OpenSearch has no way to ask.
        if about.is_none_or(|about| about.flavor() == EngineFlavor::Elasticsearch) {
            self.privileges(&wanted).await?;
        }
        Ok(())
    }

    /// Looks at one index.
    async fn index(&mut self, wanted: &Wanted) -> Result<(), Retry> {
        let name = wanted.name.as_str();
        let answer = self
            .target
            .nodes
            .ask_any(|engine| async move {
                engine
                    .indices()
                    .get(IndicesGetParts::Index(&[name]))
                    .flat_settings(true)
                    .filter_path(&["*.aliases", "*.settings", "*.mappings"])
                    .send()
                    .await
            })
            .await?;
        let kind = answer.error().map(|error| error.kind).unwrap_or_default();
        match answer.status {
            200..300 => {}
            404 if kind == "index_not_found_exception" => {
                self.missing.insert(name.to_owned());
                return Ok(());
            }
            403 => {
                let words = format!("the login may not look at the index {name}");
                self.found.push(
                    Finding::error("missing_privilege", self.part(), words)
                        .help("grant it `view_index_metadata` there: each index is looked for before its first write"),
                );
                return Ok(());
            }
            _ => {
                let words = format!("index {name}: {}", refusal(&answer).message);
                self.found.push(Finding::error("index_unusable", self.part(), words));
                return Ok(());
            }
        }
        let found = parsed(&answer);
        if let Err(words) = judge(name, wanted.plan.alias, &found) {
            self.found.push(Finding::error("index_unusable", self.part(), words));
            return Ok(());
        }
        let Some((index, about)) = written_to(name, &found) else { return Ok(()) };
        self.there.insert(name.to_owned(), index.to_owned());
        let settings = about.get("settings").and_then(Value::as_object);
        let blocked = |block: &&&str| {
            let value = settings.and_then(|all| all.get(&format!("index.blocks.{block}")));
            value.is_some_and(|value| value != "false" && value != false)
        };
        if let Some(block) = BLOCKS.iter().find(blocked) {
            let words = format!("the index {index} takes no writes: `index.blocks.{block}` is set");
            let free = match *block {
                "read_only_allow_delete" => {
                    "the engine sets it where a disk is nearly full: make room, then "
                }
                _ => "",
            };
            self.found.push(
                Finding::error("index_blocked", self.part(), words).help(format!(
                    "{free}PUT /{index}/_settings {{\"index.blocks.{block}\": null}}"
                )),
            );
        }
        self.mappings(wanted, index, about);
        Ok(())
    }

    fn mappings(&mut self, wanted: &Wanted, index: &str, about: &Value) {
        let Some(mappings) = &wanted.plan.mappings else { return };
        let differ = differences(mappings, about.get("mappings").unwrap_or(&Value::Null));
        if differ.is_empty() {
            return;
        }
        let words = format!(
            "the index {index} has other mappings than the rule {}: {}",
            wanted.plan.rule,
            some(differ)
        );
        self.found.push(Finding::warning("mappings_differ", self.part(), words).help(
            "an index that is there is left as it is: fill another one under another name, or say \
             in the rule what the index has",
        ));
    }

    /// Blocks of the whole cluster, and closed indices.
    async fn blocks(&mut self) -> Result<(), Retry> {
        let answer = self
            .target
            .nodes
            .ask_any(|engine| async move {
                engine.cluster().state(ClusterStateParts::Metric(&["blocks"])).send().await
            })
            .await?;
        if !answer.is_success() {
            return Ok(());
        }
        let state = parsed(&answer);
        let blocks = |kind: &str| -> Map<String, Value> {
            let blocks = state.get("blocks").and_then(|blocks| blocks.get(kind));
            blocks.and_then(Value::as_object).cloned().unwrap_or_default()
        };
        for block in blocks("global").values().filter(|block| keeps_writes_out(block)) {
            let description = block.get("description").and_then(Value::as_str).unwrap_or_default();
            let words = format!("the whole cluster takes no writes: {description}");
            self.found.push(Finding::error("cluster_blocked", self.part(), words).help(
                "PUT /_cluster/settings {\"persistent\": {\"cluster.blocks.*\": null}, \
                 \"transient\": {\"cluster.blocks.*\": null}}",
            ));
        }
        let indices = blocks("indices");
        for index in self.there.values() {
            let own = indices.get(index).and_then(Value::as_object);
            // The number of this block is the same in every version.
            if own.is_some_and(|own| own.contains_key("4")) {
                let words = format!("the index {index} is closed");
                self.found.push(
                    Finding::error("index_closed", self.part(), words)
                        .help(format!("POST /{index}/_open")),
                );
            }
        }
        Ok(())
    }

    /// The ingest pipelines that rules name.
    async fn pipelines(&mut self) -> Result<(), Retry> {
        for (name, rule) in self.target.routes.ingest_pipelines(self.look.reads) {
            let name = name.as_str();
            let answer = self
                .target
                .nodes
                .ask_any(|engine| async move {
                    let parts = IngestGetPipelineParts::Id(name);
                    engine.ingest().get_pipeline(parts).filter_path(&["*.version"]).send().await
                })
                .await?;
            if answer.status == 404 {
                let words =
                    format!("the rule {rule} names the ingest pipeline {name}, and there is none");
                self.found.push(Finding::error("pipeline_missing", self.part(), words).help(
                    format!(
                        "make it with PUT /_ingest/pipeline/{name}: until then every document waits"
                    ),
                ));
            }
        }
        Ok(())
    }

    /// An index that goes while a run writes to it comes back as the engine thinks fit.
    async fn guessed_mappings(&mut self, wanted: &[Wanted]) -> Result<(), Retry> {
        let minded = |wanted: &&Wanted| !wanted.plan.alias && wanted.plan.mappings.is_some();
        let Some(wanted) = wanted.iter().find(minded) else { return Ok(()) };
        let answer = self
            .target
            .nodes
            .ask_any(|engine| async move {
                engine
                    .cluster()
                    .get_settings()
                    .include_defaults(true)
                    .flat_settings(true)
                    .filter_path(&["*.action.auto_create_index"])
                    .send()
                    .await
            })
            .await?;
        let settings = parsed(&answer);
        let set = ["transient", "persistent", "defaults"]
            .into_iter()
            .find_map(|level| settings.get(level)?.get("action.auto_create_index")?.as_str());
        if set == Some("true") {
            let words = format!(
                "should the index {} be deleted while mongosync runs, the engine makes it again with \
                 mappings that it guesses",
                wanted.name
            );
            self.found.push(Finding::note("auto_create_index", self.part(), words).help(
                "`alias: true` keeps it from that, and so does `action.auto_create_index: false`",
            ));
        }
        Ok(())
    }

    /// What the login may do, where the engine has an API that tells.
    async fn privileges(&mut self, wanted: &[Wanted]) -> Result<(), Retry> {
        let mut names = BTreeSet::new();
        for wanted in wanted.iter().take(MOST) {
            names.insert(wanted.name.clone());
            if wanted.plan.alias && self.missing.contains(&wanted.name) {
                names.insert(format!("{}-000001", wanted.name));
            }
        }
        if names.is_empty() {
            return Ok(());
        }
        let body = json!({ "index": [{
            "names": names,
            "privileges": PRIVILEGES.iter().map(|privilege| privilege.name).collect::<Vec<_>>(),
        }] })
        .to_string();
        let body = &body;
        let answer = self
            .target
            .nodes
            .ask_any(|engine| async move {
                let path = "/_security/user/_has_privileges";
                let headers = HeaderMap::new();
                let body = Some(body.clone());
                engine.send(Method::Post, path, headers, None::<&()>, body, None).await
            })
            .await?;
        // Without security there is no such API, and nothing is forbidden.
        if !answer.is_success() {
            return Ok(());
        }
        let held = parsed(&answer);
        let user = held.get("username").and_then(Value::as_str).unwrap_or("the login").to_owned();
        let held = held.get("index").and_then(Value::as_object).cloned().unwrap_or_default();
        for Privilege { name, needed, lost } in PRIVILEGES {
            let denied: Vec<&String> = held
                .iter()
                .filter(|(index, _)| needed != Needed::ToMake || self.is_to_be_made(index))
                .filter(|(_, own)| own.get(name) == Some(&Value::Bool(false)))
                .map(|(index, _)| index)
                .collect();
            if denied.is_empty() {
                continue;
            }
            let words = format!("{user} has no privilege `{name}` on {}: {lost}", some(&denied));
            let finding = match needed {
                Needed::Always | Needed::ToMake => Finding::error,
                Needed::ForComfort => Finding::warning,
            };
            self.found.push(
                finding("missing_privilege", self.part(), words)
                    .help(format!("grant `{name}` on it to a role of {user}")),
            );
        }
        Ok(())
    }

    fn is_to_be_made(&self, index: &str) -> bool {
        self.missing.contains(index.strip_suffix("-000001").unwrap_or(index))
            || self.missing.contains(index)
    }
}

/// A privilege on an index.
struct Privilege {
    name: &'static str,
    needed: Needed,
    /// What does not work without it.
    lost: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    Always,
    /// While the index is not there.
    ToMake,
    ForComfort,
}

const PRIVILEGES: [Privilege; 6] = [
    Privilege { name: "index", needed: Needed::Always, lost: "nothing can be written" },
    Privilege { name: "delete", needed: Needed::Always, lost: "nothing can be removed" },
    Privilege {
        name: "view_index_metadata",
        needed: Needed::Always,
        lost: "each index is looked for before its first write",
    },
    Privilege { name: "create_index", needed: Needed::ToMake, lost: "the index can't be made" },
    Privilege {
        name: "manage",
        needed: Needed::ForComfort,
        lost: "an index can't be made behind an alias, nor be arranged for a fast copy",
    },
    Privilege {
        name: "maintenance",
        needed: Needed::ForComfort,
        lost: "what a copy wrote is seen only after the engine's own refresh",
    },
];

fn title(flavor: EngineFlavor) -> &'static str {
    match flavor {
        EngineFlavor::Elasticsearch => "Elasticsearch",
        EngineFlavor::OpenSearch => "OpenSearch",
    }
}

/// The index that writes to a name go to, with what the engine says of it.
fn written_to<'v>(name: &str, found: &'v Map<String, Value>) -> Option<(&'v str, &'v Value)> {
    let writes = |about: &Value| {
        let alias = about.get("aliases").and_then(|aliases| aliases.get(name));
        alias.and_then(|alias| alias.get("is_write_index")) == Some(&Value::Bool(true))
    };
    let chosen = found.iter().find(|(_, about)| writes(about));
    chosen.or(found.iter().next()).map(|(index, about)| (index.as_str(), about))
}

fn keeps_writes_out(block: &Value) -> bool {
    let levels = block.get("levels").and_then(Value::as_array);
    levels.is_some_and(|levels| levels.iter().any(|level| level == "write"))
}

fn parsed(answer: &Answer) -> Map<String, Value> {
    serde_json::from_slice(&answer.body).unwrap_or_default()
}
