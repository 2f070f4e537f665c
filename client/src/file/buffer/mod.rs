//! What programs wrote to a file and the cluster does not have yet: memory only, with the time as an argument.
//!
//! ```text
//!   write ──► active ──next_job──► flying ──settle──► gone: committed, or dropped with an error
//! ```
//!
//! Every write has the lease under which its call returns. Waiting bytes are all under one lease: [`takes`](WriteBuffer::takes) tells
//! whether a write may join them. When that lease is broken, [`fence`](WriteBuffer::fence) drops what is under it.
//!
//! A byte of a window is `active` until a job takes it, and `flying` until that job is settled; `active` hides `flying`. A
//! window has at most one job under way, so its commits come in the order of the writes.

mod extents;
mod jobs;

pub(crate) use extents::EXTENT_OVERHEAD;
pub(crate) use jobs::{About, Job, JobWindow};

use super::layout::LayoutCache;
use super::resolve::Resolver;
use bytes::Bytes;
use extents::ExtentMap;
use quarry_common::ids::LeaseGeneration;
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::mode::without_suidgid;
use quarry_common::slices::WINDOW;
use quarry_common::wire::fs::{Attr, SetAttr, Slice, Timestamp, WindowCommit};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// A run that ends with its window and is at least this long is sent at once: its writer goes on in the next one.
const RUN_MIN: u32 = 256 << 10;

/// The uncommitted data of one file.
#[derive(Debug, Default)]
pub(crate) struct WriteBuffer {
    windows: BTreeMap<u64, DirtyWindow>,
    /// Bytes of all windows.
    bytes: u64,
    /// Windows that are complete: worth sending without being asked.
    complete: BTreeSet<u64>,
    /// Counts the writes.
    sequence: u64,
    /// The watermarks: a job is due for every write up to the first, and has to reach the disks up to the second.
    flush_to: u64,
    durable_to: u64,
    /// Writes up to this one came before the attributes were last set.
    attributes_set_at: u64,
    /// When the last write happened.
    written_at: Timestamp,
    /// The last write that clears suid and sgid, until it is committed.
    kill_at: Option<u64>,
    /// The lease of all `active` bytes; `None` if their calls wait for the commit.
    lease: Option<LeaseGeneration>,
}

/// `flying` is on its way and hidden by `active`.
#[derive(Debug, Default)]
struct DirtyWindow {
    active: ExtentMap,
    /// The first write in `active`, and when it came.
    first: Option<(u64, Instant)>,
    flying: Option<Flying>,
}

/// Data on its way to the cluster.
#[derive(Debug)]
struct Flying {
    /// The first write in it.
    first: u64,
    pieces: Vec<(u32, Bytes)>,
    bytes: usize,
    /// What it holds of the budget.
    cost: usize,
    lease: Option<LeaseGeneration>,
    /// The lease is broken: the bytes are dropped, and only the end of the job is waited for.
    void: bool,
}

/// A write, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    /// First byte of the file.
    pub(crate) at: u64,
    /// The time that it gives the file.
    pub(crate) time: Timestamp,
    /// It clears suid and sgid.
    pub(crate) kill_suidgid: bool,
    /// When it came, to tell the age of what waits.
    pub(crate) now: Instant,
    /// The lease under which the call returns; `None` if it waits for the commit.
    pub(crate) lease: Option<LeaseGeneration>,
}

/// What a write did to the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes by which the buffer's charge grew, which may be less than 0.
    pub(crate) grown: isize,
    /// A window is complete, so that there is a job.
    pub(crate) complete: bool,
    /// The write's number.
    pub(crate) sequence: u64,
}

impl DirtyWindow {
    /// The end of its data within the window.
    fn end(&self) -> u32 {
        let flying = self.flying.as_ref().and_then(|f| f.pieces.last());
        self.active.end().max(flying.map_or(0, |(at, data)| at + data.len() as u32))
    }

    /// The oldest write that is not committed.
    fn oldest(&self) -> u64 {
        let active = self.first.map_or(u64::MAX, |(sequence, _)| sequence);
        let flying = self.flying.as_ref().filter(|flying| !flying.void);
        active.min(flying.map_or(u64::MAX, |f| f.first))
    }
}

impl WriteBuffer {
    /// Nothing waits and nothing is on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The number of the last write.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether a write up to `sequence` is not committed.
    pub(crate) fn is_dirty_to(&self, sequence: u64) -> bool {
        self.windows.values().any(|window| window.oldest() <= sequence)
    }

