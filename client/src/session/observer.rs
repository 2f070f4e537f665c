//! Passes on what arrives on one connection, until that is given up.

use super::Events;
use quarry_common::wire::session::{Push, Response};
use quarry_net::rpc::{Observer, SessionProtocol};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Sees the answers and pushes of one connection.
pub(crate) struct Ear {
    events: Arc<dyn Events>,
    /// Once false, nothing is passed on: an answer from a connection that was given up must not extend what is void.
    listening: Mutex<bool>,
}

impl Ear {
    pub(crate) fn new(events: Arc<dyn Events>) -> Arc<Self> {
        Arc::new(Self { events, listening: Mutex::new(true) })
    }

    /// The connection is given up.
    pub(crate) fn close(&self) {
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *listening, false) {
            self.events.disconnected();
        }
    }

    fn pass(&self, on: impl FnOnce(&dyn Events)) {
        let listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if *listening {
            on(&*self.events);
        }
    }
}

impl Observer<SessionProtocol> for Ear {
    fn response(&self, response: &Response, sent_at: Instant) {
        self.pass(|events| events.answered(&response.leases, sent_at));
    }

    fn push(&self, push: Push) {
        self.pass(|events| events.push(push));
    }
}
