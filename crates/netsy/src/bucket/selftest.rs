//! The self-test: a store that ignores conditions would let two Primaries win one slot. It is found out at
//! the start, on an object of its own, and refused.

use bytes::Bytes;

use super::document::{Swapped, Version, fresh_mark};
use super::{Bucket, Document, Failure};

/// How often an attempt without an outcome is made again.
const ATTEMPTS: usize = 3;

impl Bucket {
    /// Proves that the store honours create-only and replace-if-matches, and reads back what was written.
    /// Costs about ten small requests; leaves nothing behind.
    ///
    /// # Errors
    /// `Unfit` for a store that must not be used, with what it did; `Denied` and `TryAgain` if the test
    /// could not be carried out.
    pub async fn selftest(&self) -> Result<(), Failure> {
        let probe = Document::Probe(fresh_mark());
        let verdict = self.probe(&probe).await;
        let removed = self.remove(&probe).await;
        verdict.and(removed)
    }

    async fn probe(&self, probe: &Document) -> Result<(), Failure> {
        let first = match self.insist(probe, None).await? {
            Swapped::Won(version) => version,
            _ => return Err(self.unfit("an object nobody else knows was created by somebody else")),
        };
        if let Swapped::Won(_) = self.insist(probe, None).await? {
            return Err(self.unfit(
                "it overwrites an object that may only be created (it ignores If-None-Match)",
            ));
        }
        let second = match self.insist(probe, Some(&first)).await? {
            Swapped::Won(version) => version,
            _ => return Err(self.unfit("it refuses to replace an object whose etag matches")),
        };
        if second == first {
            return Err(self.unfit("it gives two contents of an object the same etag"));
        }
        if let Swapped::Won(_) = self.insist(probe, Some(&first)).await? {
            return Err(
                self.unfit("it replaces an object whose etag does not match (it ignores If-Match)")
            );
        }
        match self.read(probe).await? {
            Some(found) if found.version == second => Ok(()),
            _ => Err(self.unfit("it does not give back the object that was written last")),
        }
    }

    /// Swaps in a body of its own until the outcome is known.
    async fn insist(
        &self,
        probe: &Document,
        expected: Option<&Version>,
    ) -> Result<Swapped, Failure> {
        let mark = fresh_mark();
        let body = Bytes::from(format!("{{\"seq\":1,\"mark\":\"{mark}\"}}"));
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.swap(probe, expected, body.clone(), &mark).await {
                Swapped::Unknown(failure) if attempts == ATTEMPTS => return Err(failure),
                Swapped::Unknown(failure @ Failure::Unfit(_)) => return Err(failure),
                Swapped::Unknown(_) => {}
                settled => return Ok(settled),
            }
        }
    }

    fn unfit(&self, what: &str) -> Failure {
        Failure::Unfit(format!(
            "the self-test of `{}` failed: {what}; Netsy would lose data on such a store: use one with \
             conditional writes",
            self.name
        ))
    }
}
