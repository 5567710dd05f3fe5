//! How it is done: the rooms of the Netsy server, and `run`, which is handed its world.

pub mod admin;
pub mod config;
pub mod exit;
pub mod greeting;
pub mod http;
pub mod standing;
pub mod telemetry;
pub mod tls;
pub mod view;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use config::Config;
use exit::RunError;
use standing::{Board, HealthState, PrimaryState, Standing};

/// Runs a Node until `shutdown`, and then until every acknowledged write is durable.
///
/// (Only the health port is wired up yet.)
///
/// # Errors
/// Why the Node could not start or go on, and what to do.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RunError> {
    let metrics = telemetry::Metrics::new(&config.cluster_id, &config.node_id, |_| {});
    let board = Board::new(Standing {
        node_id: config.node_id.clone(),
        cluster_id: config.cluster_id.clone(),
        member_id: 0,
        health: HealthState::Loading,
        reason: Some("this build has no driver yet".into()),
        primary_state: PrimaryState::Replica,
        epoch: rules::revision::Epoch::ZERO,
        leader: 0,
        leader_name: None,
        elector: false,
        members: Vec::new(),
    });
    let _tls = tls::Tls::open(&config.client).map_err(|error| {
        RunError::setup(
            "open the client port",
            error,
            "`netsy certs` makes working files",
        )
    })?;
    let listener = TcpListener::bind(config.http.listen)
        .await
        .map_err(|error| {
            RunError::failed(
                format!("open the health port on `{}`", config.http.listen),
                error,
                "stop what uses the address, or choose another with `http.listen`",
            )
        })?;
    let health = http::Health { board, metrics };
    http::serve(listener, health, shutdown)
        .await
        .map_err(|error| RunError::failed("serve the health port", error, "start again"))
}
