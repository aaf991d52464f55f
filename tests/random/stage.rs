//! The servers, what stands between them and mongosync, and the process that runs: where faults are
//! brought about and ended.

use std::{
    cell::Cell,
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use mongodb::bson::doc;
use mongosync_servers::MongoDb;

use super::{
    faults::{Answers, Blow, Line, Place, Step, Trouble},
    operations::{Operation, Writer},
    rules,
};
use crate::support::{
    World,
    bulk::Refusal,
    checker::Differences,
    endpoint::{Asked, Endpoint, Play},
    fail_command::FailCommand,
    fault::{Fault, Moment},
    mongo_proxy::MongoProxy,
    run::{RuleFile, Run, cluster_time},
    tcp_proxy::{Direction, Flow, TcpProxy},
    unique,
};

/// How many operations are under way at once.
const AT_ONCE: usize = 4;
/// Bodies over this are refused where the endpoint takes small ones only. One document is smaller.
const SMALL: usize = 3_000;
/// Said by the driver's options: what is lost is noticed soon.
const IMPATIENT: &str =
    "connectTimeoutMS=1000&serverSelectionTimeoutMS=2000&heartbeatFrequencyMS=500&appName=";

pub struct Stage {
    world: World,
    prefix: String,
    writer: Writer,
    endpoint: Endpoint,
    target_line: TcpProxy,
    other_line: TcpProxy,
    source_line: TcpProxy,
    store: MongoProxy,
    file: RuleFile,
    run: Option<Run>,
    /// Of the process before.
    log_before: String,
    fail_point: Option<FailCommand>,
    paused: bool,
    begun: Vec<Trouble>,
    /// Operations and faults, by what they are.
    pub counts: BTreeMap<String, u64>,
    /// Operations that failed.
    pub failed: u64,
}

impl Stage {
    /// Servers, and a first run.
    pub async fn new(nodes: usize) -> Result<Self> {
        let world = World::with_mongo(MongoDb::builder().nodes(nodes).cache_gb(0.25)).await?;
        let prefix = format!("random{}", unique());
        let endpoint = Endpoint::start(&world.engine.url()).await?;
        let target_line = TcpProxy::in_front_of(&endpoint.url()).await?;
        let other_line = TcpProxy::in_front_of(&world.engine.url()).await?;
        let source_line = TcpProxy::start(world.mongo_address()?.parse()?).await?;
        let store = MongoProxy::start(&world.mongo_address()?).await?;
        let (source_uri, store_uri) = if nodes == 1 {
            let line = source_line.address();
            (
                format!("mongodb://{line}/?directConnection=true&{IMPATIENT}{prefix}"),
                format!("{}&{IMPATIENT}{prefix}-store", store.uri()),
            )
        } else {
            let uri = world.mongo.uri();
            (format!("{uri}&{IMPATIENT}{prefix}"), format!("{uri}&{IMPATIENT}{prefix}-store"))
        };
        let [search, other] =
            [&target_line, &other_line].map(|line| format!("http://{}", line.address()));
        let text = rules::rule_file(&prefix, &source_uri, &store_uri, &search, &other);
        let file = RuleFile::written(world.folder.path(), &text)?;
        Ok(Self {
            writer: Writer::new(world.client.clone(), prefix.clone()),
            world,
            prefix,
            endpoint,
            target_line,
            other_line,
            source_line,
            store,
            file,
            run: None,
            log_before: String::new(),
            fail_point: None,
            paused: false,
            begun: Vec::new(),
            counts: BTreeMap::new(),
            failed: 0,
        })
    }

    /// Starts the process.
    pub fn start(&mut self) -> Result<()> {
        self.run = Some(self.file.run(&[])?);
        Ok(())
    }

    fn run(&mut self) -> Result<&mut Run> {
        self.run.as_mut().context("it runs")
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    pub async fn carry_out(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Write(operations) => self.write(operations).await,
            Step::Begin(trouble) => self.begin(*trouble).await?,
            Step::End(place) => self.end(*place).await?,
            Step::Strike(blow) => self.strike(*blow).await?,
            Step::Linger(looks) => {
                let gone = Cell::new(0);
                let some = |_: &serde_json::Value| gone.replace(gone.get() + 1) >= *looks;
                self.run()?.until("its status", some).await?;
            }
        }
        Ok(())
    }

    /// Whether each was done does not matter: what the source holds in the end does.
    pub async fn write(&mut self, operations: &[Operation]) {
        let writer = &self.writer;
        let all = futures_util::stream::iter(operations)
            .map(|operation| async move { (operation.kind(), writer.carry_out(operation).await) });
        let done: Vec<_> = all.buffer_unordered(AT_ONCE).collect().await;
        for (kind, done) in done {
            self.count(kind);
            if let Err(error) = done {
                let words: String = error.to_string().chars().take(300).collect();
                println!("{kind}: {words}");
                self.failed += 1;
            }
        }
    }

    async fn begin(&mut self, trouble: Trouble) -> Result<()> {
        self.count(format!("{trouble:?}").replace(|c: char| c.is_ascii_digit(), ""));
        self.begun.push(trouble);
        match trouble {
            Trouble::Line(place, line) => {
                let proxy = self.line(place);
                match line {
                    Line::Late => proxy.set_both(Flow::Delay(Duration::from_millis(40))),
                    Line::Held => proxy.set_both(Flow::Hold),
                    Line::RequestsLost => proxy.set(Direction::ToServer, Flow::Swallow),
                    Line::AnswersLost => proxy.set(Direction::FromServer, Flow::Swallow),
                    Line::Refused => {
                        proxy.refuse().await;
                        proxy.reset();
                    }
                }
            }
            Trouble::Answers(answers) => self.answer(answers),
            Trouble::Command(command, code, times) => {
                let mut data = doc! { "failCommands": [command] };
                match code {
                    0 => data.insert("closeConnection", true),
                    code => data.insert("errorCode", code),
                };
                self.fail(data, times, "").await?;
            }
            Trouble::StoreCut { after } => {
                let moment = if after { Moment::After } else { Moment::Before };
                let turn = AtomicUsize::new(0);
                self.store.play(move |command| {
                    let writes = ["insert", "update", "delete", "findAndModify"];
                    let chosen = writes.contains(&command.name.as_str())
                        && turn.fetch_add(1, Ordering::AcqRel).is_multiple_of(3);
                    chosen.then_some(Fault::Cut(moment))
                });
            }
            Trouble::StoreFails(code, times) => {
                let commands = ["update", "find", "findAndModify", "insert", "delete"].to_vec();
                let data = doc! { "failCommands": commands, "errorCode": code };
                self.fail(data, times, "-store").await?;
            }
            Trouble::Paused(target) => {
                self.paused = true;
                self.ask("pause", &["--target", target]).await?;
            }
        }
        Ok(())
    }

    /// The server has one fail point, and here it is nobody else's. Another one that is on is ended.
    async fn fail(&mut self, data: mongodb::bson::Document, times: i32, name: &str) -> Result<()> {
        let node = self.world.mongo.primary().await?;
        let client = self.world.mongo.node_client(node);
        let name = format!("{}{name}", self.prefix);
        self.fail_point = Some(FailCommand::own(&client, times, &name, data).await?);
        Ok(())
    }

    fn answer(&self, answers: Answers) {
        let turn = AtomicUsize::new(0);
        let next = move || turn.fetch_add(1, Ordering::AcqRel);
        let status = |status: u16| Play::Answer(status, r#"{"error":"not now"}"#.to_owned());
        let some_busy = |asked: &Asked<'_>, turn: usize| {
            let places = 0..asked.items.len();
            let refused = places.filter(|place| (place + turn).is_multiple_of(3));
            Play::Refuse(refused.map(|place| (place, Refusal::BUSY)).collect())
        };
        let mixed = move |asked: &Asked<'_>| match next() % 8 {
            0 => status(503),
            1 => status(429),
            2 => some_busy(asked, 0),
            3 => Play::Struck(Fault::Cut(Moment::Before)),
            4 => Play::Struck(Fault::Cut(Moment::After)),
            _ => Play::Pass,
        };
        match answers {
            Answers::Status(code) => self.endpoint.bulks(status(code)),
            Answers::TooLarge => self.endpoint.at_most(SMALL),
            Answers::CutBefore => self.endpoint.bulks(Play::Struck(Fault::Cut(Moment::Before))),
            Answers::CutAfter => self.endpoint.bulks(Play::Struck(Fault::Cut(Moment::After))),
            Answers::Mixed => {
                self.endpoint.play(move |a| if a.is_bulk() { mixed(a) } else { Play::Pass });
            }
            Answers::SomeBusy => {
                let turn = AtomicUsize::new(0);
                self.endpoint.play(move |asked| match asked.is_bulk() {
                    true => some_busy(asked, turn.fetch_add(1, Ordering::AcqRel)),
                    false => Play::Pass,
                });
            }
        }
    }

    fn line(&mut self, place: Place) -> &mut TcpProxy {
        match place {
            Place::TargetLine => &mut self.target_line,
            Place::OtherLine => &mut self.other_line,
            _ => &mut self.source_line,
        }
    }

    async fn end(&mut self, place: Place) -> Result<()> {
        let Some(at) = self.begun.iter().position(|trouble| trouble.place() == place) else {
            return Ok(());
        };
        match self.begun.swap_remove(at) {
            Trouble::Line(place, line) => {
                let proxy = self.line(place);
                proxy.set_both(Flow::Pass);
                match line {
                    Line::Refused => proxy.accept().await?,
                    // A command to MongoDB has no deadline of its own: the end of a connection that
                    // has lost bytes is told in the end. To a target nobody tells it.
                    Line::RequestsLost | Line::AnswersLost if place == Place::SourceLine => {
                        proxy.reset();
                    }
                    _ => {}
                }
            }
            Trouble::Answers(_) => self.endpoint.pass_on(),
            Trouble::Command(..) | Trouble::StoreFails(..) => {
                if let Some(point) = self.fail_point.take() {
                    // A server that was restarted meanwhile has forgotten it.
                    let struck = point.off().await.unwrap_or_default();
                    let struck = u64::try_from(struck).unwrap_or_default();
                    *self.counts.entry("commands that were struck".into()).or_default() += struck;
                }
            }
            Trouble::StoreCut { .. } => self.store.pass_on(),
            Trouble::Paused(target) => self.ask("resume", &["--target", target]).await?,
        }
        Ok(())
    }

    async fn strike(&mut self, blow: Blow) -> Result<()> {
        self.count(format!("{blow:?}"));
        match blow {
            Blow::Kill => {
                let run = self.run.take().context("it runs")?;
                self.log_before = run.log();
                run.kill().await?;
                self.start()?;
            }
            Blow::Terminate => {
                let run = self.run.take().context("it runs")?;
                let before = run.log();
                self.log_before.clone_from(&before);
                let ended = run.terminate().await?;
                // Before its first word it does not listen yet, and has done nothing.
                let at_once = before.is_empty() && ended.signal() == Some(15);
                ensure!(ended.success() || at_once, "SIGTERM: {ended}\n{before}");
                self.start()?;
            }
            Blow::TakeOver => {
                let mut next = self.file.run(&[])?;
                let first = self.run.take().context("it runs")?;
                next.until("its status", |_| true).await?;
                self.log_before = first.log();
                first.kill().await?;
                self.run = Some(next);
            }
            Blow::TargetCut => self.target_line.cut(),
            Blow::TargetReset => {
                self.target_line.reset();
                self.other_line.reset();
            }
            Blow::SourceCut => self.source_line.cut(),
            Blow::SourceReset => self.source_line.reset(),
            Blow::SourceRestart if self.world.mongo.node_count() == 1 => {
                self.world.nodes().kill_node(0).await?;
                self.world.nodes().restart_node(0).await?;
                self.world.mongo.primary().await?;
            }
            Blow::SourceRestart => {
                self.world.mongo.step_down().await?;
                self.world.mongo.primary().await?;
            }
            Blow::Resync(rule) => self.ask("resync", &[rule]).await?,
        }
        Ok(())
    }

    /// Leaves a request. Whether it is carried out at once does not matter.
    async fn ask(&self, command: &str, arguments: &[&str]) -> Result<()> {
        let arguments = [arguments, &["--wait", "500ms"]].concat();
        let output = self.file.command(command, &arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command} {arguments:?}: {said}");
        Ok(())
    }

    /// Ends all troubles, waits until everything is settled, and compares.
    pub async fn settled(&mut self) -> Result<Differences> {
        let places: Vec<Place> = self.begun.iter().map(|trouble| trouble.place()).collect();
        for place in places {
            self.end(place).await?;
        }
        let time = cluster_time(&self.world.client).await?;
        let paused = self.paused;
        let run = self.run()?;
        if paused {
            let goes_on = |status: &serde_json::Value| {
                let targets = status["targets"].as_object();
                targets.is_some_and(|targets| targets.values().all(|one| one["state"] != "paused"))
            };
            run.until("going on after a pause", goes_on).await?;
        }
        for target in ["search", "other"] {
            run.target_reaches(target, time).await?;
        }
        let complete = |status: &serde_json::Value| {
            let targets = status["targets"].as_object();
            targets.is_some_and(|targets| {
                let rules = targets.values().filter_map(|target| target["rules"].as_object());
                rules.flat_map(|rules| rules.values()).all(|rule| rule["copy"]["complete"] == true)
            })
        };
        run.until("the end of all copies", complete).await?;
        rules::compared(&self.writer, &self.world.engine, &self.prefix).await
    }

    /// What can be said only at the very end.
    pub async fn finished(&mut self) -> Result<()> {
        let told = self.endpoint.history().check_order()?;
        println!("{told:?}");
        let letters = self.file.dead_letters().await?;
        ensure!(letters.is_empty(), "{letters:?}");
        let run = self.run.take().context("it runs")?;
        ensure!(run.terminate().await?.success(), "the last end");
        Ok(())
    }

    /// What the last process but one and the last one have written to their logs.
    pub fn log(&self) -> String {
        let last = self.run.as_ref().map(Run::log).unwrap_or_default();
        format!("{}\nand of the last:\n{last}", self.log_before)
    }

    /// What the endpoint saw of a place, by the end of its id.
    pub fn seen(&self, index: &str, id: &str) -> Vec<String> {
        let history = self.endpoint.history();
        let here = history
            .operations()
            .iter()
            .filter(|operation| operation.place.index == index && operation.place.id.ends_with(id));
        here.map(|operation| format!("{operation:?}")).collect()
    }
}
