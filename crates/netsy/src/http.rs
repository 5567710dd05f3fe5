//! The health port: `/livez`, `/readyz`, `/metrics`, `/status` as JSON, and a small page for people at `/`.
//!
//! Plain HTTP without data: what can be read here is what a Node says of itself, never a key or a value.

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::report::Report;
use crate::standing::{Board, HealthState, PrimaryState, Standing, Unflushed};
use crate::telemetry::{self, Metrics, health_word, primary_word};

/// How long connections may take to end once the port closes.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// What the health port shows.
#[derive(Clone, Debug)]
pub struct Health {
    /// What the Node knows of itself.
    pub board: Arc<Board>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
}

/// Serves the health port on `listener` until `closing`. Close it last: it is how others see a Node drain.
///
/// # Errors
/// The listener's.
pub async fn serve(
    listener: TcpListener,
    health: Health,
    closing: CancellationToken,
) -> std::io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "health port open");
    let served = axum::serve(listener, router(health))
        .with_graceful_shutdown(closing.clone().cancelled_owned())
        .into_future();
    let late = async {
        closing.cancelled().await;
        tokio::time::sleep(CLOSE_WITHIN).await;
    };
    tokio::select! {
        result = served => result,
        () = late => Ok(()),
    }
}

/// The pages of the health port.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                "try /, /livez, /readyz, /metrics or /status\n",
            )
        })
        .with_state(health)
}

async fn ready(State(health): State<Health>) -> Response {
    match not_ready(&health.board.standing()) {
        None => "ready\n".into_response(),
        Some(why) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {why}\n"),
        )
            .into_response(),
    }
}

/// Why clients should go elsewhere; None if they are welcome.
fn not_ready(standing: &Standing) -> Option<String> {
    let reason = standing.reason.as_deref();
    match (standing.health, standing.primary_state) {
        (HealthState::Healthy, PrimaryState::Draining) => Some("draining, about to stop".into()),
        (HealthState::Healthy, _) => None,
        (health, _) => Some(format!(
            "{}: {}",
            health_word(health),
            reason.unwrap_or("no reason is known")
        )),
    }
}

async fn metrics(State(health): State<Health>) -> Response {
    let mut response = health.metrics.text(&health.board).into_response();
    let kind = HeaderValue::from_static(telemetry::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn status(State(health): State<Health>) -> Response {
    let body = Report::of(&health.board).json();
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

async fn page(State(health): State<Health>) -> Html<String> {
    let standing = health.board.standing();
    let sizes = health.board.sizes();
    let or_none = |text: Option<&str>| text.unwrap_or("none known").to_owned();
    let role = if standing.elector {
        "leader"
    } else {
        "follower"
    };
    let rows = [
        ("Node", standing.node_id.clone()),
        ("Cluster", standing.cluster_id.clone()),
        ("Version", env!("CARGO_PKG_VERSION").to_owned()),
        ("Health State", health_word(standing.health).to_owned()),
        ("Reason", standing.reason.clone().unwrap_or_default()),
        (
            "Primary State",
            primary_word(standing.primary_state).to_owned(),
        ),
        ("Primary", or_none(standing.leader_name.as_deref())),
        ("Elector", role.to_owned()),
        ("Epoch", standing.epoch.to_string()),
        (
            "Committed Revision",
            health.metrics.committed_revision.get().to_string(),
        ),
        (
            "Last Revision in the bucket",
            health.metrics.bucket_revision.get().to_string(),
        ),
        (
            "Committed, not in the bucket yet",
            unflushed(&health.board.figures().unflushed),
        ),
        ("Local database, bytes", sizes.total.to_string()),
    ];
    let rows: String = rows
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("<tr><th>{name}<td>{}\n", escaped(value)))
        .collect();
    let name = escaped(&standing.node_id);
    Html(format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>netsy {name}</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}th{{text-align:left;padding-right:2em}}</style>\n\
         <h1>netsy {name}</h1>\n<table>\n{rows}</table>\n\
         <p><a href=\"/livez\">livez</a> <a href=\"/readyz\">readyz</a> <a href=\"/metrics\">metrics</a> \
         <a href=\"/status\">status</a>\n"
    ))
}

