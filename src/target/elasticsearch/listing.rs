//! What an index holds from before some time, found by reading every document's version.
//!
//! Versions can't be searched for, so all of the index is walked by a scroll, without sources. What
//! others wrote by hand has versions of the engine's own counting, which are far below any cluster
//! time.

use std::{borrow::Cow, ops::Range};

use elasticsearch::{ClearScrollParts, ScrollParts, SearchParts, indices::IndicesRefreshParts};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::{
    answer::{Answer, refusal},
    nodes::Nodes,
    place::place_key,
};
use crate::{
    change::ClusterTime,
    target::{Listing, PlaceKey, Pressure, Retry},
};

/// Documents in one page.
const PAGE: u64 = 5_000;
/// How long the engine keeps a page's place: the removals of one page lie between two.
const KEEP: &str = "10m";

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(rename = "_scroll_id", borrow)]
    scroll: Option<Cow<'a, str>>,
    #[serde(borrow)]
    hits: Hits<'a>,
    #[serde(rename = "_shards")]
    shards: Shards,
}

#[derive(Deserialize)]
struct Shards {
    failed: u64,
}

#[derive(Deserialize)]
struct Hits<'a> {
    #[serde(borrow)]
    hits: Vec<Hit<'a>>,
}

#[derive(Deserialize)]
struct Hit<'a> {
    #[serde(rename = "_id", borrow)]
    id: Cow<'a, str>,
    #[serde(rename = "_version")]
    version: i64,
    #[serde(rename = "_routing", borrow)]
    routing: Option<Cow<'a, str>>,
}

/// Sends the places of a container whose version stands for a time in `written`. They are looked for
/// under `name`. An index that is not there holds nothing.
pub(super) async fn list(
    nodes: &Nodes,
    container: &str,
    name: &str,
    written: Range<ClusterTime>,
    found: &mpsc::Sender<Vec<PlaceKey>>,
) -> Result<Listing, Retry> {
    refresh(nodes, name).await?;
    let mut answer = nodes
        .ask(|engine| async move {
            engine
                .search(SearchParts::Index(&[name]))
                .scroll(KEEP)
                .allow_partial_search_results(false)
                .body(json!({
                    "size": PAGE, "sort": ["_doc"], "_source": false, "version": true,
                }))
                .send()
                .await
        })
        .await?;
    match answer.status {
        403 => return Ok(Listing::NotOurs("it may not be searched with this login".to_owned())),
        404 => return Ok(Listing::Whole),
        _ => {}
    }
    let versions = written.start.version()..written.end.version();
    loop {
        if !answer.is_success() {
            return Err(refusal(&answer));
        }
        let page: Page<'_> =
            serde_json::from_slice(&answer.body).map_err(|error| garbled(&error))?;
        if page.shards.failed > 0 {
            return Err(incomplete(page.shards.failed));
        }
        let last = page.hits.hits.is_empty();
        let places: Vec<PlaceKey> = page
            .hits
            .hits
            .iter()
            .filter(|hit| versions.contains(&hit.version))
            .map(|hit| place_key(container, &hit.id, hit.routing.as_deref()))
            .collect();
        let scroll = page.scroll.map(Cow::into_owned);
        let gone = !places.is_empty() && found.send(places).await.is_err();
        let Some(scroll) = scroll else { return Ok(Listing::Whole) };
        let scroll = scroll.as_str();
        if last || gone {
            // The engine lets go of it by itself otherwise, only later.
            nodes
                .ask(|engine| async move {
                    let body = json!({ "scroll_id": [scroll] });
                    engine.clear_scroll(ClearScrollParts::None).body(body).send().await
                })
                .await?;
            return Ok(Listing::Whole);
        }
        answer = next(nodes, scroll).await?;
    }
}

async fn next(nodes: &Nodes, scroll: &str) -> Result<Answer, Retry> {
    nodes
        .ask(|engine| async move {
            let body = json!({ "scroll": KEEP, "scroll_id": scroll });
            engine.scroll(ScrollParts::None).body(body).send().await
        })
        .await
}

/// Without it the list is of some time ago: right still, since removals carry versions, but longer.
pub(super) async fn refresh(nodes: &Nodes, container: &str) -> Result<(), Retry> {
    let answer = nodes
        .ask(|engine| async move {
            let parts = IndicesRefreshParts::Index(&[container]);
            engine.indices().refresh(parts).ignore_unavailable(true).send().await
        })
        .await?;
    match answer.status {
        200..300 | 403 | 404 => Ok(()),
        _ => Err(refusal(&answer)),
    }
}

/// Pages of a scroll may come without some of the shards, whatever the search asked for.
fn incomplete(shards: u64) -> Retry {
    Retry {
        reason: "unavailable",
        message: format!("{shards} shards do not answer, and what they hold is not listed"),
        after: None,
        pressure: Pressure::Same,
    }
}

fn garbled(error: &serde_json::Error) -> Retry {
    Retry {
        reason: "garbled",
        message: format!("what the engine lists can't be read: {error}"),
        after: None,
        pressure: Pressure::Same,
    }
}
