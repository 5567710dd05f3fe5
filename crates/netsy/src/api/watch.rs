//! Watch: etcd's one long-lived RPC. Each gRPC stream carries any number of watches.
//!
//! A stream is one task ([`session`]) with its own mailbox at the view's hub: it answers requests in
//! order, passes on what the hub delivers, and reads history for the watches that are behind. What a
//! single watch wants, and how that looks on the wire, is [`wanted`]. A client that does not read holds
//! up nobody but itself.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::proto::etcdserverpb::watch_server;
use super::proto::etcdserverpb::{WatchRequest, WatchResponse};
use super::{Door, status};
use crate::standing::Handle;
use crate::view::Bounds;

mod history;
mod session;
mod wanted;

/// Responses that wait for the client to read, on top of what the session holds itself.
const ON_THE_WAY: usize = 2;

/// How patient watches are.
#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    /// How often a watch that asked for it and hears nothing is told how far it has come. Up to a tenth
    /// is added, so that not all are told at once.
    pub progress_every: Duration,
    /// How long streams that asked for a Primary (`hasleader`) go on without one.
    pub leaderless_for: Duration,
    /// How much may wait for one stream before its watches fall behind.
    pub mailbox: Bounds,
    /// How much one response, or one look into history, holds before it ends. (A single Change more may
    /// be in it, and history counts only what the watch wants.)
    pub page: Bounds,
}

impl Default for WatchLimits {
    fn default() -> WatchLimits {
        WatchLimits {
            progress_every: Duration::from_secs(5),
            leaderless_for: Duration::from_secs(3),
            mailbox: Bounds {
                changes: 8192,
                bytes: 4 << 20,
            },
            page: Bounds {
                changes: 1000,
                bytes: 2 << 20,
            },
        }
    }
}

/// The Watch service.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    door: Door,
    /// Whether there has been no Primary for longer than streams put up with.
    leaderless: watch::Sender<bool>,
}

impl Watch {
    /// The service behind `door`. Starts the task that looks out for the Primary; it ends when the Node
    /// closes.
    pub(super) fn new(door: Door) -> Watch {
        let leaderless = watch::Sender::new(false);
        let patience = door.limits.watch.leaderless_for;
        tokio::spawn(look_out(door.handle.clone(), patience, leaderless.clone()));
        Watch { door, leaderless }
    }

    /// What ends a stream that wants a Primary, and was let in because there is one: what was told of its
    /// absence before is over, also if nobody has looked since.
    fn absence(&self) -> watch::Receiver<bool> {
        self.leaderless
            .send_if_modified(|before| std::mem::replace(before, false));
        self.leaderless.subscribe()
    }
}

#[tonic::async_trait]
impl watch_server::Watch for Watch {
    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<BoxStream<WatchResponse>>, Status> {
        self.door.standing().loaded().map_err(status::from)?;
        let wants_leader = request
            .metadata()
            .get("hasleader")
            .is_some_and(|value| value.as_bytes() == b"true");
        let leaderless = wants_leader.then(|| self.absence());
        // One place more, kept for the last word.
        let (answers, client) = mpsc::channel(ON_THE_WAY + 1);
        let session = session::Session::new(self.door.clone());
        tokio::spawn(session.run(request.into_inner(), answers, leaderless));
        Ok(Response::new(Box::pin(ReceiverStream::new(client))))
    }
}

/// Tells whether no Primary has been known for longer than `patience`, until the Node closes.
async fn look_out(handle: Handle, patience: Duration, tell: watch::Sender<bool>) {
    let mut looks =
        interval((patience / 8).clamp(Duration::from_millis(5), Duration::from_secs(1)));
    let mut last_seen = Instant::now();
    while handle
        .closing
        .run_until_cancelled(looks.tick())
        .await
        .is_some()
    {
        if handle.board.standing().leader != 0 {
            last_seen = Instant::now();
        }
        let now = last_seen.elapsed() > patience;
        tell.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}
