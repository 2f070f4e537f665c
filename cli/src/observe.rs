//! What a daemon shows of itself over HTTP, on an address of its own: metrics, health, readiness, and the log filter.
//!
//! ```text
//!   GET /metrics   Prometheus text
//!   GET /healthz   200 while the process answers
//!   GET /readyz    200 once it serves, 503 before
//!   GET /log       the log filter
//!   PUT /log       another filter, from this host only
//! ```

use anyhow::Context;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quarry_host::metrics::{self, Recorded};
use quarry_host::telemetry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A filter is a line.
const FILTER_BYTES_MAX: usize = 4096;

/// Tells the HTTP address that the daemon serves.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// From now on `/readyz` answers 200.
    pub(crate) fn ready(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Clone)]
struct Shown {
    recorded: Recorded,
    readiness: Readiness,
}

/// Serves until the shutdown. Without an address nothing is recorded and nothing served.
///
/// # Errors
/// When the address cannot be used.
pub(crate) async fn serve(
    address: Option<SocketAddr>,
    shutdown: CancellationToken,
) -> anyhow::Result<Readiness> {
    let readiness = Readiness::default();
    let Some(address) = address else { return Ok(readiness) };
    let recorded = metrics::install()?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot serve metrics on {address}: choose another --metrics ADDRESS:PORT"))?;
    let local = listener.local_addr().unwrap_or(address);
    tracing::info!(address = %local, "metrics are served");
    let app = router(Shown { recorded, readiness: readiness.clone() });
    tokio::spawn(async move {
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(readiness)
}

fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .route("/log", get(show_filter).put(set_filter))
        .layer(DefaultBodyLimit::max(FILTER_BYTES_MAX))
        .layer(middleware::from_fn(refuse_names))
        .with_state(shown)
}

/// A page of another site can make a browser ask for a name that it points to this host. Scrapers and people use the address.
async fn refuse_names(request: Request, next: Next) -> Response {
    if is_direct(request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, "use the address of this host, or localhost\n").into_response()
    }
}

fn is_direct(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|h| h.to_str().ok()) else { return true };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host }
    });
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

async fn show_metrics(State(shown): State<Shown>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], shown.recorded.text())
}

async fn show_readiness(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    if shown.readiness.0.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn show_filter() -> String {
    telemetry::filter() + "\n"
}

async fn set_filter(ConnectInfo(peer): ConnectInfo<SocketAddr>, filter: String) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, "the log filter is set from this host only\n").into_response();
    }
    match telemetry::set_filter(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "the log filter is set");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_direct_and_names_are_not() {
        for (host, direct) in [
            ("127.0.0.1:9100", true),
            ("[::1]:9100", true),
            ("localhost:9100", true),
            ("10.0.0.7", true),
            ("evil.example:9100", false),
            ("localhost.evil.example", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            assert_eq!(is_direct(&headers), direct, "{host}");
        }
    }
}
