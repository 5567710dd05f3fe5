//! Members: who belongs to the cluster, as far as this Node knows, and where the others are reached.
//!
//! The Elector finds the registrations in the bucket, gives member ids, and tells everybody with its answers
//! to Heartbeats. Whoever is not told looks up the ids alone. What was once known is never unlearned: a Node
//! that loses the Elector lock, or hears no Elector, keeps the addresses it has, but answers MemberList only
//! while it, or who told it, is the Elector.

use rules::message::Message;
use rules::refusal::Refusal;
use rules::register::Identity;
use rules::step::Input;
use tracing::{debug, warn};

use super::registration::{self, Registered, Registration};
use super::{Driver, Event};
use crate::standing::{Member, now};

/// How often the members are looked at, and how long the Elector's word on them is good, milliseconds.
const MEMBERS_EVERY: u64 = 5_000;
/// The same as long as nothing is known.
const MEMBERS_AGAIN: u64 = 500;

impl Driver {
    /// Every few seconds: the Elector gives every registered Node a member id; others learn the ids.
    pub(super) fn tend_members(&mut self) {
        let acts = self.node.elector().is_acting(now());
        let knows = if acts {
            !self.members.is_empty()
        } else {
            !self.ids.is_empty()
        };
        let every = if knows { MEMBERS_EVERY } else { MEMBERS_AGAIN };
        // Who is told by the Elector need not ask the bucket.
        if (!acts && self.is_told()) || now() < self.members_at + every {
            return;
        }
        self.members_at = now();
        let (bucket, cluster_id) = (self.bucket.clone(), self.cluster_id.clone());
        let events = self.events.clone();
        self.runtime.spawn(async move {
            let found = if acts {
                let members = registration::tend_members(&bucket, &cluster_id).await;
                members.map(Event::Members)
            } else {
                registration::known_ids(&bucket).await.map(Event::Ids)
            };
            match found {
                Ok(found) => {
                    let _ = events.send(found);
                }
                Err(why) => warn!(why, "could not look after the members; trying again"),
            }
        });
    }

    /// An Elector, this Node or another, says who the members are.
    pub(super) fn meet(&mut self, members: Vec<Member>) {
        let ids = members.iter();
        self.ids
            .extend(ids.map(|member| (member.name.clone(), member.member_id)));
        self.members = members;
        self.learn_addresses();
    }

    /// Whether the Elector has told lately who the members are.
    fn is_told(&self) -> bool {
        now() < self.told_at + MEMBERS_EVERY
    }

    pub(super) fn members_known(&self) -> Result<Vec<Member>, Refusal> {
        let asked = self.node.elector().is_acting(now()) || self.is_told();
        if asked && !self.members.is_empty() {
            return Ok(self.members.clone());
        }
        Err(Refusal::Unavailable(format!(
            "netsy: node `{}` is not the elector, which alone knows the members",
            self.registration.node_id
        )))
    }

    /// A voter that waits for its log promises, and this start of its disk may not be registered yet: that is
    /// done first. A promise of a disk that was started since, elsewhere, is one of an old copy: it never was.
    pub(super) fn vouch(&self, from: Identity, message: Message, body: &[u8]) {
        let own = serde_json::from_slice::<Registration>(body).ok();
        let Some(own) = own.filter(|own| {
            own.node_id == from.node_id
                && own.incarnation == from.incarnation
                && !own.mark.is_empty()
        }) else {
            warn!(
                node = from.node_id,
                "a vote comes with a registration that is not its own"
            );
            return;
        };
        let (bucket, events) = (self.bucket.clone(), self.events.clone());
        self.runtime.spawn(async move {
            match registration::register(&bucket, &own, &own.mark).await {
                Ok(Registered::Done) => {
                    let _ = events.send(Event::Input(Input::Received(from, message)));
                }
                Ok(Registered::OldDisk) => warn!(
                    node = from.node_id,
                    "an old copy of a disk votes; it does not count"
                ),
                Err(why) => debug!(node = from.node_id, %why, "a vote cannot be registered yet"),
            }
        });
    }

    /// Where Nodes are reached, as members and lock say.
    pub(super) fn learn_addresses(&self) {
        let Some(peers) = &self.peers else {
            return;
        };
        for member in &self.members {
            if let Some(url) = member.peer_urls.first() {
                peers.learn(&member.name, url);
            }
        }
        if let Some(lock) = self.node.elector().lock()
            && let Some(elector) = &lock.elector
        {
            peers.learn(&elector.node_id, &lock.peer_address);
        }
    }
}
