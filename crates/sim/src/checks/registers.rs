//! Sections 3, 4 and 7: what may become of the register by one swap.
//!
//! Epochs only rise, each claimed by one swap that freezes voters, quorum and lease; one name per epoch, for ever;
//! voters are none, or enough and the Active Primary among them, and change only by its hand, never to fewer than
//! the old quorum, unless to none.

use rules::register::{Phase, Register, Voter};

/// The judge of the register.
#[derive(Debug)]
pub struct Registers {
    before: Option<Register>,
    /// What is configured, somewhere, at some time.
    quorums: [i32; 2],
    epochs: u64,
    changes: u64,
}

impl Registers {
    /// A judge of a cluster with these quorums configured.
    #[must_use]
    pub fn new(quorums: [i32; 2]) -> Registers {
        Registers {
            before: None,
            quorums,
            epochs: 0,
            changes: 0,
        }
    }

    /// How many epochs were claimed.
    #[must_use]
    pub fn epochs(&self) -> u64 {
        self.epochs
    }

    /// How often the voters changed.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// A swap took effect.
    ///
    /// # Panics
    /// If it must not.
    pub fn swapped(&mut self, register: &Register) {
        if let Err(why) = self.judge(register) {
            panic!(
                "the register {why}:\n{register:?}\nafter\n{:?}",
                self.before
            );
        }
        if let Some(before) = &self.before {
            self.epochs += u64::from(before.epoch != register.epoch);
            self.changes += u64::from(before.voters != register.voters);
        }
        self.before = Some(register.clone());
    }

    fn judge(&self, next: &Register) -> Result<(), &'static str> {
        let primary = next.primary.as_ref().map(Voter::of);
        if !next.voters.is_empty() {
            let receipts = usize::try_from(next.quorum).unwrap_or(0);
            if next.voters.len() < 2.max(receipts + 1) {
                return Err("names too few voters");
            }
            let active = next.phase == Phase::Active;
            if active && !primary.is_some_and(|primary| next.voters.contains(&primary)) {
                return Err("names voters, and its active primary is none");
            }
        }
        if !self.quorums.contains(&next.quorum) {
            return Err("names a quorum that nobody has configured");
        }
        let Some(before) = &self.before else {
            return if next.phase == Phase::Claimed && next.voters.is_empty() {
                Ok(())
            } else {
                Err("does not begin with a claim")
            };
        };
        if next.seq != before.seq + 1 || next.mark == before.mark {
            return Err("keeps its number or mark");
        }
        if next.epoch < before.epoch {
            return Err("lets an epoch fall");
        }
        if next.epoch > before.epoch {
            return claims(before, next);
        }
        goes_on(before, next)
    }
}

/// The next epoch is claimed.
fn claims(before: &Register, next: &Register) -> Result<(), &'static str> {
    if next.phase != Phase::Claimed || next.primary.is_some() {
        return Err("names a primary before anything was promised");
    }
    if next.voters != before.voters || next.quorum != before.quorum || next.lease != before.lease {
        return Err("changes voters, quorum or lease with a claim");
    }
    Ok(())
}

