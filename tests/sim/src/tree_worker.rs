//! What clients do with names and attributes.

use crate::history::{History, Object};
use crate::tree::{Change, DIRS, NAMES, Refusal, SLOTS, Seen, Token, Tree};
use quarry_client::FileSystem;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, Caller, FileKind, NewNode, RenameMode, SetAttr, SetXattrMode};
use quarry_host::random;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LABEL: &[u8] = b"user.label";
/// Pause between two operations of a client.
const PAUSE_MS: std::ops::Range<u64> = 0..400;
const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0 };

/// The directories, by number.
pub(crate) type Dirs = [Ino; DIRS];

/// Makes the directories.
pub(crate) async fn make_dirs(fs: &FileSystem) -> Result<Dirs, FsError> {
    let mut dirs = [Ino::ROOT; DIRS];
    for (number, dir) in dirs.iter_mut().enumerate() {
        let name = format!("dir-{number}");
        let made = fs.create(Ino::ROOT, name.as_bytes(), NewNode::Dir, 0o755, 0, ROOT_CALLER).await;
        *dir = match made {
            Err(FsError::Exists) => fs.lookup(Ino::ROOT, name.as_bytes()).await?.ino,
            other => other?.ino,
        };
    }
    Ok(dirs)
}

/// One client at work on names and attributes.
pub(crate) struct TreeWorker {
    pub(crate) fs: FileSystem,
    pub(crate) number: usize,
    pub(crate) history: History,
    pub(crate) dirs: Dirs,
    /// The last token or value that any client gave.
    pub(crate) values: Arc<AtomicU64>,
}

impl TreeWorker {
    /// Works until the process ends.
    pub(crate) async fn run(self) {
        loop {
            let pause = random::rng().random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            self.step().await;
        }
    }

    async fn step(&self) {
        let slot = random::rng().random_range(0..SLOTS);
        match random::rng().random_range(0..100) {
            0..18 => {
                let is_dir = random::rng().random_ratio(1, 4);
                self.change(Change::Make { slot, token: self.value(), is_dir }, None).await;
            }
            18..30 => {
                let is_dir = random::rng().random_ratio(1, 4);
                self.change(Change::Remove { slot, is_dir }, None).await;
            }
            30..48 => {
                let mode = match random::rng().random_range(0..4) {
                    0 => RenameMode::NoReplace,
                    1 => RenameMode::Exchange,
                    _ => RenameMode::Replace,
                };
                let to = random::rng().random_range(0..SLOTS);
                self.change(Change::Rename { from: slot, to, mode }, None).await;
            }
            48..66 => {
                let Some(attr) = self.look(slot).await else { return };
                let change = match random::rng().random_range(0..3) {
                    0 => Change::Link { token: attr.uid, slot: random::rng().random_range(0..SLOTS) },
                    1 => Change::SetValue { token: attr.uid, value: self.value() },
                    _ => Change::SetLabel { token: attr.uid, label: self.value() },
                };
                self.change(change, Some(attr.ino)).await;
            }
            66..74 => self.read_label(slot).await,
            74..82 => self.list(slot / NAMES).await,
            _ => {
                self.look(slot).await;
            }
        }
    }

    /// Looks at every name and directory once, as a client that comes new.
    pub(crate) async fn look_at_all(&self) {
        for slot in 0..SLOTS {
            self.read_label(slot).await;
        }
        for dir in 0..DIRS {
            self.list(dir).await;
        }
    }

