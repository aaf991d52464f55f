//! Which node a request goes to: round robin over those that answer, passing over for a growing
//! time those that did not.
//!
//! It decides from what it is told and the time it is given; it opens no connection and waits for
//! nothing. A node whose time is over is tried by one real request; the others go on elsewhere
//! until that one has its answer.

use std::time::Duration;

use tokio::time::Instant;

/// For how long a node is passed over after its first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest time for which a node is passed over.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is known about the nodes.
#[derive(Debug)]
pub(super) struct Health {
    nodes: Vec<Node>,
    next: usize,
}

#[derive(Clone, Copy, Default, Debug)]
struct Node {
    failure: Option<Failure>,
}

/// Why a node is passed over: it failed, so often in a row, and nothing has gone through since.
#[derive(Clone, Copy, Debug)]
struct Failure {
    wait: Duration,
    at: Instant,
    /// From when on it may be tried again.
    again: Instant,
}

/// One request's turn at a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Turn {
    /// The node, by its place in the list.
    pub node: usize,
    /// When the turn began.
    began: Instant,
}

impl Health {
    /// So many nodes, of which nothing bad is known. At least one.
    pub fn new(nodes: usize) -> Self {
        assert!(nodes > 0, "an engine has at least one node");
        Self { nodes: vec![Node::default(); nodes], next: 0 }
    }

    /// The node for the next request. If all are passed over, the one that failed the longest ago.
    pub fn pick(&mut self, now: Instant) -> Turn {
        let count = self.nodes.len();
        let node = (0..count)
            .map(|offset| (self.next + offset) % count)
            .find(|&node| self.nodes[node].failure.is_none_or(|failure| failure.again <= now))
            .unwrap_or_else(|| self.least_recently_failed());
        self.next = (node + 1) % count;
        if let Some(failure) = &mut self.nodes[node].failure {
            failure.again = now + failure.wait;
        }
        Turn { node, began: now }
    }

    /// The node gave an answer.
    pub fn answered(&mut self, turn: Turn) {
        self.nodes[turn.node].failure = None;
    }

    /// The node could not be reached, gave no answer in time, or something in front of it said that
    /// it is away. Requests that were under way together when it went count as one failure.
    pub fn failed(&mut self, turn: Turn, now: Instant) {
        let failure = &mut self.nodes[turn.node].failure;
        let wait = match failure {
            None => FIRST_WAIT,
            Some(before) if turn.began < before.at => before.wait,
            Some(before) => (before.wait * 2).min(LONGEST_WAIT),
        };
        *failure = Some(Failure { wait, at: now, again: now + wait });
    }

    fn least_recently_failed(&self) -> usize {
        (0..self.nodes.len())
            .min_by_key(|&node| self.nodes[node].failure.map(|failure| failure.at))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens at a second, and which node is then to be picked.
    enum Step {
        Picks(usize),
        Fails(usize),
        Answers(usize),
    }
    use Step::{Answers, Fails, Picks};

    fn check(nodes: usize, steps: &[(u64, Step)]) {
        let start = Instant::now();
        let mut health = Health::new(nodes);
        for (number, (second, step)) in steps.iter().enumerate() {
            let now = start + Duration::from_secs(*second);
            match step {
                Picks(node) => {
                    assert_eq!(health.pick(now).node, *node, "step {number} at {second} s");
                }
                Fails(node) => health.failed(Turn { node: *node, began: now }, now),
                Answers(node) => health.answered(Turn { node: *node, began: now }),
            }
        }
    }

    #[test]
    fn healthy_nodes_take_turns() {
        check(3, &[(0, Picks(0)), (0, Picks(1)), (0, Picks(2)), (0, Picks(0))]);
    }

    #[test]
    fn a_node_that_failed_is_passed_over_and_then_tried_once() {
        check(
            2,
            &[
                (0, Picks(0)),
                (0, Fails(0)),
                (0, Picks(1)),
                (0, Picks(1)),
                (1, Picks(0)),
                (1, Picks(1)),
                (1, Picks(1)),
                (1, Answers(0)),
                (1, Picks(0)),
                (1, Picks(1)),
            ],
        );
    }

    #[test]
    fn the_time_grows_to_a_minute() {
        let start = Instant::now();
        let mut health = Health::new(2);
        let mut now = start;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            health.failed(Turn { node: 0, began: now }, now);
            let wait = Duration::from_secs(expected);
            let nearly = now + wait - Duration::from_millis(1);
            assert_eq!([health.pick(nearly).node, health.pick(nearly).node], [1, 1], "{expected}");
            now += wait;
            let picked = [health.pick(now).node, health.pick(now).node];
            assert!(picked.contains(&0), "{expected}");
        }
    }

    #[test]
    fn requests_that_fail_together_count_once() {
        let start = Instant::now();
        let mut health = Health::new(2);
        let turns: Vec<_> = (0..8).map(|_| health.pick(start)).collect();
        let now = start + Duration::from_secs(5);
        for turn in turns.into_iter().filter(|turn| turn.node == 0) {
            health.failed(turn, now);
        }
        let picked = [0, 0].map(|_| health.pick(now + FIRST_WAIT).node);
        assert!(picked.contains(&0));
    }

    #[test]
    fn with_all_down_the_least_recently_failed_is_tried() {
        check(
            3,
            &[
                (10, Fails(1)),
                (10, Fails(1)),
                (10, Fails(1)),
                (11, Fails(2)),
                (11, Fails(2)),
                (11, Fails(0)),
                (11, Fails(0)),
                (12, Picks(1)),
                (12, Fails(1)),
                (12, Picks(0)),
                (12, Fails(0)),
                (12, Picks(2)),
            ],
        );
    }

    #[test]
    fn a_single_node_is_always_tried() {
        check(1, &[(0, Picks(0)), (0, Fails(0)), (0, Picks(0)), (0, Fails(0)), (0, Picks(0))]);
    }
}
