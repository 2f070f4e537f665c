//! Segment files: their names, and how one is made ready.

use crate::LogError;
use crate::directory::Directory;
use crate::format::{HeaderError, PAGE, SegmentHeader, VERSION};
use quarry_host::disk::DiskFile;
use quarry_host::random;
use rand::Rng;
use std::sync::Arc;

/// A purged segment that will be used again: its blocks are allocated and need no zeros.
pub(crate) const SPARE: &str = "spare";
/// A segment that is being made.
const UNFINISHED: &str = "segment.tmp";

/// An open segment file.
#[derive(Clone)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) nonce: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    /// The largest index of any entry in it.
    pub(crate) last_index: Option<u64>,
}

pub(crate) fn file_name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// The number in a segment's file name.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".log")?, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

/// Makes segment `number` ready for frames, from the spare file if there is one. When this returns, it is durable under its
/// name, with all its blocks allocated.
pub(crate) fn prepare(
    disk: &Directory,
    number: u64,
    node: u64,
    length: u64,
    use_spare: bool,
) -> Result<Segment, LogError> {
    let (made, file) = match use_spare {
        true => (SPARE, disk.open_file(SPARE).map_err(LogError::io("open", SPARE))?),
        false => (UNFINISHED, disk.create(UNFINISHED, length).map_err(LogError::io("create", UNFINISHED))?),
    };
    // Frames of the file's earlier life do not fit the new nonce, so they need not be erased.
    let header = SegmentHeader { number, nonce: nonce(), node, length };
    file.write_at(0, &header.encode()).map_err(LogError::io("write", made))?;
    file.sync().map_err(LogError::io("sync", made))?;
    let name = file_name(number);
    disk.rename(made, &name).map_err(LogError::io("rename", made))?;
    disk.sync_dir().map_err(LogError::io("sync the directory of", &name))?;
    Ok(Segment { number, nonce: header.nonce, file, last_index: None })
}

/// Opens a segment that exists, and checks its header.
pub(crate) fn open(disk: &Directory, number: u64, node: u64) -> Result<(Segment, u64), LogError> {
    let name = file_name(number);
    let file = disk.open_file(&name).map_err(LogError::io("open", &name))?;
    let length = file.length().map_err(LogError::io("stat", &name))?;
    let mut page = vec![0; PAGE];
    if length < PAGE as u64 {
        return Err(LogError::damaged(&name, length, "shorter than its header"));
    }
    file.read_at(0, &mut page).map_err(LogError::io("read", &name))?;
    let header = SegmentHeader::decode(&page).map_err(|error| match error {
        HeaderError::Damaged(what) => LogError::damaged(&name, 0, what),
        HeaderError::Version(found) => {
            LogError::FutureVersion { file: name.clone(), found, supported: VERSION }
        }
    })?;
    if header.number != number {
        return Err(LogError::damaged(
            &name,
            16,
            format!("the header is that of segment {:x}", header.number),
        ));
    }
    if header.node != node {
        return Err(LogError::ForeignNode { file: name, found: header.node, expected: node });
    }
    if header.length != length {
        return Err(LogError::damaged(
            &name,
            length,
            format!("the file should have {} bytes", header.length),
        ));
    }
    Ok((Segment { number, nonce: header.nonce, file, last_index: None }, length))
}

/// A number that an earlier life of a file will not have had.
fn nonce() -> u64 {
    random::rng().random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        assert_eq!(number_of(&file_name(0xabc)), Some(0xabc));
        for name in ["0000000000000ABC.log", "abc.log", "vote", "0000000000000abc.log.tmp"] {
            assert_eq!(number_of(name), None);
        }
    }
}
