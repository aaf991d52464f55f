//! The real binary as a child process, and what the kernel says it has cost.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;
use tokio::time::{MissedTickBehavior, interval};

use crate::report::Samples;

/// The kernel's unit of processor time towards programs, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often the child's memory is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// A rule file in a folder of its own.
pub struct Product {
    folder: TempDir,
    rules: PathBuf,
}

/// What a run has cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Seconds from its start until it was done.
    pub wall: f64,
    /// Seconds of processor time of the process, user and system.
    pub cpu: f64,
    /// Most resident memory, in MiB.
    pub peak: f64,
    /// Seconds of processor time of this process meanwhile: the endpoint's.
    pub endpoint: f64,
}

impl Cost {
    /// What came after `earlier`; the peak stays that of the whole run.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            wall: self.wall - earlier.wall,
            cpu: self.cpu - earlier.cpu,
            peak: self.peak,
            endpoint: self.endpoint - earlier.endpoint,
        }
    }
}

/// What the samples of a row's runs come to.
#[derive(Clone, Default)]
pub struct Costs {
    /// See [`Cost`], as the others.
    pub wall: Samples,
    /// Of the process.
    pub cpu: Samples,
    /// Of this process.
    pub endpoint: Samples,
    /// Of each run.
    pub peak: Samples,
}

impl Costs {
    /// One more run.
    pub fn push(&mut self, cost: Cost) {
        self.wall.push(cost.wall);
        self.cpu.push(cost.cpu);
        self.endpoint.push(cost.endpoint);
        self.peak.push(cost.peak);
    }

    /// Processor time in µs a document.
    pub fn each(&self, documents: u64) -> f64 {
        self.cpu.median() / documents as f64 * 1e6
    }
}

impl Product {
    /// One rule that copies `namespace` into `engine`; `more` are further lines of the rule.
    pub fn new(source: &str, engine: &str, namespace: &str, more: &str) -> Result<Self> {
        let target = format!("{{ elasticsearch: {{ urls: [\"{engine}\"] }} }}");
        Self::with(source, &target, namespace, more)
    }

    /// The same into any target, in YAML.
    pub fn with(source: &str, target: &str, namespace: &str, more: &str) -> Result<Self> {
        Self::of(source, target, &format!("  - namespace: {namespace}\n    to: search\n{more}"))
    }

    /// Any rules, in YAML, each `to: search`.
    pub fn of(source: &str, target: &str, rules: &str) -> Result<Self> {
        let folder = TempDir::new()?;
        let path = folder.path().join("numbers.yaml");
        let text = format!("source: {source}\ntargets:\n  search: {target}\nrules:\n{rules}");
        fs::write(&path, text)?;
        Ok(Self { folder, rules: path })
    }

    /// Starts `mongosync run` with these arguments.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let log = self.folder.path().join("log");
        let own = own_cpu()?;
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_mongosync"))
            .arg("run")
            .arg(&self.rules)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("the binary starts")?;
        Ok(Running { child, log, started, own, peak: 0.0 })
    }

    /// Runs it to its end and says what that has cost.
    pub async fn measure(&self, arguments: &[&str]) -> Result<Cost> {
        let mut running = self.start(arguments)?;
        let ended = running.ended().await?;
        let cost = running.cost(ended)?;
        running.reap()?;
        Ok(cost)
    }
}

/// The running binary; killed on drop.
pub struct Running {
    child: Child,
    log: PathBuf,
    /// When it was started.
    pub started: Instant,
    own: f64,
    peak: f64,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end without taking the body away: what it has cost is still to be read.
    pub async fn ended(&mut self) -> Result<Instant> {
        let pid = self.pid();
        let end = tokio::task::spawn_blocking(move || {
            waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
                .map(|_| Instant::now())
        });
        self.meanwhile(async { Ok(end.await??) }).await
    }

    /// Waits for something else, and looks at the child's memory meanwhile.
    pub async fn meanwhile<T>(&mut self, wait: impl Future<Output = Result<T>>) -> Result<T> {
        let mut wait = std::pin::pin!(wait);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                done = &mut wait => return done,
                _ = look.tick() => self.look(),
            }
        }
    }

    /// The kernel keeps the peak itself; it is gone with the process's memory.
    fn look(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let peak = status.ok().and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.trim().strip_suffix(" kB")?.parse::<f64>().ok()
        });
        self.peak = self.peak.max(peak.unwrap_or(0.0) / 1024.0);
    }

    /// What it has cost until `end`.
    pub fn cost(&mut self, end: Instant) -> Result<Cost> {
        self.look();
        Ok(Cost {
            wall: (end - self.started).as_secs_f64(),
            cpu: cpu(&format!("/proc/{}/stat", self.child.id()))?,
            peak: self.peak,
            endpoint: own_cpu()? - self.own,
        })
    }

    /// SIGTERM, and the wait for a clean end.
    pub async fn terminate(mut self) -> Result<()> {
        kill_process(self.pid(), Signal::TERM)?;
        self.ended().await?;
        self.reap()
    }

    /// What has ended by itself is checked, and buried.
    pub fn reap(&mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "it ended with {status}\n{}", self.log());
        Ok(())
    }

    /// What it has written to stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processor time of this process so far, in seconds.
pub fn own_cpu() -> Result<f64> {
    cpu("/proc/self/stat")
}

/// Processor time of a process that runs or has just ended, in seconds: `utime` and `stime`, fields
/// 14 and 15 of `/proc/PID/stat`. Its second field, the name, may hold spaces.
fn cpu(path: &str) -> Result<f64> {
    let stat = fs::read_to_string(path)?;
    let Some((_, fields)) = stat.rsplit_once(") ") else { bail!("{path}: {stat}") };
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let both = ticks(11).zip(ticks(12)).with_context(|| format!("{path}: {stat}"))?;
    Ok((both.0 + both.1) / TICKS_PER_SECOND)
}