    /// Whether a write up to `sequence` whose call returned under a lease is not committed.
    pub(crate) fn is_leased_to(&self, sequence: u64) -> bool {
        self.windows.values().any(|window| {
            let waits = self.lease.is_some() && window.first.is_some_and(|(first, _)| first <= sequence);
            let flies = |f: &Flying| !f.void && f.lease.is_some() && f.first <= sequence;
            waits || window.flying.as_ref().is_some_and(flies)
        })
    }

    /// Whether a write waits that no job has taken for `age`.
    pub(crate) fn is_aged(&self, now: Instant, age: Duration) -> bool {
        let aged = |window: &DirtyWindow| {
            window.first.is_some_and(|(_, since)| now.saturating_duration_since(since) >= age)
        };
        self.windows.values().any(aged)
    }

    /// The end of the last byte, 0 without any.
    pub(crate) fn end(&self) -> u64 {
        self.windows.last_key_value().map_or(0, |(index, w)| index * CHUNK_SIZE + u64::from(w.end()))
    }

    /// The first window at or after `from` that has data.
    pub(crate) fn next_window(&self, from: u64) -> Option<u64> {
        self.windows.range(from..).next().map(|(index, _)| *index)
    }

    /// Shows the file's attributes as they will be when everything is committed.
    pub(crate) fn overlay(&self, attr: &mut Attr) {
        if self.bytes > 0 {
            attr.size = attr.size.max(self.end());
            attr.allocated += self.bytes;
        }
        if let Some(time) = self.pending_time() {
            attr.mtime = attr.mtime.max(time);
            attr.ctime = attr.ctime.max(time);
        }
        if self.kill_at.is_some() {
            attr.mode = without_suidgid(attr.mode);
        }
    }

    /// Puts the bytes of a range of a window under what the resolver has.
    pub(crate) fn resolve(&self, index: u64, range: Range<u32>, resolver: &mut Resolver) {
        if let Some(window) = self.windows.get(&index) {
            resolver.local(&window.active.within(range));
            resolver.local(self.flying(index));
        }
    }

    /// The bytes of a window that are on their way.
    pub(crate) fn flying(&self, index: u64) -> &[(u32, Bytes)] {
        let flying = self.windows.get(&index).and_then(|w| w.flying.as_ref());
        flying.map_or(&[], |flying| &flying.pieces)
    }

    /// Whether a write under this lease may join what waits.
    pub(crate) fn takes(&self, lease: Option<LeaseGeneration>) -> bool {
        self.lease == lease || self.windows.values().all(|window| window.active.is_empty())
    }

    /// Takes in the bytes of a write, which [`takes`](Self::takes) allows.
    pub(crate) fn write(&mut self, write: Write, mut data: Bytes) -> Written {
        debug_assert!(self.takes(write.lease), "bytes that wait are under one lease");
        self.lease = write.lease;
        self.sequence += 1;
        let sequence = self.sequence;
        let mut grown = 0;
        let mut at = write.at;
        while !data.is_empty() {
            let (index, start) = (at / CHUNK_SIZE, (at % CHUNK_SIZE) as u32);
            let piece = data.split_to(data.len().min((WINDOW - start) as usize));
            at += piece.len() as u64;
            let end = start + piece.len() as u32;
            let window = self.windows.entry(index).or_default();
            let (cost, bytes) = (window.active.cost(), window.active.bytes());
            window.active.write(start, piece);
            window.first.get_or_insert((sequence, write.now));
            grown += window.active.cost() as isize - cost as isize;
            self.bytes = self.bytes + window.active.bytes() as u64 - bytes as u64;
            let ends = end == WINDOW && WINDOW - window.active.last_run_start() >= RUN_MIN;
            if ends || window.active.bytes() == WINDOW as usize {
                self.complete.insert(index);
            }
        }
        self.written_at = write.time;
        if write.kill_suidgid {
            self.kill_at = Some(sequence);
        }
        Written { grown, complete: !self.complete.is_empty(), sequence }
    }

    /// Every write up to `sequence` is due, and with `durable` has to reach the disks.
    pub(crate) fn request(&mut self, sequence: u64, durable: bool) {
        self.flush_to = self.flush_to.max(sequence);
        if durable {
            self.durable_to = self.durable_to.max(sequence);
        }
    }

