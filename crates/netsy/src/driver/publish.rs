//! Publishing: what the doors and the operator are told of this Node, and why it does not do what is asked.

use rules::primary::Tenure;
use rules::refusal::Refusal;
use rules::register::Phase;
use tracing::{info, warn};

use super::Driver;
use crate::standing::{HealthState, PrimaryState, Standing, now};

impl Driver {
    /// Why this Node does not answer for the log just now.
    pub(super) fn not_primary(&self) -> Refusal {
        if self.node.tenure() == Tenure::None && self.node.elector().register().is_none() {
            return Refusal::NoLeader;
        }
        Refusal::Unavailable(format!("netsy: {}", self.why_not_writable()))
    }

    /// A sentence for clients and operators.
    pub(super) fn why_not_writable(&self) -> String {
        if let Some(trouble) = self.node.trouble() {
            return format!(
                "node `{}` is degraded: {trouble}",
                self.registration.node_id
            );
        }
        let me = &self.registration.node_id;
        match self.node.tenure() {
            Tenure::Draining(_) | Tenure::Closing(_) => format!("node `{me}` is shutting down"),
            Tenure::Active(_) => {
                format!(
                    "node `{me}` cannot renew its read lease: the bucket, or the elector, does not answer \
                     in time"
                )
            }
            Tenure::None if self.peers.is_some() => {
                format!("node `{me}` hears no active primary")
            }
            Tenure::None => {
                let holder = self
                    .node
                    .elector()
                    .lock()
                    .and_then(|lock| lock.elector.as_ref());
                let primary = self
                    .node
                    .elector()
                    .register()
                    .and_then(|register| register.primary.as_ref());
                match (primary, holder) {
                    (Some(primary), Some(holder)) if holder.node_id != *me => format!(
                        "node `{me}` does not accept writes: the primary on this bucket is node `{}` \
                         and node `{}` holds the elector lock; this node takes over when that lock has \
                         not been renewed for {}",
                        primary.node_id,
                        holder.node_id,
                        humantime::format_duration(self.elector_timeout),
                    ),
                    _ => format!("node `{me}` does not accept writes: no primary is active yet"),
                }
            }
            _ => format!("node `{me}` is taking over as primary"),
        }
    }

    /// Says so when an operator gave up the voters (`netsy admin force-elect`): a claim keeps them, and the
    /// Primary drops them while it is Active.
    fn notice_register(&mut self) {
        let Some(register) = self.node.newest_register() else {
            return;
        };
        let has_voters = !register.voters.is_empty();
        if std::mem::replace(&mut self.had_voters, has_voters)
            && !has_voters
            && register.phase == Phase::Claimed
        {
            warn!(
                epoch = register.epoch.0,
                "the voters were given up by hand: what they alone had acknowledged is lost"
            );
        }
    }

    /// Shows the doors where the Node stands now.
    pub(super) fn publish(&mut self) {
        self.notice_register();
        let tenure = self.node.tenure();
        if !matches!(tenure, Tenure::Active(_)) {
            self.active_since = now();
        }
        let primary_state = match tenure {
            Tenure::None => PrimaryState::Replica,
            Tenure::Active(_) => PrimaryState::Active,
            Tenure::Draining(_) | Tenure::Closing(_) => PrimaryState::Draining,
            _ => PrimaryState::Starting,
        };
        let (health, reason) = self.health();
        self.was_healthy |= health == HealthState::Healthy;
        let before = self.board.standing();
        let leader_name = self.leader_name();
        let id_of = |name: &str| self.ids.get(name).copied().unwrap_or_default();
        let leader = leader_name.as_deref().map_or(0, id_of);
        let member_id = id_of(&self.registration.node_id);
        let elector = self.node.elector().is_acting(now());
        let epoch = tenure
            .epoch()
            .unwrap_or(self.node.log().epoch_at(self.node.log().last));
        let same = before.health == health
            && before.reason == reason
            && before.primary_state == primary_state
            && before.epoch == epoch
            && before.leader == leader
            && before.member_id == member_id
            && before.elector == elector
            && before.members == self.members;
        if same {
            return;
        }
        self.announce(&before, health, reason.as_deref(), primary_state);
        self.board.set_standing(Standing {
            node_id: self.registration.node_id.clone(),
            cluster_id: self.cluster_id.clone(),
            member_id,
            health,
            reason,
            primary_state,
            epoch,
            leader,
            leader_name,
            elector,
            members: self.members.clone(),
        });
    }

