//! The file of `quarry meta backup`: all records of the metadata as they were at one moment.
//!
//! ```text
//! 8 bytes   QRYMETA1, the last byte being the format version
//! records:  key length (4), value length (4), key, value, in ascending order of the keys
//! end:      key length 0 (4), value length 0 (4)
//! 32 bytes  SHA-256 of all before it
//! ```
//!
//! Integers are little-endian. A file without its end, or with another checksum, is refused as a whole.

use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};

/// Begins each file; the last byte is the format version.
const MAGIC: [u8; 8] = *b"QRYMETA1";
/// Longest key or value. Records of the state are at most some 100 KiB.
const FIELD_MAX: usize = 16 << 20;

/// Writes a backup.
pub struct BackupWriter<W> {
    out: W,
    hash: Sha256,
    last: Vec<u8>,
}

impl<W: Write> BackupWriter<W> {
    /// Begins a backup.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: W) -> anyhow::Result<Self> {
        let mut writer = Self { out, hash: Sha256::new(), last: Vec::new() };
        writer.write(&MAGIC)?;
        Ok(writer)
    }

    /// Adds a record, whose key must be greater than the one before.
    ///
    /// # Errors
    /// Those of `out`, and when the record does not fit the format.
    pub fn record(&mut self, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
        ensure!(!key.is_empty() && *key > *self.last, "the records are not in order");
        ensure!(key.len() <= FIELD_MAX && value.len() <= FIELD_MAX, "a record is too large");
        self.write(&lengths(key.len(), value.len()))?;
        self.write(key)?;
        self.write(value)?;
        self.last = key.to_vec();
        Ok(())
    }

    /// Ends the backup, and gives back where it was written.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn finish(mut self) -> anyhow::Result<W> {
        self.write(&lengths(0, 0))?;
        let digest = self.hash.clone().finalize();
        self.out.write_all(&digest)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes).context("cannot write the backup")
    }
}

fn lengths(key: usize, value: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(key as u32).to_le_bytes());
    bytes[4..].copy_from_slice(&(value as u32).to_le_bytes());
    bytes
}

/// Reads a backup.
pub struct BackupReader<R> {
    file: R,
    hash: Sha256,
    last: Vec<u8>,
    done: bool,
}

impl<R: Read> BackupReader<R> {
    /// Begins to read a backup.
    ///
    /// # Errors
    /// When it cannot be read, or is not a backup of this format.
    pub fn begin(file: R) -> anyhow::Result<Self> {
        let mut reader = Self { file, hash: Sha256::new(), last: Vec::new(), done: false };
        let magic: [u8; 8] = reader.array()?;
        ensure!(magic[..7] == MAGIC[..7], "it is not a backup of a NameNode");
        ensure!(magic == MAGIC, "it was written by a newer version: use that one");
        Ok(reader)
    }

    /// The next record; `None` after the last one, when the whole file was found sound.
    ///
    /// # Errors
    /// When the file cannot be read, ends too early or is damaged. What was read before counts for nothing then.
    pub fn next_record(&mut self) -> anyhow::Result<Option<(Vec<u8>, Vec<u8>)>> {
        if self.done {
            return Ok(None);
        }
        let head: [u8; 8] = self.array()?;
        let (key, value) = head.split_at(4);
        let length = |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let (key, value) = (length(key), length(value));
        if key == 0 && value == 0 {
            return self.end().map(|()| None);
        }
        ensure!(
            key > 0 && key <= FIELD_MAX && value <= FIELD_MAX,
            "it is damaged: a record of {key} and {value} bytes"
        );
        let (key, value) = (self.bytes(key)?, self.bytes(value)?);
        ensure!(key > self.last, "it is damaged: the records are not in order");
        self.last.clone_from(&key);
        Ok(Some((key, value)))
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let expected = self.hash.clone().finalize();
        let found: [u8; 32] = self.array()?;
        if found != *expected {
            bail!("it is damaged: its checksum does not fit");
        }
        self.done = true;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> anyhow::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).context("it ends too early")?;
        self.hash.update(bytes);
        Ok(bytes)
    }

    fn bytes(&mut self, count: usize) -> anyhow::Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        self.file.read_exact(&mut bytes).context("it ends too early")?;
        self.hash.update(&bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(bytes: &[u8]) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut reader = BackupReader::begin(bytes)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next_record()? {
            records.push(record);
        }
        Ok(records)
    }

    #[test]
    fn what_is_written_is_read_and_no_damage_passes() {
        let mut writer = BackupWriter::begin(Vec::new()).unwrap();
        writer.record(b"a", b"1").unwrap();
        writer.record(b"b", b"").unwrap();
        assert!(writer.record(b"b", b"2").is_err());
        let bytes = writer.finish().unwrap();
        let whole = [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), Vec::new())];
        assert_eq!(records(&bytes).unwrap(), whole);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(records(&damaged).is_err(), "byte {at}");
            assert!(records(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
