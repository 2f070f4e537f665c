//! A disk in memory that can be killed at any step, lose power, fill up and fail.
//!
//! It tells what was written from what is durable. A kill of the process keeps all that was written. A loss of power keeps
//! of each file what was synced and any sectors of what was written since, and of each directory the names as last synced
//! and any first part of the changes since: file systems keep the order of changes in a directory, and no order between
//! content and names.

mod content;

use super::{Disk, DiskFile, Entry, Identity, Space};
use bytes::Bytes;
use content::{Content, SECTOR};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which calls an injected error hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// Lists, opens and reads.
    Reads,
    /// Whatever changes content or names.
    Writes,
    /// Syncs of files and directories.
    Syncs,
}

/// What a loss of power leaves of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Survival {
    /// Each sector, and each change of a name as long as those before it did, with this probability.
    Each(f64),
    /// For each file and directory one of: nothing, everything, a first part. So do file systems that write the data of a
    /// new file in its order.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

type Names = BTreeMap<String, Node>;

#[derive(Clone, Debug, Default)]
struct Directory {
    now: Names,
    synced: Names,
    /// Changes since the last sync. A rename within the directory is one change of two names.
    changes: Vec<Vec<(String, Option<Node>)>>,
}

impl Directory {
    fn change(&mut self, change: Vec<(String, Option<Node>)>) {
        apply(&mut self.now, &change);
        self.changes.push(change);
    }

    fn sync(&mut self) {
        self.synced = self.now.clone();
        self.changes.clear();
    }
}

fn apply(names: &mut Names, change: &[(String, Option<Node>)]) {
    for (name, node) in change {
        match node {
            Some(node) => drop(names.insert(name.clone(), *node)),
            None => drop(names.remove(name)),
        }
    }
}

#[derive(Clone, Default)]
struct State {
    files: Vec<Content>,
    dirs: BTreeMap<PathBuf, Directory>,
    steps: u64,
    kill_at: Option<u64>,
    fail_at: Option<u64>,
    dead: bool,
    errors: Vec<(PathBuf, Calls, Errno)>,
    sizes: BTreeMap<PathBuf, u64>,
    locks: BTreeSet<PathBuf>,
    /// Runs of the machine before this one.
    boot: u64,
    /// Syncs of files are answered and do nothing.
    lies: bool,
    /// Removals of files are answered and do nothing.
    keeps: bool,
    /// Runs of the process before this one.
    run: u64,
}

/// The disk; clones share it.
#[derive(Clone, Default)]
pub struct FaultyDisk(Arc<Mutex<State>>);

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    number: usize,
}

