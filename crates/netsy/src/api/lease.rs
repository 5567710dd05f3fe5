//! The Lease service: LeaseGrant hands out ids. Nothing is stored, and nothing expires on its own.
//!
//! A Put may name any id, on any Node, after any restart. An id of ours tells its own TTL: bit 63 is 0,
//! bits 62 to 29 are the TTL in seconds (etcd's largest needs 34 bits), bits 28 to 0 are random.

use rules::refusal::Refusal;
use tonic::{Request, Response, Status};

use super::proto::etcdserverpb::lease_server;
use super::proto::etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse};
use super::{Door, status};

/// etcd's largest TTL, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;
/// etcd's smallest TTL, in seconds: less is raised to it.
pub const MIN_TTL: i64 = 2;

const RANDOM_BITS: u32 = 29;

/// An id that tells `ttl` (seconds, `MIN_TTL..=MAX_TTL`), told from others of that TTL by `random`.
#[must_use]
pub const fn id(ttl: i64, random: u32) -> i64 {
    ttl << RANDOM_BITS | (random as i64 & ((1 << RANDOM_BITS) - 1))
}

/// The TTL in seconds that an id made by [`id`] tells. An id that a client chose itself tells nothing; `None`
/// where that can be seen.
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
        let id = if request.id == 0 {
            id(ttl, random()?)
        } else {
            request.id
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
            "no random lease id could be made: {why}"
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
    fn foreign_ids_mostly_tell_nothing() {
        assert_eq!(ttl(0), None);
        assert_eq!(ttl(7), None);
        assert_eq!(ttl(-5), None);
        assert_eq!(ttl(i64::MAX), None);
    }
}
