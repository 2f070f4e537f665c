//! QUIC with mutual TLS 1.3.
//!
//! Both sides present a certificate of the cluster. TLS checks that the authority signed it and, on the connecting side, that it is
//! one of the expected role; who exactly the peer is comes from the URI in its certificate.

mod config;
mod connection;
mod listener;
mod socket;

use super::{Connection, Expect, Listener, Transport, TransportError};
use crate::identity::{Credentials, Identity};
use async_trait::async_trait;
use connection::QuicConnection;
use listener::QuicListener;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A peer that does not finish its handshake by then is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The real network.
pub struct QuicTransport {
    identity: Identity,
    client: quinn::ClientConfig,
    server: quinn::ServerConfig,
    /// One socket for all connections that we open, made with the first.
    endpoint: tokio::sync::OnceCell<quinn::Endpoint>,
}

impl QuicTransport {
    /// A transport with this identity.
    ///
    /// # Errors
    /// When certificate and key do not fit together.
    pub fn new(credentials: Credentials) -> Result<Self, TransportError> {
        let identity = credentials.identity().clone();
        let unusable = |e: rustls::Error| TransportError::Untrusted {
            address: identity.to_string(),
            reason: format!("our own certificate cannot be used: {e}"),
        };
        Ok(Self {
            client: config::client(&credentials).map_err(unusable)?,
            server: config::server(&credentials).map_err(unusable)?,
            identity,
            endpoint: tokio::sync::OnceCell::new(),
        })
    }

    /// The socket for connections that we open. Whether the machine has IPv6 or not, it reaches what there is.
    async fn endpoint(&self) -> std::io::Result<&quinn::Endpoint> {
        let open = async || {
            let dual = socket::endpoint("[::]:0".parse().expect("an address"), None);
            dual.or_else(|_| socket::endpoint("0.0.0.0:0".parse().expect("an address"), None))
        };
        self.endpoint.get_or_try_init(open).await
    }

    async fn connect_to(&self, address: &str, expect: &Expect) -> Result<QuicConnection, TransportError> {
        let unreachable =
            |reason: String| TransportError::Unreachable { address: address.to_owned(), reason };
        let endpoint = self.endpoint().await.map_err(|e| unreachable(format!("no socket: {e}")))?;
        let v6 = endpoint.local_addr().is_ok_and(|a| a.is_ipv6());
        let mut last = unreachable("the name has no address".into());
        let resolved = tokio::net::lookup_host(address).await.map_err(|e| unreachable(e.to_string()))?;
        for target in resolved {
            let target = match target {
                SocketAddr::V4(v4) if v6 => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
                SocketAddr::V6(_) if !v6 => continue,
                other => other,
            };
            let name = Identity::server_name(&self.identity.cluster, expect.role);
            let connecting = endpoint
                .connect_with(self.client.clone(), target, &name)
                .map_err(|e| unreachable(e.to_string()))?;
            match connecting.await {
                Ok(connection) => {
                    let connection = QuicConnection::new(connection, address)?;
                    return check(connection, address, expect, &self.identity);
                }
                Err(e) => last = connection::explain(e, address),
            }
        }
        Err(last)
    }
}

/// Whether it is the one that we wanted.
fn check(
    connection: QuicConnection,
    address: &str,
    expect: &Expect,
    own: &Identity,
) -> Result<QuicConnection, TransportError> {
    let peer = connection.peer();
    let id_fits = expect.id.as_ref().is_none_or(|id| *id == peer.id);
    if peer.cluster == own.cluster && peer.role == expect.role && id_fits {
        return Ok(connection);
    }
    let wanted = expect.id.as_deref().unwrap_or("any");
    let reason =
        format!("it is {peer}, wanted was role {} with id {wanted} of cluster {}", expect.role, own.cluster);
    connection.close("not the one that was wanted");
    Err(TransportError::Untrusted { address: address.to_owned(), reason })
}

#[async_trait]
impl Transport for QuicTransport {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn connect(&self, address: &str, expect: &Expect) -> Result<Arc<dyn Connection>, TransportError> {
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.connect_to(address, expect)).await {
            Ok(connected) => Ok(Arc::new(connected?)),
            Err(_) => Err(TransportError::Unreachable {
                address: address.to_owned(),
                reason: format!("no answer within {HANDSHAKE_TIMEOUT:?}"),
            }),
        }
    }

    async fn listen(&self, address: SocketAddr) -> Result<Box<dyn Listener>, TransportError> {
        let endpoint = socket::endpoint(address, Some(self.server.clone())).map_err(|e| {
            let hint = if e.kind() == std::io::ErrorKind::AddrInUse {
                ": another process listens there"
            } else {
                ""
            };
            TransportError::Unreachable {
                address: address.to_string(),
                reason: format!("cannot listen: {e}{hint}"),
            }
        })?;
        Ok(Box::new(QuicListener::new(endpoint, self.identity.cluster.clone())))
    }
}

#[cfg(test)]
mod tests;
