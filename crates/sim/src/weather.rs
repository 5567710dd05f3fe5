//! Weather: how often things go wrong, and how badly. Numbers only; the world rolls the dice.
//!
//! Each seed has a weather of its own: some faults are left out of it, some come more often. What always comes
//! together hides what only one of them would show.

use crate::random::Random;

/// How bad the weather is. Chances are percent: per Node and second, or per occasion where that is said.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Per write to the bucket: the answer is lost, or an error, and the write lands late or never.
    pub lost_answer: u64,
    /// Per read of the bucket: no answer.
    pub lost_read: u64,
    /// Longest a lost write may take to land, milliseconds.
    pub late_max: u64,
    /// The bucket answers slowly for a while.
    pub slow: u64,
    /// Longest an answer then takes, milliseconds.
    pub slow_max: u64,
    /// A crash.
    pub crash: u64,
    /// Per crash: the disk is lost too.
    pub wipe: u64,
    /// Per crash: the disk comes back as it was a while ago.
    pub old_disk: u64,
    /// The disk refuses to write, until it is looked at again.
    pub bad_disk: u64,
    /// A pause.
    pub pause: u64,
    /// Longest such pause, milliseconds.
    pub pause_max: u64,
    /// Some machines, or all, sleep for minutes to days. Per second, for the whole cluster.
    pub sleep: u64,
    /// The Node is told to stop, and started again later.
    pub close: u64,
    /// One after the other is told to stop and started again. Per second, for the whole cluster, in thousandths.
    pub rolling: u64,
    /// A Node joins, or one leaves for ever. Per second, for the whole cluster, in thousandths.
    pub moves: u64,
    /// Per message between Nodes: it never arrives.
    pub lost_message: u64,
    /// Per message between Nodes: it arrives twice, the second time late.
    pub doubled_message: u64,
    /// Longest a message is on its way, milliseconds; most take a few.
    pub message_max: u64,
    /// What each takes besides.
    pub message_min: u64,
    /// The Node is cut off from one other Node, in one direction or both.
    pub cut: u64,
    /// The Node is cut off from the bucket.
    pub bucket_cut: u64,
    /// Longest such cuts, milliseconds.
    pub cut_max: u64,
    /// The clock jumps ahead, where clocks may.
    pub jump: u64,
}

impl Weather {
    /// Storms: everything at once.
    pub const ROUGH: Weather = Weather {
        lost_answer: 10,
        lost_read: 5,
        late_max: 30_000,
        slow: 1,
        slow_max: 4_000,
        crash: 4,
        wipe: 30,
        old_disk: 10,
        bad_disk: 1,
        pause: 5,
        pause_max: 20_000,
        sleep: 0,
        close: 1,
        rolling: 5,
        moves: 10,
        lost_message: 2,
        doubled_message: 2,
        message_max: 400,
        message_min: 0,
        cut: 4,
        bucket_cut: 2,
        cut_max: 15_000,
        jump: 2,
    };
    /// Nothing goes wrong.
    pub const CALM: Weather = Weather {
        lost_answer: 0,
        lost_read: 0,
        late_max: 0,
        slow: 0,
        slow_max: 0,
        crash: 0,
        wipe: 0,
        old_disk: 0,
        bad_disk: 0,
        pause: 0,
        pause_max: 0,
        sleep: 0,
        close: 0,
        rolling: 0,
        moves: 0,
        lost_message: 0,
        doubled_message: 0,
        message_max: 5,
        message_min: 0,
        cut: 0,
        bucket_cut: 0,
        cut_max: 0,
        jump: 0,
    };

    /// A storm of its own kind: each chance is left out, halved, as it is, or threefold.
    #[must_use]
    pub fn any(random: &mut Random) -> Weather {
        let mut weather = Weather::ROUGH;
        let chances = [
            &mut weather.lost_answer,
            &mut weather.lost_read,
            &mut weather.slow,
            &mut weather.crash,
            &mut weather.wipe,
            &mut weather.old_disk,
            &mut weather.bad_disk,
            &mut weather.pause,
            &mut weather.close,
            &mut weather.rolling,
            &mut weather.moves,
            &mut weather.lost_message,
            &mut weather.doubled_message,
            &mut weather.cut,
            &mut weather.bucket_cut,
            &mut weather.jump,
        ];
        for chance in chances {
            *chance = match random.between(0, 7) {
                0 | 1 => 0,
                2 => chance.div_ceil(2),
                7 => (*chance * 3).min(90),
                _ => *chance,
            };
        }
        weather.message_max = random.pick(&[20, 400, 400, 2_000]);
        weather.late_max = random.pick(&[3_000, 30_000, 90_000]);
        weather.sleep = u64::from(random.chance(10)) * 2;
        weather
    }
}
