//! Operations of every kind and faults of every kind, drawn from a seed, round by round. After each
//! round source and targets are compared document by document.
//!
//! `MONGOSYNC_RANDOM_SEED` runs that seed alone, `MONGOSYNC_RANDOM_SECONDS` says for how long each
//! one goes on. A seed always draws the same steps; when exactly a fault strikes is up to the
//! machine.

mod faults;
mod operations;
mod rules;
mod stage;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rand::{SeedableRng, rngs::StdRng};

use self::{
    faults::Step,
    operations::{Operation, names},
    stage::Stage,
};
use crate::support::situations::{Situation, situation};

/// Always run.
const FIXED: u64 = 20_261_121;
const SECONDS: u64 = 45;

fn number(name: &str) -> Result<Option<u64>> {
    match std::env::var(name) {
        Ok(number) => Ok(Some(number.parse().with_context(|| format!("{name} is a number"))?)),
        Err(_) => Ok(None),
    }
}

/// One seed that stays the same, so that a change that breaks something shows at once, and one that
/// nobody has seen before.
#[tokio::test(flavor = "multi_thread")]
async fn operations_and_faults_at_random() -> Result<()> {
    let mut case = situation("operations and faults at random, one node");
    let seeds = match number("MONGOSYNC_RANDOM_SEED")? {
        Some(seed) => vec![seed],
        None => vec![FIXED, rand::random()],
    };
    for seed in seeds {
        whole_run(seed, 1, &mut case).await?;
    }
    Ok(())
}

/// A set of three whose primary changes.
#[tokio::test(flavor = "multi_thread")]
async fn operations_and_elections_at_random() -> Result<()> {
    let mut case = situation("operations and faults at random, three nodes");
    let seed = number("MONGOSYNC_RANDOM_SEED")?.unwrap_or_else(rand::random);
    whole_run(seed, 3, &mut case).await
}

async fn whole_run(seed: u64, nodes: usize, case: &mut Situation) -> Result<()> {
    let seconds = Duration::from_secs(number("MONGOSYNC_RANDOM_SECONDS")?.unwrap_or(SECONDS));
    let mut random = StdRng::seed_from_u64(seed);
    let mut stage = Stage::new(nodes).await?;
    let mut steps = Vec::new();
    let begin = Instant::now();
    let mut compared = 0;
    let mut rounds = 0;
    // What the copy finds.
    let ids = |step: u32| (0..90).map(move |id| id * step).collect::<Vec<u32>>();
    let filled = names().map(|to| Operation::Insert { to, ids: ids(1), content: seed });
    stage.write(&filled.collect::<Vec<_>>()).await;
    stage.start()?;
    while begin.elapsed() < seconds {
        rounds += 1;
        let round = faults::round(&mut random, nodes);
        let done = one_round(&mut stage, &round, &mut steps, case).await;
        match done {
            Ok(documents) => compared += documents,
            Err(error) => {
                let told = told(&steps, &stage);
                bail!("seed {seed}, {nodes} nodes, round {rounds}: {error:#}\n{told}");
            }
        }
    }
    if let Err(error) = stage.finished().await {
        bail!("seed {seed}, {nodes} nodes, at the end: {error:#}\n{}", told(&steps, &stage));
    }
    println!("seed {seed}, {nodes} nodes: {rounds} rounds, {compared} documents compared");
    for (what, count) in &stage.counts {
        println!("{count:>8} {what}");
    }
    println!("{:>8} operations failed", stage.failed);
    Ok(())
}

async fn one_round(
    stage: &mut Stage,
    round: &[Step],
    steps: &mut Vec<String>,
    case: &mut Situation,
) -> Result<usize> {
    for step in round {
        steps.push(step.to_string());
        stage.carry_out(step).await.with_context(|| format!("at {step}"))?;
    }
    steps.push("settle and compare".to_owned());
    let differences = stage.settled().await?;
    if differences.none().is_err() {
        let places = [&differences.missing, &differences.extra, &differences.stale];
        for place in places.into_iter().flatten().take(3) {
            let mut words = place.split_whitespace();
            let (index, known_as) = (words.next().unwrap_or_default(), words.last());
            let id = known_as.unwrap_or_default().trim_start_matches('k');
            println!("{index} {id}, as the endpoint saw it:\n{}", stage.seen(index, id).join("\n"));
        }
    }
    case.compared(&differences)
}

/// Everything that was done, and the logs of the last two processes.
fn told(steps: &[String], stage: &Stage) -> String {
    let mut told = String::from("what was done:\n");
    for step in steps {
        writeln!(told, "{step}").expect("a string takes all");
    }
    write!(told, "the log of the last process but one:\n{}", stage.log())
        .expect("a string takes all");
    told
}
