//! The session with the NameNode: one control connection at a time, for as long as the mount lives.
//!
//! ```text
//!   connect ──► Up ──(connection lost, NameNode silent or not the leader)──► Down ──(backoff, resume)──► Up
//!                                                                              └─(expired: a new session)──► Up
//! ```
//!
//! Requests wait for `Up` and are asked again on every new connection until there is an answer. That is harmless for
//! those that only read, and mutations carry a slot and a number, so a retry gets the answer of the first arrival.
//! A mutation is carried out by a task of its own: a caller that gives up does not stop it, and its slot is free again
//! only when it is answered.

mod connect;
pub(crate) mod locks;
mod observer;
pub(crate) mod opens;
pub(crate) mod ownership;
mod renew;
mod slots;

#[cfg(test)]
mod tests;

use crate::backoff::Backoff;
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::error::MutateError;
use async_trait::async_trait;
use locks::Locks;
pub(crate) use observer::LossNotice;
use opens::Opens;
use ownership::Ownership;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::changes::CHANGES_WAIT_MAX_MS;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Mutation, MutationReply};
use quarry_common::wire::session::{Fate, LOCK_WAIT_MAX_MS, LeaseGrant, Losses, Push, Reply, Request};
use quarry_host::metrics::{outcome, table};
use quarry_host::trace::{self, Scope};
use quarry_host::variant::VariantName;
use quarry_host::{clock, task};
use quarry_net::rpc::{RpcClient, RpcError, SessionProtocol};
use quarry_net::transport::{Transport, TransportError};
use slots::{Slot, Slots};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit, oneshot, watch};

/// An answer may take this long before the request is asked again: a change waits for leases of others at most a
/// lease term, and then for the log.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// A waiting lock is answered by the NameNode after this time at the latest.
const LOCK_TIMEOUT: Duration = Duration::from_millis(LOCK_WAIT_MAX_MS + 10_000);
/// A wait for changes is answered by the NameNode after this time at the latest.
const CHANGES_WAIT: Duration = Duration::from_millis(CHANGES_WAIT_MAX_MS);
/// Locks that the NameNode is asked to wait for at once: half of the unanswered requests that it allows a connection.
const LOCK_WAITS: usize = 256;
/// Pauses between attempts at a NameNode that says that it is not ready.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A session that cannot be closed in this time expires by itself.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the layers above must learn at once. Called in the order in which the NameNode said it, on the task that reads
/// from the network: must not block.
#[async_trait]
pub(crate) trait Events: Send + Sync + 'static {
    /// A request that was sent at `sent_at` was answered, with these leases.
    fn answered(&self, leases: &[LeaseGrant], sent_at: Instant);
    /// The NameNode says something, but no losses.
    fn push(&self, push: Push);
    /// The session has lost leases or locks. When what they covered is dropped and no commit under them is under way,
    /// the notice is to be acknowledged.
    fn lost(&self, losses: &Losses, notice: LossNotice);
    /// Locks on these inodes could not be restored.
    fn locks_lost(&self, inos: &[Ino]);
    /// The inodes with buffered data.
    fn dirty(&self) -> Vec<Ino>;
    /// The session has ended, and with it all leases, and the locks on these inodes.
    fn expired(&self, locked: &[Ino]);
    /// The connection is gone, and nothing will come from it any more. What was granted over it is void.
    fn disconnected(&self);
    /// Waits until what is void has been dropped everywhere: before that the session is not continued.
    async fn settled(&self);
}

/// The session. Dropped, its background work ends.
pub(crate) struct Session {
    inner: Arc<Inner>,
}

/// What the tasks share.
struct Inner {
    transport: Arc<dyn Transport>,
    config: ClientConfig,
    addresses: Vec<String>,
    events: Arc<dyn Events>,
    link: watch::Sender<Link>,
    /// The session of the last connection, to be resumed on the next; and who leads, if a NameNode said so.
    known: Mutex<Known>,
    connections: AtomicU64,
    /// The session is being closed: when the connection goes now, that is as it should be.
    ending: AtomicBool,
    slots: Arc<Slots>,
    opens: Arc<Opens>,
    locks: Arc<Locks>,
    ownership: Arc<Ownership>,
    lock_turns: Semaphore,
}