/// An epoch goes on.
fn goes_on(before: &Register, next: &Register) -> Result<(), &'static str> {
    let kept = next.voters == before.voters && next.quorum == before.quorum;
    let same = next.primary == before.primary;
    let starts = (before.phase, next.phase) == (Phase::Starting, Phase::Active);
    if next.lease != before.lease && !starts {
        return Err("changes the lease, and it is not the swap that opens an epoch");
    }
    match (before.phase, next.phase) {
        (Phase::Claimed, Phase::Starting) if next.primary.is_some() && kept => Ok(()),
        (Phase::Starting, Phase::Active) if same && kept => Ok(()),
        (Phase::Active, Phase::Active) if before.primary.is_none() => {
            Err("goes on after it was closed")
        }
        (Phase::Active, Phase::Active) if next.primary.is_none() => {
            let left = next.voters.is_empty();
            left.then_some(()).ok_or("is closed and names voters")
        }
        (Phase::Active, Phase::Active) if same => {
            let receipts = usize::try_from(before.quorum).unwrap_or(before.voters.len() / 2);
            let needed = (receipts + 1).min(before.voters.len());
            let enough = next.voters.is_empty()
                || next.voters.len() >= needed
                || next.quorum != before.quorum;
            enough
                .then_some(())
                .ok_or("has fewer voters than a quorum of the old ones")
        }
        _ => Err("goes a way that there is not"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::quorum::MAJORITY;
    use rules::register::Identity;
    use rules::revision::Epoch;

    fn node(name: &str) -> Identity {
        Identity {
            node_id: name.to_owned(),
            incarnation: "disk".to_owned(),
            boot: "boot".to_owned(),
        }
    }

    fn voters(names: &[&str]) -> Vec<Voter> {
        names.iter().map(|name| Voter::of(&node(name))).collect()
    }

    fn register(seq: u64, epoch: u64, phase: Phase, primary: Option<&str>) -> Register {
        Register {
            seq,
            mark: seq.to_string(),
            epoch: Epoch(epoch),
            primary: primary.map(node),
            phase,
            voters: Vec::new(),
            quorum: MAJORITY,
            lease: 0,
        }
    }

    fn with(names: &[&str], register: Register) -> Register {
        Register {
            voters: voters(names),
            ..register
        }
    }

    /// What the judge says of the last of these swaps; all others pass.
    fn judged(swaps: &[Register]) -> Result<(), &'static str> {
        let mut registers = Registers::new([MAJORITY; 2]);
        let (last, first) = swaps.split_last().expect("there is one");
        for register in first {
            registers.swapped(register);
        }
        registers.judge(last)
    }

    /// An epoch that is Active with the voters a, b, c and d.
    fn active() -> Vec<Register> {
        vec![
            register(1, 1, Phase::Claimed, None),
            register(2, 1, Phase::Starting, Some("a")),
            register(3, 1, Phase::Active, Some("a")),
            with(
                &["a", "b", "c", "d"],
                register(4, 1, Phase::Active, Some("a")),
            ),
        ]
    }

    fn then(next: Register) -> Result<(), &'static str> {
        let mut swaps = active();
        swaps.push(next);
        judged(&swaps)
    }

    #[test]
    fn a_tenure_is_claimed_named_opened_changed_and_closed() {
        assert_eq!(then(register(5, 1, Phase::Active, None)), Ok(()));
        let claim = with(&["a", "b", "c", "d"], register(5, 3, Phase::Claimed, None));
        assert_eq!(then(claim), Ok(()));
        let fewer = with(&["a", "b", "c"], register(5, 1, Phase::Active, Some("a")));
        assert_eq!(then(fewer), Ok(()));
        assert_eq!(then(register(5, 1, Phase::Active, Some("a"))), Ok(()));
    }

    #[test]
    fn every_flaw_is_noticed() {
        let all = &["a", "b", "c", "d"];
        let flaws = [
            with(&["a"], register(5, 1, Phase::Active, Some("a"))),
            with(&["b", "c", "d"], register(5, 1, Phase::Active, Some("a"))),
            with(&["a", "b"], register(5, 1, Phase::Active, Some("a"))),
            with(all, register(5, 1, Phase::Active, Some("b"))),
            with(all, register(5, 1, Phase::Active, None)),
            with(all, register(4, 1, Phase::Active, Some("a"))),
            with(all, register(5, 0, Phase::Active, Some("a"))),
            with(all, register(5, 2, Phase::Starting, Some("b"))),
            register(5, 2, Phase::Claimed, None),
            with(all, register(5, 1, Phase::Starting, Some("b"))),
            Register {
                quorum: 1,
                ..with(all, register(5, 1, Phase::Active, Some("a")))
            },
            Register {
                lease: 7,
                ..with(all, register(5, 2, Phase::Claimed, None))
            },
        ];
        for flaw in flaws {
            assert!(then(flaw.clone()).is_err(), "{flaw:?} passes");
        }
        let closed = register(4, 1, Phase::Active, None);
        let again = register(5, 1, Phase::Active, Some("a"));
        let mut swaps = active()[..3].to_vec();
        swaps.extend([closed, again]);
        assert!(judged(&swaps).is_err());
        assert!(judged(&[register(1, 1, Phase::Active, Some("a"))]).is_err());
        let mut renamed = active()[..2].to_vec();
        renamed.push(register(3, 1, Phase::Starting, Some("b")));
        assert!(judged(&renamed).is_err(), "one name per epoch");
    }
}
