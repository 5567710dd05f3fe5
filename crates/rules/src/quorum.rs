//! Quorum: how many disks make a write true, and how many promises make sure of it.
//!
//! A committed write is on `W` of `N` voters, so `R = N - W + 1` promises meet every one of them. Without
//! voters every commit goes by the bucket path, and no promises are needed.

/// The majority of the voters commits.
pub const MAJORITY: i32 = -1;
/// Every commit goes by the bucket path.
pub const DISABLED: i32 = 0;

/// `W`: how many of `voters` a Record must be durable on; at most `voters`.
#[must_use]
pub fn writes_needed(voters: usize, quorum: i32) -> usize {
    match usize::try_from(quorum) {
        // Static K: the Primary and K others.
        Ok(receipts) => (receipts + 1).min(voters),
        Err(_) => voters / 2 + 1,
    }
}

/// `R`: how many of `voters` must promise before the next Primary is named.
#[must_use]
pub fn promises_needed(voters: usize, quorum: i32) -> usize {
    if voters == 0 {
        return 0;
    }
    voters - writes_needed(voters, quorum) + 1
}

/// How many voters a register must name at least, if it names any.
#[must_use]
pub fn voters_needed(quorum: i32) -> usize {
    usize::try_from(quorum).map_or(2, |receipts| (receipts + 1).max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_commit_and_any_promises_meet() {
        for voters in 2..=7 {
            for quorum in [MAJORITY, 1, 2, 3, 4, 5, 6] {
                if voters < voters_needed(quorum) {
                    continue;
                }
                let writes = writes_needed(voters, quorum);
                let promises = promises_needed(voters, quorum);
                assert!(
                    writes + promises > voters,
                    "{voters} voters, quorum {quorum}"
                );
                assert!(promises >= 1 && writes <= voters);
            }
        }
        assert_eq!(promises_needed(0, MAJORITY), 0);
        assert_eq!(
            (writes_needed(3, MAJORITY), promises_needed(3, MAJORITY)),
            (2, 2)
        );
        assert_eq!(
            (writes_needed(2, MAJORITY), promises_needed(2, MAJORITY)),
            (2, 1)
        );
        assert_eq!((writes_needed(5, 1), promises_needed(5, 1)), (2, 4));
    }
}
