//! What holds for every RPC, whatever its service.
//!
//! A closing Node takes nothing new; `hasleader` waits for a Primary, and needs one; a panic answers Internal and ends only
//! its own request; every request is counted. Where tonic's words differ from etcd's (a message too
//! large, an unknown method), they are put into etcd's.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Frame;
use rules::refusal::Refusal;
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::error;

use super::metrics::Call;
use super::{Metrics, status};
use crate::standing::{Handle, closing};

/// What the guard looks at.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    pub(super) handle: Handle,
    pub(super) metrics: Metrics,
    /// How long a request that asks for a Primary (`hasleader`) waits for one.
    pub(super) patience: Duration,
}

impl Guard {
    async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if self.handle.closing.is_cancelled() {
            return Err(closing());
        }
        let wants_leader = headers
            .get("hasleader")
            .is_some_and(|value| value == "true");
        if !wants_leader {
            return Ok(());
        }
        // Clients come back for a watch that is refused with `no leader` at once, kube-apiserver thousands of times a
        // second; for any other refusal they wait a little.
        self.handle.board.standing().loaded()?;
        let leader = self.handle.board.has_leader();
        let leader = self.handle.closing.run_until_cancelled(leader);
        match timeout(self.patience, leader).await {
            Ok(known) => known.ok_or_else(closing),
            Err(_) => Err(Refusal::NoLeader),
        }
    }
}

/// Lets a request pass to its service, and its answer back.
pub(super) async fn pass(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let call = guard.metrics.begin(&path);
    if let Err(refusal) = guard.admit(request.headers()).await {
        return refuse(call, &status::of(&refusal));
    }
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => settle(call, path, response),
        Err(_) => {
            guard.metrics.panics.inc();
            error!(%path, "a request ended in a fault of ours; it was answered `Internal`");
            refuse(
                call,
                &Status::internal("netsy: a fault of ours ended this request"),
            )
        }
    }
}

/// What is told about a path nobody serves.
pub(super) async fn unknown(request: Request) -> Response {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        nobody(request.uri().path()).into_http()
    } else {
        (http::StatusCode::NOT_FOUND, "404 page not found\n").into_response()
    }
}

fn refuse(mut call: Call, status: &Status) -> Response {
    call.settle(status.code());
    status.clone().into_http()
}

/// Notes the code of an answer, now or when its stream ends.
fn settle(mut call: Call, path: String, response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    if let Some(code) = correct(&mut parts.headers, &path) {
        call.settle(code);
        return Response::from_parts(parts, body);
    }
    let body = body.map_frame(move |frame| match frame.into_trailers() {
        Ok(mut trailers) => {
            call.settle(correct(&mut trailers, &path).unwrap_or(Code::Unknown));
            Frame::trailers(trailers)
        }
        Err(data) => data,
    });
    Response::from_parts(parts, Body::new(body))
}

/// The code told in `headers`, if one is. Puts tonic's own refusals into etcd's words.
fn correct(headers: &mut HeaderMap, path: &str) -> Option<Code> {
    let told = Status::from_header_map(headers)?;
    let ours = match told.code() {
        Code::OutOfRange => too_large(told.message()),
        Code::Unimplemented if told.message().is_empty() => Some(nobody(path)),
        _ => None,
    };
    let Some(ours) = ours else {
        return Some(told.code());
    };
    match ours.add_header(headers) {
        Ok(()) => Some(ours.code()),
        Err(_) => Some(told.code()),
    }
}

/// etcd's words for a message over the limit, if `told` are tonic's.
fn too_large(told: &str) -> Option<Status> {
    let found = told.strip_prefix("Error, decoded message length too large: found ")?;
    let (bytes, limit) = found.split_once(" bytes, the limit is: ")?;
    let limit = limit.split(' ').next()?;
    Some(Status::resource_exhausted(format!(
        "grpc: received message larger than max ({bytes} vs. {limit})"
    )))
}

