//! From no connection to one with the session on it.

use super::observer::Ear;
use super::{Inner, Link, Live};
use crate::backoff::Backoff;
use crate::error::ClientError;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::session::{ClientInfo, Reply, Request};
use quarry_host::metrics::table::CLIENT_RECONNECTS;
use quarry_host::{clock, process};
use quarry_net::identity::Role;
use quarry_net::rpc::{RpcClient, RpcError, SessionProtocol};
use quarry_net::transport::{Expect, TransportError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Pauses between attempts. The longest is how late a client notices that the cluster is back.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A NameNode that takes a connection answers about the session within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Open inodes and locks in the request that resumes: well below the limit of a frame. The rest follows one by one.
const RESUMED_OPENS: usize = 50_000;
const RESUMED_LOCKS: usize = 5_000;

/// A connection and what listens on it.
pub(super) struct Connected {
    pub(super) live: Arc<Live>,
    pub(super) ear: Arc<Ear>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// Worth another attempt.
    #[error("{0}")]
    Away(String),
    /// Worth one at another address.
    #[error("it does not lead")]
    NotLeader(Option<String>),
    /// The same will happen again.
    #[error(transparent)]
    Untrusted(TransportError),
    /// The same will happen again.
    #[error("{0}")]
    Refused(String),
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Untrusted { .. } | TransportError::Incompatible(_) => Self::Untrusted(error),
            other => Self::Away(other.to_string()),
        }
    }
}

impl From<RpcError> for Failure {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Transport(error) => error.into(),
            RpcError::Deadline => Self::Away(error.to_string()),
        }
    }
}

impl Inner {
    /// The first connection of all. A NameNode that refuses is an error here, and not worth waiting for.
    pub(super) async fn first_connection(&self) -> Result<Connected, ClientError> {
        let started = clock::now();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut reason = "no answer".to_owned();
        for turn in 0.. {
            let left = self.config.soft_timeout.map(|limit| limit.saturating_sub(clock::since(started)));
            let attempt = self.attempt(turn);
            let result = match left {
                Some(left) => match tokio::time::timeout(left, attempt).await {
                    Ok(result) => result,
                    Err(_) => return Err(ClientError::Away(reason)),
                },
                None => attempt.await,
            };
            match result {
                Ok(connected) => return Ok(connected),
                Err(Failure::Untrusted(error)) => return Err(ClientError::Untrusted(error)),
                Err(Failure::Refused(why)) => return Err(ClientError::Refused(why)),
                Err(failure) => {
                    let why = failure.to_string();
                    if why != reason {
                        tracing::warn!(reason = why, "waiting for the NameNode");
                        reason = why;
                    }
                }
            }
            backoff.wait().await;
        }
        unreachable!("the loop has no end")
    }

    /// The next connection after one was lost; `None` when there shall be none.
    pub(super) async fn next_connection(&self) -> Option<Connected> {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut reason = String::new();
        for turn in 0.. {
            if self.is_ending() {
                return None;
            }
            match self.attempt(turn).await {
                Ok(connected) => return Some(connected),
                Err(failure) => {
                    let why = failure.to_string();
                    if why != reason {
                        tracing::warn!(reason = why, "cannot reach the NameNode, trying on");
                        reason = why;
                    }
                }
            }
            backoff.wait().await;
        }
        unreachable!("the loop has no end")
    }

    async fn attempt(&self, turn: usize) -> Result<Connected, Failure> {
        let leader = self.known().leader.take();
        let address = leader.unwrap_or_else(|| self.addresses[turn % self.addresses.len()].clone());
        let expect = Expect { role: Role::NameNode, id: None };
        let connection = self.transport.connect(&address, &expect).await?;
        let ear = Ear::new(self.events.clone(), self.ownership.clone(), self.locks.clone());
        let client = RpcClient::<SessionProtocol>::start(connection, ear.clone()).await?;
        let session = match self.session_on(&client).await {
            Ok(session) => session,
            Err(failure) => {
                ear.close();
                if let Failure::NotLeader(leader) = &failure {
                    self.known().leader.clone_from(leader);
                }
                return Err(failure);
            }
        };
        self.connections.fetch_add(1, Ordering::Relaxed);
        CLIENT_RECONNECTS.add(&[], 1);
        let live = Arc::new(Live { session, client });
        self.link.send_if_modified(|link| {
            let open = !matches!(link, Link::Closed);
            if open {
                *link = Link::Up(live.clone());
            }
            open
        });
        Ok(Connected { live, ear })
    }

