//! What a daemon shows of itself over HTTP, on an address of its own: metrics, health, readiness, and the log filter.
//!
//! ```text
//!   GET /metrics   Prometheus text
//!   GET /healthz   200 while the process answers
//!   GET /readyz    200 once it serves, 503 before
//!   GET /log       the log filter
//!   PUT /log       another filter, for the daemon's own account and root
//! ```

use anyhow::Context;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use quarry_client::FileSystem;
use quarry_host::metrics::{self, table};
use quarry_host::{process, telemetry};
use serde::Deserialize;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A filter is a line.
const FILTER_BYTES_MAX: usize = 4096;
/// Ports that are tried where several daemons of one kind may run on a host.
const PORTS_TRIED: u16 = 16;
/// The first port of mounts, and of gateways.
pub(crate) const MOUNT_PORTS: Usual = Usual::FirstFree(9640);
pub(crate) const GATEWAY_PORTS: Usual = Usual::FirstFree(9660);

/// Where metrics are served, as `--metrics` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum MetricsAddress {
    /// Nowhere.
    Off,
    /// There, or the daemon does not start.
    At(SocketAddr),
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            address => address
                .parse()
                .map(Self::At)
                .map_err(|_| format!("`{address}` is neither ADDRESS:PORT nor `off`")),
        }
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The port of the loopback interface on which a daemon serves metrics unless it is told otherwise.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usual {
    /// This one, or none.
    Port(u16),
    /// The first of some that is free, or none.
    FirstFree(u16),
}

/// Tells the HTTP address that the daemon serves.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<OnceLock<Option<FileSystem>>>);

impl Readiness {
    /// From now on `/readyz` answers 200. What the client within the daemon has not yet brought into the cluster is shown.
    pub(crate) fn ready(&self, client: Option<FileSystem>) {
        let _ = self.0.set(client);
    }

    fn is_ready(&self) -> bool {
        self.0.get().is_some()
    }

    fn client(&self) -> Option<&FileSystem> {
        self.0.get().and_then(Option::as_ref)
    }
}

/// Serves until the shutdown.
///
/// # Errors
/// When an address that was asked for cannot be used.
pub(crate) async fn serve(
    wanted: Option<MetricsAddress>,
    usual: Usual,
    shutdown: CancellationToken,
) -> anyhow::Result<Readiness> {
    let readiness = Readiness::default();
    let listener = match wanted {
        Some(MetricsAddress::Off) => return Ok(readiness),
        Some(MetricsAddress::At(address)) => TcpListener::bind(address).await.with_context(|| {
            format!("cannot serve metrics on {address}: choose another --metrics ADDRESS:PORT")
        })?,
        None => match bind_usual(usual).await {
            Some(listener) => listener,
            None => {
                tracing::info!("no metrics are served, since the usual port is taken: see --metrics");
                return Ok(readiness);
            }
        },
    };
    metrics::record();
    let address = listener.local_addr().context("the listener has no address")?;
    tracing::info!(%address, "metrics are served");
    let app = router(readiness.clone());
    tokio::spawn(async move {
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let served = axum::serve(listener, app).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "metrics are no longer served");
        }
    });
    Ok(readiness)
}

async fn bind_usual(usual: Usual) -> Option<TcpListener> {
    let ports = match usual {
        Usual::Port(port) => port..=port,
        Usual::FirstFree(first) => first..=first + (PORTS_TRIED - 1),
    };
    for port in ports {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Some(listener);
        }
    }
    None
}

fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(show_readiness))
        .route("/log", get(show_filter).put(set_filter))
        .layer(DefaultBodyLimit::max(FILTER_BYTES_MAX))
        .layer(middleware::from_fn(refuse_names))
        .with_state(readiness)
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
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|b| b.is_ascii_digit()) { name } else { host });
    name == "localhost" || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

async fn show_metrics(State(readiness): State<Readiness>) -> impl IntoResponse {
    tell_process();
    if let Some(client) = readiness.client() {
        let unwritten = client.unwritten();
        table::CLIENT_DIRTY.set(&[], unwritten.files as f64);
        table::CLIENT_BUFFERED.set(&[], unwritten.bytes as f64);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render())
}

/// What the kernel counts of this process.
fn tell_process() {
    table::MEMORY.set(&[], process::resident_bytes() as f64);
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        table::OPEN_FILES.set(&[], open.count() as f64);
    }
}

async fn show_readiness(State(readiness): State<Readiness>) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n")
    }
}

async fn show_filter() -> String {
    telemetry::filter() + "\n"
}

async fn set_filter(ConnectInfo(peer): ConnectInfo<SocketAddr>, filter: String) -> Response {
    let own = rustix::process::geteuid().as_raw();
    if !uid_of(peer).is_some_and(|uid| uid == 0 || uid == own) {
        let why = "the log filter is set by root and the daemon's own account, on this host\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    match telemetry::set_filter(filter.trim()) {
        Ok(()) => {
            tracing::info!(filter = filter.trim(), "the log filter is set");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

/// The account whose process has the other end of a connection, if that is on this host.
fn uid_of(peer: SocketAddr) -> Option<u32> {
    if !peer.ip().to_canonical().is_loopback() {
        return None;
    }
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    find_uid(&std::fs::read_to_string(table).ok()?, peer)
}

/// proc_pid_net(5): the second column is the local address, the eighth the user.
fn find_uid(table: &str, local: SocketAddr) -> Option<u32> {
    let wanted = kernel_address(local);
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f.get(1) == Some(&wanted.as_str())).find_map(|f| f.get(7)?.parse().ok())
}

/// Words of 32 bits in the order of the machine, and the port.
fn kernel_address(address: SocketAddr) -> String {
    let octets = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let mut text = String::new();
    for word in octets.chunks_exact(4) {
        let _ = write!(text, "{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    format!("{text}:{:04X}", address.port())
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

    #[test]
    fn an_address_is_one_or_off() {
        assert_eq!("off".parse(), Ok(MetricsAddress::Off));
        assert_eq!("[::1]:9".parse(), Ok(MetricsAddress::At("[::1]:9".parse().unwrap())));
        assert!("9640".parse::<MetricsAddress>().is_err());
    }

    #[test]
    fn the_account_of_a_connection_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(uid_of(stream.local_addr().unwrap()), Some(own));
        assert_eq!(uid_of("10.1.2.3:99".parse().unwrap()), None);
        if cfg!(target_endian = "little") {
            assert_eq!(kernel_address("127.0.0.1:80".parse().unwrap()), "0100007F:0050");
        }
    }
}
