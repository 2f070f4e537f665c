//! Sessions as far as they are volatile: on which connection each is, and when it was last heard.
//!
//! Which sessions there are is in the state. A session that the state knew when this NameNode started is *recovering*
//! until its client resumes it or it expires: meanwhile it may have inodes open and hold locks that nothing is known of.

use crate::events::ClientPusher;
use quarry_common::ids::SessionId;
use quarry_net::identity::Rights;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A session.
struct Live {
    /// Id of the certificate that opened it.
    owner: String,
    heard: Instant,
    /// The connection that it is on.
    at: Option<(u64, ClientPusher)>,
    /// Its end is in the log, or on the way there.
    ending: bool,
    /// Requests that asked for something, for the status.
    requests: u64,
    /// Rights of the certificate that it was opened or resumed with last, for the status.
    rights: Rights,
}

/// Why a session cannot be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotResumed {
    /// There is none, or its end is on the way.
    Expired,
    /// It belongs to another certificate.
    Foreign,
}

/// All sessions and the connections that they are on.
#[derive(Default)]
pub(crate) struct Registry {
    sessions: BTreeMap<SessionId, Live>,
    connections: BTreeMap<u64, SessionId>,
    recovering: BTreeSet<SessionId>,
}

impl Registry {
    /// A session from before the start.
    pub(crate) fn recover(&mut self, session: SessionId, owner: String, now: Instant) {
        self.sessions.insert(
            session,
            Live { owner, heard: now, at: None, ending: false, requests: 0, rights: Rights::default() },
        );
        self.recovering.insert(session);
    }

    /// A new session on a connection, which is `None` if it ended meanwhile.
    pub(crate) fn open(
        &mut self,
        session: SessionId,
        owner: String,
        at: Option<(u64, ClientPusher)>,
        now: Instant,
    ) {
        if let Some((connection, _)) = &at {
            self.connections.insert(*connection, session);
        }
        self.sessions.insert(
            session,
            Live { owner, heard: now, at, ending: false, requests: 0, rights: Rights::default() },
        );
    }

    /// The session goes on over a connection; one that it was on before is no longer its own.
    pub(crate) fn resume(
        &mut self,
        session: SessionId,
        owner: &str,
        connection: u64,
        pusher: ClientPusher,
        now: Instant,
    ) -> Result<(), NotResumed> {
        let live = match self.sessions.get_mut(&session) {
            Some(live) if live.owner != owner => return Err(NotResumed::Foreign),
            Some(live) if !live.ending => live,
            _ => return Err(NotResumed::Expired),
        };
        live.heard = now;
        if let Some((old, pusher)) = live.at.replace((connection, pusher))
            && old != connection
        {
            self.connections.remove(&old);
            pusher.close("the session was resumed on another connection");
        }
        self.connections.insert(connection, session);
        self.recovering.remove(&session);
        Ok(())
    }

    /// Sessions that a certificate has.
    pub(crate) fn sessions_of(&self, owner: &str) -> usize {
        self.sessions.values().filter(|live| live.owner == owner).count()
    }

    /// The session that a connection is bound to, if it has not ended; a request on it shows that its client lives.
    pub(crate) fn heard(&mut self, connection: u64, now: Instant) -> Option<SessionId> {
        let session = *self.connections.get(&connection)?;
        let live = self.sessions.get_mut(&session).filter(|live| !live.ending)?;
        live.heard = now;
        Some(session)
    }

