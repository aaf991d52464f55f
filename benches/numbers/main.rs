//! The numbers that mongosync promises, measured side by side with what nothing can be faster than.
//!
//! `cargo bench --bench numbers` measures the rows that have a goal on 300,000 documents of 1.1 KB with
//! real servers and the real binary; names of rows measure only those:
//! `cargo bench --bench numbers -- copy latency --documents 50000 --rounds 3`. Each pair is measured
//! turn by turn in one run, and medians are compared. Nothing else should be running.
//!
//! `cargo bench --bench numbers -- growth` measures how the cost grows, on 100,000 documents.

mod endpoint;
mod floors;
mod growth;
mod load;
mod product;
mod report;
mod rows;
mod world;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::{
    report::{Points, Report, Samples},
    rows::Rows,
    world::World,
};

/// The same as the product's: with another one the floors would be too high.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// Which rows; all that have a goal where none is named
    rows: Vec<Row>,
    /// How many documents the collection holds: 300,000, or 100,000 where only growth is measured
    #[arg(long)]
    documents: Option<u64>,
    /// How often each is measured: 5 times, or 3 where only growth is measured
    #[arg(long)]
    rounds: Option<u32>,
    /// What cargo says when it benchmarks, and leaves out when it only tests
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Row {
    /// Into an endpoint that answers at once
    Copy,
    /// The same with a six-line transform
    Transform,
    /// Into a real Elasticsearch
    Elasticsearch,
    /// Into another MongoDB
    Mongodb,
    /// 100,000 updates made while it was stopped
    CatchUp,
    /// One change at a time
    Latency,
    /// Events told to a webhook that takes its time
    Webhook,
    /// All rows below, which show how the cost grows
    Growth,
    /// Small documents and large ones
    Sizes,
    /// Many collections under one rule
    Namespaces,
    /// Many rules
    Rules,
    /// One document changed again and again
    Hot,
    /// Each document changed once
    Wide,
    /// One change among many
    Load,
    /// A copy while changes pour in
    Beside,
}

impl Row {
    const GOALS: [Self; 7] = [
        Self::Copy,
        Self::Transform,
        Self::Elasticsearch,
        Self::Mongodb,
        Self::CatchUp,
        Self::Latency,
        Self::Webhook,
    ];
    const GROWTH: [Self; 7] = [
        Self::Sizes,
        Self::Namespaces,
        Self::Rules,
        Self::Hot,
        Self::Wide,
        Self::Load,
        Self::Beside,
    ];

    /// What the arguments ask for, and whether any of it has a goal.
    fn chosen(named: &[Self]) -> (Vec<Self>, bool) {
        let all = if named.is_empty() { &Self::GOALS[..] } else { named };
        let rows = all.iter().flat_map(|row| match row {
            Self::Growth => Self::GROWTH.to_vec(),
            row => vec![*row],
        });
        (rows.collect(), all.iter().any(|row| Self::GOALS.contains(row)))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        println!("nothing is measured but by `cargo bench`");
        return Ok(());
    }
    let (chosen, goals) = Row::chosen(&arguments.rows);
    let (documents, rounds) = if goals { (300_000, 5) } else { (100_000, 3) };
    let documents = arguments.documents.unwrap_or(documents);
    eprintln!("writing {documents} documents");
    let mut rows = Rows {
        world: World::new(documents).await?,
        rounds: arguments.rounds.unwrap_or(rounds),
        report: Report::default(),
        peak: Samples::default(),
        points: Points::default(),
        kept_up: None,
        probes: 0,
    };
    for row in chosen {
        match row {
            Row::Copy => rows.copy(false).await?,
            Row::Transform => rows.copy(true).await?,
            Row::Elasticsearch => rows.engine().await?,
            Row::Mongodb => rows.mongodb().await?,
            Row::CatchUp => rows.catch_up().await?,
            Row::Latency => rows.latency().await?,
            Row::Webhook => rows.webhook().await?,
            Row::Growth => unreachable!("the rows that it stands for were taken"),
            Row::Sizes => rows.sizes().await?,
            Row::Namespaces => rows.namespaces().await?,
            Row::Rules => rows.rules().await?,
            Row::Hot => rows.hot().await?,
            Row::Wide => rows.wide().await?,
            Row::Load => rows.under_load().await?,
            Row::Beside => rows.beside().await?,
        }
    }
    if goals {
        rows.memory();
        println!("{}", rows.report);
    }
    if !rows.points.is_empty() {
        println!("{}", rows.points);
    }
    Ok(())
}
