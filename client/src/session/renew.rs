//! Background work of the session: keeping it alive, connecting again, closing inodes.

use super::connect::Connected;
use super::observer::Ear;
use super::{Inner, Link};
use quarry_common::ids::SessionId;
use quarry_common::limits::SESSION_RENEW;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::Request;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// A NameNode that does not answer for this long is given up: longer than its longest pause, shorter than what a
/// session survives.
const RENEW_TIMEOUT: Duration = Duration::from_secs(8);
/// Handles that are closed within this time are reported together.
const CLOSE_LINGER: Duration = Duration::from_millis(20);

/// Keeps the session on a connection, until it shall end.
pub(super) async fn supervise(inner: Arc<Inner>, first: Connected) {
    let mut connected = Some(first);
    while let Some(Connected { live, ear }) = connected {
        tokio::select! {
            () = renew(&inner, &live, &ear) => {}
            reason = live.client.closed() => {
                if !inner.is_ending() {
                    tracing::info!(%reason, "connection to the NameNode lost");
                }
            }
            () = closed(&inner) => {}
        }
        live.client.connection().close("done");
        ear.close();
        inner.link.send_if_modified(|link| {
            let open = !matches!(link, Link::Closed);
            if open {
                *link = Link::Down;
            }
            open
        });
        drop(live);
        connected = inner.next_connection().await;
    }
}

/// Shows that the client lives; returns when the NameNode does not.
async fn renew(inner: &Inner, live: &super::Live, ear: &Ear) {
    let mut ticks = tokio::time::interval(SESSION_RENEW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let acknowledged = ear.acknowledged();
        match live.client.call(Request::Renew { acknowledged }, RENEW_TIMEOUT).await.map(|r| r.result) {
            Ok(Ok(_)) => {}
            Ok(Err(ServiceError::SessionExpired)) => return forget(inner, live.session),
            Ok(Err(ServiceError::NotLeader { leader })) => return inner.redirect(live, leader),
            Ok(Err(error)) => tracing::debug!(%error, "the session is not renewed"),
            Err(error) => {
                tracing::info!(%error, "the NameNode does not answer");
                return;
            }
        }
    }
}

fn forget(inner: &Inner, session: SessionId) {
    let mut known = inner.known();
    if known.session == Some(session) {
        known.session = None;
    }
}

async fn closed(inner: &Inner) {
    let mut link = inner.link.subscribe();
    let _ = link.wait_for(|link| matches!(link, Link::Closed)).await;
}

/// Tells the NameNode, in batches, which inodes have no handle any more.
pub(super) async fn close_inodes(inner: Arc<Inner>) {
    loop {
        tokio::select! {
            () = inner.opens.work.notified() => {}
            () = closed(&inner) => return,
        }
        tokio::time::sleep(CLOSE_LINGER).await;
        loop {
            let batch = inner.opens.take();
            if batch.is_empty() {
                break;
            }
            if let Err(error) = inner.settle(|_| Request::Close { inos: batch.clone() }).await {
                tracing::warn!(%error, "files that were closed may be kept until the session ends");
            }
            inner.locks.closed(&batch);
            inner.opens.closed(&batch);
        }
    }
}
