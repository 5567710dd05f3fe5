//! The Cluster service: MemberList, as the Elector knows it.

use tonic::{Request, Response, Status};

use super::proto::etcdserverpb::cluster_server;
use super::proto::etcdserverpb::{self as wire, MemberListRequest, MemberListResponse};
use super::{Door, status};
use crate::standing::Member;

/// Answers MemberList.
pub(super) struct Cluster(pub(super) Door);

#[tonic::async_trait]
impl cluster_server::Cluster for Cluster {
    async fn member_list(
        &self,
        _request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let asked = self.0.in_time(self.0.handle.members()).await;
        let mut members = asked.map_err(status::from)?;
        members.sort_by_key(|member| member.member_id);
        Ok(Response::new(MemberListResponse {
            header: self.0.header(self.0.handle.view.committed()),
            members: members.into_iter().map(member).collect(),
        }))
    }
}

fn member(member: Member) -> wire::Member {
    wire::Member {
        id: member.member_id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: false,
    }
}
