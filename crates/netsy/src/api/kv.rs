//! The KV service: Range, RangeStream and Txn.

use futures::stream::{self, StreamExt};
use prost::Message;
use rules::refusal::Refusal;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::pages::Pages;
use super::proto::etcdserverpb::kv_server;
use super::proto::etcdserverpb::{
    RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse,
};
use super::{Door, range, status, txn};
use crate::standing::PrimaryState;

/// Answers KV from the view, and brings Txns to the driver.
pub(super) struct Kv(pub(super) Door);

impl Kv {
    async fn answer_range(&self, request: &RangeRequest) -> Result<RangeResponse, Refusal> {
        let query = range::query(request)?;
        let current = self.0.settle(request.serializable).await?;
        let answer = range::read(&self.0.handle.view, query, current).await?;
        Ok(range::response(self.0.header(current), answer))
    }

    async fn start_pages(&self, request: &RangeRequest) -> Result<Pages, Refusal> {
        range::query(request)?;
        let current = self.0.settle(request.serializable).await?;
        Pages::new(self.0.clone(), request, current)
    }

    async fn answer_txn(&self, request: TxnRequest) -> Result<TxnResponse, Refusal> {
        let wanted = txn::from_wire(&request)?;
        wanted.check()?;
        txn::check_sorting(&request)?;
        let bytes = request.encoded_len();
        if bytes > self.0.limits.request_bytes {
            return Err(Refusal::RequestTooLarge);
        }
        self.0.standing().loaded()?;
        let _room = self.0.room(bytes)?;
        let elsewhere = self.0.standing().primary_state != PrimaryState::Active;
        let wire = elsewhere.then(|| request.encode_to_vec().into());
        let outcome = self.0.in_time(self.0.handle.txn(wanted, wire)).await?;
        txn::to_wire(&self.0, &request, &outcome).await
    }
}

#[tonic::async_trait]
impl kv_server::Kv for Kv {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let answer = self.answer_range(request.get_ref()).await;
        answer.map(Response::new).map_err(status::from)
    }

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<BoxStream<RangeStreamResponse>>, Status> {
        let pages = self
            .start_pages(request.get_ref())
            .await
            .map_err(status::from)?;
        let pages = stream::try_unfold(Some(pages), async |pages| {
            let Some(mut pages) = pages else {
                return Ok(None);
            };
            let (page, last) = pages.next().await.map_err(status::from)?;
            Ok(Some((page, (!last).then_some(pages))))
        });
        Ok(Response::new(pages.boxed()))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let answer = self.answer_txn(request.into_inner()).await;
        answer.map(Response::new).map_err(status::from)
    }
}
