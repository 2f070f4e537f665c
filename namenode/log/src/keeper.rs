//! The thread that keeps the next segment ready and drops purged ones, so that the writer never waits for either.

use crate::LogError;
use crate::directory::Directory;
use crate::meta::{self, PURGED, Purged};
use crate::segment::{self, SPARE, Segment, file_name};
use crate::shared::Shared;
use quarry_host::thread;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

struct State {
    /// Segments that are durable and empty, in order of their numbers.
    prepared: VecDeque<Segment>,
    next_number: u64,
    has_spare: bool,
    /// The last attempt to prepare a segment failed; the next is made when the writer needs one.
    failure: Option<LogError>,
    purge: Option<Purged>,
    closed: bool,
}

/// What the keeper is asked for, and what it has ready.
pub(crate) struct Keeper {
    state: Mutex<State>,
    /// Wakes the keeper's thread.
    wanted: Notify,
    /// Wakes the writer, which waits for a segment.
    ready: Notify,
    purged: watch::Sender<Option<u64>>,
}

impl Keeper {
    pub(crate) fn new(prepared: VecDeque<Segment>, next_number: u64, has_spare: bool) -> Self {
        let state = State { prepared, next_number, has_spare, failure: None, purge: None, closed: false };
        Self {
            state: Mutex::new(state),
            wanted: Notify::new(),
            ready: Notify::new(),
            purged: watch::Sender::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next segment; waits while it is being made. Only the writer may take one.
    pub(crate) async fn take(&self) -> Result<Segment, LogError> {
        // An earlier failure, such as a full disk, may have passed: try once more.
        self.lock().failure = None;
        loop {
            {
                let mut state = self.lock();
                self.wanted.notify_one();
                if let Some(segment) = state.prepared.pop_front() {
                    return Ok(segment);
                }
                if let Some(error) = state.failure.take() {
                    return Err(error);
                }
                if state.closed {
                    return Err(LogError::Stopped("it is being closed".to_owned()));
                }
            }
            self.ready.notified().await;
        }
    }

    /// Has everything up to an entry purged, some time soon.
    pub(crate) fn purge(&self, purged: Purged) {
        self.lock().purge = Some(purged);
        self.wanted.notify_one();
    }

    /// The last entry whose purge is durable, as it moves on.
    pub(crate) fn purged(&self) -> watch::Receiver<Option<u64>> {
        self.purged.subscribe()
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wanted.notify_one();
        self.ready.notify_one();
    }

    /// The thread.
    pub(crate) async fn run(&self, shared: &Shared, disk: &Directory, node: u64, length: u64) {
        loop {
            match self.next_task() {
                Task::End => return,
                Task::Wait => self.wanted.notified().await,
                Task::Purge(purged, may_keep_spare) => {
                    let result = thread::block(|| drop_purged(shared, disk, &purged, may_keep_spare)).await;
                    match result {
                        Ok(kept_spare) => {
                            self.lock().has_spare |= kept_spare;
                            self.purged.send_replace(Some(purged.last.index));
                        }
                        Err(error) => return shared.fail(&error),
                    }
                }
                Task::Prepare(number, use_spare) => {
                    let made =
                        thread::block(|| segment::prepare(disk, number, node, length, use_spare)).await;
                    self.prepared(number, made);
                }
            }
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.lock();
        if state.closed {
            return Task::End;
        }
        if let Some(purged) = state.purge.take() {
            return Task::Purge(purged, !state.has_spare);
        }
        if state.prepared.is_empty() && state.failure.is_none() {
            return Task::Prepare(state.next_number, std::mem::take(&mut state.has_spare));
        }
        Task::Wait
    }

    fn prepared(&self, number: u64, made: Result<Segment, LogError>) {
        let mut state = self.lock();
        match made {
            Ok(segment) => {
                state.prepared.push_back(segment);
                state.next_number += 1;
            }
            Err(error) => {
                tracing::warn!("cannot prepare segment {number:x} of the log: {error}");
                state.failure = Some(error);
            }
        }
        self.ready.notify_one();
    }
}

/// What the keeper does next.
enum Task {
    /// Drop what is purged; whether a segment may be kept as spare.
    Purge(Purged, bool),
    /// Prepare the segment of this number; whether from the spare.
    Prepare(u64, bool),
    Wait,
    End,
}

/// Writes down what is purged, then drops the segments that hold nothing else. Says whether one was kept as spare.
///
/// The order matters: a segment that is gone before the purge is written down looks like a loss. Each removal is synced
/// before the next, so that a crash never leaves a hole; the spare's new name is durable before its header changes.
fn drop_purged(
    shared: &Shared,
    disk: &Directory,
    purged: &Purged,
    may_keep_spare: bool,
) -> Result<bool, LogError> {
    meta::replace(disk, PURGED, &meta::encode_purged(purged))?;
    let mut kept_spare = false;
    loop {
        let number = {
            let mut segments = shared.segments();
            let droppable = segments.len() > 1
                && segments.first_key_value().is_some_and(|(_, s)| s.last_index <= Some(purged.last.index));
            match segments.first_entry().filter(|_| droppable) {
                Some(entry) => entry.remove().number,
                None => return Ok(kept_spare),
            }
        };
        let name = file_name(number);
        if may_keep_spare && !kept_spare {
            disk.rename(&name, SPARE).map_err(LogError::io("rename", &name))?;
            kept_spare = true;
        } else {
            disk.remove(&name).map_err(LogError::io("remove", &name))?;
        }
        disk.sync_dir().map_err(LogError::io("sync the directory of", &name))?;
    }
}
