//! A data directory in use: the directory, the queue of its disk, and its health.

use super::dir::DataDir;
use super::health::Health;
use super::queue::{Load, NoAnswer, Pending, Queue, STALLED_AFTER};
use bytes::Bytes;
use quarry_common::ids::ChunkId;
use quarry_datanode_client::timing;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Chunks whose files wait to be removed, 8 bytes each. The next start finds those beyond it.
const STRAYS_MAX: usize = 1 << 20;

// A member of a chain goes on to its next disk before the member in front of it gives it up.
const _: () = assert!(STALLED_AFTER.as_millis() + 1000 < timing::member(0).as_millis());

/// One data directory.
pub(crate) struct Volume {
    dir: Arc<DataDir>,
    queue: Queue,
    pub(crate) health: Health,
    /// Chunks that were written here after the writer had gone on to another disk.
    strays: Arc<Mutex<Vec<ChunkId>>>,
    /// How often it was asked whether a probe is due.
    looks: AtomicU32,
    /// Bytes of chunks, for the status.
    pub(crate) read_bytes: AtomicU64,
    pub(crate) written_bytes: AtomicU64,
}

impl Volume {
    pub(crate) fn new(dir: DataDir, reserve: u64) -> Self {
        let queue = Queue::new(format!("disk {}", dir.path().display()));
        Self {
            dir: Arc::new(dir),
            queue,
            health: Health::new(reserve),
            strays: Arc::default(),
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            looks: AtomicU32::new(0),
        }
    }

    pub(crate) fn dir(&self) -> &DataDir {
        &self.dir
    }

    /// Runs an operation on the disk's own threads.
    ///
    /// # Errors
    /// The operation's; `TimedOut` when the disk does not answer, at once if it has not for a while, and `ResourceBusy` when
    /// too many operations wait for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&DataDir) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.run_late(operation, |_| ())
    }

    /// Writes a chunk; see [`DataDir::write`]. A write that ends after it was given up leaves a stray.
    ///
    /// # Errors
    /// Those of [`Volume::run`].
    pub(crate) fn write(&self, id: ChunkId, parts: Vec<Bytes>, durable: bool) -> io::Result<()> {
        let strays = self.strays.clone();
        let bytes: usize = parts.iter().map(Bytes::len).sum();
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.run_late(
            move |dir| dir.write(id, &parts, durable),
            move |written| {
                if written.is_ok() {
                    let mut strays = strays.lock().unwrap_or_else(PoisonError::into_inner);
                    if strays.len() < STRAYS_MAX {
                        strays.push(id);
                    }
                }
            },
        )
    }

    fn run_late<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&DataDir) -> io::Result<T> + Send + 'static,
        late: impl FnOnce(io::Result<T>) + Send + 'static,
    ) -> io::Result<T> {
        if self.is_stalled() {
            return Err(no_answer(NoAnswer::Stalled));
        }
        let dir = self.dir.clone();
        self.queue.run(move || operation(&dir), late).map_err(no_answer)?
    }

    /// Runs an operation that may take long. It calls what it is given whenever it has come further.
    ///
    /// # Errors
    /// Those of [`Volume::run`].
    pub(crate) fn run_long<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&DataDir, &dyn Fn()) -> T + Send + 'static,
    ) -> io::Result<T> {
        self.begin_long(operation)?.wait()
    }

    /// Begins such an operation.
    ///
    /// # Errors
    /// Those of [`Volume::run`], but for the operation's.
    pub(crate) fn begin_long<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&DataDir, &dyn Fn()) -> T + Send + 'static,
    ) -> io::Result<LongOperation<T>> {
        if self.is_stalled() {
            return Err(no_answer(NoAnswer::Stalled));
        }
        let (dir, progress) = (self.dir.clone(), self.queue.progress());
        let begun = self.queue.begin(move || operation(&dir, &progress), |_| ());
        begun.map(LongOperation).map_err(no_answer)
    }

    /// Whether it is time for a probe: at one call in so many.
    pub(crate) fn is_probe_due(&self, turns: u32) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed) % turns == turns - 1
    }

    /// The disk has operations to answer and answers none.
    pub(crate) fn is_stalled(&self) -> bool {
        self.load().silent >= STALLED_AFTER
    }

    /// The disk answers, and the directory is in use.
    pub(crate) fn works(&self) -> bool {
        !self.health.is_failed() && !self.is_stalled()
    }

    /// For how long the disk has not worked; `None` if it does.
    pub(crate) fn out_for(&self) -> Option<Duration> {
        let silent = self.load().silent;
        let silent = (silent >= STALLED_AFTER).then_some(silent);
        self.health.failed_for().max(silent)
    }

    pub(crate) fn load(&self) -> Load {
        self.queue.load()
    }

    /// Bytes that may be written here.
    pub(crate) fn room(&self) -> u64 {
        if self.is_stalled() { 0 } else { self.health.room() }
    }

    /// What is wrong, if anything, when so many bytes of room are needed.
    pub(crate) fn trouble(&self, needed: u64) -> Option<String> {
        if let Some(why) = self.health.failure() {
            return Some(why);
        }
        let silent = self.load().silent;
        if silent >= STALLED_AFTER {
            return Some(format!("the disk has not answered for {} s", silent.as_secs()));
        }
        (self.room() < needed).then(|| "full".to_owned())
    }

    /// Notes a file that is here although the chunk is kept elsewhere.
    pub(crate) fn add_stray(&self, id: ChunkId) {
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        if strays.len() < STRAYS_MAX {
            strays.push(id);
        }
    }

    /// Takes the chunks that were written too late.
    pub(crate) fn take_strays(&self) -> Vec<ChunkId> {
        std::mem::take(&mut *self.strays.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An operation without a limit, as long as it comes further.
pub(crate) struct LongOperation<T>(Pending<T>);

impl<T> LongOperation<T> {
    /// Waits for its result.
    ///
    /// # Errors
    /// `TimedOut` when the disk does not answer.
    pub(crate) fn wait(self) -> io::Result<T> {
        self.0.wait(None).map_err(no_answer)
    }
}

fn no_answer(why: NoAnswer) -> io::Error {
    let kind = match why {
        NoAnswer::Stalled => io::ErrorKind::TimedOut,
        NoAnswer::Busy => io::ErrorKind::ResourceBusy,
    };
    io::Error::new(kind, why)
}
