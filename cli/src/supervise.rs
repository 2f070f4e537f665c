//! The beginning and the end of a role's process.

use anyhow::Context;
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Cancelled by the first SIGTERM or SIGINT. A closed terminal and log rotation, which send SIGHUP, end nothing.
pub(crate) fn until_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            tracing::info!("SIGHUP: this process goes on, and has nothing to read again");
        }
    });
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
pub(crate) fn when_ready(role: &'static str) -> oneshot::Sender<SocketAddr> {
    let (ready, waiting) = oneshot::channel::<SocketAddr>();
    tokio::spawn(async move {
        if let Ok(address) = waiting.await {
            println!("{role} ready on {address}");
            systemd_ready();
        }
    });
    ready
}

/// Tells systemd, if it started us with `Type=notify`.
pub(crate) fn systemd_ready() {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let told = std::os::unix::net::UnixDatagram::unbound().and_then(|s| s.send_to(b"READY=1\n", &socket));
    if let Err(error) = told {
        tracing::warn!(%error, "cannot tell systemd that we are ready");
    }
}
