//! The change feed: what happened to the namespace, for those who watch.
//!
//! ```text
//!   applied ── record ──> ring of the last events ── page ──> watchers, at once or when something happens
//!                              │ full
//!                              └──> the oldest go; who is not yet behind them is told that it missed some
//! ```
//!
//! In memory only, and no part of the state. Positions are places in the log, so they are the same after a restart. The
//! ring then holds what the log was replayed from, the last checkpoint: a watcher that waits is told its position when a
//! checkpoint is made, and so is never behind that.

mod places;

use crate::entry::COMMANDS_MAX;
use places::{Located, Places};
use quarry_common::ids::Ino;
use quarry_common::wire::changes::{CHANGES_MAX, ChangeEvent, ChangeKind};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Mutation, MutationReply, Query, QueryReply, RenameMode};
use quarry_common::wire::session::Reply;
use quarry_namenode_core::{Body, Outcome, State, StateError};
use std::collections::VecDeque;

/// Events that are kept: minutes of a cluster that is busy with small files.
const EVENTS_MAX: usize = 65_536;
/// Bytes of the events that are kept: a few hundred for each, as long as paths are of a usual length.
const BYTES_MAX: usize = 32 << 20;
/// Bytes of paths in one answer, so that it fits a frame.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Positions of one entry of the log: one for each of its commands.
const PLACES: u64 = COMMANDS_MAX as u64;

/// An answer holds one event whatever its length: two directories' paths, each with a name.
const _: () = assert!(ANSWER_BYTES_MAX + 4 * places::PATH_BYTES_MAX < quarry_common::limits::FRAME_MAX);

/// The position of a command's event.
fn position(index: u64, place: usize) -> u64 {
    index.saturating_mul(PLACES).saturating_add((place as u64).min(PLACES - 1))
}

/// The position behind everything of the entry.
fn end_of(index: u64) -> u64 {
    position(index, usize::MAX)
}

/// An event, and what it takes to find who it is for.
struct Entry {
    event: ChangeEvent,
    /// The directories above its paths.
    within: Box<[Ino]>,
}

impl Entry {
    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.within) + path_bytes(&self.event)
    }

    fn is_below(&self, below: Ino) -> bool {
        below == Ino::ROOT || self.event.ino == below || self.within.contains(&below)
    }
}

fn path_bytes(event: &ChangeEvent) -> usize {
    event.path.len() + event.to.as_ref().map_or(0, |to| to.len())
}

/// What a command did, to which inode, and where; for a rename, also the new name.
type Happened = (ChangeKind, Ino, Located, Option<Located>);

/// What a watcher wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) after: u64,
    pub(super) below: Ino,
    pub(super) max: u32,
}

/// The last events, and what it takes to tell their paths.
pub(crate) struct Feed {
    ring: VecDeque<Entry>,
    bytes: usize,
    /// Nothing behind this position is missing.
    oldest: u64,
    /// The end of the last entry.
    pub(super) newest: u64,
    /// The end of the last entry that is in a checkpoint: where the feed may begin after a restart.
    checkpointed: u64,
    places: Places,
}

impl Feed {
    /// A feed that begins behind the entry that the state has applied last.
    pub(super) fn new(applied: u64) -> Self {
        // Nothing at all came before the first entry.
        let begin = if applied == 0 { 0 } else { end_of(applied) };
        Self {
            ring: VecDeque::new(),
            bytes: 0,
            oldest: begin,
            newest: begin,
            checkpointed: begin,
            places: Places::new(),
        }
    }

    /// A command that changed something was applied, the one at this place of the entry.
    pub(super) fn record(
        &mut self,
        state: &State,
        (index, place): (u64, usize),
        body: &Body,
        outcome: &Outcome,
    ) -> Result<(), StateError> {
        let (Body::Mutate { mutation, .. }, Outcome::Mutation(Ok(reply))) = (body, outcome) else {
            return Ok(());
        };
        let Some((kind, ino, located, to)) = self.happened(state, mutation, reply)? else { return Ok(()) };
        let mut within = located.within;
        let to = to.map(|to| {
            within.extend(to.within);
            to.path.into()
        });
        within.sort_unstable();
        within.dedup();
        let event =
            ChangeEvent { position: position(index, place), kind, ino, path: located.path.into(), to };
        self.push(Entry { event, within: within.into() });
        Ok(())
    }

    /// All commands of the entry are applied.
    pub(super) fn advance(&mut self, index: u64) {
        self.newest = end_of(index);
    }