#[derive(Default)]
struct Known {
    session: Option<SessionId>,
    leader: Option<String>,
}

/// Whether there is a connection.
#[derive(Clone)]
enum Link {
    /// There will be.
    Down,
    /// There is.
    Up(Arc<Live>),
    /// There will never be again.
    Closed,
}

/// A connection with the session on it.
struct Live {
    session: SessionId,
    client: Arc<RpcClient<SessionProtocol>>,
}

impl Session {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// When the NameNode refuses, or stays away for longer than the configuration allows.
    pub(crate) async fn open(
        config: ClientConfig,
        transport: Arc<dyn Transport>,
        events: Arc<dyn Events>,
    ) -> Result<Self, ClientError> {
        let addresses = config.addresses()?;
        let inner = Arc::new(Inner {
            transport,
            config,
            addresses,
            events,
            link: watch::Sender::new(Link::Down),
            known: Mutex::default(),
            connections: AtomicU64::new(0),
            ending: AtomicBool::new(false),
            slots: Slots::new(),
            opens: Arc::default(),
            locks: Arc::default(),
            ownership: Arc::default(),
            lock_turns: Semaphore::new(LOCK_WAITS),
        });
        let session = Self { inner: inner.clone() };
        let live = inner.first_connection().await?;
        task::spawn(renew::supervise(inner.clone(), live));
        task::spawn(renew::close_inodes(inner));
        Ok(session)
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// The NameNode's; `TimedOut` if the mount is soft; `Io` for an answer that breaks the rules.
    pub(crate) async fn ask(&self, request: Request) -> Result<Reply, FsError> {
        let work = async { self.inner.settle(|_| request.clone()).await.map_err(|e| fs_error(&request, e)) };
        match request {
            // A cluster that is not away may take this long to say that it is still locked.
            Request::SetLock { wait: true, .. } => self.within_and(LOCK_TIMEOUT, work).await,
            Request::Changes { after: Some(_), .. } => self.within_and(CHANGES_WAIT, work).await,
            _ => self.within(work).await,
        }
    }

    /// Changes the namespace exactly once, and hands the answer to `then`, also if the caller has given up.
    ///
    /// # Errors
    /// `TimedOut` if the mount is soft: the change may still happen.
    pub(crate) async fn mutate<T: Send + 'static>(
        &self,
        mutation: Mutation,
        then: impl FnOnce(Result<MutationReply, MutateError>) -> T + Send + 'static,
    ) -> Result<T, FsError> {
        self.within(async {
            let slot = self.inner.slots.take().await;
            let (done, answer) = oneshot::channel();
            let inner = self.inner.clone();
            let work = Box::pin(async move {
                let result = inner.carry_out(slot, mutation).await;
                let _ = done.send(then(result));
            });
            task::spawn(Scope::new(trace::current(), work));
            answer.await.map_err(|_| FsError::Io)
        })
        .await
    }

    /// Limits a wait for the cluster, if the mount is soft.
    ///
    /// # Errors
    /// `TimedOut`, or the work's.
    pub(crate) async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, FsError> {
        self.within_and(Duration::ZERO, work).await
    }

    async fn within_and<T>(
        &self,
        more: Duration,
        work: impl Future<Output = Result<T, FsError>>,
    ) -> Result<T, FsError> {
        match self.inner.config.soft_timeout {
            Some(limit) => tokio::time::timeout(limit + more, work).await.unwrap_or(Err(FsError::TimedOut)),
            None => work.await,
        }
    }

    /// What is open.
    pub(crate) fn opens(&self) -> &Arc<Opens> {
        &self.inner.opens
    }

