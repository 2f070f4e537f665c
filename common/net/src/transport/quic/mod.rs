//! QUIC with mutual TLS: the real network.
//!
//! How a connection comes about:
//!
//! 1. The client resolves the address and starts the handshake, and watches meanwhile whether the host says that
//!    nobody listens there ([`liveness`]).
//! 2. Each side's certificate is verified against the cluster's authority by webpki; the client also asks that
//!    the server's certificate names `<role>.<cluster>.quarry`, so a DataNode cannot pose as a NameNode ([`tls`]).
//! 3. Both read the identity from the peer's certificate and compare the cluster, the client also the expected id.
//! 4. The server opens a stream with its [`WIRE_VERSION`](quarry_common::wire::WIRE_VERSION). Only then does the client take the connection for good:
//!    in TLS 1.3 a client is done before the server has looked at its certificate, so without this step a refusal
//!    would surface later as a broken connection, without its reason. It is the version check of connections
//!    without a long conversation, too.

mod congestion;
mod connection;
mod error;
mod half_open;
mod listener;
mod liveness;
mod socket;
mod tls;

#[cfg(test)]
mod tests;

use super::{Connection, Expect, Listener, Transport, TransportError, check_version};
use crate::identity::{Credentials, Identity};
use async_trait::async_trait;
use connection::QuicConnection;
use error::Refusal;
use listener::QuicListener;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::time::timeout;

/// A handshake takes at most this long: three round trips of any network, and a lost packet or two.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried in turn.
const ADDRESSES_MAX: usize = 4;

/// The real network, with one identity.
pub struct QuicTransport {
    identity: Identity,
    /// What new connections use; listeners follow it.
    current: watch::Sender<Arc<Current>>,
}

/// Credentials, and the settings made of them.
struct Current {
    credentials: Credentials,
    tls: tls::Tls,
}

impl Current {
    fn new(credentials: Credentials) -> Result<Self, TransportError> {
        let tls = tls::Tls::new(&credentials).map_err(|reason| TransportError::Untrusted {
            address: credentials.identity().to_string(),
            reason: format!("its own credentials are unusable: {reason}"),
        })?;
        Ok(Self { credentials, tls })
    }
}

impl QuicTransport {
    /// Ready to connect and to listen as the owner of the credentials.
    ///
    /// # Errors
    /// [`TransportError::Untrusted`] when the certificate and its key do not fit together.
    pub fn new(credentials: Credentials) -> Result<Self, TransportError> {
        let identity = credentials.identity().clone();
        let (current, _) = watch::channel(Arc::new(Current::new(credentials)?));
        Ok(Self { identity, current })
    }

    /// From now on new connections use these credentials, and connections of peers whose certificates they revoke are closed.
    /// All others go on.
    ///
    /// # Errors
    /// [`TransportError::Untrusted`] when they are another identity's, or certificate and key do not fit together.
    pub fn reload(&self, credentials: Credentials) -> Result<(), TransportError> {
        let new = credentials.identity();
        if (&new.cluster, new.role, &new.id)
            != (&self.identity.cluster, self.identity.role, &self.identity.id)
        {
            return Err(TransportError::Untrusted {
                address: new.to_string(),
                reason: format!("this process is {}", self.identity),
            });
        }
        self.current.send_replace(Arc::new(Current::new(credentials)?));
        Ok(())
    }

    /// When the certificate in use ends.
    pub fn expires(&self) -> SystemTime {
        self.current.borrow().credentials.expires()
    }

    fn current(&self) -> Arc<Current> {
        self.current.borrow().clone()
    }

