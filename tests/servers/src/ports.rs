//! Free TCP ports on loopback for the servers to listen on.
//!
//! Place in the flow: asked before a server starts; the starter still tries another port when
//! somebody was faster. It must not hold a port open: the server has to bind it.

use std::{
    collections::BTreeSet,
    fs,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

const LOWEST: u16 = 20_000;
const ATTEMPTS: usize = 1_000;

static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A TCP port that nothing listens on at 127.0.0.1 now, and that this process was not given before.
///
/// It is chosen below the range from which the kernel takes the ports of outgoing connections, so
/// it stays free while a server that had it is down for a while, and a client that goes on
/// connecting to it meanwhile can't be given that very port and reach itself. Another process may
/// still take it first: bind it soon, and try again with another where that fails.
///
/// # Panics
/// Where no port at all can be bound on loopback.
pub fn free_port() -> u16 {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    let candidates = candidates(outgoing_ports_start());
    for _ in 0..ATTEMPTS {
        let port = match &candidates {
            Some(range) => random_in(range),
            None => 0,
        };
        if let Some(port) = bindable(port)
            && handed_out.insert(port)
        {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 in {candidates:?} after {ATTEMPTS} attempts");
}

/// The ports to choose from; `None` where the kernel's own range leaves too few below it.
fn candidates(outgoing_start: u16) -> Option<Range<u16>> {
    (outgoing_start >= LOWEST + 2_000).then_some(LOWEST..outgoing_start)
}

fn outgoing_ports_start() -> u16 {
    // 32768 is Linux's default, for the machine that hides the file.
    fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok())
        .unwrap_or(32_768)
}

fn random_in(range: &Range<u16>) -> u16 {
    // Each RandomState has keys of its own: random enough to keep two processes apart.
    let width = u64::from(range.end - range.start);
    let offset = RandomState::new().hash_one(()) % width;
    range.start + u16::try_from(offset).expect("an offset below a u16 width")
}

fn bindable(port: u16) -> Option<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(listener.local_addr().ok()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_taken_port_is_not_bindable() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert_eq!(bindable(taken.local_addr().unwrap().port()), None);
    }

    #[test]
    fn candidates_end_where_outgoing_ports_start() {
        for (outgoing_start, expected) in [
            (32_768, Some(20_000..32_768)),
            (22_000, Some(20_000..22_000)),
            (21_999, None),
            (1_024, None),
        ] {
            assert_eq!(candidates(outgoing_start), expected, "{outgoing_start}");
        }
    }
}
