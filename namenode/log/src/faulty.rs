//! A disk in memory that forgets what was not synced, stops at a chosen step, or fails one.

use crate::disk::{Disk, DiskFile};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// What disks write as one.
const SECTOR: usize = 512;

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The machine stops: this step and all later ones fail.
    Crash,
    /// Only this step fails.
    Error,
}

#[derive(Clone, Default)]
struct Content {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// Writes since the last sync, as offset and data.
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Set(String, usize),
    Rename(String, String),
    Remove(String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Set(name, file) => drop(names.insert(name.clone(), *file)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(name) => drop(names.remove(name)),
        }
    }
}

#[derive(Default)]
struct State {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    steps: u64,
    fault: Option<(u64, Fault)>,
    crashed: bool,
}

impl State {
    /// Counts a step that changes the disk. Returns an error when it is to fail; a write may have happened all the same.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        if let Some((at, fault)) = self.fault
            && self.steps == at
        {
            self.crashed = fault == Fault::Crash;
            return Err(io::Error::other("injected fault"));
        }
        self.alive()
    }

    fn alive(&self) -> io::Result<()> {
        if self.crashed { Err(io::Error::other("the machine has stopped")) } else { Ok(()) }
    }

    fn change_names(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
    }
}

/// The disk; clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

struct FaultyFile {
    disk: FaultyDisk,
    file: usize,
}

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Sets what happens at the step with this number, counted from the disk's first.
    pub(crate) fn set_fault(&self, step: u64, fault: Fault) {
        self.state().fault = Some((step, fault));
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The disk after the machine was started again: of what was not synced, each sector survives with probability
    /// `survival`, and of the changes of names a first part does.
    pub(crate) fn restarted(&self, survival: f64, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let state = self.state();
        let files = state.files.iter().map(|file| {
            let mut durable = file.durable.clone();
            for (offset, data) in &file.unsynced {
                durable.resize(durable.len().max(offset + data.len()), 0);
                for at in (0..data.len()).step_by(SECTOR) {
                    let end = data.len().min(at + SECTOR);
                    if random.random_bool(survival) {
                        durable[offset + at..offset + end].copy_from_slice(&data[at..end]);
                    }
                }
            }
            Content { current: durable.clone(), durable, unsynced: Vec::new() }
        });
        let files = files.collect();
        let mut names = state.durable_names.clone();
        for change in &state.unsynced_names {
            if !random.random_bool(survival) {
                break;
            }
            change.apply(&mut names);
        }
        let restarted = State { files, durable_names: names.clone(), names, ..State::default() };
        Self(Arc::new(Mutex::new(restarted)))
    }

    /// The bytes of a file.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].current.clone()
    }

    /// A copy of the disk on which a file has other bytes.
    pub(crate) fn with_content(&self, name: &str, bytes: Vec<u8>) -> Self {
        let copy = self.restarted(1.0, 0);
        {
            let mut state = copy.state();
            let file = state.names[name];
            state.files[file] = Content { current: bytes.clone(), durable: bytes, unsynced: Vec::new() };
        }
        copy
    }

    /// A copy of the disk without a file.
    pub(crate) fn without(&self, name: &str) -> Self {
        let copy = self.restarted(1.0, 0);
        {
            let mut state = copy.state();
            state.names.remove(name);
            state.durable_names.remove(name);
        }
        copy
    }

    fn file(&self, file: usize) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { disk: self.clone(), file })
    }
}

impl Disk for FaultyDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.state();
        state.alive()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str, length: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step()?;
        let zeros = vec![0; length as usize];
        state.files.push(Content { current: zeros.clone(), durable: Vec::new(), unsynced: vec![(0, zeros)] });
        let file = state.files.len() - 1;
        state.change_names(NameChange::Set(name.to_owned(), file));
        drop(state);
        Ok(self.file(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.alive()?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        drop(state);
        Ok(self.file(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.change_names(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        state.durable_names = state.names.clone();
        state.unsynced_names.clear();
        Ok(())
    }
}

impl DiskFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.alive()?;
        Ok(state.files[self.file].current.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        state.alive()?;
        let at = offset as usize;
        let found = state.files[self.file].current.get(at..at + buffer.len());
        buffer.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        let alive = state.alive();
        let result = state.step();
        if alive.is_ok() {
            // Also the write at which the machine stops may reach the disk in part.
            let file = &mut state.files[self.file];
            let at = offset as usize;
            let length = file.current.len().max(at + data.len());
            file.current.resize(length, 0);
            file.current[at..at + data.len()].copy_from_slice(data);
            file.unsynced.push((at, data.to_vec()));
        }
        result
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step()?;
        let file = &mut state.files[self.file];
        file.durable = file.current.clone();
        file.unsynced.clear();
        Ok(())
    }
}
