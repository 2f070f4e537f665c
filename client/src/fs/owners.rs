//! Lock owners as the kernel names them, and through which handle each locked.
//!
//! Locks of an open file (flock, and open file description locks of fcntl) end when its handle is released, those of a process
//! when it closes any descriptor of the file. The kernel tells the owner of the latter with each close; of the former only that
//! the handle is released, and that asynchronously: a close has returned before, and a lock that is asked for next may overtake
//! it. Such a request waits until the handle that is in its way is released.

use super::FileSystem;
use crate::file::OpenFile;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Lock, LockFamily, LockKind};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a lock request waits for the release of a handle that was closed: some milliseconds on a busy machine. A handle that
/// another descriptor keeps open is not released, and is not waited for twice.
const RELEASE_WAIT: Duration = Duration::from_millis(500);

/// The owners that hold locks or ask for them.
#[derive(Default)]
pub(super) struct Owners {
    table: Mutex<HashMap<(Ino, u64), Owner>>,
    /// The locks of an owner were freed.
    freed: Notify,
}

#[derive(Clone, Copy)]
struct Owner {
    /// The handle through which it locked last.
    handle: u64,
    /// A descriptor of that handle was closed since: perhaps the last one.
    closing: bool,
    /// Its locks are being freed.
    freeing: bool,
}

impl Owners {
    fn table(&self) -> MutexGuard<'_, HashMap<(Ino, u64), Owner>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an owner locks through a handle, unless what its number stood for before is not freed yet: the kernel names an
    /// open file by its address, which the next one may have as well.
    fn try_enter(&self, ino: Ino, owner: u64, handle: u64, patient: bool) -> bool {
        let mut table = self.table();
        let before = table.get(&(ino, owner));
        let in_the_way =
            |before: &Owner| before.freeing || (patient && before.closing && before.handle != handle);
        if before.is_some_and(in_the_way) {
            return false;
        }
        table.insert((ino, owner), Owner { handle, closing: false, freeing: false });
        true
    }

    async fn enter(&self, ino: Ino, owner: u64, handle: u64, deadline: Instant) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            let patient = Instant::now() < deadline;
            if self.try_enter(ino, owner, handle, patient) {
                return;
            }
            // What is being freed is freed some time; a release may never come.
            if patient {
                let _ = tokio::time::timeout_at(deadline, freed).await;
            } else {
                freed.await;
            }
        }
    }

    fn closing(&self, ino: Ino, handle: u64) {
        let mut table = self.table();
        let of_handle = |(of, _): &(Ino, u64), owner: &Owner| *of == ino && owner.handle == handle;
        table
            .iter_mut()
            .filter(|(key, owner)| of_handle(key, owner))
            .for_each(|(_, owner)| owner.closing = true);
    }

    fn of(&self, ino: Ino, handle: u64) -> Vec<u64> {
        let table = self.table();
        let of_handle = |((of, _), owner): &(&(Ino, u64), &Owner)| *of == ino && owner.handle == handle;
        table.iter().filter(of_handle).map(|((_, owner), _)| *owner).collect()
    }

    /// Begins to free the locks of an owner, if it has any and nothing else does.
    fn begin_freeing(&self, ino: Ino, owner: u64) -> bool {
        match self.table().get_mut(&(ino, owner)) {
            Some(owner) => !std::mem::replace(&mut owner.freeing, true),
            None => false,
        }
    }

    fn end_freeing(&self, ino: Ino, owner: u64) {
        self.table().remove(&(ino, owner));
        self.freed.notify_waiters();
    }

    /// Whether one of these owners may have gone without its release being known.
    fn any_closing(&self, ino: Ino, owners: &[u64]) -> bool {
        let table = self.table();
        let going = |owner: &Owner| owner.closing || owner.freeing;
        owners.iter().any(|owner| table.get(&(ino, *owner)).is_some_and(going))
    }

    fn stay(&self, ino: Ino, owners: &[u64]) {
        let mut table = self.table();
        for owner in owners {
            if let Some(owner) = table.get_mut(&(ino, *owner)) {
                owner.closing = false;
            }
        }
    }
}

/// An owner whose locks are being freed, until that is done or given up.
struct Freeing<'a> {
    owners: &'a Owners,
    ino: Ino,
    owner: u64,
}

impl Drop for Freeing<'_> {
    fn drop(&mut self) {
        self.owners.end_freeing(self.ino, self.owner);
    }
}

impl FileSystem {
    /// Sets or frees a byte-range lock through a handle. With `wait`, until it can be had; dropping the future ends the wait.
    ///
    /// # Errors
    /// Those of [`set_lock`](Self::set_lock).
    pub async fn lock(&self, ino: Ino, handle: u64, lock: Lock, wait: bool) -> Result<(), FsError> {
        let owners = &self.0.owners;
        if lock.kind == LockKind::Unlock {
            return self.set_lock(ino, lock, false).await;
        }
        let deadline = Instant::now() + RELEASE_WAIT;
        owners.enter(ino, lock.owner, handle, deadline).await;
        loop {
            let freed = owners.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.set_lock(ino, lock, wait).await {
                Err(FsError::WouldBlock) => {}
                other => return other,
            }
            let in_the_way = self.in_the_way(ino, &lock);
            if !owners.any_closing(ino, &in_the_way) {
                // One that was in the way until a moment ago is perhaps freed by now.
                return self.set_lock(ino, lock, wait).await;
            }
            if tokio::time::timeout_at(deadline, freed).await.is_err() {
                owners.stay(ino, &in_the_way);
                return Err(FsError::WouldBlock);
            }
        }
    }

