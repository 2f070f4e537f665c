//! What clients do: few files, so that conflicts are the rule.

use crate::history::{History, Object};
use crate::register::Register;
use bytes::Bytes;
use quarry_client::{FileSystem, OpenFile, OpenMode};
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::Caller;
use quarry_host::random;
use rand::Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a file: some blocks, all of one window.
const SIZE: usize = 20_000;
/// Pause between two operations of a client.
const PAUSE_MS: std::ops::Range<u64> = 0..300;
const WORD: usize = size_of::<u64>();

const ROOT_CALLER: Caller = Caller { uid: 0, gid: 0 };
pub(crate) const BOTH: OpenMode =
    OpenMode { read: true, write: true, append: false, direct: false, truncate: false };

/// The name of a file.
fn name(file: usize) -> Vec<u8> {
    format!("file-{file}").into_bytes()
}

/// A value as the content of a file.
fn content(value: u64) -> Bytes {
    value.to_le_bytes().repeat(SIZE / WORD).into()
}

/// Makes the files, each with the value 0, durably. Gives the first.
pub(crate) async fn make_files(fs: &FileSystem, files: usize) -> Result<Ino, FsError> {
    let mut first = None;
    for file in 0..files {
        let made = fs.create_open(Ino::ROOT, &name(file), 0o644, 0, ROOT_CALLER, BOTH).await;
        let file = match made {
            Ok((_, file)) => file,
            Err(FsError::Exists) => {
                let attr = fs.lookup(Ino::ROOT, &name(file)).await?;
                fs.open(attr.ino, BOTH).await?
            }
            Err(error) => return Err(error),
        };
        file.write(0, content(0), false).await?;
        file.fsync().await?;
        file.closing().await?;
        first.get_or_insert(file.ino());
        file.release().await;
    }
    first.ok_or(FsError::Invalid)
}

/// One client at work.
pub(crate) struct Worker {
    pub(crate) fs: FileSystem,
    /// Unique for each life of a client.
    pub(crate) number: usize,
    pub(crate) history: History,
    pub(crate) files: usize,
    /// The last value that was written by any client.
    pub(crate) values: Arc<AtomicU64>,
}

impl Worker {
    /// Works until the process ends.
    pub(crate) async fn run(self) {
        let mut open: Vec<Option<Arc<OpenFile>>> = vec![None; self.files];
        loop {
            let pause = random::rng().random_range(PAUSE_MS);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let file = random::rng().random_range(0..self.files);
            let handle = match open[file].take() {
                Some(handle) => handle,
                None => match self.open(file).await {
                    Ok(handle) => handle,
                    Err(error) => {
                        self.history
                            .note(&format!("client {} cannot open file {file}: {error}", self.number));
                        continue;
                    }
                },
            };
            let keep = match random::rng().random_range(0..100) {
                0..40 => self.write(file, &handle).await,
                40..80 => self.read(file, &handle).await,
                80..92 => self.sync(file, &handle).await,
                _ => false,
            };
            if keep {
                open[file] = Some(handle);
            } else {
                // What an error or the close does to unsynced data is told by a later read.
                let _ = handle.closing().await;
                handle.release().await;
            }
        }
    }

    async fn open(&self, file: usize) -> Result<Arc<OpenFile>, FsError> {
        let attr = self.fs.lookup(Ino::ROOT, &name(file)).await?;
        self.fs.open(attr.ino, BOTH).await
    }

    async fn write(&self, file: usize, handle: &OpenFile) -> bool {
        let value = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let maybe = Register::MaybeWrite(self.number, value);
        let ticket = self.history.call(Object::File(file), self.number, maybe);
        match handle.write(0, content(value), false).await {
            Ok(written) if written as usize == content(value).len() => {
                self.history.returned(ticket, Register::Write(self.number, value));
                true
            }
            other => {
                // What was lost does not come back.
                self.history.failed(ticket, &format!("{other:?}"));
                false
            }
        }
    }

    async fn read(&self, file: usize, handle: &OpenFile) -> bool {
        let ticket = self.history.call(Object::File(file), self.number, Register::Nothing);
        match read_value(handle).await {
            Ok(value) => {
                self.history.returned(ticket, Register::Read(self.number, value));
                true
            }
            Err(ReadError::Torn(what)) => {
                self.history.violation(format!("client {} read a torn file {file}: {what}", self.number));
                false
            }
            Err(ReadError::Failed(error)) => {
                self.history.returned(ticket, Register::Nothing);
                self.history.note(&format!("client {} failed to read: {error}", self.number));
                false
            }
        }
    }

    async fn sync(&self, file: usize, handle: &OpenFile) -> bool {
        let ticket = self.history.call(Object::File(file), self.number, Register::Nothing);
        match handle.fsync().await {
            Ok(()) => {
                self.history.returned(ticket, Register::Sync(self.number));
                true
            }
            Err(error) => {
                self.history.returned(ticket, Register::Nothing);
                self.history.note(&format!("client {} failed to sync: {error}", self.number));
                false
            }
        }
    }
}

/// Removes the files.
pub(crate) async fn remove_files(fs: &FileSystem, files: usize) -> Result<(), FsError> {
    for file in 0..files {
        fs.unlink(Ino::ROOT, &name(file)).await?;
    }
    Ok(())
}

/// Reads every file once, as a client that comes new.
pub(crate) async fn read_all(fs: &FileSystem, number: usize, files: usize, history: &History) {
    for file in 0..files {
        let ticket = history.call(Object::File(file), number, Register::Nothing);
        let read = async {
            let attr = fs.lookup(Ino::ROOT, &name(file)).await.map_err(ReadError::Failed)?;
            let handle = fs.open(attr.ino, BOTH).await.map_err(ReadError::Failed)?;
            let value = read_value(&handle).await;
            handle.release().await;
            value
        };
        match read.await {
            Ok(value) => history.returned(ticket, Register::Read(number, value)),
            Err(error) => history.violation(format!("file {file} cannot be read in the end: {error:?}")),
        }
    }
}

#[derive(Debug)]
enum ReadError {
    Failed(FsError),
    /// Not one value as a whole.
    Torn(String),
}

async fn read_value(handle: &OpenFile) -> Result<u64, ReadError> {
    let bytes = handle.read(0, SIZE as u32).await.map_err(ReadError::Failed)?;
    let first = bytes.first_chunk::<WORD>().map(|word| u64::from_le_bytes(*word));
    match first {
        Some(value) if bytes == content(value) => Ok(value),
        _ => {
            let mut values: Vec<u64> =
                bytes.as_chunks::<WORD>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
            values.dedup();
            Err(ReadError::Torn(format!("{} bytes with the values {values:?}", bytes.len())))
        }
    }
}
