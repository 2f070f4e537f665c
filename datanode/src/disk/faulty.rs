//! A disk in memory that can be killed at any step, lose power, fill up and fail.
//!
//! It tells what was written from what is durable. A kill of the process keeps all that was written. A loss of power keeps
//! of each file what was synced or any part of what was written since, and of each directory the names as last synced
//! and any first part of the changes since: file systems keep the order of changes in a directory, and no order between
//! content and names.

use super::{Disk, DiskFile, Entry, Space};
use bytes::Bytes;
use quarry_common::ids::ChunkId;
use quarry_common::wire::cluster::GroupDigest;
use rustix::io::Errno;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// Which calls an injected error hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Calls {
    Reads,
    Writes,
    Syncs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug, Default)]
struct Content {
    written: Vec<u8>,
    synced: Vec<u8>,
}

type Names = BTreeMap<String, Node>;

#[derive(Clone, Debug, Default)]
struct Directory {
    now: Names,
    synced: Names,
    /// Changes since the last sync: the name, and what it means from then on.
    changes: Vec<(String, Option<Node>)>,
}

#[derive(Default)]
struct State {
    files: Vec<Content>,
    dirs: BTreeMap<PathBuf, Directory>,
    steps: u64,
    kill_at: Option<u64>,
    dead: bool,
    errors: Vec<(PathBuf, Calls, Errno)>,
    sizes: BTreeMap<PathBuf, u64>,
    locks: HashSet<PathBuf>,
    boot: u64,
    random: u64,
}

/// The disk; clones share it.
#[derive(Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

struct FaultyFile {
    disk: FaultyDisk,
    path: PathBuf,
    number: usize,
}

struct Lock {
    disk: FaultyDisk,
    path: PathBuf,
}

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Steps that change something, so far.
    pub(crate) fn steps(&self) -> u64 {
        self.state().steps
    }

    /// The process dies at this step, before it is done (a write is done in part).
    pub(crate) fn kill_at(&self, step: u64) {
        self.state().kill_at = Some(step);
    }

    /// The process starts again on the same machine.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        (state.dead, state.kill_at) = (false, None);
        state.locks.clear();
    }

    /// The machine lost power and starts again.
    pub(crate) fn lose_power(&self, seed: u64) {
        self.restart();
        let state = &mut *self.state();
        state.boot += 1;
        state.random = seed;
        for file in 0..state.files.len() {
            state.lose_content(file);
        }
        let paths: Vec<PathBuf> = state.dirs.keys().cloned().collect();
        for path in &paths {
            let kept = state.draw(state.dirs[path].changes.len() + 1);
            let directory = state.dirs.get_mut(path).unwrap();
            let mut names = directory.synced.clone();
            for (name, node) in directory.changes.drain(..).take(kept) {
                set(&mut names, name, node);
            }
            directory.now.clone_from(&names);
            directory.synced = names;
        }
        // Directories whose own name is gone.
        for path in &paths {
            let known = path.ancestors().zip(path.ancestors().skip(1)).all(|(child, parent)| {
                let name = child.file_name().map(|n| n.to_string_lossy().into_owned());
                name.is_none_or(|name| state.dirs.get(parent).is_some_and(|d| d.now.contains_key(&name)))
            });
            if !known {
                state.dirs.remove(path);
            }
        }
    }

    /// From now on calls below `path` fail.
    pub(crate) fn fail(&self, path: &Path, calls: Calls, error: Errno) {
        self.state().errors.push((path.to_owned(), calls, error));
    }

    /// The file system at `path` has so many bytes.
    pub(crate) fn size(&self, path: &Path, bytes: u64) {
        self.state().sizes.insert(path.to_owned(), bytes);
    }

    /// Flips a bit of a file.
    pub(crate) fn rot(&self, path: &Path, at: usize) {
        self.state().content(path).written[at] ^= 1;
    }

    /// The content of a file, as last written.
    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        self.state().content(path).written.clone()
    }

    /// Whether a loss of power now could change the file or its name.
    pub(crate) fn is_unsynced(&self, path: &Path) -> bool {
        let mut state = self.state();
        let content = state.content(path);
        content.written != content.synced || !state.dirs[&split(path).0].changes.is_empty()
    }

    /// Replaces the content of a file, durably.
    pub(crate) fn replace(&self, path: &Path, content: Vec<u8>) {
        *self.state().content(path) = Content { written: content.clone(), synced: content };
    }
}

fn set(names: &mut Names, name: String, node: Option<Node>) {
    match node {
        Some(node) => names.insert(name, node),
        None => names.remove(&name),
    };
}

fn split(path: &Path) -> (PathBuf, String) {
    (path.parent().unwrap().to_owned(), path.file_name().unwrap().to_str().unwrap().to_owned())
}

