//! Locks.

use super::FileSystem;
use crate::error::unexpected;
use crate::session::Session;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Lock, LockKind, Reply, Request};
use quarry_host::task;
use std::sync::Arc;
use tokio::sync::oneshot;

impl FileSystem {
    /// Sets or frees a byte-range lock. With `wait`, until it can be had; dropping the future ends the wait.
    ///
    /// # Errors
    /// `WouldBlock` without `wait`, `Deadlock`, `Interrupted` after [`cancel_lock`](Self::cancel_lock), `NoLocks`.
    pub async fn set_lock(&self, ino: Ino, lock: Lock, wait: bool) -> Result<(), FsError> {
        if !wait || lock.kind == LockKind::Unlock {
            return set(&self.0.session, ino, lock, false).await;
        }
        let (done, answer) = oneshot::channel();
        task::spawn(wait_for(self.0.session.clone(), ino, lock, done));
        answer.await.unwrap_or(Err(FsError::Interrupted))
    }

    /// The first lock that conflicts with this one.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn test_lock(&self, ino: Ino, lock: Lock) -> Result<Option<Lock>, FsError> {
        match self.0.session.ask(Request::TestLock { ino, lock }).await? {
            Reply::Lock(conflict) => Ok(conflict),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends the waiting of an owner for a lock of this file.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn cancel_lock(&self, ino: Ino, owner: u64) -> Result<(), FsError> {
        cancel(&self.0.session, ino, owner).await
    }
}

/// Waits for a lock. If the caller gives up, so does the NameNode; a lock that was granted just then is undone.
async fn wait_for(
    session: Arc<Session>,
    ino: Ino,
    lock: Lock,
    mut done: oneshot::Sender<Result<(), FsError>>,
) {
    let before = session.locks().of(ino, lock.owner);
    let result = {
        let granted = set(&session, ino, lock, true);
        tokio::pin!(granted);
        tokio::select! {
            result = &mut granted => result,
            () = done.closed() => {
                if let Err(error) = cancel(&session, ino, lock.owner).await {
                    tracing::warn!(%ino, %error, "a wait for a lock was given up, but the lock may still be granted");
                }
                granted.await
            }
        }
    };
    let granted = result.is_ok();
    if done.send(result).is_err() && granted {
        undo(&session, ino, lock, &before).await;
    }
}

/// Frees the range, and sets again what the owner had there before.
async fn undo(session: &Session, ino: Ino, lock: Lock, before: &[Lock]) {
    let unlock = Lock { kind: LockKind::Unlock, ..lock };
    for lock in std::iter::once(&unlock).chain(before) {
        if let Err(error) = set(session, ino, *lock, false).await {
            tracing::warn!(%ino, %error, "a lock whose wait was given up is not undone");
        }
    }
}

async fn set(session: &Session, ino: Ino, lock: Lock, wait: bool) -> Result<(), FsError> {
    loop {
        let _turn = if wait { Some(session.lock_turn().await) } else { None };
        match session.ask(Request::SetLock { ino, lock, wait }).await {
            Ok(Reply::Done) => {
                session.locks().granted(ino, lock);
                return Ok(());
            }
            Ok(other) => return Err(unexpected(&other)),
            // The NameNode waits only so long at a time.
            Err(FsError::WouldBlock) if wait => {}
            Err(error) => return Err(error),
        }
    }
}

async fn cancel(session: &Session, ino: Ino, owner: u64) -> Result<(), FsError> {
    match session.ask(Request::CancelLock { ino, owner }).await? {
        Reply::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}
