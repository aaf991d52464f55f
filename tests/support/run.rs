//! The real binary, as a person runs it.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mongodb::{
    Client,
    bson::{Timestamp, doc},
};
use serde_json::Value;
use tokio::{
    process::{Child, Command},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout_at},
};

use super::fault::Gate;

/// How long anything that should happen may take before the test fails. Nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(180);

/// What a rule file says beside its rules. The defaults say nothing.
#[derive(Default)]
pub struct Settings {
    /// Whole lines at the top.
    pub top: String,
    /// Settings of the engine, as `, batch: { … }`.
    pub engine: String,
    /// Where the engine is, if not where it is.
    pub url: Option<String>,
    /// The source's URI, if not the MongoDB's own.
    pub mongo: Option<String>,
    /// Appended to the source's URI, as `&appName=…`.
    pub source: String,
}

impl Settings {
    /// The text of a rule file with one target `search` and these rules.
    pub fn text(&self, mongo: &str, engine: &str, rules: &str) -> String {
        let Self { top, engine: settings, url, mongo: own, source } = self;
        let url = url.as_deref().unwrap_or(engine);
        let mongo = own.as_deref().unwrap_or(mongo);
        let kind = super::engine_kind();
        let top = if top.is_empty() { String::new() } else { format!("{}\n", top.trim_end()) };
        format!(
            "source: {mongo}{source}\nhttp: {{ listen: \"127.0.0.1:${{STATUS_PORT}}\" }}\n{top}\
             targets:\n  search: {{ {kind}: {{ urls: [\"{url}\"]{settings} }} }}\n\
             rules:\n{}\n",
            rules.trim_end()
        )
    }
}

/// A rule file. Its status port is `${STATUS_PORT}`, another one for each run.
pub struct RuleFile {
    pub path: PathBuf,
}

impl RuleFile {
    /// With this text, under a name of its own.
    pub fn written(folder: &Path, text: &str) -> Result<Self> {
        let path = folder.join(format!("rules-{}.yaml", super::unique()));
        std::fs::write(&path, text)?;
        Ok(Self { path })
    }

    /// The whole file again, in another wording, under the same name.
    pub fn rewrite(&self, change: impl FnOnce(&str) -> String) -> Result<()> {
        let text = std::fs::read_to_string(&self.path)?;
        Ok(std::fs::write(&self.path, change(&text))?)
    }

    /// Starts `mongosync run FILE ARGUMENTS`.
    pub fn run(&self, arguments: &[&str]) -> Result<Run> {
        self.run_by(Command::new(env!("CARGO_BIN_EXE_mongosync")), arguments, None)
    }

    /// Starts the same with its standard output going elsewhere; [`Run::output`] is empty then.
    pub fn run_into(&self, output: Stdio) -> Result<Run> {
        self.run_by(Command::new(env!("CARGO_BIN_EXE_mongosync")), &[], Some(output))
    }

    /// Starts the same by a shell that runs `before` first, such as `ulimit` and `trap`; the process
    /// is the shell's own.
    pub fn run_after(&self, before: &str, arguments: &[&str]) -> Result<Run> {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{before}; exec \"$@\"")).arg("sh");
        shell.arg(env!("CARGO_BIN_EXE_mongosync"));
        self.run_by(shell, arguments, None)
    }

    fn run_by(
        &self,
        mut command: Command,
        arguments: &[&str],
        output: Option<Stdio>,
    ) -> Result<Run> {
        let port = mongosync_servers::free_port();
        let log = self.path.with_extension(format!("{}.log", super::unique()));
        let output = match output {
            Some(output) => output,
            None => File::create(log.with_extension("out"))?.into(),
        };
        let child = command
            .arg("run")
            .arg(&self.path)
            .args(arguments)
            .env("RUST_BACKTRACE", "1")
            .env("STATUS_PORT", port.to_string())
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .context("the binary starts")?;
        Ok(Run { child, log, port })
    }

    /// Runs to the end, and returns the exit code and what it wrote to stderr.
    pub async fn run_to_end(&self, arguments: &[&str]) -> Result<(Option<i32>, String)> {
        let run = self.run(arguments)?;
        let log = run.log.clone();
        let status = run.ended().await?;
        Ok((status.code(), std::fs::read_to_string(log)?))
    }

    /// Runs another command on the file to its end.
    pub async fn command(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        Ok(Command::new(env!("CARGO_BIN_EXE_mongosync"))
            .arg(command)
            .arg(&self.path)
            .args(arguments)
            .env("STATUS_PORT", "1")
            .stdin(Stdio::null())
            .output()
            .await?)
    }

    /// `dead-letters list --json`, one object a letter.
    pub async fn dead_letters(&self) -> Result<Vec<Value>> {
        let listed = self.command("dead-letters", &["list", "--json", "--limit", "100000"]).await?;
        let problem = String::from_utf8_lossy(&listed.stderr);
        ensure!(listed.status.success(), "dead-letters list: {}\n{problem}", listed.status);
        let lines = std::str::from_utf8(&listed.stdout)?.lines();
        lines.map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}