    /// A descriptor is closed: the process that closes it loses its locks of the file.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn unlock_closing(&self, ino: Ino, handle: u64, owner: u64) -> Result<(), FsError> {
        self.0.owners.closing(ino, handle);
        self.unlock_owner(ino, owner).await
    }

    /// close(2) of a handle by an owner of locks: brings in what may not wait, and frees the locks, whatever comes of the other.
    ///
    /// # Errors
    /// That of an earlier write, once; else those of [`unlock_closing`](Self::unlock_closing).
    pub async fn close_handle(&self, file: &OpenFile, handle: u64, owner: u64) -> Result<(), FsError> {
        let flushed = file.closing().await;
        let unlocked = self.unlock_closing(file.ino(), handle, owner).await;
        flushed.and(unlocked)
    }

    /// A handle is released: what was locked through it and is still locked is freed.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn unlock_released(&self, ino: Ino, handle: u64) -> Result<(), FsError> {
        let mut result = Ok(());
        for owner in self.0.owners.of(ino, handle) {
            result = result.and(self.unlock_owner(ino, owner).await);
        }
        result
    }

    async fn unlock_owner(&self, ino: Ino, owner: u64) -> Result<(), FsError> {
        if !self.0.owners.begin_freeing(ino, owner) {
            return Ok(());
        }
        let freeing = Freeing { owners: &self.0.owners, ino, owner };
        let (kind, family) = (LockKind::Unlock, LockFamily::default());
        let all = Lock { owner, pid: 0, start: 0, end: u64::MAX, kind, family };
        let freed = self.set_lock(ino, all, false).await;
        drop(freeing);
        freed
    }

    /// The owners of this client's locks that conflict with one.
    fn in_the_way(&self, ino: Ino, lock: &Lock) -> Vec<u64> {
        let conflicts = |held: &Lock| {
            held.owner != lock.owner
                && held.family == lock.family
                && held.start <= lock.end
                && lock.start <= held.end
                && (held.kind == LockKind::Write || lock.kind == LockKind::Write)
        };
        self.0.session.locks().on(ino).iter().filter(|held| conflicts(held)).map(|held| held.owner).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::OpenMode;
    use crate::testing::{Fate, World};
    use quarry_common::wire::fs::Caller;
    use quarry_common::wire::session::Request;

    const INO: Ino = Ino(5);

    #[tokio::test]
    async fn a_write_error_is_told_at_close_though_the_unlock_fails_as_well() {
        let world = World::new(0).await;
        let fs = world.mount().await;
        let open = OpenMode { read: true, write: true, ..OpenMode::default() };
        let caller = Caller { uid: 0, gid: 0 };
        let (attr, file) = fs.create_open(Ino::ROOT, b"f", 0o644, 0, caller, open).await.unwrap();
        let (kind, family) = (LockKind::Write, LockFamily::default());
        let lock = Lock { owner: 1, pid: 0, start: 0, end: u64::MAX, kind, family };
        fs.set_lock(attr.ino, lock, false).await.unwrap();
        fs.0.owners.enter(attr.ino, 1, 10, Instant::now()).await;
        let fails = |request: &Request| matches!(request, Request::SetLock { .. } | Request::Mutate { .. });
        world.namenode.judge(move |request| match fails(request) {
            true => Fate::Fail(FsError::NoLocks.into()),
            false => Fate::Normal,
        });
        let inode = fs.0.files.known(attr.ino).unwrap();
        let _ = inode.state().failed(&[], FsError::NoSpace);
        assert_eq!(fs.close_handle(&file, 10, 1).await, Err(FsError::NoSpace));
        assert_eq!(file.fsync().await, Ok(()), "it is told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_number_that_is_used_again_waits_for_the_release_of_what_had_it() {
        let owners = Owners::default();
        let deadline = Instant::now() + RELEASE_WAIT;
        owners.enter(INO, 1, 10, deadline).await;
        owners.closing(INO, 10);
        let again = owners.enter(INO, 1, 11, deadline);
        tokio::pin!(again);
        assert!(futures::poll!(&mut again).is_pending());
        assert!(owners.begin_freeing(INO, 1) && !owners.begin_freeing(INO, 1));
        assert!(futures::poll!(&mut again).is_pending());
        owners.end_freeing(INO, 1);
        again.await;
        assert_eq!((owners.of(INO, 10), owners.of(INO, 11)), (vec![], vec![1]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handle_that_stays_open_is_not_waited_for_for_ever() {
        let owners = Owners::default();
        let start = Instant::now();
        owners.enter(INO, 1, 10, start + RELEASE_WAIT).await;
        owners.closing(INO, 10);
        assert!(owners.any_closing(INO, &[1]));
        owners.enter(INO, 1, 11, start + RELEASE_WAIT).await;
        assert_eq!(start.elapsed(), RELEASE_WAIT);
        owners.closing(INO, 11);
        owners.stay(INO, &[1]);
        assert!(!owners.any_closing(INO, &[1]));
    }
}
