//! Opening with O_CREAT while other clients make and remove the same name.
//!
//! The kernel looks a name up, finds none, and asks for its creation. If another client was quicker, the answer cannot be the
//! other's file: the kernel would take it for newly made and check no permission. It is told `Stale` instead, looks up and opens
//! again, with its checks, but only once. So what stood in the way is held open for the thread that asked, until its second
//! attempt: the name stood for it during the call, and it cannot be removed in between.

use super::FileSystem;
use super::entries::Entry;
use crate::file::{OpenFile, OpenMode};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Caller, FileKind};
use quarry_host::task;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A second attempt comes within microseconds, unless its thread is not scheduled.
const HOLD: Duration = Duration::from_secs(5);
/// Threads that may be between two attempts; one more gets no second file held for it.
const TASKS_MAX: usize = 1024;
/// Attempts to make a name or to hold what stands in its way before the caller is told `Stale`: at each, another client was
/// quicker once more.
const ATTEMPTS: usize = 256;

/// How long a second attempt tries to make a name that is taken, and the pause between two tries.
const LAST_WAIT: Duration = Duration::from_secs(2);
const LAST_PAUSE: Duration = Duration::from_millis(10);

/// How the kernel asks for the creation of a file.
#[derive(Clone, Copy, Debug)]
pub struct NewFile {
    /// Permission bits before the umask.
    pub mode: u16,
    /// The caller's.
    pub umask: u16,
    /// Owner of the file.
    pub caller: Caller,
    /// How to open it.
    pub open: OpenMode,
    /// `O_EXCL`: an existing name is an error.
    pub exclusive: bool,
    /// The thread that asks.
    pub task: u32,
}

/// Threads whose next look-up belongs to a second attempt.
#[derive(Default)]
pub(super) struct Retries {
    tasks: Mutex<HashMap<u32, Retry>>,
    /// How many, so that a look-up need not take the lock.
    count: AtomicUsize,
}

#[derive(Default)]
struct Retry {
    number: u64,
    held: Option<Held>,
}

struct Held {
    parent: Ino,
    name: Vec<u8>,
    file: Arc<OpenFile>,
}

impl Retries {
    fn tasks(&self) -> MutexGuard<'_, HashMap<u32, Retry>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this thread is between two attempts.
    pub(super) fn is_one(&self, task: u32) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.tasks().contains_key(&task)
    }

    /// The thread is going to try again.
    fn begin(self: &Arc<Self>, task: u32, held: Option<Held>) {
        // The kernel names a thread of another process namespace 0: one could get what is held for another.
        if task == 0 {
            return;
        }
        let mut tasks = self.tasks();
        if tasks.len() >= TASKS_MAX && !tasks.contains_key(&task) {
            return;
        }
        let number = tasks.get(&task).map_or(0, |retry| retry.number + 1);
        tasks.insert(task, Retry { number, held });
        self.count.store(tasks.len(), Ordering::Release);
        drop(tasks);
        let retries = Arc::clone(self);
        task::spawn(async move {
            tokio::time::sleep(HOLD).await;
            retries.end(task, Some(number));
        });
    }

    /// The thread has opened something, or did not come again.
    fn end(&self, task: u32, number: Option<u64>) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut tasks = self.tasks();
        let current = tasks.get(&task).map(|retry| retry.number);
        let ended = if current.is_some() && (number.is_none() || number == current) {
            tasks.remove(&task)
        } else {
            None
        };
        self.count.store(tasks.len(), Ordering::Release);
        drop(tasks);
        // Closing a file takes other locks.
        drop(ended);
    }

    fn held(&self, task: u32, parent: Ino, name: &[u8]) -> Option<Ino> {
        let tasks = self.tasks();
        let held = tasks.get(&task)?.held.as_ref()?;
        (held.parent == parent && held.name == name).then(|| held.file.ino())
    }
}

impl FileSystem {
    /// Makes a file and opens it, as the kernel asks for it after it has found no such name. The kernel refers to the inode until
    /// [`forget`](Self::forget) is called.
    ///
    /// # Errors
    /// `Stale` where there is a file by now and `exclusive` does not forbid it: the kernel is to look up and open it.
    pub async fn create_entry(
        &self,
        parent: Ino,
        name: &[u8],
        new: NewFile,
    ) -> Result<(Entry, Arc<OpenFile>), FsError> {
        // The kernel's second attempt began with a file that was gone, and there is no third: what was made since is likely to go as
        // well.
        let last = self.0.retries.is_one(new.task).then(|| Instant::now() + LAST_WAIT);
        for _ in 0..ATTEMPTS {
            match self.create_open(parent, name, new.mode, new.umask, new.caller, new.open).await {
                Ok((attr, file)) => {
                    self.0.retries.end(new.task, None);
                    return Ok((self.entry(attr), file));
                }
                Err(FsError::Exists) if !new.exclusive => {}
                Err(error) => return Err(error),
            }
            match self.hold(new.task, parent, name).await {
                Ok(_) if last.is_some_and(|until| Instant::now() < until) => {
                    tokio::time::sleep(LAST_PAUSE).await
                }
                Ok(_) => return Err(FsError::Stale),
                // It is gone again.
                Err(FsError::NotFound | FsError::Stale) => {}
                Err(error) => return Err(error),
            }
        }
        Err(FsError::Stale)
    }

