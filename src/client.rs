//! How a MongoDB is connected to, be it read, written to, or where positions are kept.

use std::time::Duration;

use mongodb::{error::Error, options::ClientOptions};

use crate::rules::model::Secret;

/// How often the driver looks at a server. One that an error has made it take for lost it looks at
/// again only then; the driver's own 10 s are longer than the lease of a store.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a connection may take to be made, without what is said on it first.
const CONNECT: Duration = Duration::from_secs(10);
/// Handshakes that may be under way, and connections. The driver gives a handshake no deadline: where what
/// is sent vanishes and what the server says still comes, each stays for good, in the room of a connection
/// and of a handshake, and the driver's own two would be the last. Whoever asks bounds how many
/// connections there are.
const HANDSHAKES: u32 = 1_000;

/// What a connection string says, and what mongosync wants where it says nothing.
///
/// # Errors
/// Where it can't be used, or names a host that can't be looked up (`mongodb+srv`).
pub async fn options(uri: &Secret) -> Result<ClientOptions, Error> {
    let mut options = ClientOptions::parse(uri.expose()).await?;
    options.app_name.get_or_insert_with(|| "mongosync".into());
    options.connect_timeout.get_or_insert(CONNECT);
    options.heartbeat_freq.get_or_insert(HEARTBEAT);
    options.max_connecting.get_or_insert(HANDSHAKES);
    options.max_pool_size.get_or_insert(HANDSHAKES);
    Ok(options)
}
