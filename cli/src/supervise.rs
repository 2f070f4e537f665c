//! The beginning and the end of a role's process.

use crate::exit::describe;
use crate::observe::Readiness;
use crate::output::say;
use anyhow::Context;
use quarry_host::metrics::table::CERTIFICATE_EXPIRY;
use quarry_net::identity::{CertPaths, Credentials};
use quarry_net::transport::quic::QuicTransport;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as SocketAddress, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How often to look whether the certificate's files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// A certificate that ends sooner is warned of, this often.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 24 * 3600);
const WARN_EVERY: Duration = Duration::from_secs(12 * 3600);

/// Cancelled by the first SIGTERM or SIGINT. A closed terminal and log rotation, which send SIGHUP, end nothing.
pub(crate) fn until_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    tokio::spawn(async move { while hangup.recv().await.is_some() {} });
    let token = CancellationToken::new();
    let stop = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        stop.cancel();
    });
    Ok(token)
}

/// Says on standard output that the role serves, and where: what starts it may wait for this line.
pub(crate) fn when_ready(role: &'static str, readiness: Readiness) -> oneshot::Sender<SocketAddr> {
    let (ready, waiting) = oneshot::channel::<SocketAddr>();
    tokio::spawn(async move {
        if let Ok(address) = waiting.await {
            readiness.ready(None);
            say(format_args!("{role} ready on {address}"));
            systemd_ready();
        }
    });
    ready
}

/// Tells systemd, if it started this process with `Type=notify`, and shows it from now on that the runtime still turns.
pub(crate) fn systemd_ready() {
    notify("READY=1\n");
    let period =
        std::env::var("WATCHDOG_USEC").ok().and_then(|us| us.parse().ok()).map(Duration::from_micros);
    if let Some(period) = period.filter(|period| !period.is_zero()) {
        tokio::spawn(async move {
            // sd_watchdog_enabled(3) asks for half of the period.
            let mut ticks = tokio::time::interval(period / 2);
            loop {
                ticks.tick().await;
                notify("WATCHDOG=1\n");
            }
        });
    }
}

/// A message of sd_notify(3).
fn notify(message: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = UnixDatagram::unbound().and_then(|s| match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => s.send_to_addr(message.as_bytes(), &SocketAddress::from_abstract_name(name)?),
        None => s.send_to(message.as_bytes(), &socket),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

/// Reads the certificate anew when its files change, and on SIGHUP, and tells in time that it ends.
pub(crate) fn keep_credentials(transport: Arc<QuicTransport>, certs: CertPaths) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    tokio::spawn(async move {
        let mut known = changed_at(&certs);
        let mut warned: Option<Instant> = None;
        loop {
            tell_end(&transport);
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let now = changed_at(&certs);
            if asked || now != known {
                known = now;
                reload(&transport, &certs);
            }
            if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) && warn_of_end(&transport) {
                warned = Some(Instant::now());
            }
        }
    });
    Ok(())
}

fn reload(transport: &QuicTransport, certs: &CertPaths) {
    let done = Credentials::load(certs).map_err(anyhow::Error::from).and_then(|c| Ok(transport.reload(c)?));
    match done {
        Ok(()) => tracing::info!(cert = %certs.cert.display(), "certificate read anew"),
        Err(error) => tracing::error!(error = %describe(&error), "the old certificate stays in use"),
    }
}

fn tell_end(transport: &QuicTransport) {
    let end = transport.expires().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    CERTIFICATE_EXPIRY.set(&[], end.as_secs() as f64);
}

/// Whether there was something to warn of.
fn warn_of_end(transport: &QuicTransport) -> bool {
    match transport.expires().duration_since(SystemTime::now()) {
        Err(_) => {
            tracing::error!(
                "the certificate has expired: nothing connects any more; issue a new one and put it in its place"
            );
            true
        }
        Ok(left) if left < WARN_BEFORE => {
            tracing::warn!(
                hours = left.as_secs() / 3600,
                "the certificate ends soon: issue a new one and put it in its place"
            );
            true
        }
        Ok(_) => false,
    }
}

/// When each of the files that make the credentials last changed.
fn changed_at(certs: &CertPaths) -> Vec<Option<SystemTime>> {
    let list = certs.ca.with_file_name("crl.pem");
    let files = [&certs.ca, &certs.cert, &certs.key, &list];
    files.iter().map(|path| std::fs::metadata(path).and_then(|m| m.modified()).ok()).collect()
}