    /// Continues the session, or opens a new one if there was none or it has ended.
    async fn session_on(&self, client: &RpcClient<SessionProtocol>) -> Result<SessionId, Failure> {
        let known = self.known().session;
        if known.is_some() {
            self.events.settled().await;
        }
        let session = match known {
            Some(session) => self.resume(client, session).await?,
            None => None,
        };
        let session = match session {
            Some(session) => session,
            None => self.begin(client).await?,
        };
        self.known().session = Some(session);
        Ok(session)
    }

    /// `None` when the session has ended.
    async fn resume(
        &self,
        client: &RpcClient<SessionProtocol>,
        session: SessionId,
    ) -> Result<Option<SessionId>, Failure> {
        let (mut open, mut locks) = (self.opens.all(), self.locks.all());
        let more_open = open.split_off(open.len().min(RESUMED_OPENS));
        let more_locks = locks.split_off(locks.len().min(RESUMED_LOCKS));
        let leases = self.ownership.reclaims(&self.events.dirty());
        match ask(client, Request::ResumeSession { session, open, locks, leases }).await? {
            Ok(Reply::Session { session, .. }) => {
                self.register(client, more_open).await?;
                for (ino, lock) in more_locks {
                    if let Err(error) = ask(client, Request::SetLock { ino, lock, wait: false }).await? {
                        tracing::error!(%ino, %error, "a lock is lost");
                        self.locks.closed(&[ino]);
                        self.events.locks_lost(&[ino]);
                    }
                }
                tracing::info!(%session, "session resumed");
                Ok(Some(session))
            }
            Err(ServiceError::SessionExpired) => Ok(None),
            other => Err(failure(other)),
        }
    }

    /// Opens a session. If there was one before, its open files are opened again, and its leases and locks are lost.
    async fn begin(&self, client: &RpcClient<SessionProtocol>) -> Result<SessionId, Failure> {
        let info = ClientInfo {
            host: process::host_name(),
            pid: process::id(),
            purpose: self.config.purpose.clone(),
        };
        let session = match ask(client, Request::OpenSession(info)).await? {
            Ok(Reply::Session { session, .. }) => session,
            other => return Err(failure(other)),
        };
        tracing::info!(%session, "session opened");
        let locked = self.locks.lost();
        if !locked.is_empty() {
            tracing::error!(files = locked.len(), "the session was away for too long: its locks are lost");
        }
        self.ownership.expired();
        self.events.expired(&locked);
        self.register(client, self.opens.all()).await?;
        Ok(session)
    }

    /// Tells the NameNode what is open. Inodes that are gone stay open here: whatever is asked of them is answered
    /// with `Stale`.
    async fn register(&self, client: &RpcClient<SessionProtocol>, inos: Vec<Ino>) -> Result<(), Failure> {
        for ino in inos {
            match ask(client, Request::Open { ino }).await? {
                Ok(_) => {}
                Err(ServiceError::Fs(FsError::Stale | FsError::NotFound)) => {
                    tracing::warn!(%ino, "an open file was removed while the session was away");
                }
                other => return Err(failure(other)),
            }
        }
        Ok(())
    }
}

async fn ask(
    client: &RpcClient<SessionProtocol>,
    request: Request,
) -> Result<Result<Reply, ServiceError>, Failure> {
    Ok(client.call(request, ANSWER_TIMEOUT).await?.result)
}

fn failure(answer: Result<Reply, ServiceError>) -> Failure {
    match answer {
        Err(ServiceError::NotLeader { leader }) => Failure::NotLeader(leader),
        Err(ServiceError::Unavailable(reason)) => Failure::Away(reason),
        Err(ServiceError::SessionExpired) => Failure::Away("the session expired at once".to_owned()),
        Err(error) => Failure::Refused(error.to_string()),
        Ok(other) => Failure::Refused(format!("its answer makes no sense: {other:?}")),
    }
}