    /// Opens a file as the kernel asks for it, which tries again by name if that fails with `Stale`.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_entry(&self, task: u32, ino: Ino, mode: OpenMode) -> Result<Arc<OpenFile>, FsError> {
        let opened = self.open(ino, mode).await;
        match opened {
            Ok(_) => self.0.retries.end(task, None),
            Err(FsError::Stale) => self.0.retries.begin(task, None),
            Err(_) => {}
        }
        opened
    }

    /// An inode's attributes, as the kernel asks for them to check permissions. If the inode is gone, the kernel tries again by name.
    ///
    /// # Errors
    /// Those of [`attr_entry`](Self::attr_entry).
    pub async fn attr_entry_for(&self, task: u32, ino: Ino) -> Result<Entry, FsError> {
        let found = self.attr_entry(ino).await;
        if matches!(found, Err(FsError::Stale)) {
            self.0.retries.begin(task, None);
        }
        found
    }

    /// The look-up of a second attempt: what is held for it, or what is there now and then stays for its opening.
    pub(super) async fn lookup_again(&self, task: u32, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        if let Some(ino) = self.0.retries.held(task, parent, name) {
            return self.getattr(ino).await;
        }
        for _ in 0..ATTEMPTS {
            match self.hold(task, parent, name).await {
                Err(FsError::Stale) => {}
                result => return result,
            }
        }
        Err(FsError::Stale)
    }

    /// Opens what a name stands for, if it is a file, so that it lives until the thread's next attempt.
    async fn hold(&self, task: u32, parent: Ino, name: &[u8]) -> Result<Attr, FsError> {
        let attr = self.lookup(parent, name).await?;
        // Directories on the way to the file are looked up again as well.
        if attr.kind == FileKind::File {
            let file = self.open(attr.ino, OpenMode { read: true, ..OpenMode::default() }).await?;
            self.0.retries.begin(task, Some(Held { parent, name: name.to_vec(), file }));
        }
        Ok(attr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;
    use quarry_common::wire::fs::NewNode;

    const CALLER: Caller = Caller { uid: 0, gid: 0 };

    fn new_file(exclusive: bool) -> NewFile {
        let open = OpenMode { write: true, ..OpenMode::default() };
        NewFile { mode: 0o644, umask: 0, caller: CALLER, open, exclusive, task: 7 }
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_not_opened_but_held_for_the_second_attempt() {
        let world = World::new(0).await;
        let fs = world.mount().await;
        let there =
            fs.create(Ino::ROOT, b"f", NewNode::File { open: false }, 0o600, 0, CALLER).await.unwrap();
        assert_eq!(fs.create_entry(Ino::ROOT, b"f", new_file(true)).await.err(), Some(FsError::Exists));
        assert!(!fs.0.retries.is_one(7));
        assert_eq!(fs.create_entry(Ino::ROOT, b"f", new_file(false)).await.err(), Some(FsError::Stale));
        assert!(fs.0.retries.is_one(7));
        // Removed before the second attempt, it is the one that the name stood for.
        fs.unlink(Ino::ROOT, b"f").await.unwrap();
        assert_eq!(fs.lookup_entry(8, Ino::ROOT, b"f").await.err(), Some(FsError::NotFound));
        fs.create(Ino::ROOT, b"d", NewNode::Dir, 0o755, 0, CALLER).await.unwrap();
        fs.lookup_entry(7, Ino::ROOT, b"d").await.unwrap();
        assert_eq!(fs.lookup_entry(7, Ino::ROOT, b"f").await.unwrap().attr.ino, there.ino);
        let file = fs.open_entry(7, there.ino, OpenMode { read: true, ..OpenMode::default() }).await.unwrap();
        assert_eq!(file.ino(), there.ino);
        assert!(!fs.0.retries.is_one(7));
    }

    #[tokio::test]
    async fn a_second_attempt_that_finds_nothing_waits_for_the_name() {
        let world = World::new(0).await;
        let fs = world.mount().await;
        let read = OpenMode { read: true, ..OpenMode::default() };
        assert_eq!(fs.open_entry(7, Ino(999), read).await.err(), Some(FsError::Stale));
        fs.create(Ino::ROOT, b"f", NewNode::File { open: false }, 0o600, 0, CALLER).await.unwrap();
        let remove = async {
            tokio::time::sleep(5 * LAST_PAUSE).await;
            fs.unlink(Ino::ROOT, b"f").await.unwrap()
        };
        let (made, gone) = tokio::join!(fs.create_entry(Ino::ROOT, b"f", new_file(false)), remove);
        assert_ne!(made.unwrap().0.attr.ino, gone.ino);
    }

    #[tokio::test]
    async fn an_attempt_that_ends_at_the_permission_check_is_a_first_one_as_well() {
        let world = World::new(0).await;
        let fs = world.mount().await;
        assert_eq!(fs.attr_entry_for(7, Ino(999)).await.err(), Some(FsError::Stale));
        assert!(fs.0.retries.is_one(7));
        let there =
            fs.create(Ino::ROOT, b"f", NewNode::File { open: false }, 0o600, 0, CALLER).await.unwrap();
        fs.lookup_entry(7, Ino::ROOT, b"f").await.unwrap();
        fs.unlink(Ino::ROOT, b"f").await.unwrap();
        // What the second attempt has found stays until it is opened.
        fs.attr_entry_for(7, there.ino).await.unwrap();
        fs.open_entry(7, there.ino, OpenMode { read: true, ..OpenMode::default() }).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_file_is_left_to_the_kernel() {
        let world = World::new(0).await;
        let fs = world.mount().await;
        let dir = fs.create(Ino::ROOT, b"d", NewNode::Dir, 0o755, 0, CALLER).await.unwrap();
        assert_eq!(fs.create_entry(Ino::ROOT, b"d", new_file(false)).await.err(), Some(FsError::Stale));
        assert_eq!(fs.lookup_entry(7, Ino::ROOT, b"d").await.unwrap().attr.ino, dir.ino);
    }
}
