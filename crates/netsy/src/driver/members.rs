//! Members: who belongs to the cluster, as far as this Node knows, and where the others are reached.
//!
//! The Elector finds the registrations in the bucket, gives member ids, and tells everybody with its answers
//! to Heartbeats. Whoever is not told looks up the ids alone. What was once known is never unlearned: a Node
//! that loses the Elector lock, or hears no Elector, keeps the addresses it has, but answers MemberList only
//! while it, or who told it, is the Elector. Nodes that were silent for long lose their registrations, and make
//! them again if they live.

use rules::message::Message;
use rules::refusal::Refusal;
use rules::register::Identity;
use rules::step::Input;
use tracing::{debug, warn};

use super::registration::{self, Listing, Registered, Registration};
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
        let (events, own) = (self.events.clone(), self.registration.clone());
        self.runtime.spawn(async move {
            let found = if acts {
                let listing = registration::tend_members(&bucket, &cluster_id).await;
                listing.map(Event::Registered)
            } else {
                // An Elector that does not hear this Node may have given its registration up.
                let kept = registration::keep(&bucket, &own).await;
                let ids = registration::known_ids(&bucket).await;
                kept.and(ids).map(Event::Ids)
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
        let me = &self.registration.node_id;
        if self.members.iter().all(|member| member.name != *me) {
            self.keep_registration();
        }
    }

    /// This Node is missed among the members: its registration was given up, and is made again.
    fn keep_registration(&mut self) {
        if now() < self.kept_at + MEMBERS_AGAIN {
            return;
        }
        self.kept_at = now();
        let (bucket, own) = (self.bucket.clone(), self.registration.clone());
        self.runtime.spawn(async move {
            if let Err(why) = registration::keep(&bucket, &own).await {
                warn!(why, "could not look after the registration; trying again");
            }
        });
    }

    /// What this Elector found in the bucket. Registrations of Nodes that were silent for long are given up.
    pub(super) fn registered(&mut self, listing: Listing) {
        self.meet(listing.members);
        let mut seen = std::mem::take(&mut self.seen);
        for registration in listing.registrations {
            let name = &registration.node_id;
            let since = match seen.remove(name) {
                Some((mark, since)) if mark == registration.mark => since,
                _ => now(),
            };
            self.seen
                .insert(name.clone(), (registration.mark.clone(), since));
            // Without a peer port nobody is heard.
            if self.peers.is_some() && self.node.elector().may_forget(now(), name, since) {
                self.forget(registration);
            }
        }
    }

    fn forget(&self, registration: Registration) {
        let bucket = self.bucket.clone();
        self.runtime.spawn(async move {
            if let Err(why) = registration::forget(&bucket, &registration).await {
                let node = registration.node_id;
                warn!(node, why, "could not give up a registration; trying again");
            }
        });
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
        let cluster_id = self.cluster_id.clone();
        self.runtime.spawn(async move {
            match registration::register(&bucket, &cluster_id, &own, &own.mark).await {
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

    /// Where Nodes are reached, as members and lock say, where that is news: what a Node says of itself is
    /// newer than what was written of it before.
    pub(super) fn learn_addresses(&mut self) {
        let Some(peers) = &self.peers else {
            return;
        };
        let lock = self.node.elector().lock();
        let elector = lock.and_then(|lock| Some((&lock.elector.as_ref()?.node_id, lock)));
        let elector = elector.map(|(name, lock)| (name, &lock.peer_address));
        let members = self.members.iter();
        let members = members.filter_map(|member| Some((&member.name, member.peer_urls.first()?)));
        for (name, url) in members.chain(elector) {
            let noted = self.noted.get(name) == Some(url);
            if !noted || !peers.knows(name) {
                peers.learn(name, url);
                self.noted.insert(name.clone(), url.clone());
            }
        }
    }
}
