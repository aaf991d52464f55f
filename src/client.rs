//! How a MongoDB is connected to, be it read, written to, or where positions are kept.

use std::time::Duration;

use mongodb::{error::Error, options::ClientOptions};

use crate::rules::model::Secret;

/// How often the driver looks at a server. One that an error has made it take for lost it looks at
/// again only then; the driver's own 10 s are longer than the lease of a store.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long a connection may take to be made, without what is said on it first.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections that there may be to one server, and handshakes that may be under way. Neither is to be what
/// anybody waits for: lanes, chunks and questions bound what is asked at once, and come to some dozens. The
/// driver gives a handshake no deadline: where what is sent vanishes and what the server says still comes,
/// each stays for good, in the room of a connection and of a handshake. The driver's own two handshakes
/// would be the last within seconds; a thousand outlast hours of such a network.
const CONNECTIONS: u32 = 1_000;
/// So long a connection may lie idle: what a burst has opened is given back to the server, and none is as
/// old as what stands between forgets them at (4 min and more at the large clouds). The driver's own are
/// kept for ever.
const IDLE: Duration = Duration::from_secs(120);

/// What a connection string says, and what mongosync wants where it says nothing.
///
/// # Errors
/// Where it can't be used, or names a host that can't be looked up (`mongodb+srv`).
pub async fn options(uri: &Secret) -> Result<ClientOptions, Error> {
    let mut options = ClientOptions::parse(uri.expose()).await?;
    options.app_name.get_or_insert_with(|| "mongosync".into());
    options.connect_timeout.get_or_insert(CONNECT);
    options.heartbeat_freq.get_or_insert(HEARTBEAT);
    options.max_connecting.get_or_insert(CONNECTIONS);
    options.max_pool_size.get_or_insert(CONNECTIONS);
    options.max_idle_time.get_or_insert(IDLE);
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_the_address_says_counts() {
        for (query, connections, idle) in [
            ("", 1_000, 120_000),
            ("?maxPoolSize=7", 7, 120_000),
            ("?maxIdleTimeMS=1500", 1_000, 1_500),
            // For ever, as the driver has it.
            ("?maxIdleTimeMS=0", 1_000, 0),
        ] {
            let uri = Secret::new(format!("mongodb://h/{query}"));
            let options = options(&uri).await.expect("it can be used");
            let told = (options.max_pool_size, options.max_idle_time.map(|it| it.as_millis()));
            assert_eq!(told, (Some(connections), Some(idle)), "{query}");
        }
    }
}
