//! Calls of write(2) that reach the mount in several pieces.
//!
//! The kernel hands a write over in pieces of at most 1 MiB, and each piece of an append goes behind what is the last byte then. So that
//! no other mount's record comes in between, the lease on the file is kept from the first piece to the last: a recall waits for the
//! rest of the call, but not for ever, as the caller may have been killed. On one mount the kernel lets one append in at a time.

use super::inode::Inode;
use super::open_file::OpenFile;
use quarry_host::task;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A smaller piece is not the first of several, as the kernel fills all but the last.
const PIECE_MIN: u64 = 64 << 10;
/// How long the next piece is waited for, and a recall for all of them: the rest of a lease's term of 5 s is for what is to be
/// brought in.
const CALL_TIME: Duration = Duration::from_secs(3);
/// Stands in [`Inode::writing`] for a call between two pieces. It has no bytes.
const BETWEEN: Range<u64> = u64::MAX..u64::MAX;

/// A piece of an append, as the kernel hands it over.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The thread that writes.
    pub task: u32,
    /// Where the kernel believes that it goes: behind the piece before.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// The call that a handle is in the middle of.
#[derive(Default)]
pub(super) struct Calls(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    number: u64,
    call: Option<Call>,
}

struct Call {
    task: u32,
    next: u64,
    left: u64,
    _kept: Kept,
}

impl Calls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece is about to be put behind the last byte. `whole` tells how many bytes the call writes in all.
    fn begin(&self, inode: &Arc<Inode>, piece: Piece, whole: impl FnOnce() -> Option<u64>) {
        let mut state = self.state();
        let before = state.call.take();
        let (left, kept) = match before {
            Some(call) if call.task == piece.task && call.next == piece.offset => (call.left, call._kept),
            _ if piece.length < PIECE_MIN => return,
            _ => match whole() {
                Some(whole) if whole > piece.length => (whole, Kept::new(inode)),
                _ => return,
            },
        };
        let left = left.saturating_sub(piece.length);
        state.number += 1;
        let number = state.number;
        state.call = Some(Call {
            task: piece.task,
            next: piece.offset.saturating_add(piece.length),
            left,
            _kept: kept,
        });
        drop(state);
        let state = Arc::downgrade(&self.0);
        task::spawn(async move {
            tokio::time::sleep(CALL_TIME).await;
            let Some(state) = state.upgrade() else { return };
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.number == number {
                state.call = None;
            }
        });
    }

    /// The piece was put, or could not be: then the kernel sends no other.
    fn end(&self, put: bool) {
        let mut state = self.state();
        if !put || state.call.as_ref().is_some_and(|call| call.left == 0) {
            state.call = None;
        }
    }
}

/// The lease is kept for a call.
struct Kept(Arc<Inode>);

impl Kept {
    fn new(inode: &Arc<Inode>) -> Self {
        inode.writing.send_modify(|all| all.push(BETWEEN));
        Self(Arc::clone(inode))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.writing.send_modify(|all| {
            if let Some(at) = all.iter().position(|range| *range == BETWEEN) {
                all.swap_remove(at);
            }
        });
    }
}

impl Inode {
    /// Waits until no call is between two pieces, but not for long.
    pub(super) async fn calls_end(&self) {
        let mut writing = self.writing.subscribe();
        let none = writing.wait_for(|all| !all.contains(&BETWEEN));
        let _ = tokio::time::timeout(CALL_TIME, none).await;
    }
}

impl OpenFile {
    /// Takes note of a piece of an append before it is written, so that the pieces of one call stay together. `whole` tells how many
    /// bytes the call writes in all, if that is known.
    pub fn begin_piece(&self, piece: Piece, whole: impl FnOnce() -> Option<u64>) {
        self.calls.begin(&self.inode, piece, whole);
    }

    /// The piece is written, or it failed.
    pub fn end_piece(&self, put: bool) {
        self.calls.end(put);
    }
}