/// What Go's gRPC says of a service or method that is not there.
fn nobody(path: &str) -> Status {
    let (service, method) = path
        .trim_start_matches('/')
        .rsplit_once('/')
        .unwrap_or((path, ""));
    let served = super::SUPPORTED
        .iter()
        .any(|(known, _)| service.strip_prefix("etcdserverpb.") == Some(*known));
    Status::unimplemented(if served {
        format!("unknown method {method} for service {service}")
    } else {
        format!("unknown service {service}")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::post;
    use axum::{Router, middleware};
    use rules::record::Record;
    use rules::revision::{Epoch, Revision};
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::super::metrics::Rpc;
    use super::*;
    use crate::standing::{Board, HealthState, PrimaryState, Standing};
    use crate::view::{Source, View};

    #[test]
    fn oversize_is_told_as_etcd_tells_it() {
        let mut headers = HeaderMap::new();
        let tonics =
            "Error, decoded message length too large: found 9 bytes, the limit is: 5 bytes";
        Status::out_of_range(tonics)
            .add_header(&mut headers)
            .expect("plain text");
        assert_eq!(correct(&mut headers, "/x/Y"), Some(Code::ResourceExhausted));
        let told = Status::from_header_map(&headers).expect("a status");
        assert_eq!(
            told.message(),
            "grpc: received message larger than max (9 vs. 5)"
        );
    }

    #[test]
    fn other_refusals_pass_untouched() {
        let mut headers = HeaderMap::new();
        status::of(&Refusal::FutureRevision)
            .add_header(&mut headers)
            .expect("plain text");
        assert_eq!(correct(&mut headers, "/x/Y"), Some(Code::OutOfRange));
        let told = Status::from_header_map(&headers).expect("a status");
        assert_eq!(told.message(), Refusal::FutureRevision.to_string());
        assert_eq!(correct(&mut HeaderMap::new(), "/x/Y"), None);
    }

    #[test]
    fn strangers_are_named() {
        assert_eq!(
            nobody("/v3lock.Lock/Lock").message(),
            "unknown service v3lock.Lock"
        );
        let told = nobody("/etcdserverpb.KV/Steal");
        assert_eq!(
            told.message(),
            "unknown method Steal for service etcdserverpb.KV"
        );
    }

    struct Nothing;

    impl Source for Nothing {
        fn records(&self, _: &[Revision]) -> Result<Vec<Record>, String> {
            Ok(Vec::new())
        }

        fn history(&self, _: Revision, _: Revision, _: usize) -> Result<Vec<Record>, String> {
            Ok(Vec::new())
        }
    }

    fn guard() -> Guard {
        let standing = Standing {
            node_id: "node".into(),
            cluster_id: "cluster".into(),
            member_id: 1,
            health: HealthState::Healthy,
            reason: None,
            primary_state: PrimaryState::Active,
            epoch: Epoch(1),
            leader: 1,
            leader_name: None,
            elector: false,
            members: Vec::new(),
        };
        let view = Arc::new(View::new(Arc::new(Nothing), 0));
        let (handle, _) = Handle::new(view, Board::new(standing), CancellationToken::new());
        Guard {
            handle,
            metrics: Metrics::default(),
            patience: Duration::ZERO,
        }
    }

    async fn ask(guard: Guard, path: &str) -> Status {
        let router = Router::new()
            .route(path, post(async || -> Response { panic!("on purpose") }))
            .layer(middleware::from_fn_with_state(guard, pass));
        let request = Request::post(path)
            .body(Body::empty())
            .expect("a plain request");
        let answer = router.oneshot(request).await.expect("infallible");
        Status::from_header_map(answer.headers()).expect("a status")
    }

    #[tokio::test]
    async fn a_panic_answers_internal_and_is_counted() {
        let guard = guard();
        let path = "/etcdserverpb.KV/Range";
        assert_eq!(ask(guard.clone(), path).await.code(), Code::Internal);
        assert_eq!(guard.metrics.panics(), 1);
        assert_eq!(guard.metrics.handled(Rpc::of(path), Code::Internal), 1);
    }

    #[tokio::test]
    async fn a_closing_node_takes_nothing_new() {
        let guard = guard();
        guard.handle.closing.cancel();
        let refused = ask(guard.clone(), "/etcdserverpb.KV/Range").await;
        assert_eq!(refused.code(), Code::Unavailable);
        assert_eq!(guard.metrics.panics(), 0);
    }
}
