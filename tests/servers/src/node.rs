//! One `mongod` of a replica set: its start on a port, its end, and the state that it is in.
//!
//! Place in the flow: under `MongoDb`, which knows the set. It must not know of other nodes.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use anyhow::{Result, anyhow, bail, ensure};
use bson::doc;
use mongodb::{
    Client,
    options::{ClientOptions, ServerAddress},
};
use tokio::time::{Instant, sleep};

use crate::{
    child::{POLL, ServerProcess, tail},
    ports::free_port,
};

/// How long a node may take to listen, and a set to have a primary.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(120);

/// How many ports are tried where another process takes them first.
const PORT_ATTEMPTS: usize = 5;

/// The log line "Waiting for connections", by its stable id.
const LISTENING: &str = r#""id":23016,"#;
const PORT_TAKEN: &str = "Address already in use";

/// The states in which a node has the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Secondary,
}

/// What a node says that it is; `None` for any other state, and where it does not answer.
pub(crate) async fn role(node: &Client) -> Option<Role> {
    let hello = node.database("admin").run_command(doc! { "hello": 1 }).await.ok()?;
    let is = |field| hello.get_bool(field).unwrap_or(false);
    if is("isWritablePrimary") {
        Some(Role::Primary)
    } else {
        is("secondary").then_some(Role::Secondary)
    }
}

/// A node of the set: its place on disk and on the network, and its process while it runs.
pub(crate) struct Node {
    pub(crate) port: u16,
    /// The program and its arguments, without port and folder.
    pub(crate) command: Vec<OsString>,
    pub(crate) folder: PathBuf,
    pub(crate) process: Option<ServerProcess>,
}

impl Node {
    /// 127.0.0.1 and its port.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A new client of this node alone, in whatever state it is.
    pub(crate) fn client(&self) -> Client {
        let address = ServerAddress::Tcp { host: "127.0.0.1".into(), port: Some(self.port) };
        let options = ClientOptions::builder()
            .hosts(vec![address])
            .direct_connection(true)
            .server_selection_timeout(Duration::from_secs(2))
            .build();
        Client::with_options(options).expect("options of a plain direct connection")
    }

    /// The process, for ending it.
    pub(crate) fn take_process(&mut self) -> Result<ServerProcess> {
        self.process.take().ok_or_else(|| anyhow!("the node at {} does not run", self.host()))
    }

    /// The first start; tries other ports where one is taken.
    pub(crate) async fn start_on_a_free_port(&mut self) -> Result<()> {
        for _ in 0..PORT_ATTEMPTS {
            self.port = free_port();
            if self.launch().await? {
                return Ok(());
            }
        }
        bail!("mongod: {PORT_ATTEMPTS} ports were taken, one after the other")
    }

    /// Starts the process and waits until it listens; `false` where its port is taken.
    pub(crate) async fn launch(&mut self) -> Result<bool> {
        let mut command = self.command.clone();
        command.push(format!("--port={}", self.port).into());
        command.push("--dbpath".into());
        command.push(self.folder.join("db").into());
        let mut process = ServerProcess::spawn(&command, &self.folder)?;
        let deadline = Instant::now() + READY_WITHIN;
        // Its own log is asked, not the port: another process may be who listens there.
        while !process.log()?.contains(LISTENING) {
            if let Some(status) = process.exited()? {
                if process.log()?.contains(PORT_TAKEN) {
                    return Ok(false);
                }
                bail!("mongod ended ({status}):\n{}", tail(&self.folder));
            }
            ensure!(Instant::now() < deadline, "mongod does not listen:\n{}", tail(&self.folder));
            sleep(POLL).await;
        }
        self.process = Some(process);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener};

    use super::*;
    use crate::downloads;

    #[tokio::test]
    async fn a_taken_port_is_told_from_a_failure() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let set = tempfile::tempdir().unwrap();
        let mut node = Node {
            port: taken.local_addr().unwrap().port(),
            command: vec![downloads::mongod().await.unwrap().into(), "--nounixsocket".into()],
            folder: set.path().join("node-0"),
            process: None,
        };
        fs::create_dir_all(node.folder.join("db")).unwrap();
        assert!(!node.launch().await.unwrap());
        assert!(node.process.is_none());
    }
}
