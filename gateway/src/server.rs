//! Connections: accepted within limits, cut off when they stall, ended in order.

use crate::app::{self, Gateway, Peer};
use crate::auth::{Authenticator, Identity, Policy};
use crate::config::{
    Access, CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS, DRAIN_TIMEOUT, GatewayConfig, HANDSHAKE_TIMEOUT,
    HEAD_BYTES_MAX, HEAD_TIMEOUT, STALL_TIMEOUT,
};
use crate::monitor::Monitor;
use crate::tls;
use anyhow::{Context, bail};
use axum::Router;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use quarry_client::FileSystem;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// A listener that cannot accept, for lack of file descriptors for instance, tries again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` is cancelled. `ready` gets the address.
///
/// # Errors
/// When the address, the users or the certificate cannot be used, or when an address that others reach has no users.
pub async fn run(
    config: GatewayConfig,
    fs: FileSystem,
    shutdown: CancellationToken,
    ready: oneshot::Sender<SocketAddr>,
) -> anyhow::Result<()> {
    let policy = match config.access {
        Access::Open if !config.listen.ip().is_loopback() => bail!(
            "{} can be reached from other machines, so the gateway demands users: give --users FILE, and add some with `quarry gateway user add`",
            config.listen
        ),
        Access::Open => Policy::Open(Arc::new(Identity::of_process())),
        Access::Users(path) => Policy::Users(path),
    };
    let acceptor = config.tls.as_ref().map(tls::acceptor).transpose()?;
    let auth = Authenticator::new(policy)?;
    if auth.is_required() && acceptor.is_none() && !config.listen.ip().is_loopback() {
        bail!(
            "passwords and tokens must not cross a network in clear text: give --tls, or --tls-cert and --tls-key"
        );
    }
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("the listener has no address")?;
    let monitor = Monitor::start(fs.clone(), config.state_dir.as_deref(), &shutdown)?;
    let gateway = Arc::new(Gateway::new(fs, auth, config.hosts, monitor, acceptor.is_some()));
    let connections = Connections {
        router: app::router(gateway),
        acceptor,
        permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        by_address: Arc::default(),
        shutdown: shutdown.clone(),
        tracker: TaskTracker::new(),
    };
    let _ = ready.send(address);
    connections.accept(listener).await;
    connections.tracker.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.tracker.wait()).await.is_err() {
        tracing::warn!("requests were cut off, since they did not end in {DRAIN_TIMEOUT:?}");
    }
    Ok(())
}

type ByAddress = Arc<Mutex<HashMap<IpAddr, usize>>>;

struct Connections {
    router: Router,
    acceptor: Option<TlsAcceptor>,
    permits: Arc<Semaphore>,
    by_address: ByAddress,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

impl Connections {
    async fn accept(&self, listener: TcpListener) {
        loop {
            // Waiting peers stay in the listener's backlog, which the kernel bounds.
            let permit = tokio::select! {
                permit = self.permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
                () = self.shutdown.cancelled() => return,
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => match Place::take(&self.by_address, peer.ip(), permit) {
                    Some(place) => self.serve(stream, peer, place),
                    None => tracing::debug!(%peer, "refused: the address has too many connections"),
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, place: Place) {
        let _ = stream.set_nodelay(true);
        let (router, acceptor, shutdown) =
            (self.router.clone(), self.acceptor.clone(), self.shutdown.clone());
        self.tracker.spawn(async move {
            let _place = place;
            let mut stream = TimeoutStream::new(stream);
            // Reads have limits of their own: of a head, of a body. A listener of events sends nothing, rightly.
            stream.set_write_timeout(Some(STALL_TIMEOUT));
            let stream = Box::pin(stream);
            match acceptor {
                None => {
                    answer(stream, router, Peer { ip: peer.ip(), certificate: None }, shutdown).await;
                }
                Some(acceptor) => {
                    match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let certificate = tls::user_of(stream.get_ref().1);
                            answer(stream, router, Peer { ip: peer.ip(), certificate }, shutdown).await;
                        }
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS handshake"),
                        Err(_) => tracing::debug!(%peer, "no TLS handshake in time"),
                    }
                }
            }
        });
    }
}

/// Serves the requests of one connection.
async fn answer<S>(stream: S, router: Router, peer: Peer, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = router.map_request(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(HEAD_BYTES_MAX);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => report(result),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            report(connection.await);
        }
    }
}

fn report(result: Result<(), hyper::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// One connection among those of its address.
struct Place {
    by_address: ByAddress,
    ip: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(by_address: &ByAddress, ip: IpAddr, permit: OwnedSemaphorePermit) -> Option<Self> {
        let mut counts = by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(ip).or_insert(0);
        if *count >= CONNECTIONS_PER_ADDRESS && !ip.is_loopback() {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Self { by_address: by_address.clone(), ip, _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}