    /// Attributes are about to be set. If they are only times, mode or owner, what was written before must not overwrite them
    /// when it is committed later, so it brings none along. Returns whether that is all it takes; data that are on their way
    /// already (`sending`) bring theirs.
    pub(crate) fn set_attributes(&mut self, set: &SetAttr, sending: bool) -> bool {
        if set.size.is_some() || sending {
            return false;
        }
        self.attributes_set_at = self.sequence;
        if set.mode.is_some() || set.uid.is_some() || set.gid.is_some() {
            // The new mode is as it was asked for.
            self.kill_at = None;
        }
        true
    }

    /// Takes the next data to send off the windows: complete windows, and everything that is due.
    pub(crate) fn next_job(&mut self, layout: &LayoutCache) -> Option<Job> {
        let (indexes, merge) = jobs::choose(self, layout)?;
        Some(self.take(&indexes, merge))
    }

    /// The flying data are now parts of their chunk, so that the bytes as they were written can be freed.
    pub(crate) fn share(&mut self, data: &Bytes, windows: &[WindowCommit]) {
        for window in windows {
            let Some(flying) = self.windows.get_mut(&window.index.0).and_then(|w| w.flying.as_mut()) else {
                continue;
            };
            if flying.void {
                continue;
            }
            let part = |s: &Slice| {
                let start = s.chunk_offset as usize;
                (s.position, data.slice(start..start + s.length as usize))
            };
            flying.pieces = window.slices.iter().map(part).collect();
        }
    }

    /// A write that cleared suid and sgid is committed, and with it those before.
    pub(crate) fn killed(&mut self, at: u64) {
        self.kill_at = self.kill_at.filter(|latest| *latest > at);
    }

    /// The jobs of these windows are committed or lost. Returns what they held of the budget.
    pub(crate) fn settle(&mut self, indexes: impl IntoIterator<Item = u64>) -> usize {
        let mut cost = 0;
        for index in indexes {
            let Some(window) = self.windows.get_mut(&index) else { continue };
            if let Some(flying) = window.flying.take() {
                self.bytes -= flying.bytes as u64;
                cost += flying.cost;
            }
            if window.active.is_empty() {
                self.windows.remove(&index);
            }
        }
        if self.is_empty() {
            self.kill_at = None;
        }
        cost
    }

    /// Leases are broken: drops what is buffered under them. Returns what the dropped bytes held of the budget, but for those on
    /// their way, or `None` if there were none.
    pub(crate) fn fence(&mut self, is_broken: impl Fn(LeaseGeneration) -> bool) -> Option<usize> {
        let mut dropped = None;
        let waiting_broken = self.lease.is_some_and(&is_broken);
        for (index, window) in &mut self.windows {
            if waiting_broken && !window.active.is_empty() {
                let active = std::mem::take(&mut window.active);
                window.first = None;
                self.complete.remove(index);
                self.bytes -= active.bytes() as u64;
                *dropped.get_or_insert(0) += active.cost();
            }
            if let Some(flying) = &mut window.flying
                && !flying.void
                && flying.lease.is_some_and(&is_broken)
            {
                flying.void = true;
                flying.pieces.clear();
                self.bytes -= std::mem::take(&mut flying.bytes) as u64;
                dropped.get_or_insert(0);
            }
        }
        self.windows.retain(|_, window| !window.active.is_empty() || window.flying.is_some());
        if self.bytes == 0 {
            self.kill_at = None;
        }
        dropped
    }

    /// The bytes of a window's job are dropped, since their lease is broken.
    pub(crate) fn is_void(&self, index: u64) -> bool {
        self.windows.get(&index).and_then(|w| w.flying.as_ref()).is_some_and(|flying| flying.void)
    }

    /// A job is under way whose bytes are dropped.
    pub(crate) fn has_void(&self) -> bool {
        self.windows.values().any(|w| w.flying.as_ref().is_some_and(|flying| flying.void))
    }

    /// The time that dirty data bring along, unless attributes were set since.
    fn pending_time(&self) -> Option<Timestamp> {
        (self.bytes > 0 && self.sequence > self.attributes_set_at).then_some(self.written_at)
    }