impl State {
    fn draw(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(1);
        (GroupDigest::mix(ChunkId(self.random)) % below as u64) as usize
    }

    fn lose_content(&mut self, number: usize) {
        let cut = self.draw(self.files[number].written.len() + 1);
        let kind = self.draw(4);
        let file = &mut self.files[number];
        if file.written != file.synced {
            match kind {
                0 => file.written.clone_from(&file.synced),
                1 => file.written.truncate(cut),
                2 => file.written[cut..].fill(0),
                _ => {}
            }
        }
        file.synced.clone_from(&file.written);
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

    /// Counts a step; an error when the process dies at it.
    fn step(&mut self, path: &Path, calls: Calls) -> io::Result<()> {
        self.check(path, calls)?;
        self.steps += 1;
        if self.kill_at == Some(self.steps) {
            self.dead = true;
            return Err(io::Error::other("the process dies"));
        }
        Ok(())
    }

    fn change(&mut self, path: &Path, node: Option<Node>) -> io::Result<()> {
        let (parent, name) = split(path);
        let directory = self.dirs.get_mut(&parent).ok_or(Errno::NOENT)?;
        set(&mut directory.now, name.clone(), node);
        directory.changes.push((name, node));
        Ok(())
    }

    fn space(&self, path: &Path) -> (u64, u64) {
        let Some((root, size)) = self.sizes.iter().find(|(root, _)| path.starts_with(root)) else {
            return (1 << 40, 1 << 40);
        };
        let below = self.dirs.iter().filter(|(dir, _)| dir.starts_with(root));
        let files = below.flat_map(|(_, d)| d.now.values());
        let used: usize =
            files.map(|n| if let Node::File(f) = n { self.files[*f].written.len() } else { 0 }).sum();
        (*size, size.saturating_sub(used as u64))
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
            let size = if let Node::File(f) = node { state.files[*f].written.len() as u64 } else { 0 };
            Entry { name: name.clone(), is_dir: *node == Node::Dir, size }
        };
        Ok(directory.now.iter().map(entry).collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        state.step(path, Calls::Writes)?;
        let number = state.files.len();
        state.files.push(Content::default());
        state.change(path, Some(Node::File(number)))?;
        Ok(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned(), number }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        state.check(path, Calls::Reads)?;
        match state.node(path) {
            Some(Node::File(number)) => {
                Ok(Box::new(FaultyFile { disk: self.clone(), path: path.to_owned(), number }))
            }
            _ => Err(Errno::NOENT.into()),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(to, Calls::Writes)?;
        let node = state.node(from).ok_or(Errno::NOENT)?;
        state.change(from, None)?;
        state.change(to, Some(node))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(path, Calls::Writes)?;
        state.node(path).ok_or(Errno::NOENT)?;
        state.change(path, None)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step(path, Calls::Syncs)?;
        let directory = state.dirs.get_mut(path).ok_or(Errno::NOENT)?;
        directory.synced = directory.now.clone();
        directory.changes.clear();
        Ok(())
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        let state = &mut *self.state();
        state.step(path, Calls::Syncs)?;
        for (_, directory) in state.dirs.iter_mut().filter(|(dir, _)| dir.starts_with(path)) {
            directory.synced = directory.now.clone();
            directory.changes.clear();
            for node in directory.now.values() {
                if let Node::File(f) = node {
                    state.files[*f].synced = state.files[*f].written.clone();
                }
            }
        }
        Ok(())
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
        drop(state);
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned() }))
    }

    fn boot_id(&self) -> String {
        format!("boot {}", self.state().boot)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.path);
    }
}

impl DiskFile for FaultyFile {
    fn write(&self, parts: &[Bytes]) -> io::Result<()> {
        let mut state = self.disk.state();
        let mut all = parts.concat();
        let outcome = state.step(&self.path, Calls::Writes);
        if outcome.is_err() && state.dead {
            let cut = state.draw(all.len() + 1);
            all.truncate(cut);
        } else {
            outcome?;
            if all.len() as u64 > state.space(&self.path).1 {
                return Err(Errno::NOSPC.into());
            }
        }
        state.files[self.number].written = all;
        if state.dead { Err(io::Error::other("the process dies")) } else { Ok(()) }
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let state = self.disk.state();
        state.check(&self.path, Calls::Reads)?;
        let content = &state.files[self.number].written;
        let range = content.get(offset as usize..).and_then(|rest| rest.get(..length));
        range.map(<[u8]>::to_vec).ok_or(io::ErrorKind::UnexpectedEof.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.step(&self.path, Calls::Syncs)?;
        let file = &mut state.files[self.number];
        file.synced.clone_from(&file.written);
        Ok(())
    }

    fn begin_sync(&self) {}

    fn drop_cache(&self) {}
}