    /// What is locked.
    pub(crate) fn locks(&self) -> &Locks {
        &self.inner.locks
    }

    /// The exclusive leases.
    pub(crate) fn ownership(&self) -> &Ownership {
        &self.inner.ownership
    }

    /// Counts the connections: if it did not change, nothing was asked twice.
    pub(crate) fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// Goes on with the session over a new connection, so that the NameNode learns what is open and locked.
    pub(crate) fn reconnect(&self, why: &str) {
        if let Link::Up(live) = &*self.inner.link.borrow() {
            live.client.connection().close(why);
        }
    }

    /// A place among the requests that the NameNode answers late: it takes only so many at once, and there must be room
    /// for those that free what is waited for.
    pub(crate) async fn lock_turn(&self) -> SemaphorePermit<'_> {
        self.inner.lock_turns.acquire().await.expect("the semaphore is never closed")
    }

    /// The transport, for connections to DataNodes.
    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }

    /// Ends the session, so that what it holds is free at once.
    pub(crate) async fn close(&self) {
        let live = match &*self.inner.link.borrow() {
            Link::Up(live) => Some(live.clone()),
            Link::Down | Link::Closed => None,
        };
        self.inner.ending.store(true, Ordering::Relaxed);
        if let Some(live) = live
            && let Err(error) = live.client.call(Request::CloseSession, FAREWELL).await
        {
            tracing::debug!(%error, "the session is left to expire");
        }
        self.inner.link.send_replace(Link::Closed);
    }
}

/// The name of what is asked or changed.
fn request_name(request: &Request) -> VariantName {
    match request {
        Request::Query(query) => VariantName::of(query),
        Request::Mutate { mutation, .. } => VariantName::of(mutation),
        other => VariantName::of(other),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.inner.link.send_replace(Link::Closed);
    }
}

impl Inner {
    /// The connection, when there is one; `None` if there never will be.
    async fn live(&self) -> Option<Arc<Live>> {
        let mut link = self.link.subscribe();
        let link = link.wait_for(|link| !matches!(link, Link::Down)).await.expect("the sender lives in self");
        match &*link {
            Link::Up(live) => Some(live.clone()),
            Link::Down | Link::Closed => None,
        }
    }

    /// Waits until this connection is no longer the one.
    async fn replaced(&self, old: &Arc<Live>) {
        let mut link = self.link.subscribe();
        let is_old = |link: &Link| matches!(link, Link::Up(live) if Arc::ptr_eq(live, old));
        let _ = link.wait_for(|link| !is_old(link)).await;
    }

    /// Asks until an answer settles the matter. `request` is made for each attempt, for the session of the moment.
    async fn settle(&self, mut request: impl FnMut(SessionId) -> Request) -> Result<Reply, ServiceError> {
        let (begun, mut name) = (clock::now(), None);
        let named = |session| {
            let request = request(session);
            name = Some(request_name(&request));
            request
        };
        let answer = self.settle_unobserved(named).await;
        if let Some(name) = name {
            table::CLIENT_REQUEST.observe_since(&[name.as_str(), outcome(&answer)], begun);
        }
        answer
    }

