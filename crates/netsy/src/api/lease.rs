//! The Lease service: LeaseGrant hands out ids, and nothing is stored.
//!
//! A Put may name any id, on any Node, after any restart. An id of ours tells its own TTL: bit 63 is 0,
//! bits 62 to 29 are the TTL in seconds (etcd's largest needs 34 bits), bits 28 to 0 are random. With
//! `leases.expire` some of those are the seal of [`rules::expiry`], by which the Primary knows that what was
//! written with the id is to be deleted. Without it nothing expires.

use rules::expiry;
pub use rules::expiry::{MAX_TTL, MIN_TTL};
use rules::refusal::Refusal;
use tonic::{Request, Response, Status};

use super::proto::etcdserverpb::lease_server;
use super::proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse};
use super::{Door, status};

const RANDOM_BITS: u32 = 29;

/// An id that tells `ttl` (seconds, `MIN_TTL..=MAX_TTL`), told from others of that TTL by `random`. What is
/// written with it never expires.
#[must_use]
pub const fn id(ttl: i64, random: u32) -> i64 {
    let id = ttl << RANDOM_BITS | (random as i64 & ((1 << RANDOM_BITS) - 1));
    // One in 65,536 looks as if it were sealed; its neighbour never does.
    if expiry::ttl(id).is_some() {
        id ^ 1
    } else {
        id
    }
}

/// The TTL in seconds that an id of ours tells, whether what is written with it expires or not. An id that a
/// client chose itself tells nothing; `None` where that can be seen.
#[must_use]
pub const fn ttl(id: i64) -> Option<i64> {
    let ttl = id >> RANDOM_BITS;
    if ttl >= MIN_TTL && ttl <= MAX_TTL {
        Some(ttl)
    } else {
        None
    }
}

/// Answers LeaseGrant.
pub(super) struct Lease(pub(super) Door);

impl Lease {
    fn grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Refusal> {
        if request.ttl > MAX_TTL {
            return Err(Refusal::LeaseTtlTooLarge);
        }
        let ttl = request.ttl.max(MIN_TTL);
        let id = match request.id {
            0 if self.0.limits.leases_expire => expiry::id(ttl, random()?),
            0 => id(ttl, random()?),
            named => named,
        };
        let header = self.0.header(self.0.handle.view.committed());
        Ok(LeaseGrantResponse {
            header,
            id,
            ttl,
            error: String::new(),
        })
    }
}

fn random() -> Result<u32, Refusal> {
    let mut bytes = [0; 4];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(_) => Ok(u32::from_ne_bytes(bytes)),
        Err(why) => Err(Refusal::Unavailable(format!(
            "netsy: no random lease id could be made: {why}"
        ))),
    }
}

#[tonic::async_trait]
impl lease_server::Lease for Lease {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.grant(request.into_inner())
            .map(Response::new)
            .map_err(status::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_positive_and_tells_its_ttl() {
        for seconds in [MIN_TTL, 15, 3660, MAX_TTL] {
            for random in [0, 1, u32::MAX] {
                let id = id(seconds, random);
                assert!(id > 0);
                assert_eq!(ttl(id), Some(seconds));
            }
        }
    }

    #[test]
    fn an_id_that_does_not_expire_never_looks_as_if_it_did() {
        let looks = |random| (3660 << RANDOM_BITS | i64::from(random), id(3660, random));
        let mut sealed = 0;
        for random in 0..1 << 20 {
            let (bare, id) = looks(random);
            sealed += u32::from(expiry::ttl(bare).is_some());
            assert_eq!((ttl(id), expiry::ttl(id)), (Some(3660), None));
        }
        assert!(sealed > 0, "some have to be changed for it");
    }

    #[test]
    fn foreign_ids_mostly_tell_nothing() {
        assert_eq!(ttl(0), None);
        assert_eq!(ttl(7), None);
        assert_eq!(ttl(-5), None);
        assert_eq!(ttl(i64::MAX), None);
    }
}
