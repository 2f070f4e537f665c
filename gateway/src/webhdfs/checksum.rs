//! `GETFILECHECKSUM`: the checksums of HDFS, so that `distcp` can compare files of both.
//!
//! Hadoop's WebHDFS client knows one kind only, `MD5-of-<N>MD5-of-512CRC32C`: for each block of 128 MiB the MD5 of the CRC32C
//! of each 512 bytes, and over all blocks the MD5 of those. `combinemode=COMPOSITE_CRC` gives the CRC32C of the whole file.

use super::{BLOCK_SIZE, Call, json};
use crate::auth::hex;
use crate::error::Result;
use crate::files::stream;
use axum::response::Response;
use bytes::Bytes;
use futures::TryStreamExt;
use md5::{Digest, Md5};
use quarry_common::checksum::crc32c;
use quarry_common::ids::Ino;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Bytes that one CRC covers, as HDFS has it by default.
pub(super) const BYTES_PER_CRC: u32 = 512;
/// Files whose checksums are remembered.
const REMEMBERED_MAX: usize = 4096;
/// `DataOutputBuffer` of Hadoop begins with this capacity, and its whole capacity is hashed.
const BUFFER_MIN: usize = 32;

/// Both checksums of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileChecksum {
    md5: [u8; 16],
    crc_per_block: u64,
    composite: u32,
}

/// Checksums by inode and version: equal versions mean equal contents.
#[derive(Default)]
pub(crate) struct Checksums(Mutex<HashMap<(Ino, u64), FileChecksum>>);

impl Checksums {
    fn get(&self, key: (Ino, u64)) -> Option<FileChecksum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&key).copied()
    }

    fn put(&self, key: (Ino, u64), sum: FileChecksum) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(key, sum);
    }
}

/// Takes the bytes of a file in order.
struct Hasher {
    /// The beginning of a run of 512 bytes whose end has not arrived.
    partial: Vec<u8>,
    block: Md5,
    block_bytes: u64,
    block_sums: Vec<u8>,
    blocks: u64,
    composite: crc_fast::Digest,
}

impl Hasher {
    fn new() -> Self {
        Self {
            partial: Vec::with_capacity(BYTES_PER_CRC as usize),
            block: Md5::new(),
            block_bytes: 0,
            block_sums: Vec::new(),
            blocks: 0,
            composite: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi),
        }
    }

    fn update(&mut self, mut data: &[u8]) {
        self.composite.update(data);
        while !data.is_empty() {
            let wanted = BYTES_PER_CRC as usize - self.partial.len();
            if self.partial.is_empty() && data.len() >= wanted {
                let (run, rest) = data.split_at(wanted);
                self.run(run);
                data = rest;
                continue;
            }
            let (part, rest) = data.split_at(wanted.min(data.len()));
            self.partial.extend_from_slice(part);
            data = rest;
            if self.partial.len() == BYTES_PER_CRC as usize {
                let run = std::mem::take(&mut self.partial);
                self.run(&run);
            }
        }
    }

    fn run(&mut self, run: &[u8]) {
        self.block.update(crc32c(run).to_be_bytes());
        self.block_bytes += run.len() as u64;
        if self.block_bytes == BLOCK_SIZE {
            self.end_block();
        }
    }

    fn end_block(&mut self) {
        self.block_sums.extend_from_slice(&std::mem::take(&mut self.block).finalize());
        self.blocks += 1;
        self.block_bytes = 0;
    }

    fn finish(mut self) -> FileChecksum {
        if !self.partial.is_empty() {
            let run = std::mem::take(&mut self.partial);
            self.run(&run);
        }
        if self.block_bytes > 0 {
            self.end_block();
        }
        let crc_per_block = if self.blocks > 1 { BLOCK_SIZE / u64::from(BYTES_PER_CRC) } else { 0 };
        let mut capacity = BUFFER_MIN;
        while capacity < self.block_sums.len() {
            capacity *= 2;
        }
        self.block_sums.resize(capacity, 0);
        FileChecksum {
            md5: Md5::digest(&self.block_sums).into(),
            crc_per_block,
            composite: self.composite.finalize() as u32,
        }
    }
}

impl FileChecksum {
    fn to_json(self, is_composite: bool) -> Value {
        let (algorithm, bytes) = if is_composite {
            ("COMPOSITE-CRC32C".to_owned(), self.composite.to_be_bytes().to_vec())
        } else {
            let mut bytes = BYTES_PER_CRC.to_be_bytes().to_vec();
            bytes.extend(self.crc_per_block.to_be_bytes());
            bytes.extend(self.md5);
            (format!("MD5-of-{}MD5-of-{BYTES_PER_CRC}CRC32C", self.crc_per_block), bytes)
        };
        json!({ "FileChecksum": { "algorithm": algorithm, "bytes": hex(&bytes), "length": bytes.len() } })
    }
}

impl Call {
    pub(super) async fn checksum(&self) -> Result<Response> {
        let (attr, file) = self.fs.open(&self.path).await?;
        let is_composite =
            self.params.text("combinemode").is_some_and(|m| m.eq_ignore_ascii_case("COMPOSITE_CRC"));
        let key = (attr.ino, attr.version);
        if let Some(known) = self.gateway.checksums.get(key) {
            return Ok(json(known.to_json(is_composite)));
        }
        let _place = self.gateway.heavy().await;
        let add = |mut hasher: Hasher, data: Bytes| async move {
            hasher.update(&data);
            Ok(hasher)
        };
        let sum = stream(file.clone(), 0..attr.size).try_fold(Hasher::new(), add).await?.finish();
        // Written to meanwhile: the sum is of no version.
        if file.attr().version == attr.version {
            self.gateway.checksums.put(key, sum);
        }
        Ok(json(sum.to_json(is_composite)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(pieces: &[&[u8]]) -> FileChecksum {
        let mut hasher = Hasher::new();
        for piece in pieces {
            hasher.update(piece);
        }
        hasher.finish()
    }

    #[test]
    fn the_pieces_in_which_data_arrives_do_not_matter() {
        let data: Vec<u8> = (0..5000u32).map(|i| (i % 251) as u8).collect();
        let whole = sum(&[&data]);
        for cut in [1, 511, 512, 513, 4999] {
            assert_eq!(sum(&[&data[..cut], &data[cut..]]), whole, "{cut}");
        }
        assert_eq!(whole.crc_per_block, 0);
        assert_eq!(sum(&[b"123456789"]).composite, 0xe306_9283);
        assert_ne!(sum(&[&data[1..]]), whole);
    }

    #[test]
    fn the_form_is_that_of_hadoop() {
        let value = sum(&[b"x"]).to_json(false);
        assert_eq!(value["FileChecksum"]["algorithm"], "MD5-of-0MD5-of-512CRC32C");
        assert_eq!(value["FileChecksum"]["length"], 28);
        assert!(value["FileChecksum"]["bytes"].as_str().unwrap().starts_with("000002000000000000000000"));
        assert_eq!(sum(&[b"x"]).to_json(true)["FileChecksum"]["length"], 4);
    }
}
