//! Cluster: how many Nodes there are, how they are configured, and what their clocks are like.
//!
//! The configuration changes in the middle of a story: each Node reads the new one when it is started next, as
//! in a rolling change. Everything else of a story is weather.

use rules::quorum::{DISABLED, MAJORITY};
use rules::settings::Settings;

use crate::clock::EVEN;
use crate::random::Random;

/// What a cluster is made of.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// How many Nodes it begins with.
    pub nodes: usize,
    /// The quorum that is configured, and the one that is from `changes_at` on.
    pub quorum: [i32; 2],
    /// The length of the read lease, 0 for none, likewise.
    pub lease: [u64; 2],
    /// When the configuration changes, milliseconds.
    pub changes_at: u64,
    /// By how many thousandths clocks are fast or slow at most.
    pub drift: u64,
    /// Whether clocks jump ahead.
    pub jumps: bool,
    /// How many of the newest Revisions a compaction leaves alone: at least, and at most.
    pub kept: [u64; 2],
    /// After how many Records the Primary makes a Snapshot; 0 is never.
    pub snapshot_every: u64,
    /// The longest a request to the bucket is on its way, in good weather, milliseconds.
    pub latency: u64,
    /// The most Records of one Chunk.
    pub chunk_records: usize,
    /// How many writes begin per Node and tick at most.
    pub writes: u64,
}

impl Cluster {
    /// `nodes` Nodes that are configured as Netsy comes, with clocks that are right, and nothing but what is asked of it.
    #[must_use]
    pub fn quiet(nodes: usize) -> Cluster {
        Cluster {
            nodes,
            quorum: [MAJORITY; 2],
            lease: [Settings::default().lease; 2],
            changes_at: u64::MAX,
            drift: 0,
            jumps: false,
            kept: [0; 2],
            snapshot_every: 0,
            latency: 20,
            chunk_records: 8,
            writes: 0,
        }
    }

    /// Any cluster.
    #[must_use]
    pub fn any(random: &mut Random) -> Cluster {
        let nodes = random.pick(&[1, 2, 3, 3, 3, 5, 5, 7]);
        let most = nodes as u64 - 1;
        let quorum = |random: &mut Random| match random.between(0, 9) {
            0 | 1 => DISABLED,
            2..=4 if most > 0 => random.between(1, most) as i32,
            _ => MAJORITY,
        };
        let first = quorum(random);
        let then = if random.chance(30) {
            quorum(random)
        } else {
            first
        };
        let on = Settings::default().lease;
        let lease = random.pick(&[[on, on], [on, on], [0, 0], [0, 0], [on, 0], [0, on]]);
        // Where there is no lease, and never was one, nothing relies on clocks.
        let free = lease == [0, 0];
        Cluster {
            nodes,
            quorum: [first, then],
            lease,
            changes_at: random.between(20_000, 100_000),
            drift: if free {
                random.pick(&[10, 100, 300])
            } else {
                random.pick(&[0, 1, 10])
            },
            jumps: free,
            kept: [0, random.pick(&[30, 300, 300, 1_000])],
            snapshot_every: random.pick(&[0, 30, 100, 400]),
            latency: random.pick(&[30, 300, 300]),
            chunk_records: random.pick(&[20, 20, 200, 2_000]),
            writes: random.pick(&[1, 1, 3]),
        }
    }

    /// What a Node is configured with that starts at `now`.
    pub(crate) fn settings(&self, now: u64) -> Settings {
        let which = usize::from(now >= self.changes_at);
        Settings {
            quorum: self.quorum[which],
            lease: self.lease[which],
            upload_records: 100,
            ..Settings::default()
        }
    }

    /// How fast a clock is.
    pub(crate) fn speed(&self, random: &mut Random) -> u64 {
        EVEN - self.drift + random.between(0, 2 * self.drift)
    }

    /// Every quorum that may be configured.
    pub(crate) fn quorums(&self) -> [i32; 2] {
        self.quorum
    }
}
