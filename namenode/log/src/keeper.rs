//! The thread that keeps the next segment ready and drops purged ones, so that the writer never waits for either.

use crate::LogError;
use crate::disk::Disk;
use crate::meta::{self, PURGED, Purged};
use crate::segment::{self, SPARE, Segment, file_name};
use crate::shared::Shared;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

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
    wake: Condvar,
    purged: watch::Sender<Option<u64>>,
}

impl Keeper {
    pub(crate) fn new(prepared: VecDeque<Segment>, next_number: u64, has_spare: bool) -> Self {
        let state = State { prepared, next_number, has_spare, failure: None, purge: None, closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), purged: watch::Sender::new(None) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.wake.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// The next segment; waits while it is being made.
    pub(crate) fn take(&self) -> Result<Segment, LogError> {
        let mut state = self.lock();
        // An earlier failure, such as a full disk, may have passed: try once more.
        state.failure = None;
        loop {
            if let Some(segment) = state.prepared.pop_front() {
                self.wake.notify_all();
                return Ok(segment);
            }
            if let Some(error) = state.failure.take() {
                return Err(error);
            }
            if state.closed {
                return Err(LogError::Stopped("it is being closed".to_owned()));
            }
            self.wake.notify_all();
            state = self.wait(state);
        }
    }

    /// Has everything up to an entry purged, some time soon.
    pub(crate) fn purge(&self, purged: Purged) {
        self.lock().purge = Some(purged);
        self.wake.notify_all();
    }

    /// The last entry whose purge is durable, as it moves on.
    pub(crate) fn purged(&self) -> watch::Receiver<Option<u64>> {
        self.purged.subscribe()
    }

    /// Ends the thread.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// The thread.
    pub(crate) fn run(&self, shared: &Shared, disk: &dyn Disk, node: u64, length: u64) {
        let mut state = self.lock();
        while !state.closed {
            if let Some(purged) = state.purge.take() {
                let may_keep_spare = !state.has_spare;
                drop(state);
                let result = drop_purged(shared, disk, &purged, may_keep_spare);
                state = self.lock();
                match result {
                    Ok(kept_spare) => {
                        state.has_spare |= kept_spare;
                        self.purged.send_replace(Some(purged.last.index));
                    }
                    Err(error) => {
                        drop(state);
                        return shared.fail(&error);
                    }
                }
            } else if state.prepared.is_empty() && state.failure.is_none() {
                let number = state.next_number;
                let use_spare = std::mem::take(&mut state.has_spare);
                drop(state);
                let result = segment::prepare(disk, number, node, length, use_spare);
                state = self.lock();
                match result {
                    Ok(segment) => {
                        state.prepared.push_back(segment);
                        state.next_number += 1;
                    }
                    Err(error) => {
                        tracing::warn!("cannot prepare segment {number:x} of the log: {error}");
                        state.failure = Some(error);
                    }
                }
                self.wake.notify_all();
            } else {
                state = self.wait(state);
            }
        }
    }
}

/// Writes down what is purged, then drops the segments that hold nothing else. Says whether one was kept as spare.
///
/// The order matters: a segment that is gone before the purge is written down looks like a loss. Each removal is synced
/// before the next, so that a crash never leaves a hole; the spare's new name is durable before its header changes.
fn drop_purged(
    shared: &Shared,
    disk: &dyn Disk,
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