struct Lock {
    disk: FaultyDisk,
    path: PathBuf,
    run: u64,
}

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Steps that change something, so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The process dies at this step, before it is done (a write is done in part).
    pub fn kill_at(&self, step: u64) {
        self.state().kill_at = Some(step);
    }

    /// This step fails, and no other. What it was to write may have been written all the same.
    pub fn fail_at(&self, step: u64) {
        self.state().fail_at = Some(step);
    }

    /// The process dies now.
    pub fn kill(&self) {
        self.state().dead = true;
    }

    /// Whether the process died at the step that was chosen for it.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process starts again on the same machine.
    pub fn restart(&self) {
        self.state().restart();
    }

    /// The machine lost power and starts again. What is left of what was not synced depends on the seed.
    pub fn lose_power(&self, seed: u64) {
        self.state().lose_power(Survival::Any, seed);
    }

    /// A copy of the disk as it is after a loss of power.
    pub fn after_power_loss(&self, survival: Survival, seed: u64) -> Self {
        let copy = self.copy();
        copy.state().lose_power(survival, seed);
        copy
    }

    /// A copy that shares nothing, is not locked, and counts its steps from 0.
    pub fn copy(&self) -> Self {
        let mut state = self.state().clone();
        state.restart();
        state.steps = 0;
        Self(Arc::new(Mutex::new(state)))
    }

    /// From now on calls below `path` fail.
    pub fn fail(&self, path: &Path, calls: Calls, error: Errno) {
        self.state().errors.push((path.to_owned(), calls, error));
    }

    /// From now on syncs of files are answered at once and make nothing durable.
    pub fn lie_about_syncs(&self) {
        self.state().lies = true;
    }

    /// From now on removals of files are answered, and the files stay.
    pub fn ignore_removals(&self) {
        self.state().keeps = true;
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.state().errors.clear();
    }

    /// The file system at `path` has so many bytes.
    pub fn size(&self, path: &Path, bytes: u64) {
        self.state().sizes.insert(path.to_owned(), bytes);
    }

    /// The files below `path`, in the order of their paths.
    pub fn files_below(&self, path: &Path) -> Vec<PathBuf> {
        let state = self.state();
        let below = state.dirs.iter().filter(|(dir, _)| dir.starts_with(path));
        let files = below.flat_map(|(dir, directory)| {
            let files = directory.now.iter().filter(|(_, node)| matches!(node, Node::File(_)));
            files.map(|(name, _)| dir.join(name))
        });
        files.collect()
    }

    /// Flips a bit of a file.
    ///
    /// # Panics
    /// When there is no such file, or it is not that long.
    pub fn rot(&self, path: &Path, at: usize) {
        self.state().content(path).flip(at);
    }

    /// The content of a file, as last written.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn content(&self, path: &Path) -> Vec<u8> {
        self.state().content(path).written().to_vec()
    }

    /// Whether a loss of power now could change the file or its name.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn is_unsynced(&self, path: &Path) -> bool {
        let mut state = self.state();
        state.content(path).is_unsynced() || !state.dirs[&split(path).0].changes.is_empty()
    }

    /// Takes a file away, durably, as no process does.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn lose(&self, path: &Path) {
        let mut state = self.state();
        let (parent, name) = split(path);
        let directory = state.dirs.get_mut(&parent).unwrap_or_else(|| panic!("no file {}", path.display()));
        directory.change(vec![(name, None)]);
        directory.sync();
    }

    /// Replaces the content of a file, durably.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn replace(&self, path: &Path, content: Vec<u8>) {
        *self.state().content(path) = Content::durable(content);
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let parent = path.parent().unwrap_or(Path::new("/")).to_owned();
    (parent, path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

impl State {
    fn restart(&mut self) {
        (self.dead, self.kill_at, self.fail_at) = (false, None, None);
        self.locks.clear();
        self.run += 1;
    }

    fn lose_power(&mut self, survival: Survival, seed: u64) {
        self.restart();
        self.boot += 1;
        let mut random = StdRng::seed_from_u64(seed);
        for file in &mut self.files {
            file.lose_power(survival, &mut random);
        }
        for directory in self.dirs.values_mut() {
            let kept = match survival {
                Survival::Each(each) => {
                    directory.changes.iter().take_while(|_| random.random_bool(each)).count()
                }
                Survival::Any => random.random_range(0..=directory.changes.len()),
            };
            let mut names = std::mem::take(&mut directory.synced);
            directory.changes.drain(..).take(kept).for_each(|change| apply(&mut names, &change));
            directory.now.clone_from(&names);
            directory.synced = names;
        }
        self.forget_lost_directories();
    }

    /// Directories whose own name is gone.
    fn forget_lost_directories(&mut self) {
        let paths: Vec<PathBuf> = self.dirs.keys().cloned().collect();
        for path in paths {
            let known = path.ancestors().zip(path.ancestors().skip(1)).all(|(child, parent)| {
                let name = child.file_name().map(|n| n.to_string_lossy().into_owned());
                name.is_none_or(|name| self.dirs.get(parent).is_some_and(|d| d.now.contains_key(&name)))
            });
            if !known {
                self.dirs.remove(&path);
            }
        }
    }

    fn content(&mut self, path: &Path) -> &mut Content {
        match self.node(path) {
            Some(Node::File(number)) => &mut self.files[number],
            _ => panic!("no file {}", path.display()),
        }
    }

    fn node(&self, path: &Path) -> Option<Node> {
        let (parent, name) = split(path);
        self.dirs.get(&parent)?.now.get(&name).copied()
    }

    fn check(&self, path: &Path, calls: Calls) -> io::Result<()> {
        if self.dead {
            return Err(io::Error::other("the process is dead"));
        }
        match self.errors.iter().find(|(below, hit, _)| *hit == calls && path.starts_with(below)) {
            Some((_, _, error)) => Err((*error).into()),
            None => Ok(()),
        }
    }

    /// Counts a step; an error when the process dies at it, or it is chosen to fail.
    fn step(&mut self, path: &Path, calls: Calls) -> io::Result<()> {
        self.check(path, calls)?;
        self.steps += 1;
        if self.kill_at == Some(self.steps) {
            self.dead = true;
            return Err(io::Error::other("the process dies"));
        }
        if self.fail_at == Some(self.steps) {
            return Err(Errno::IO.into());
        }
        Ok(())
    }

    fn change(&mut self, path: &Path, node: Option<Node>) -> io::Result<()> {
        let (parent, name) = split(path);
        self.dirs.get_mut(&parent).ok_or(Errno::NOENT)?.change(vec![(name, node)]);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.node(from).ok_or(Errno::NOENT)?;
        let ((from_dir, from_name), (to_dir, to_name)) = (split(from), split(to));
        if from_dir != to_dir {
            self.change(to, Some(node))?;
            return self.change(from, None);
        }
        let directory = self.dirs.get_mut(&to_dir).ok_or(Errno::NOENT)?;
        directory.change(vec![(from_name, None), (to_name, Some(node))]);
        Ok(())
    }

    fn space(&self, path: &Path) -> (u64, u64) {
        let Some((root, size)) = self.sizes.iter().find(|(root, _)| path.starts_with(root)) else {
            return (1 << 40, 1 << 40);
        };
        let below = self.dirs.iter().filter(|(dir, _)| dir.starts_with(root));
        let files = below.flat_map(|(_, d)| d.now.values());
        let used: u64 = files.map(|n| if let Node::File(f) = n { self.files[*f].length() } else { 0 }).sum();
        (*size, size.saturating_sub(used))
    }

    /// What a write does to the content: nothing, all, or a part when the process dies at it.
    fn write(&mut self, path: &Path, number: usize, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check(path, Calls::Writes)?;
        let grown = (offset + data.len() as u64).saturating_sub(self.files[number].length());
        if grown > self.space(path).1 {
            return Err(Errno::NOSPC.into());
        }
        let outcome = self.step(path, Calls::Writes);
        // Where the write stops depends on the step alone, so that a run can be repeated.
        let cut = (self.steps as usize).wrapping_mul(SECTOR / 2 + 1) % (data.len() + 1);
        let reached = if self.dead { &data[..cut] } else { data };
        self.files[number].write(offset as usize, reached);
        outcome
    }
}

impl Disk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let mut missing: Vec<&Path> = path.ancestors().take_while(|p| !state.dirs.contains_key(*p)).collect();
        while let Some(dir) = missing.pop() {
            if dir.parent().is_some() {
                state.step(dir, Calls::Writes)?;
                state.change(dir, Some(Node::Dir))?;
            }
            state.dirs.insert(dir.to_owned(), Directory::default());
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.state();
        state.check(path, Calls::Reads)?;
        let directory = state.dirs.get(path).ok_or(Errno::NOENT)?;
        let entry = |(name, node): (&String, &Node)| {
            let size = if let Node::File(f) = node { state.files[*f].length() } else { 0 };
            Entry { name: name.clone(), is_dir: *node == Node::Dir, size }
        };
        Ok(directory.now.iter().map(entry).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.state();
        state.step(path, Calls::Writes)?;
        let number = match state.node(path) {
            Some(Node::File(number)) => {
                state.files[number].set_length(0);
                number
            }
            Some(Node::Dir) => return Err(Errno::ISDIR.into()),
            None => {
                state.files.push(Content::default());
                let number = state.files.len() - 1;
                state.change(path, Some(Node::File(number)))?;
                number
            }
        };
        Ok(Arc::new(FaultyFile { disk: self.clone(), path: path.to_owned(), number }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.state();
        state.check(path, Calls::Reads)?;
        match state.node(path) {
            Some(Node::File(number)) => {
                Ok(Arc::new(FaultyFile { disk: self.clone(), path: path.to_owned(), number }))
            }
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn open_writable(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(to, Calls::Writes)?;
        state.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(path, Calls::Writes)?;
        state.node(path).ok_or(Errno::NOENT)?;
        if state.keeps { Ok(()) } else { state.change(path, None) }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(path, Calls::Syncs)?;
        state.dirs.get_mut(path).ok_or(Errno::NOENT)?.sync();
        Ok(())
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.step(path, Calls::Syncs)?;
        for (_, directory) in state.dirs.iter_mut().filter(|(dir, _)| dir.starts_with(path)) {
            directory.sync();
            for node in directory.now.values() {
                if let Node::File(f) = node {
                    state.files[*f].sync();
                }
            }
        }
        Ok(())
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        let state = self.state();
        state.check(path, Calls::Reads)?;
        match state.node(path) {
            Some(Node::File(number)) => Ok(Identity { device: 0, inode: number as u64 }),
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        let state = self.state();
        state.check(path, Calls::Reads)?;
        let (total, free) = state.space(path);
        let device = state.sizes.keys().position(|root| path.starts_with(root)).map_or(0, |i| i as u64 + 1);
        Ok(Space { device, total, free })
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        state.check(path, Calls::Writes)?;
        if !state.locks.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let (path, run) = (path.to_owned(), state.run);
        drop(state);
        Ok(Box::new(Lock { disk: self.clone(), path, run }))
    }

    fn boot_id(&self) -> String {
        format!("boot {}", self.state().boot)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        // A lock of a process that was killed is not that of the process after it.
        if state.run == self.run {
            state.locks.remove(&self.path);
        }
    }
}

impl DiskFile for FaultyFile {
    fn length(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check(&self.path, Calls::Reads)?;
        Ok(state.files[self.number].length())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step(&self.path, Calls::Writes)?;
        state.files[self.number].set_length(length as usize);
        Ok(())
    }

    fn write(&self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        self.write_at(offset, &parts.concat())
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.state().write(&self.path, self.number, offset, data)
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let state = self.disk.state();
        state.check(&self.path, Calls::Reads)?;
        state.files[self.number].read(offset as usize, length).map(<[u8]>::to_vec)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        state.check(&self.path, Calls::Reads)?;
        buffer.copy_from_slice(state.files[self.number].read(offset as usize, buffer.len())?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step(&self.path, Calls::Syncs)?;
        if !state.lies {
            state.files[self.number].sync();
        }
        Ok(())
    }

    fn begin_sync(&self) {}

    fn drop_cache(&self) {}
}