    fn announce(
        &self,
        before: &Standing,
        health: HealthState,
        reason: Option<&str>,
        primary_state: PrimaryState,
    ) {
        if before.primary_state != primary_state {
            info!(from = ?before.primary_state, to = ?primary_state, "the primary state of this node changed");
        }
        if primary_state == PrimaryState::Active && before.primary_state != primary_state {
            self.metrics.elections.ok();
        }
        if before.health != health {
            let reason = reason.unwrap_or("everything it needs is there");
            if health == HealthState::Healthy {
                info!(from = ?before.health, to = ?health, reason, "the health state changed");
            } else {
                warn!(from = ?before.health, to = ?health, reason, "the health state changed");
            }
        }
    }

    /// The Primary this Node may point clients to: itself, or whom it follows.
    fn leader_name(&self) -> Option<String> {
        if matches!(self.node.tenure(), Tenure::Active(_)) {
            return Some(self.registration.node_id.clone());
        }
        self.primary_elsewhere()
    }

    /// Whether this Node is a Replica that hears no Primary, while another Node is, or may be, one.
    pub(super) fn is_left_alone(&self) -> bool {
        let named = self
            .node
            .newest_register()
            .and_then(|register| register.primary.as_ref());
        let elsewhere = named.is_some_and(|primary| primary.node_id != self.registration.node_id);
        self.node.tenure() == Tenure::None
            && self.primary_elsewhere().is_none()
            && (elsewhere || self.is_followed())
    }

    /// Whether another Node holds the Elector lock, so that this one has nothing to do.
    pub(super) fn is_followed(&self) -> bool {
        let holder = self
            .node
            .elector()
            .lock()
            .and_then(|lock| lock.elector.as_ref());
        holder.is_some_and(|holder| holder.node_id != self.registration.node_id)
    }

    /// Whether linearizable reads have to be confirmed one by one, though a lease is wanted: not for the
    /// moment that a new Primary waits for its first.
    fn lacks_lease(&self) -> bool {
        let lease = self.node.settings().lease;
        lease > 0 && !self.board.has_lease() && now() >= self.active_since + lease
    }

    fn health(&self) -> (HealthState, Option<String>) {
        if let Some(trouble) = self.node.trouble() {
            return (HealthState::Degraded, Some(trouble.to_owned()));
        }
        let silent = self.upload.is_some()
            && now().saturating_sub(self.upload_since)
                > u64::try_from(self.silence_max.as_millis()).unwrap_or(u64::MAX);
        match self.node.tenure() {
            Tenure::Active(_) if silent => {
                let reason = "the bucket does not take the newest chunk: writes wait".to_owned();
                (HealthState::Degraded, Some(reason))
            }
            Tenure::Active(_) if self.lacks_lease() => {
                (HealthState::Degraded, Some(self.why_not_writable()))
            }
            // Only before it is ready for the first time: they are for MemberList alone.
            Tenure::Active(_) if self.members.is_empty() && !self.was_healthy => (
                HealthState::Loading,
                Some("the members are being read".to_owned()),
            ),
            Tenure::Active(_) => (HealthState::Healthy, None),
            Tenure::None if !self.node.is_settled() => (
                HealthState::Loading,
                Some("what it holds may not be shown before its fate is known: it asks".to_owned()),
            ),
            Tenure::None if self.primary_elsewhere().is_some() && !self.ids.is_empty() => {
                (HealthState::Healthy, None)
            }
            Tenure::None if self.is_left_alone() => {
                (HealthState::Degraded, Some(self.why_not_writable()))
            }
            Tenure::None | Tenure::Draining(_) | Tenure::Closing(_) => {
                (HealthState::Loading, Some(self.why_not_writable()))
            }
            _ if !self.node.is_caught_up() => (
                HealthState::Loading,
                Some("reading the chain in the bucket".to_owned()),
            ),
            _ => (HealthState::Loading, Some(self.why_not_writable())),
        }
    }
}
