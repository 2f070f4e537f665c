//! What waits for the writer.
//!
//! Entries are encoded right into the frame that will carry them while the frame before is being synced; the writer
//! takes whatever has gathered. That is the whole of group commit.

use crate::format::{FRAME_HEADER, Kind, Record};
use crate::raft_types::{RaftEntry, TypeConfig, encode_entry};
use openraft::storage::IOFlushed;
use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// Records that go to the disk together, with those who wait for them.
pub(crate) struct Frame {
    /// Room for the header, then the records.
    pub(crate) bytes: Vec<u8>,
    pub(crate) records: u32,
    /// Index of each entry, with offset and length of its record in `bytes`.
    pub(crate) entries: Vec<(u64, u32, u32)>,
    pub(crate) waiting: Vec<Waiting>,
}

impl Frame {
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; FRAME_HEADER], records: 0, entries: Vec::new(), waiting: Vec::new() }
    }

    /// Answers everybody who waits for the frame.
    pub(crate) fn complete(self, result: Result<(), &str>) {
        for waiting in self.waiting {
            waiting.complete(result);
        }
    }
}

/// Who waits for a frame.
pub(crate) enum Waiting {
    Raft(IOFlushed<TypeConfig>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    pub(crate) fn complete(self, result: Result<(), &str>) {
        let result = result.map_err(io::Error::other);
        match self {
            Self::Raft(callback) => callback.io_completed(result),
            // Whoever gave up waiting misses nothing.
            Self::Caller(sender) => drop(sender.send(result)),
        }
    }
}

/// What the writer does next.
pub(crate) enum Job {
    Write(Frame),
    SaveVote(Vec<u8>, Waiting),
    /// Nothing came for a while.
    Idle,
    Stop,
}

struct State {
    jobs: VecDeque<Job>,
    closed: Option<String>,
}

/// Bounded by what raft has unanswered, which proposals limit.
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Notify,
    payload_max: usize,
}

impl Queue {
    pub(crate) fn new(payload_max: usize) -> Self {
        let state = Mutex::new(State { jobs: VecDeque::new(), closed: None });
        Self { state, wake: Notify::new(), payload_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues entries; `flushed` is called when the last of them is durable.
    pub(crate) fn append(&self, entries: &[RaftEntry], flushed: IOFlushed<TypeConfig>) -> io::Result<()> {
        self.write(Waiting::Raft(flushed), |frames| {
            for entry in entries {
                let frame = frames.with_room(entry_size(entry));
                let start = frame.bytes.len();
                encode_entry(entry, &mut frame.bytes);
                frame.records += 1;
                let length = frame.bytes.len() - start;
                frame.entries.push((entry.log_id.index, start as u32, length as u32));
            }
        })
    }

    /// Queues the record that voids all entries from `index` on.
    pub(crate) fn truncate(&self, index: u64, done: oneshot::Sender<io::Result<()>>) -> io::Result<()> {
        let record = Record { kind: Kind::Truncation, index, term: 0, payload: &[] };
        self.write(Waiting::Caller(done), |frames| {
            let frame = frames.with_room(record.size());
            record.encode(&mut frame.bytes);
            frame.records += 1;
        })
    }

    fn write(&self, waiting: Waiting, fill: impl FnOnce(&mut Frames<'_>)) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(reason) = state.closed.clone() {
            drop(state);
            waiting.complete(Err(&reason));
            return Err(io::Error::other(reason));
        }
        let mut frames = Frames { jobs: &mut state.jobs, payload_max: self.payload_max };
        fill(&mut frames);
        frames.with_room(0).waiting.push(waiting);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Queues a vote; it is saved after all that was queued before.
    pub(crate) fn save_vote(&self, bytes: Vec<u8>, done: oneshot::Sender<io::Result<()>>) -> io::Result<()> {
        let mut state = self.lock();
        if let Some(reason) = &state.closed {
            return Err(io::Error::other(reason.clone()));
        }
        state.jobs.push_back(Job::SaveVote(bytes, Waiting::Caller(done)));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Waits for the next job; [`Job::Idle`] when none comes within `patience`. Only the writer may wait.
    pub(crate) async fn next(&self, patience: Option<Duration>) -> Job {
        loop {
            if let Some(job) = self.take() {
                return job;
            }
            match patience {
                None => self.wake.notified().await,
                Some(patience) => {
                    if timeout(patience, self.wake.notified()).await.is_err() {
                        return self.take().unwrap_or(Job::Idle);
                    }
                }
            }
        }
    }

    fn take(&self) -> Option<Job> {
        let mut state = self.lock();
        state.jobs.pop_front().or_else(|| state.closed.is_some().then_some(Job::Stop))
    }

    /// Takes no more; what is queued will still be written.
    pub(crate) fn close(&self, reason: &str) {
        self.lock().closed.get_or_insert_with(|| reason.to_owned());
        self.wake.notify_one();
    }

    /// Takes no more, and refuses what is queued.
    pub(crate) fn fail(&self, reason: &str) {
        let mut state = self.lock();
        state.closed.get_or_insert_with(|| reason.to_owned());
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        for job in jobs {
            match job {
                Job::Write(frame) => frame.complete(Err(reason)),
                Job::SaveVote(_, waiting) => waiting.complete(Err(reason)),
                Job::Idle | Job::Stop => {}
            }
        }
        self.wake.notify_one();
    }
}

/// The frames at the end of the queue, while something is added to them.
struct Frames<'a> {
    jobs: &'a mut VecDeque<Job>,
    payload_max: usize,
}

impl Frames<'_> {
    /// The last frame of the queue, a new one if the last has no room for `size` bytes more.
    fn with_room(&mut self, size: usize) -> &mut Frame {
        let fits = match self.jobs.back() {
            Some(Job::Write(frame)) => frame.bytes.len() - FRAME_HEADER + size <= self.payload_max,
            _ => false,
        };
        if !fits {
            self.jobs.push_back(Job::Write(Frame::new()));
        }
        match self.jobs.back_mut() {
            Some(Job::Write(frame)) => frame,
            _ => unreachable!("the last job is a frame, as seen or made above"),
        }
    }
}

fn entry_size(entry: &RaftEntry) -> usize {
    let payload = match &entry.payload {
        openraft::EntryPayload::Normal(proposal) => proposal.0.len(),
        // Raft's own entries are small; a frame of its own does no harm if the guess is wrong.
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 512,
    };
    crate::format::RECORD_HEADER + payload
}
