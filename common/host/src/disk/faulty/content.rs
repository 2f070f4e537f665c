//! The bytes of one file, written and durable.

use super::Survival;
use rand::Rng;
use rand::rngs::StdRng;
use std::io;

/// What disks write as one.
pub(super) const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A file's content.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync.
    unsynced: Vec<Change>,
}

impl Content {
    pub(super) fn durable(bytes: Vec<u8>) -> Self {
        Self { written: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }

    pub(super) fn written(&self) -> &[u8] {
        &self.written
    }

    pub(super) fn length(&self) -> u64 {
        self.written.len() as u64
    }

    pub(super) fn is_unsynced(&self) -> bool {
        !self.unsynced.is_empty()
    }

    pub(super) fn flip(&mut self, at: usize) {
        self.written[at] ^= 1;
        if let Some(byte) = self.durable.get_mut(at) {
            *byte ^= 1;
        }
    }

    pub(super) fn read(&self, offset: usize, length: usize) -> io::Result<&[u8]> {
        let found = self.written.get(offset..).and_then(|rest| rest.get(..length));
        found.ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        put(&mut self.written, offset, data);
        self.unsynced.push(Change::Write(offset, data.to_vec()));
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.written.resize(length, 0);
        self.unsynced.push(Change::Length(length));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Write(offset, data) => put(&mut self.durable, offset, &data),
                Change::Length(length) => self.durable.resize(length, 0),
            }
        }
    }

    /// What is left of the file after a loss of power.
    pub(super) fn lose_power(&mut self, survival: Survival, random: &mut StdRng) {
        if self.unsynced.is_empty() {
            return;
        }
        let (each, first) = match survival {
            Survival::Each(each) => (each, None),
            Survival::Any => match random.random_range(0..3) {
                0 => (0.0, None),
                1 => (1.0, None),
                _ => (1.0, Some(random.random_range(0..=self.sectors()))),
            },
        };
        let mut left = first.unwrap_or(usize::MAX);
        let mut survives = || {
            left = left.saturating_sub(1);
            left > 0 && random.random_bool(each)
        };
        for change in self.unsynced.drain(..) {
            match change {
                Change::Length(length) => {
                    if survives() {
                        self.durable.resize(length, 0);
                    }
                }
                Change::Write(offset, data) => {
                    for (at, sector) in (offset..).step_by(SECTOR).zip(data.chunks(SECTOR)) {
                        if survives() {
                            put(&mut self.durable, at, sector);
                        }
                    }
                }
            }
        }
        self.written.clone_from(&self.durable);
    }

    fn sectors(&self) -> usize {
        let of = |change: &Change| match change {
            Change::Write(_, data) => data.len().div_ceil(SECTOR),
            Change::Length(_) => 1,
        };
        self.unsynced.iter().map(of).sum()
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}
