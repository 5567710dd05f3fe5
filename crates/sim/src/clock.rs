//! Clocks: every machine has its own. None goes back, all go on while their machine sleeps, and each is a little
//! fast or slow. Where nothing is to rely on clocks, they jump ahead, too.

use rules::settings::Moment;

/// What a clock that is right counts in one millisecond.
pub(crate) const EVEN: u64 = 1_000;

/// One machine's clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// The world's time when it was last set.
    since: u64,
    /// What it showed then.
    shown: Moment,
    /// Thousandths of a millisecond it counts per millisecond.
    speed: u64,
}

impl Clock {
    /// A clock that shows `shown` when the world's time is `now`, and goes `speed` from there on.
    pub(crate) fn new(now: u64, shown: Moment, speed: u64) -> Clock {
        Clock {
            since: now,
            shown,
            speed,
        }
    }

    /// What it shows at `now`.
    pub(crate) fn at(&self, now: u64) -> Moment {
        self.shown + (now - self.since) * self.speed / EVEN
    }

    /// It jumps ahead.
    pub(crate) fn jump(&mut self, now: u64, by: Moment) {
        *self = Clock::new(now, self.at(now) + by, self.speed);
    }

    /// The machine was started anew: it counts from the beginning.
    pub(crate) fn reboot(&mut self, now: u64) {
        *self = Clock::new(now, 1, self.speed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_keeps_its_pace_over_a_jump() {
        let mut clock = Clock::new(100, 7, 1_100);
        assert_eq!(clock.at(100), 7);
        assert_eq!(clock.at(200), 117);
        clock.jump(200, 50);
        assert_eq!((clock.at(200), clock.at(300)), (167, 277));
        clock.reboot(300);
        assert_eq!((clock.at(300), clock.at(310)), (1, 12));
    }
}