    async fn settle_unobserved(
        &self,
        mut request: impl FnMut(SessionId) -> Request,
    ) -> Result<Reply, ServiceError> {
        let again = |reason| table::CLIENT_RETRIES.add(&[reason], 1);
        let mut pause = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            let Some(live) = self.live().await else {
                return Err(ServiceError::Fs(FsError::Stale));
            };
            let request = request(live.session);
            let timeout = match request {
                Request::SetLock { wait: true, .. } => LOCK_TIMEOUT,
                _ => ANSWER_TIMEOUT,
            };
            match live.client.call(request, timeout).await {
                Ok(response) => match response.result {
                    Err(ServiceError::Unavailable(reason)) => {
                        tracing::debug!(reason, "the NameNode is not ready");
                        again("not_ready");
                        pause.wait().await;
                    }
                    Err(ServiceError::NotLeader { leader }) => {
                        again("not_leader");
                        self.redirect(&live, leader);
                    }
                    Err(ServiceError::SessionExpired) => {
                        again("session_expired");
                        self.expired(&live);
                    }
                    settled => return settled,
                },
                // Asked again: whoever watches the connection decides whether it is still good.
                Err(RpcError::Deadline) => {
                    tracing::warn!("the NameNode takes long to answer, asking again");
                    again("no_answer");
                }
                // Nothing of it was sent.
                Err(RpcError::Transport(TransportError::Malformed(reason))) if !live.client.is_closed() => {
                    return Err(ServiceError::BadRequest(reason));
                }
                Err(RpcError::Transport(_)) => {
                    again("connection_lost");
                    self.replaced(&live).await;
                }
            }
        }
    }

    /// Sends a mutation until it is answered.
    async fn carry_out(&self, mut slot: Slot, mutation: Mutation) -> Result<MutationReply, MutateError> {
        let mut sent: Option<(SessionId, u64)> = None;
        let mut corrected = false;
        let result = loop {
            let answer = self
                .settle(|session| match sent {
                    // The session in which it was sent has ended.
                    Some((old, sequence)) if old != session => {
                        Request::Fate { session: old, slot: slot.index(), sequence }
                    }
                    _ => {
                        let sequence = slot.sequence(session);
                        sent = Some((session, sequence));
                        Request::Mutate { slot: slot.index(), sequence, mutation: mutation.clone() }
                    }
                })
                .await;
            match answer {
                Ok(Reply::Fate(Fate::Never)) => sent = None,
                Ok(Reply::Fate(Fate::Answered(result))) => break result.map(Reply::Mutation),
                Ok(Reply::Fate(Fate::Unknown)) => {
                    tracing::error!(
                        ?mutation,
                        "the session ended, and it is not known whether this change was made"
                    );
                    break Err(FsError::Io.into());
                }
                // An answer from before the state machine counted as one of its own: this mutation was not carried out.
                Err(ServiceError::SlotMismatch { last, .. }) if !corrected => {
                    corrected = true;
                    slot.set(last);
                }
                answer => break answer,
            }
        };
        slot.used();
        match result {
            Ok(Reply::Mutation(reply)) => Ok(reply),
            Ok(other) => {
                tracing::error!(?other, "the NameNode answers a change with something else");
                Err(MutateError::Fs(FsError::Io))
            }
            Err(ServiceError::RewriteChunk { chunk, reason }) => {
                Err(MutateError::RewriteChunk { chunk, reason })
            }
            Err(ServiceError::WindowChanged) => Err(MutateError::WindowChanged),
            Err(ServiceError::Fenced) => Err(MutateError::Fenced),
            Err(error) => Err(MutateError::Fs(fs_error(&mutation, error))),
        }
    }

    /// Another NameNode leads.
    fn redirect(&self, live: &Live, leader: Option<String>) {
        tracing::info!(?leader, "the NameNode does not lead");
        self.known().leader = leader;
        live.client.connection().close("you do not lead");
    }

    /// The NameNode has ended the session.
    fn expired(&self, live: &Live) {
        {
            let mut known = self.known();
            if known.session != Some(live.session) {
                return;
            }
            known.session = None;
        }
        live.client.connection().close("the session has expired");
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// No connection is wanted any more.
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed) || matches!(*self.link.borrow(), Link::Closed)
    }
}

/// What a caller is told of an error that only the log can explain.
fn fs_error(request: &dyn std::fmt::Debug, error: ServiceError) -> FsError {
    match error {
        ServiceError::Fs(error) => error,
        // A right that the certificate lacks is for the program to see.
        ServiceError::Unauthorised(reason) => {
            tracing::warn!(reason, "the NameNode refuses a request");
            FsError::NotPermitted
        }
        other => {
            tracing::error!(error = %other, ?request, "the NameNode refuses a request");
            FsError::Io
        }
    }
}