    /// All of them.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.sessions.keys().copied()
    }

    /// The session asked for something.
    pub(crate) fn count_request(&mut self, session: SessionId) {
        if let Some(live) = self.sessions.get_mut(&session) {
            live.requests += 1;
        }
    }

    /// How often it [did](Self::count_request).
    pub(crate) fn requests(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |live| live.requests)
    }

    /// A connection is gone. Its session lives on until it is resumed or expires.
    pub(crate) fn disconnected(&mut self, connection: u64) {
        if let Some(session) = self.connections.remove(&connection)
            && let Some(live) = self.sessions.get_mut(&session)
        {
            live.at = None;
        }
    }

    /// Sessions that were not heard for `ttl`; each is given once, unless its end [fails](Self::not_ended).
    pub(crate) fn expire(&mut self, now: Instant, ttl: Duration) -> Vec<SessionId> {
        let silent = |live: &Live| !live.ending && now.saturating_duration_since(live.heard) >= ttl;
        let expired = self.sessions.iter_mut().filter(|(_, live)| silent(live));
        expired
            .map(|(session, live)| {
                live.ending = true;
                *session
            })
            .collect()
    }

    /// The session's end is on the way into the log.
    pub(crate) fn ending(&mut self, session: SessionId) {
        if let Some(live) = self.sessions.get_mut(&session) {
            live.ending = true;
        }
    }

    /// The session's end did not get into the log.
    pub(crate) fn not_ended(&mut self, session: SessionId) {
        if let Some(live) = self.sessions.get_mut(&session) {
            live.ending = false;
        }
    }

    /// The session has ended. Its connection stays bound to it, so that its client learns of that.
    pub(crate) fn ended(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.recovering.remove(&session);
    }

    /// Nothing was heard while this NameNode itself stood still: that time does not count.
    pub(crate) fn forgive(&mut self, pause: Duration) {
        for live in self.sessions.values_mut() {
            live.heard += pause;
        }
    }

    /// Sessions of which it is unknown what they have.
    pub(crate) fn recovering(&self) -> usize {
        self.recovering.len()
    }

    /// Whether the session exists and its end is not on the way.
    pub(crate) fn is_live(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|live| !live.ending)
    }

    /// The certificate that opened the session.
    pub(crate) fn owner(&self, session: SessionId) -> Option<&str> {
        self.sessions.get(&session).map(|live| live.owner.as_str())
    }

    /// For saying something to a session, if it is connected.
    pub(crate) fn pusher(&self, session: SessionId) -> Option<&ClientPusher> {
        self.sessions.get(&session)?.at.as_ref().map(|(_, pusher)| pusher)
    }

    /// For saying something to all sessions that are connected.
    pub(crate) fn pushers(&self) -> impl Iterator<Item = &ClientPusher> {
        self.sessions.values().filter_map(|live| live.at.as_ref().map(|(_, pusher)| pusher))
    }

    /// The session was opened or resumed with these rights.
    pub(crate) fn set_rights(&mut self, session: SessionId, rights: Rights) {
        if let Some(live) = self.sessions.get_mut(&session) {
            live.rights = rights;
        }
    }

    /// Id and rights of the session's certificate, for people.
    pub(crate) fn certificate(&self, session: SessionId) -> String {
        match self.sessions.get(&session) {
            Some(live) if live.rights.is_default() => live.owner.clone(),
            Some(live) => format!("{}?{}", live.owner, live.rights),
            None => String::new(),
        }
    }

    /// How long the session has been silent.
    pub(crate) fn idle(&self, session: SessionId, now: Instant) -> Duration {
        self.sessions.get(&session).map_or(Duration::ZERO, |live| now.saturating_duration_since(live.heard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(15);

    #[test]
    fn what_was_there_before_the_start_is_recovering_until_it_expires() {
        let (start, a, b) = (Instant::now(), SessionId(1), SessionId(2));
        let mut registry = Registry::default();
        registry.recover(a, "x".into(), start);
        registry.recover(b, "x".into(), start);
        registry.forgive(Duration::from_secs(1));
        assert_eq!(registry.expire(start + TTL, TTL), []);
        assert_eq!(registry.expire(start + TTL + Duration::from_secs(1), TTL), [a, b]);
        assert_eq!(registry.expire(start + TTL * 9, TTL), [], "once");
        assert!(!registry.is_live(a));
        registry.not_ended(a);
        assert_eq!(registry.expire(start + TTL * 9, TTL), [a]);
        registry.ended(b);
        assert_eq!(registry.recovering(), 1);
        registry.ended(a);
        assert_eq!(registry.recovering(), 0);
    }
}
