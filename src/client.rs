//! How a MongoDB is connected to, be it read, written to, or where positions are kept.

use std::time::Duration;

use mongodb::{
    error::{Error, ErrorKind},
    options::ClientOptions,
};

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

/// What the server or the driver says, without the driver's copy of the whole reply, and with the way out
/// where the driver's own words name none.
pub fn words(error: &Error) -> String {
    match error.kind.as_ref() {
        ErrorKind::Command(command) => {
            format!("{} ({} {})", command.message, command.code_name, command.code)
        }
        ErrorKind::ServerSelection { message, .. } => {
            unreachable_set(message).unwrap_or_else(|| message.clone())
        }
        kind => kind.to_string(),
    }
}

/// Why none of the servers of a connection string is chosen, where their description says so.
fn unreachable_set(message: &str) -> Option<String> {
    if message.contains("Type: RsGhost") {
        return Some(
            "the server was started as a member of a replica set that nobody has initiated: run \
             `rs.initiate()` on it in mongosh"
                .to_owned(),
        );
    }
    let topology = message.split_once("Type: ReplicaSetNoPrimary, ")?.1;
    // Servers of another set are taken out of the description; those that are away stay in it.
    let (name, servers) = topology.strip_prefix("Set Name: ")?.split_once(", Servers: [")?;
    servers.trim_start().starts_with(']').then(|| {
        format!(
            "none of the servers belongs to a replica set of the name {name}: look at `replicaSet` in the \
             connection string"
        )
    })
}

/// What keeps a login from a command, in one sentence: the server's own words hold the whole command.
pub fn denied(error: &Error) -> Option<String> {
    match error.kind.as_ref() {
        ErrorKind::Authentication { message, .. } => Some(format!("lets nobody in: {message}")),
        ErrorKind::Command(command) if matches!(command.code, 13 | 18 | 8000) => {
            let message = command.message.split(" { ").next().unwrap_or_default();
            Some(format!("refuses this user: {message} ({} {})", command.code_name, command.code))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_not_reached_is_told_with_the_way_out() {
        let timeout = "Server selection timeout: No available servers. Topology: ";
        for (topology, expected) in [
            (
                "{ Type: Unknown, Servers: [ { Address: h:27017, Type: RsGhost, Average RTT: 1ms } ] }",
                Some("rs.initiate()"),
            ),
            (
                "{ Type: ReplicaSetNoPrimary, Set Name: nope, Servers: [  ] }",
                Some("of the name nope: look at `replicaSet`"),
            ),
            (
                "{ Type: ReplicaSetNoPrimary, Set Name: rs0, Servers: [ { Address: h:1, Type: Unknown, \
                 Error: refused } ] }",
                None,
            ),
        ] {
            let told = unreachable_set(&format!("{timeout}{topology}"));
            match expected {
                Some(expected) => assert!(told.is_some_and(|told| told.contains(expected))),
                None => assert_eq!(told, None),
            }
        }
    }

    #[test]
    fn what_a_user_may_not_do_is_told_without_the_command() {
        let command: mongodb::error::CommandError = bson::deserialize_from_document(bson::doc! {
            "code": 13,
            "codeName": "Unauthorized",
            "errmsg": "not authorized on mongosync to execute command { find: \"leases\", lsid: 1 }",
        })
        .expect("a command error");
        let expected =
            "refuses this user: not authorized on mongosync to execute command (Unauthorized 13)";
        assert_eq!(denied(&ErrorKind::Command(command).into()).as_deref(), Some(expected));
        assert_eq!(denied(&std::io::Error::other("reset").into()), None);
    }

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
