//! The Maintenance service: Status and Alarm, both of this Node alone.

use rules::refusal::Refusal;
use tonic::{Request, Response, Status};

use super::proto::etcdserverpb::maintenance_server;
use super::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DowngradeInfo, StatusRequest,
    StatusResponse,
};
use super::{CLUSTER_VERSION, Door, VERSION};
use crate::standing::{HealthState, Standing};

/// Answers Status and Alarm.
pub(super) struct Maintenance(pub(super) Door);

#[tonic::async_trait]
impl maintenance_server::Maintenance for Maintenance {
    /// Whatever the action, the answer is what GET answers: alarms follow the Health State alone.
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let wanted = request.get_ref().alarm;
        let standing = self.0.standing();
        let asked = wanted == AlarmType::None as i32 || wanted == AlarmType::Corrupt as i32;
        let mut alarms = Vec::new();
        if asked && standing.health != HealthState::Healthy {
            let alarm = AlarmType::Corrupt as i32;
            alarms.push(AlarmMember {
                member_id: standing.member_id,
                alarm,
            });
        }
        let header = self.0.header(self.0.handle.view.committed());
        Ok(Response::new(AlarmResponse { header, alarms }))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let standing = self.0.standing();
        let sizes = self.0.handle.board.sizes();
        Ok(Response::new(StatusResponse {
            header: self.0.header(self.0.handle.view.committed()),
            version: VERSION.into(),
            // etcdctl divides by it.
            db_size: bytes(sizes.total.max(1)),
            db_size_in_use: bytes(sizes.in_use),
            db_size_quota: bytes(self.0.limits.quota),
            leader: standing.leader,
            errors: errors(&standing),
            storage_version: CLUSTER_VERSION.into(),
            downgrade_info: Some(DowngradeInfo::default()),
            is_learner: false,
            raft_index: 0,
            raft_term: 0,
            raft_applied_index: 0,
        }))
    }
}

/// What is wrong with this Node, in etcd's words where it has some.
fn errors(standing: &Standing) -> Vec<String> {
    let mut errors = Vec::new();
    if standing.leader == 0 {
        errors.push(Refusal::NoLeader.to_string());
    }
    let state = match standing.health {
        HealthState::Healthy => return errors,
        HealthState::Loading => "loading",
        HealthState::Degraded => "degraded",
    };
    let reason = standing
        .reason
        .as_deref()
        .map_or(String::new(), |reason| format!(": {reason}"));
    errors.push(format!("node `{}` is {state}{reason}", standing.node_id));
    errors
}

fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
