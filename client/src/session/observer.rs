//! Passes on what arrives on one connection, until that is given up.

use super::Events;
use super::locks::Locks;
use super::ownership::Ownership;
use quarry_common::wire::session::{Losses, Push, Reply, Response};
use quarry_net::rpc::{Observer, SessionProtocol};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Sees the answers and pushes of one connection.
pub(crate) struct Ear {
    events: Arc<dyn Events>,
    ownership: Arc<Ownership>,
    locks: Arc<Locks>,
    hearing: Mutex<Hearing>,
    /// The number of the losses of this connection of which nothing is left here.
    acknowledged: Arc<AtomicU64>,
}

struct Hearing {
    /// Once false, nothing is passed on: an answer from a connection that was given up must not extend what is void.
    open: bool,
    /// The last losses that were passed on. They are numbered anew by each run of the NameNode, so they count by connection.
    losses: u64,
}

/// Losses that are being dealt with.
pub(crate) struct LossNotice {
    number: u64,
    acknowledged: Arc<AtomicU64>,
    /// They came when the session was resumed, with the list of what is open.
    pub(crate) resumed: bool,
}

impl LossNotice {
    /// What was lost is dropped, and no commit under it is under way: the next renewal on the same connection says so.
    pub(crate) fn acknowledge(&self) {
        self.acknowledged.fetch_max(self.number, Ordering::Relaxed);
    }
}

impl Ear {
    pub(crate) fn new(events: Arc<dyn Events>, ownership: Arc<Ownership>, locks: Arc<Locks>) -> Arc<Self> {
        let hearing = Mutex::new(Hearing { open: true, losses: 0 });
        Arc::new(Self { events, ownership, locks, hearing, acknowledged: Arc::default() })
    }

    /// The connection is given up.
    pub(crate) fn close(&self) {
        let mut hearing = self.hearing();
        if std::mem::replace(&mut hearing.open, false) {
            self.events.disconnected();
        }
    }

    /// The number of the last losses of which nothing is left here.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, hearing: &mut Hearing, losses: &Losses, resumed: bool) {
        if losses.number <= hearing.losses {
            return;
        }
        hearing.losses = losses.number;
        self.ownership.lost(losses);
        self.locks.closed(&losses.locks);
        let acknowledged = self.acknowledged.clone();
        self.events.lost(losses, LossNotice { number: losses.number, acknowledged, resumed });
    }
}

impl Observer<SessionProtocol> for Ear {
    fn response(&self, response: &Response, sent_at: Instant) {
        let mut hearing = self.hearing();
        if !hearing.open {
            return;
        }
        // An answer renews every lease but those that losses named before it.
        match &response.result {
            Ok(Reply::Renewed(losses)) => self.lost(&mut hearing, losses, false),
            Ok(Reply::Session { losses, .. }) => self.lost(&mut hearing, losses, true),
            _ => {}
        }
        self.ownership.granted(&response.leases);
        self.events.answered(&response.leases, sent_at);
    }

    fn push(&self, push: Push) {
        let mut hearing = self.hearing();
        match push {
            _ if !hearing.open => {}
            Push::Lost(losses) => self.lost(&mut hearing, &losses, false),
            other => self.events.push(other),
        }
    }
}