    fn take(&mut self, indexes: &[u64], merge: bool) -> Job {
        let mut windows = Vec::with_capacity(indexes.len());
        let (mut durable, mut size) = (false, 0);
        let mtime = self.pending_time();
        for &index in indexes {
            self.complete.remove(&index);
            let window = self.windows.get_mut(&index).expect("it was just chosen");
            let (first, _) = window.first.take().expect("it has data");
            let active = std::mem::take(&mut window.active);
            durable |= first <= self.durable_to;
            size = size.max(index * CHUNK_SIZE + u64::from(active.end()));
            let (bytes, cost) = (active.bytes(), active.cost());
            let pieces = active.freeze();
            window.flying =
                Some(Flying { first, pieces: pieces.clone(), bytes, cost, lease: self.lease, void: false });
            windows.push(JobWindow { index, pieces });
        }
        let about = About { durable, size, mtime, kill_at: self.kill_at, lease: self.lease };
        Job { windows, about, merge }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: u64 = 3 * CHUNK_SIZE;

    #[derive(Clone, Debug)]
    enum Op {
        Write { at: u64, length: u64 },
        Request { durable: bool },
        Job,
        Settle(prop::sample::Index),
    }

    fn op() -> impl Strategy<Value = Op> {
        let at = prop_oneof![0..SIZE - 70_000, (0u64..2).prop_map(|w| (w + 1) * CHUNK_SIZE - 100)];
        prop_oneof![
            6 => (at, 1u64..70_000).prop_map(|(at, length)| Op::Write { at, length }),
            2 => any::<bool>().prop_map(|durable| Op::Request { durable }),
            4 => Just(Op::Job),
            3 => any::<prop::sample::Index>().prop_map(Op::Settle),
        ]
    }

    /// Bytes with the number of their write, 0 for none.
    fn shown(buffer: &WriteBuffer) -> Vec<u8> {
        use super::super::resolve::Source;
        let mut bytes = vec![0; SIZE as usize];
        for index in 0..SIZE / CHUNK_SIZE {
            let mut resolver = Resolver::new(0..WINDOW);
            buffer.resolve(index, 0..WINDOW, &mut resolver);
            for segment in resolver.finish() {
                if let Source::Local(data) = segment.source {
                    let at = (index * CHUNK_SIZE) as usize + segment.position as usize;
                    bytes[at..at + data.len()].copy_from_slice(&data);
                }
            }
        }
        bytes
    }

    fn overlay(windows: &[JobWindow], onto: &mut [u8]) {
        for window in windows {
            for (position, data) in &window.pieces {
                let at = (window.index * CHUNK_SIZE) as usize + *position as usize;
                onto[at..at + data.len()].copy_from_slice(data);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Whatever the order in which jobs are settled: committed data with the buffer on top are always what was written, no
        /// window has two jobs, and every byte of the charge is given back.
        #[test]
        fn committed_and_buffered_bytes_are_what_was_written(ops in prop::collection::vec(op(), 1..60)) {
            let mut buffer = WriteBuffer::default();
            let layout = LayoutCache::default();
            let (mut model, mut committed) = (vec![0; SIZE as usize], vec![0; SIZE as usize]);
            let mut jobs: Vec<Job> = Vec::new();
            let (mut charged, mut writes) = (0, 0);
            let now = Instant::now();
            for op in ops.into_iter().chain([Op::Request { durable: false }]) {
                match op {
                    Op::Write { at, length } => {
                        writes += 1;
                        model[at as usize..(at + length) as usize].fill(writes);
                        let write = Write { at, time: Timestamp(1), kill_suidgid: false, now, lease: None };
                        charged += buffer.write(write, vec![writes; length as usize].into()).grown;
                    }
                    Op::Request { durable } => buffer.request(buffer.sequence(), durable),
                    Op::Job => jobs.extend(buffer.next_job(&layout)),
                    Op::Settle(which) if !jobs.is_empty() => {
                        let job = jobs.swap_remove(which.index(jobs.len()));
                        overlay(&job.windows, &mut committed);
                        charged -= buffer.settle(job.windows.iter().map(|w| w.index)) as isize;
                    }
                    Op::Settle(_) => {}
                }
                let under_way: Vec<u64> = jobs.iter().flat_map(|j| &j.windows).map(|w| w.index).collect();
                let apart: BTreeSet<u64> = under_way.iter().copied().collect();
                prop_assert_eq!(apart.len(), under_way.len());
                let mut seen = committed.clone();
                for (byte, buffered) in seen.iter_mut().zip(shown(&buffer)) {
                    *byte = if buffered == 0 { *byte } else { buffered };
                }
                prop_assert!(seen == model);
                prop_assert!(charged >= 0);
            }
            while let Some(job) = jobs.pop().or_else(|| buffer.next_job(&layout)) {
                overlay(&job.windows, &mut committed);
                charged -= buffer.settle(job.windows.iter().map(|w| w.index)) as isize;
            }
            prop_assert!(committed == model);
            prop_assert!(buffer.is_empty() && charged == 0 && buffer.bytes == 0);
        }
    }

    fn write(buffer: &mut WriteBuffer, at: u64, length: usize) -> Written {
        let write = Write { at, time: Timestamp(9), kill_suidgid: false, now: Instant::now(), lease: None };
        buffer.write(write, vec![1; length].into())
    }

    #[test]
    fn nothing_is_sent_before_it_is_due_but_complete_windows() {
        let (mut buffer, layout) = (WriteBuffer::default(), LayoutCache::default());
        assert!(!write(&mut buffer, 0, 1000).complete);
        assert!(buffer.next_job(&layout).is_none());
        assert!(write(&mut buffer, CHUNK_SIZE, WINDOW as usize).complete);
        assert_eq!(buffer.next_job(&layout).unwrap().windows[0].index, 1);
        assert!(buffer.next_job(&layout).is_none());
        buffer.request(1, true);
        let job = buffer.next_job(&layout).unwrap();
        assert!(job.about.durable && job.windows[0].index == 0);
        assert!(buffer.is_dirty_to(1));
        buffer.settle([0]);
        assert!(!buffer.is_dirty_to(1) && buffer.is_dirty_to(2));
    }

    #[test]
    fn attributes_that_are_set_are_not_overwritten_by_data_from_before() {
        let (mut buffer, layout) = (WriteBuffer::default(), LayoutCache::default());
        write(&mut buffer, 0, 10);
        let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        assert!(buffer.set_attributes(&set, false) && !buffer.set_attributes(&set, true));
        buffer.request(1, false);
        assert_eq!(buffer.next_job(&layout).unwrap().about.mtime, None);
        write(&mut buffer, 0, 10);
        buffer.settle([0]);
        buffer.request(2, false);
        assert_eq!(buffer.next_job(&layout).unwrap().about.mtime, Some(Timestamp(9)));
    }

    const OLD: Option<LeaseGeneration> = Some(LeaseGeneration(1));
    const NEW: Option<LeaseGeneration> = Some(LeaseGeneration(2));

    fn write_under(
        buffer: &mut WriteBuffer,
        lease: Option<LeaseGeneration>,
        at: u64,
        length: usize,
    ) -> isize {
        assert!(buffer.takes(lease));
        let write = Write { at, time: Timestamp(9), kill_suidgid: true, now: Instant::now(), lease };
        buffer.write(write, vec![1; length].into()).grown
    }

    #[test]
    fn what_is_under_a_broken_lease_is_dropped_and_its_jobs_are_void() {
        let (mut buffer, layout) = (WriteBuffer::default(), LayoutCache::default());
        let broken = |generation| Some(generation) == OLD;
        assert_eq!(buffer.fence(broken), None);
        let first = write_under(&mut buffer, OLD, 0, 1000);
        buffer.request(1, false);
        let job = buffer.next_job(&layout).unwrap();
        assert_eq!(job.about.lease, OLD);
        let second = write_under(&mut buffer, OLD, 10, 10);
        let third = write_under(&mut buffer, OLD, CHUNK_SIZE, WINDOW as usize);
        assert!(!buffer.takes(NEW) && !buffer.takes(None));
        assert_eq!(buffer.fence(broken), Some((second + third) as usize));
        assert_eq!(buffer.fence(broken), None, "once");
        assert!(buffer.is_void(0) && buffer.has_void() && buffer.flying(0).is_empty());
        assert_eq!((buffer.end(), buffer.bytes, buffer.is_dirty_to(3)), (0, 0, false));
        assert!(buffer.next_job(&layout).is_none());
        // What is written under the next lease waits for the end of the void job, and stays.
        write_under(&mut buffer, NEW, 0, 10);
        buffer.request(4, false);
        assert!(buffer.next_job(&layout).is_none());
        assert_eq!(buffer.settle([0]), first as usize);
        let job = buffer.next_job(&layout).unwrap();
        assert_eq!((job.about.lease, buffer.fence(broken)), (NEW, None));
        assert!(!buffer.has_void());
    }

    #[test]
    fn calls_that_wait_for_their_commit_are_under_no_lease() {
        let mut buffer = WriteBuffer::default();
        write_under(&mut buffer, None, 0, 10);
        assert!(!buffer.takes(OLD) && buffer.takes(None));
        assert_eq!(buffer.fence(|_| true), None);
        assert!(buffer.is_dirty_to(1));
    }
}
