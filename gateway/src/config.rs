//! Settings and limits of a gateway.

use crate::auth::Hosts;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Connections at the same time: each may hold a few MiB of a transfer.
pub(crate) const CONNECTIONS_MAX: usize = 1024;
/// Of these, from one address other than loopback: a browser opens six.
pub(crate) const CONNECTIONS_PER_ADDRESS: usize = 128;
/// Time for the head of a request, and for a kept-alive connection to send its next one.
pub(crate) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of the head of a request: a path of 4 kB, percent-encoded, and headers of a browser.
pub(crate) const HEAD_BYTES_MAX: usize = 64 << 10;
/// A peer that takes nothing, or sends nothing of a body, for this long is cut off.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// TLS handshakes take a few round trips.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies that are no file's data: a list of sources of CONCAT is the largest.
pub(crate) const BODY_BYTES_MAX: usize = 256 << 10;
/// Listeners of the live status: 200 operators with a page each. One more is told to come later.
pub(crate) const LISTENERS_MAX: usize = 256;
/// Checksums, archives, searches and checks of replicas at the same time: each reads as fast as it can.
pub(crate) const HEAVY_MAX: usize = 8;
/// Requests that are being answered get this long when the gateway stops.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How a gateway tells its users apart.
pub enum Access {
    /// Not at all: everybody who reaches the address acts as the account of the process.
    Open,
    /// By a file of users (`quarry gateway user add`).
    Users(PathBuf),
}

/// A certificate of the gateway.
pub struct TlsPaths {
    /// PEM chain.
    pub cert: PathBuf,
    /// PEM key.
    pub key: PathBuf,
    /// PEM authority of the cluster: clients that show a certificate `client/NAME` of it are user NAME.
    pub client_ca: Option<PathBuf>,
}

/// Settings of a gateway.
pub struct GatewayConfig {
    /// Where to listen (TCP).
    pub listen: SocketAddr,
    /// Who may come.
    pub access: Access,
    /// With TLS.
    pub tls: Option<TlsPaths>,
    /// Host names that requests may name.
    pub hosts: Hosts,
    /// Where the log of events is kept across restarts; `None`: in memory only.
    pub state_dir: Option<PathBuf>,
}