fn unflushed(window: &Unflushed) -> String {
    format!(
        "{} Records, {} bytes, for {} ms",
        window.records, window.bytes, window.age
    )
}

/// Text as it may stand in HTML.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use rules::revision::Epoch;
    use tower::ServiceExt;

    use super::*;
    use crate::standing::Sizes;

    fn standing(health: HealthState, reason: Option<&str>) -> Standing {
        Standing {
            node_id: "n1".into(),
            cluster_id: "prod".into(),
            member_id: 1,
            health,
            reason: reason.map(str::to_owned),
            primary_state: PrimaryState::Active,
            epoch: Epoch(7),
            leader: 1,
            leader_name: Some("n1".into()),
            elector: true,
            members: Vec::new(),
        }
    }

    fn health() -> Health {
        let board = Board::new(standing(HealthState::Loading, Some("restoring <3 of 7>")));
        Health {
            board,
            metrics: Metrics::new("prod", "n1", |_| {}),
        }
    }

    async fn get(health: &Health, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(health.clone()).oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_tells_the_reason_until_the_node_is_healthy() {
        let health = health();
        assert_eq!(get(&health, "/livez").await, (200, "alive\n".into()));
        let (status, text) = get(&health, "/readyz").await;
        assert_eq!(
            (status, text.as_str()),
            (503, "not ready: loading: restoring <3 of 7>\n")
        );
        health
            .board
            .set_standing(standing(HealthState::Healthy, None));
        assert_eq!(get(&health, "/readyz").await, (200, "ready\n".into()));
        let draining = Standing {
            primary_state: PrimaryState::Draining,
            ..standing(HealthState::Healthy, None)
        };
        health.board.set_standing(draining);
        assert_eq!(get(&health, "/readyz").await.0, 503);
        assert_eq!(get(&health, "/livez").await.0, 200);
        assert_eq!(get(&health, "/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn metrics_show_the_standing_of_the_moment() {
        let health = health();
        health.metrics.committed_revision.set(42);
        health
            .metrics
            .bucket_wrote("chunk", "won", Duration::from_millis(30), 2048);
        health.board.set_sizes(Sizes {
            total: 4096,
            in_use: 1024,
        });
        let (status, text) = get(&health, "/metrics").await;
        assert_eq!(status, 200);
        for line in [
            "netsy_info{version=\"0.1.0\",cluster_id=\"prod\",node_id=\"n1\"} 1",
            "netsy_state_health{state=\"loading\"} 1",
            "netsy_state_health{state=\"healthy\"} 0",
            "netsy_state_primary{state=\"active\"} 1",
            "netsy_state_elector{state=\"leader\"} 1",
            "netsy_epoch 7",
            "netsy_committed_revision 42",
            "netsy_sqlite_size_bytes 4096",
            "netsy_object_storage_writes_total{kind=\"chunk\",result=\"won\"} 1",
            "# EOF",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[tokio::test]
    async fn metrics_show_what_the_process_uses() {
        let (_, text) = get(&health(), "/metrics").await;
        let value = |name: &str| -> f64 {
            let mut lines = text.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.expect("it is a metric").parse().unwrap()
        };
        assert!(
            value("process_resident_memory_bytes") > (1 << 20) as f64,
            "{text}"
        );
        assert!(value("process_open_fds") >= 3.0, "{text}");
        assert!(value("process_cpu_seconds_total") > 0.0, "{text}");
        let started = value("process_start_time_seconds");
        assert_eq!(started, value("netsy_process_start_time_seconds"));
    }

    #[tokio::test]
    async fn the_page_escapes_what_it_shows() {
        let (status, text) = get(&health(), "/").await;
        assert_eq!(status, 200);
        assert!(text.contains("restoring &lt;3 of 7&gt;"), "{text}");
    }

    #[tokio::test]
    async fn the_port_opens_and_closes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let served = tokio::spawn(serve(listener, health(), closing.clone()));
        // A connection that says nothing does not keep the port open.
        let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
        closing.cancel();
        served.await.unwrap().unwrap();
    }
}
