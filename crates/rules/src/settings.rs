//! Settings: the lengths of time the rules are given. Milliseconds of a clock that never goes back and goes
//! on while the machine is suspended. No safety rule reads it; leases and liveness do.

/// A moment of the monotonic clock, milliseconds.
pub type Moment = u64;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How often the Elector renews its lock, and how often others look at it.
    pub renew_interval: u64,
    /// How long others must see the same lock before they take it.
    pub elector_timeout: u64,
    /// How much earlier than that the holder stops acting.
    pub margin: u64,
    /// How long a new Elector waits for a sign of life of the Primary it finds in the register.
    pub primary_timeout: u64,
    /// Length of the read lease; 0 is off.
    pub lease: u64,
    /// How often a Node without a tenure looks at the tail slot.
    pub follow_interval: u64,
    /// How long to wait before a write of unknown outcome is sent again, or a failed read repeated.
    pub retry: u64,
    /// The most Records that may wait for their commit.
    pub pending_max: u64,
    /// How often a Node tells the Elector how it is, and the Primary its Replicas that it lives.
    pub heartbeat_interval: u64,
    /// How long Receipts may be missing before everything goes to the bucket at once.
    pub receipt_timeout: u64,
    /// How long a committed Record may wait for the bucket.
    pub upload_age: u64,
    /// How long an upload may be under way before linearizable reads wait for it. A Replica that reads the chain
    /// by itself shows what it read after twice as long.
    pub upload_doubt: u64,
    /// How many committed Records may wait for the bucket.
    pub upload_records: u64,
    /// How long a Node may be silent before its vote, and then its registration, are given up; 0 is for ever.
    pub forget_after: u64,
    /// Receipts wanted: -1 majority, 0 none (bucket path), K static.
    pub quorum: i32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            renew_interval: 2_000,
            elector_timeout: 6_000,
            margin: 1_000,
            primary_timeout: 2_000,
            lease: 2_000,
            follow_interval: 1_000,
            retry: 200,
            pending_max: 100_000,
            heartbeat_interval: 500,
            receipt_timeout: 500,
            upload_age: 1_000,
            upload_doubt: 500,
            upload_records: 10_000,
            forget_after: 24 * 3_600_000,
            quorum: crate::quorum::MAJORITY,
        }
    }
}