    /// One attempt at one address, with a socket of its own: connections then share no driver, and belong to the
    /// runtime that asked for them.
    async fn dial(&self, remote: SocketAddr, expect: &Expect) -> Result<Arc<QuicConnection>, Refusal> {
        let local: SocketAddr = match remote {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let unreachable = |e: std::io::Error| Refusal::Unreachable(e.to_string());
        let endpoint = socket::endpoint(local, tls::endpoint_config(), None).map_err(unreachable)?;
        let name = Identity::server_name(&self.identity.cluster, expect.role);
        let connecting = endpoint
            .connect_with(self.current().tls.client.clone(), remote, &name)
            .map_err(|e| Refusal::Unreachable(e.to_string()))?;
        let watch = liveness::Watch::new(remote).map_err(unreachable)?;
        let greet = async {
            let connection =
                connecting.await.map_err(|e| Refusal::of_handshake(&e, &self.identity.cluster, expect))?;
            let peer = tls::peer(&connection).map_err(Refusal::Untrusted)?;
            if let Some(why) = objection(&peer, &self.identity, expect) {
                connection.close(error::UNTRUSTED, b"you are not the one I wanted");
                return Err(Refusal::Untrusted(why));
            }
            let version = listener::await_welcome(&connection)
                .await
                .map_err(|e| Refusal::of_handshake(&e, &self.identity.cluster, expect))?;
            if let Err(e) = check_version(version) {
                connection.close(error::CLOSED, e.to_string().as_bytes());
                return Err(Refusal::Incompatible(e));
            }
            Ok((connection, peer))
        };
        let (connection, peer) = tokio::select! {
            greeted = timeout(HANDSHAKE_TIMEOUT, greet) => match greeted {
                Ok(greeted) => greeted?,
                Err(_) => {
                    return Err(Refusal::Unreachable(format!("no answer in {} s", HANDSHAKE_TIMEOUT.as_secs())));
                }
            },
            () = watch.refused() => return Err(Refusal::Unreachable("connection refused".to_owned())),
        };
        let connection = Arc::new(QuicConnection::new(connection, peer));
        connection.watch(watch);
        Ok(connection)
    }
}

/// Why a server with a valid certificate is not the one that is wanted.
fn objection(peer: &Identity, own: &Identity, expect: &Expect) -> Option<String> {
    if peer.cluster != own.cluster {
        return Some(format!("it belongs to cluster `{}`, we to `{}`", peer.cluster, own.cluster));
    }
    if peer.role != expect.role {
        return Some(format!("it is a {}, not a {}", peer.role, expect.role));
    }
    let id = expect.id.as_ref().filter(|id| **id != peer.id)?;
    Some(format!("it is {} {}, not {} {id}", peer.role, peer.id, expect.role))
}

#[async_trait]
impl Transport for QuicTransport {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    async fn connect(&self, address: &str, expect: &Expect) -> Result<Arc<dyn Connection>, TransportError> {
        let unreachable =
            |reason: String| TransportError::Unreachable { address: address.to_owned(), reason };
        let resolved = timeout(HANDSHAKE_TIMEOUT, tokio::net::lookup_host(address)).await;
        let addresses = match resolved {
            Ok(Ok(addresses)) => addresses.take(ADDRESSES_MAX),
            Ok(Err(e)) => return Err(unreachable(format!("its name cannot be resolved: {e}"))),
            Err(_) => return Err(unreachable("its name is not resolved in time".to_owned())),
        };
        let mut last = unreachable("the name has no address".to_owned());
        for remote in addresses {
            match self.dial(remote, expect).await {
                Ok(connection) => return Ok(connection),
                Err(Refusal::Unreachable(reason)) => last = unreachable(reason),
                Err(Refusal::Incompatible(error)) => return Err(error),
                Err(Refusal::Untrusted(reason)) => {
                    return Err(TransportError::Untrusted { address: address.to_owned(), reason });
                }
            }
        }
        Err(last)
    }

    async fn listen(&self, address: SocketAddr) -> Result<Box<dyn Listener>, TransportError> {
        let unreachable = |e: std::io::Error| {
            let in_use = e.kind() == std::io::ErrorKind::AddrInUse;
            let hint = if in_use { ": another process listens there" } else { "" };
            TransportError::Unreachable {
                address: address.to_string(),
                reason: format!("cannot listen there: {e}{hint}"),
            }
        };
        let tls = &self.current().tls;
        let endpoint = socket::endpoint(address, tls.restartable_endpoint_config(), Some(tls.server.clone()))
            .map_err(unreachable)?;
        let listener = QuicListener::start(endpoint, self.identity.clone(), self.current.subscribe())
            .map_err(unreachable)?;
        Ok(Box::new(listener))
    }
}