/// A running `mongosync run`, killed on drop.
pub struct Run {
    child: Child,
    log: PathBuf,
    port: u16,
}

impl Run {
    /// What it has written to stderr so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has written to stdout so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.log.with_extension("out")).unwrap_or_default()
    }

    /// Waits until it has written this, to stdout or to stderr.
    pub async fn wrote(&mut self, part: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(50));
        while !self.output().contains(part) && !self.log().contains(part) {
            look.tick().await;
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before {part}\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "no {part}: {}{}", self.output(), self.log());
        }
        Ok(())
    }

    /// `GET PATH` of the status server; `None` while it does not answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let answer = reqwest::get(url).await.ok()?;
        let status = answer.status().as_u16();
        Some((status, answer.text().await.ok()?))
    }

    /// `POST PATH`, with a JSON body unless it is empty.
    pub async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<(u16, Value)> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = reqwest::Client::new().post(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status().as_u16(), answer.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    /// The status object; `None` while there is none.
    pub async fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/api/status").await?.1).ok()
    }

    /// Waits until the status object is as `wanted` says.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(50));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Value::Null;
        loop {
            look.tick().await;
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before {what}\n{}", self.log());
            }
            if let Some(status) = self.status().await {
                if wanted(&status) {
                    return Ok(status);
                }
                last = status;
            }
            ensure!(Instant::now() < deadline, "no sign of {what}: {last:#}\n{}", self.log());
        }
    }

    /// Waits until it has written a text to stderr.
    pub async fn says(&mut self, text: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(20));
        while !self.log().contains(text) {
            look.tick().await;
            if let Some(status) = self.child.try_wait()? {
                ensure!(self.log().contains(text), "ended with {status}\n{}", self.log());
            }
            ensure!(Instant::now() < deadline, "it does not say {text:?}\n{}", self.log());
        }
        // Of two values of one name a reader takes one.
        let log = self.log();
        let twice = log.lines().find(|line| line.matches(r#""message":"#).count() > 1);
        ensure!(twice.is_none(), "a line that says two things: {twice:?}");
        Ok(())
    }

    /// Waits until every copy into `search` is settled.
    pub async fn copied(&mut self) -> Result<()> {
        self.copied_to("search").await
    }

    /// Waits until every copy into a target is settled.
    pub async fn copied_to(&mut self, target: &str) -> Result<()> {
        self.until("the copy's end", |status| {
            let rules = status["targets"][target]["rules"].as_object();
            rules.is_some_and(|rules| rules.values().all(|rule| rule["copy"]["complete"] == true))
        })
        .await?;
        Ok(())
    }

    /// The value of a metric, all its labels together; `None` where it is not there.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let (_, text) = self.get("/metrics").await?;
        let mut found = None;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            if series.split('{').next() == Some(name)
                && labels.iter().all(|label| series.contains(label))
            {
                *found.get_or_insert(0.0) += value.parse::<f64>().ok()?;
            }
        }
        found
    }

    /// Waits until a metric is at least so much.
    pub async fn metric_reaches(&mut self, name: &str, labels: &[&str], least: f64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(50));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status} before {name} was {least}\n{}", self.log());
            }
            let value = self.metric(name, labels).await;
            if value.is_some_and(|value| value >= least) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{name} is {value:?}\n{}", self.log());
        }
    }

    /// Waits until something lies in the buffers, and no more comes or goes for two seconds.
    pub async fn until_full(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let mut look = interval(Duration::from_millis(100));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut last, mut still) = (None, 0);
        while still < 20 {
            look.tick().await;
            if let Some(status) = self.child.try_wait()? {
                bail!("ended with {status}\n{}", self.log());
            }
            let now = self.metric("mongosync_buffer_bytes", &[]).await.filter(|now| *now > 0.0);
            let now = now.map(|now| now.to_string());
            still = if now.is_some() && now == last { still + 1 } else { 0 };
            last = now;
            ensure!(Instant::now() < deadline, "it never stands still: {last:?}\n{}", self.log());
        }
        Ok(())
    }

    /// Waits until everything that the source has acknowledged by now is settled.
    pub async fn caught_up(&mut self, source: &Client) -> Result<()> {
        let time = cluster_time(source).await?;
        self.target_reaches("search", time).await
    }

    /// Waits until a target has settled everything up to a time.
    pub async fn target_reaches(&mut self, target: &str, time: (u32, u32)) -> Result<()> {
        self.until("having caught up", |status| {
            position(&status["targets"][target]["position"]).is_some_and(|own| own >= time)
        })
        .await?;
        Ok(())
    }

    /// Waits until `search` is waited for, and returns what the status says why.
    pub async fn waiting(&mut self) -> Result<String> {
        self.waiting_for("search").await
    }

    /// Waits until a target is waited for, and returns what the status says why.
    pub async fn waiting_for(&mut self, target: &str) -> Result<String> {
        let waits = |status: &Value| {
            let target = &status["targets"][target];
            target["state"] == "waiting" && target["last_error"].is_string()
        };
        let status = self.until("waiting for the target", waits).await?;
        Ok(status["targets"][target]["last_error"].to_string())
    }

    /// Waits until a target follows a stream whose start is stored.
    pub async fn following(&mut self, target: &str) -> Result<()> {
        self.until("following", |status| {
            let target = &status["targets"][target];
            target["state"] == "following" && target["position"].is_string()
        })
        .await?;
        Ok(())
    }

    /// Up to which time everything in `search` is settled, as the status says; `None` before the
    /// first time.
    pub async fn position(&self) -> Option<(u32, u32)> {
        self.position_of("search").await
    }

    /// The same of any target.
    pub async fn position_of(&self, target: &str) -> Option<(u32, u32)> {
        position(&self.status().await?["targets"][target]["position"])
    }

    /// Waits until so many requests have come to a gate.
    pub async fn meets(&mut self, what: &str, gate: &Gate, count: usize) -> Result<()> {
        tokio::select! {
            () = gate.met(count) => Ok(()),
            ended = self.child.wait() => bail!("ended with {} before {what}\n{}", ended?, self.log()),
            () = sleep_until(Instant::now() + PATIENCE) => bail!("no sign of {what}\n{}", self.log()),
        }
    }

    /// `kill -9`.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        self.ended().await
    }

    /// Sends a signal by its short name: `TERM`, `INT`, `STOP`, `CONT`.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.pid()?.to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().await?;
        ensure!(sent.success(), "SIG{name} was sent");
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("it runs")
    }

    /// Waits for the end.
    pub async fn ended(mut self) -> Result<ExitStatus> {
        match timeout_at(Instant::now() + PATIENCE, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("it does not end\n{}", self.log()),
        }
    }

    /// Waits for a good end, and returns what it wrote to stdout and to stderr.
    pub async fn until_end(self) -> Result<String> {
        let log = self.log.clone();
        let status = self.ended().await?;
        let written = std::fs::read_to_string(&log)?;
        ensure!(status.success(), "{status}: {written}");
        let output = std::fs::read_to_string(log.with_extension("out"))?;
        Ok(format!("{output}{written}"))
    }

    /// The most memory that it has held so far (VmHWM), in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        let pid = self.pid()?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes.context("a line VmHWM")?.trim().parse::<u64>()? * 1024)
    }
}

/// A majority-committed time at or after every write that was acknowledged before. It is that of a
/// write of its own, so that a stream will pass it at once.
pub async fn cluster_time(source: &Client) -> Result<(u32, u32)> {
    let marks = source.database("marks");
    let reply = marks
        .run_command(doc! {
            "update": "marks",
            "updates": [{ "q": { "_id": 1 }, "u": { "$inc": { "n": 1 } }, "upsert": true }],
            "writeConcern": { "w": "majority" },
        })
        .await?;
    let Timestamp { time, increment } = reply.get_timestamp("operationTime")?;
    Ok((time, increment))
}

fn position(value: &Value) -> Option<(u32, u32)> {
    let (seconds, increment) = value.as_str()?.split_once('.')?;
    Some((seconds.parse().ok()?, increment.parse().ok()?))
}