    /// Removes all names.
    pub(crate) async fn remove_all(&self) -> Result<(), FsError> {
        for slot in 0..SLOTS {
            let (dir, name) = self.place(slot);
            match self.fs.unlink(dir, &name).await {
                Ok(_) | Err(FsError::NotFound) => {}
                Err(FsError::IsDir) => {
                    self.fs.rmdir(dir, &name).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn value(&self) -> Token {
        self.values.fetch_add(1, Ordering::Relaxed) as Token + 1
    }

    fn place(&self, slot: usize) -> (Ino, Vec<u8>) {
        (self.dirs[slot / NAMES], format!("name-{}", slot % NAMES).into_bytes())
    }

    async fn change(&self, change: Change, ino: Option<Ino>) {
        let ticket = self.history.call(Object::Tree, self.number, Tree::Maybe(change));
        match self.carry_out(change, ino.unwrap_or(Ino::ROOT)).await {
            Ok(()) => self.history.returned(ticket, Tree::Changed(change)),
            Err(error) => match refusal(&error) {
                Some(why) => self.history.returned(ticket, Tree::Refused(change, why)),
                // The session in which it was sent has ended: it was made by then, or never.
                None => self.history.failed(ticket, &error),
            },
        }
    }

    async fn carry_out(&self, change: Change, ino: Ino) -> Result<(), FsError> {
        let fs = &self.fs;
        match change {
            Change::Make { slot, token, is_dir } => {
                let ((dir, name), caller) = (self.place(slot), Caller { uid: token, gid: 0 });
                let node = if is_dir { NewNode::Dir } else { NewNode::File { open: false } };
                fs.create(dir, &name, node, 0o700, 0, caller).await.map(drop)
            }
            Change::Remove { slot, is_dir } => {
                let (dir, name) = self.place(slot);
                if is_dir { fs.rmdir(dir, &name).await } else { fs.unlink(dir, &name).await }.map(drop)
            }
            Change::Rename { from, to, mode } => {
                let ((from, from_name), (to, to_name)) = (self.place(from), self.place(to));
                fs.rename(from, &from_name, to, &to_name, mode).await.map(drop)
            }
            Change::Link { slot, .. } => {
                let (dir, name) = self.place(slot);
                fs.link(ino, dir, &name).await.map(drop)
            }
            Change::SetValue { value, .. } => {
                let set = SetAttr { gid: Some(value), ..SetAttr::default() };
                fs.setattr(ino, set, false).await.map(drop)
            }
            Change::SetLabel { label, .. } => {
                let value = label.to_string().into_bytes();
                fs.setxattr(ino, LABEL, value, SetXattrMode::Either).await.map(drop)
            }
        }
    }

    async fn look(&self, slot: usize) -> Option<Attr> {
        let ticket = self.history.call(Object::Tree, self.number, Tree::Nothing);
        let (dir, name) = self.place(slot);
        let result = self.fs.lookup(dir, &name).await;
        match &result {
            Ok(attr) => {
                let is_dir = attr.kind == FileKind::Dir;
                let links = (!is_dir).then_some(attr.nlink);
                let found = Some(Seen { token: attr.uid, is_dir, value: attr.gid, links });
                self.history.returned(ticket, Tree::Look { slot, found });
            }
            Err(FsError::NotFound) => self.history.returned(ticket, Tree::Look { slot, found: None }),
            Err(error) => {
                self.history.returned(ticket, Tree::Nothing);
                self.history.note(&format!("client {} failed to look: {error}", self.number));
            }
        }
        result.ok()
    }

    async fn read_label(&self, slot: usize) {
        let Some(attr) = self.look(slot).await else { return };
        let ticket = self.history.call(Object::Tree, self.number, Tree::Nothing);
        let label = match self.fs.getxattr(attr.ino, LABEL).await {
            Ok(value) => String::from_utf8_lossy(&value).parse().ok(),
            Err(FsError::NoAttribute) => None,
            // It is gone, or nothing is known.
            Err(_) => return self.history.returned(ticket, Tree::Nothing),
        };
        self.history.returned(ticket, Tree::Label { token: attr.uid, label });
    }

    async fn list(&self, dir: usize) {
        let ticket = self.history.call(Object::Tree, self.number, Tree::Nothing);
        match self.fs.readdir(self.dirs[dir], 0, 100, false).await {
            Ok(page) => {
                let mut names = [false; NAMES];
                for entry in page.entries {
                    let place = (0..NAMES).find(|slot| self.place(*slot).1.as_slice() == &*entry.name);
                    match place {
                        Some(place) if !names[place] => names[place] = true,
                        _ => self.history.violation(format!("an entry that must not be: {entry:?}")),
                    }
                }
                self.history.returned(ticket, Tree::List { dir, names });
            }
            Err(error) => {
                self.history.returned(ticket, Tree::Nothing);
                self.history.note(&format!("client {} failed to list: {error}", self.number));
            }
        }
    }
}

fn refusal(error: &FsError) -> Option<Refusal> {
    match error {
        FsError::Exists => Some(Refusal::Exists),
        FsError::NotFound | FsError::Stale => Some(Refusal::Missing),
        FsError::IsDir => Some(Refusal::IsDir),
        FsError::NotDir => Some(Refusal::NotDir),
        FsError::NotPermitted => Some(Refusal::NotPermitted),
        _ => None,
    }
}
