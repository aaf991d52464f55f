//! The numbers that mongosync promises, measured side by side with what nothing can be faster than.
//!
//! `cargo bench --bench numbers` measures all rows on 300,000 documents of 1.1 KB with real servers
//! and the real binary; names of rows measure only those:
//! `cargo bench --bench numbers -- copy latency --documents 50000 --rounds 3`. Each pair is measured
//! turn by turn in one run, and medians are compared. Nothing else should be running.

mod endpoint;
mod floors;
mod product;
mod report;
mod rows;
mod world;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::{
    report::{Report, Samples},
    rows::Rows,
    world::World,
};

/// The same as the product's: with another one the floors would be too high.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    /// Which rows; all of them where none is named
    rows: Vec<Row>,
    /// How many documents the collection holds
    #[arg(long, default_value_t = 300_000)]
    documents: u64,
    /// How often each pair is measured
    #[arg(long, default_value_t = 5)]
    rounds: u32,
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
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if !arguments.bench {
        println!("nothing is measured but by `cargo bench`");
        return Ok(());
    }
    let chosen = match arguments.rows.as_slice() {
        [] => Row::value_variants(),
        rows => rows,
    };
    eprintln!("writing {} documents", arguments.documents);
    let mut rows = Rows {
        world: World::new(arguments.documents).await?,
        rounds: arguments.rounds,
        report: Report::default(),
        peak: Samples::default(),
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
        }
    }
    rows.memory();
    println!("{}", rows.report);
    Ok(())
}
