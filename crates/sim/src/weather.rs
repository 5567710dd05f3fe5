//! Weather: how often things go wrong, and how badly. Numbers only; the world rolls the dice.

/// How bad the weather is, in percent per chance.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// A bucket write loses its answer, and lands late or never.
    pub lost_answer: u64,
    /// A bucket read brings no answer.
    pub lost_read: u64,
    /// Per second and Node: a crash.
    pub crash: u64,
    /// Per crash: the disk is lost too.
    pub wipe: u64,
    /// Per second and Node: a pause.
    pub pause: u64,
    /// Longest pause, milliseconds.
    pub pause_max: u64,
    /// Longest a lost write may take to land, milliseconds.
    pub late_max: u64,
    /// A message between Nodes never arrives.
    pub lost_message: u64,
    /// A message arrives twice, the second time late.
    pub doubled_message: u64,
    /// Longest a message is on its way, milliseconds; most take a few.
    pub message_max: u64,
    /// Per second and Node: it is cut off from one other Node, in one direction.
    pub cut: u64,
    /// Per second and Node: it is cut off from the bucket.
    pub bucket_cut: u64,
    /// Longest such cut, milliseconds.
    pub cut_max: u64,
    /// Per crash: the disk comes back as it was a while ago.
    pub old_disk: u64,
}

impl Weather {
    /// Storms.
    pub const ROUGH: Weather = Weather {
        lost_answer: 10,
        lost_read: 5,
        crash: 4,
        wipe: 30,
        pause: 5,
        pause_max: 20_000,
        late_max: 30_000,
        lost_message: 2,
        doubled_message: 2,
        message_max: 400,
        cut: 4,
        bucket_cut: 2,
        cut_max: 15_000,
        old_disk: 10,
    };
    /// Nothing goes wrong.
    pub const CALM: Weather = Weather {
        lost_answer: 0,
        lost_read: 0,
        crash: 0,
        wipe: 0,
        pause: 0,
        pause_max: 0,
        late_max: 0,
        lost_message: 0,
        doubled_message: 0,
        message_max: 5,
        cut: 0,
        bucket_cut: 0,
        cut_max: 0,
        old_disk: 0,
    };
}