    /// What a mutation that was applied did. `None`: nothing that can be seen.
    fn happened(
        &mut self,
        state: &State,
        mutation: &Mutation,
        reply: &MutationReply,
    ) -> Result<Option<Happened>, StateError> {
        let (kind, attr) = match (mutation, reply) {
            (
                Mutation::Create { parent, name, .. } | Mutation::Link { parent, name, .. },
                MutationReply::Attr(attr),
            ) => {
                self.places.learn(attr.ino, *parent, name);
                let located = self.places.of_name(state, *parent, name)?;
                return Ok(Some((ChangeKind::Create, attr.ino, located, None)));
            }
            (
                Mutation::Unlink { parent, name } | Mutation::Rmdir { parent, name },
                MutationReply::Removed(attr),
            ) => {
                self.places.forget(attr.ino, *parent, name);
                let located = self.places.of_name(state, *parent, name)?;
                return Ok(Some((ChangeKind::Delete, attr.ino, located, None)));
            }
            (
                Mutation::Rename { from, from_name, to, to_name, mode },
                MutationReply::Renamed { moved, other },
            ) => {
                let mut kind = ChangeKind::Rename;
                match other {
                    Some(other) if *mode == RenameMode::Exchange => {
                        kind = ChangeKind::Exchange;
                        self.places.learn(other.ino, *from, from_name);
                    }
                    Some(other) => self.places.forget(other.ino, *to, to_name),
                    None => {}
                }
                self.places.learn(moved.ino, *to, to_name);
                let old = self.places.of_name(state, *from, from_name)?;
                let new = self.places.of_name(state, *to, to_name)?;
                return Ok(Some((kind, moved.ino, old, Some(new))));
            }
            (Mutation::SetAttr { set, .. }, MutationReply::Attr(attr)) => {
                (if set.size.is_some() { ChangeKind::Change } else { ChangeKind::Attributes }, attr)
            }
            (Mutation::SetXattr { .. } | Mutation::RemoveXattr { .. }, MutationReply::Attr(attr)) => {
                (ChangeKind::Attributes, attr)
            }
            (Mutation::Commit(_), MutationReply::Committed { attr, .. })
            | (Mutation::Fallocate { .. }, MutationReply::Attr(attr))
            | (Mutation::CopyRange { .. }, MutationReply::Copied { attr, .. }) => (ChangeKind::Change, attr),
            // Each mutation has its own kind of answer.
            _ => return Ok(None),
        };
        // Without a name it is below no directory.
        if attr.nlink == 0 {
            return Ok(None);
        }
        Ok(Some((kind, attr.ino, self.places.of_inode(state, attr.ino)?, None)))
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.ring.push_back(entry);
        while self.ring.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(gone) = self.ring.pop_front() else { break };
            self.bytes -= gone.bytes();
            self.oldest = gone.event.position;
        }
    }

    /// Whether the feed has all that is behind the position.
    fn has(&self, after: u64) -> bool {
        (self.oldest..=self.newest).contains(&after)
    }

    /// The events behind a position, as many as are wanted and fit, and where to go on.
    fn page(&self, seen: u64, wanted: Wanted) -> (Vec<ChangeEvent>, u64) {
        let max = wanted.max.clamp(1, CHANGES_MAX) as usize;
        let (mut events, mut bytes) = (Vec::<ChangeEvent>::new(), 0);
        let first = self.ring.partition_point(|entry| entry.event.position <= seen);
        for entry in self.ring.range(first..).filter(|entry| entry.is_below(wanted.below)) {
            bytes += path_bytes(&entry.event);
            if let Some(last) = events.last()
                && (events.len() >= max || bytes > ANSWER_BYTES_MAX)
            {
                let next = last.position;
                return (events, next);
            }
            events.push(entry.event.clone());
        }
        (events, self.newest)
    }

    /// What to answer now; `None`, and the request's progress, if it should wait.
    pub(super) fn answer(&self, wanted: Wanted, seen: &mut u64, is_late: bool) -> Option<Reply> {
        if !self.has(*seen) {
            return Some(Reply::ChangesGone { oldest: self.oldest, newest: self.newest });
        }
        let (events, next) = self.page(*seen, wanted);
        if events.is_empty() && !is_late && wanted.after >= self.checkpointed {
            *seen = next;
            return None;
        }
        Some(Reply::Changes { events, next })
    }

    /// Everything up to now is in a checkpoint that is about to be made.
    pub(super) fn checkpointing(&mut self) {
        self.checkpointed = self.newest;
    }

    /// Learns names from the answer to a query.
    pub(super) fn passed(&mut self, query: &Query, result: &Result<QueryReply, FsError>) {
        if let Ok(answer) = result {
            self.places.passed(query, answer);
        }
    }
}

#[cfg(test)]
mod tests;
