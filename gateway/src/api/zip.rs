//! A directory as one zip stream: stored and not compressed, so that it costs no processor and any size streams through.
//!
//! ```text
//!   each entry: local header, name, data, descriptor with CRC and size     then, for all: central directory, its two ends
//! ```
//!
//! The layout is that of APPNOTE.TXT 6.3.10 with the fields of ZIP64 everywhere, as sizes are not known when a header is sent.

use crate::files::{FsPath, UserFs, Walk, is_part, stream};
use crc_fast::{CrcAlgorithm, Digest};
use futures::StreamExt;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind};
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// 4.5: ZIP64 (4.4.3.2).
const VERSION: u16 = 45;
/// Made by a Unix host, so that the mode counts (4.4.2).
const MADE_BY: u16 = 3 << 8 | VERSION;
/// A descriptor follows the data; names are UTF-8 (4.4.4).
const FLAGS: u16 = 1 << 3 | 1 << 11;
/// Stands for a size in the ZIP64 field.
const IN_ZIP64: u32 = u32::MAX;
/// The central directory is kept until the end: of more than half a million entries it would take too much memory, and a tar has no
/// such thing.
const DIRECTORY_MAX: usize = 64 << 20;

/// Writes everything below a directory that the user may read.
pub(super) async fn write(
    fs: UserFs,
    top_path: FsPath,
    top: Attr,
    writer: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let depth = top_path.names().len();
    let root = top_path.name().unwrap_or(b"root").to_vec();
    let mut archive = Archive { writer, offset: 0, directory: Vec::new(), entries: 0 };
    let mut walk = Walk::new(fs.clone(), top_path, top);
    while let Some(found) = walk.next().await.map_err(io::Error::other)? {
        if found.path.name().is_some_and(is_part) {
            continue;
        }
        let mut name = String::from_utf8_lossy(&root).into_owned();
        for part in &found.path.names()[depth..] {
            name.push('/');
            name.push_str(&String::from_utf8_lossy(part));
        }
        archive.append(&fs, &found.path, &found.attr, name).await?;
    }
    archive.finish().await
}

struct Archive<W> {
    writer: W,
    offset: u64,
    directory: Vec<u8>,
    entries: u64,
}

impl<W: AsyncWrite + Unpin> Archive<W> {
    async fn append(&mut self, fs: &UserFs, path: &FsPath, attr: &Attr, mut name: String) -> io::Result<()> {
        let file = match attr.kind {
            FileKind::Dir => {
                name.push('/');
                None
            }
            FileKind::Symlink => None,
            FileKind::File => match fs.open_inode(attr).await {
                Ok(file) => Some(file),
                // Not for this user, or removed meanwhile.
                Err(FsError::Access | FsError::Stale | FsError::NotFound) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            },
            // A download has no use for pipes and devices.
            FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => return Ok(()),
        };
        let begin = self.offset;
        self.put(&local_header(&name, attr)).await?;
        let (mut crc, mut size) = (Digest::new(CrcAlgorithm::Crc32IsoHdlc), 0u64);
        if let Some(file) = file {
            let length = file.attr().size;
            let mut pieces = Box::pin(stream(file, 0..length));
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(io::Error::other)?;
                crc.update(&piece);
                size += piece.len() as u64;
                self.put(&piece).await?;
            }
        } else if attr.kind == FileKind::Symlink {
            // As Info-ZIP keeps them.
            let target = fs.readlink(path).await.map_err(io::Error::other)?;
            crc.update(&target);
            size = target.len() as u64;
            self.put(&target).await?;
        }
        let crc = crc.finalize() as u32;
        self.put(&descriptor(crc, size)).await?;
        self.directory.extend(central_header(&name, attr, (crc, size), begin));
        self.entries += 1;
        if self.directory.len() > DIRECTORY_MAX {
            return Err(io::Error::other("too many entries for a zip archive: take a tar"));
        }
        Ok(())
    }

    async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len() as u64;
        self.writer.write_all(bytes).await
    }

    async fn finish(mut self) -> io::Result<()> {
        let (at, directory) = (self.offset, std::mem::take(&mut self.directory));
        self.put(&directory).await?;
        let end = self.offset;
        self.put(&ends(self.entries, directory.len() as u64, at, end)).await?;
        self.writer.shutdown().await
    }
}

/// Little-endian fields, one after the other.
struct Fields(Vec<u8>);

impl Fields {
    fn signed(signature: u32) -> Self {
        Self(signature.to_le_bytes().to_vec())
    }

    fn short(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn word(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn long(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, value: &[u8]) -> Self {
        self.0.extend(value);
        self
    }
}

/// 4.3.7, with a ZIP64 field (4.5.3) of sizes that the descriptor tells.
fn local_header(name: &str, attr: &Attr) -> Vec<u8> {
    let (date, time) = dos_time(attr);
    let fields = Fields::signed(0x0403_4b50).short(VERSION).short(FLAGS).short(0).short(time).short(date);
    let fields = fields.word(0).word(IN_ZIP64).word(IN_ZIP64).short(name.len() as u16).short(20);
    fields.bytes(name.as_bytes()).short(1).short(16).long(0).long(0).0
}

/// 4.3.9, with sizes of eight bytes.
fn descriptor(crc: u32, size: u64) -> Vec<u8> {
    Fields::signed(0x0807_4b50).word(crc).long(size).long(size).0
}

/// 4.3.12
fn central_header(name: &str, attr: &Attr, (crc, size): (u32, u64), at: u64) -> Vec<u8> {
    let (date, time) = dos_time(attr);
    let kind: u32 = match attr.kind {
        FileKind::Dir => 0o040_000,
        FileKind::Symlink => 0o120_000,
        _ => 0o100_000,
    };
    let mode = (kind | u32::from(attr.mode & 0o777)) << 16;
    let fields = Fields::signed(0x0201_4b50).short(MADE_BY).short(VERSION).short(FLAGS).short(0);
    let fields = fields.short(time).short(date).word(crc).word(IN_ZIP64).word(IN_ZIP64);
    let fields =
        fields.short(name.len() as u16).short(28).short(0).short(0).short(0).word(mode).word(IN_ZIP64);
    fields.bytes(name.as_bytes()).short(1).short(24).long(size).long(size).long(at).0
}

/// 4.3.14, 4.3.15 and 4.3.16
fn ends(entries: u64, length: u64, at: u64, end: u64) -> Vec<u8> {
    let fields = Fields::signed(0x0606_4b50).long(44).short(MADE_BY).short(VERSION).word(0).word(0);
    let fields = fields.long(entries).long(entries).long(length).long(at);
    let fields = fields.bytes(&Fields::signed(0x0706_4b50).word(0).long(end).word(1).0);
    let old = Fields::signed(0x0605_4b50).short(0).short(0).short(u16::MAX).short(u16::MAX);
    fields.bytes(&old.word(IN_ZIP64).word(IN_ZIP64).short(0).0).0
}

/// Date and time of MS-DOS (4.4.6), in UTC, from 1980 to 2107.
fn dos_time(attr: &Attr) -> (u16, u16) {
    let seconds = i64::try_from(attr.mtime.0 / 1_000_000_000).unwrap_or(0);
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    if !(1980..=2107).contains(&year) {
        return (1 << 5 | 1, 0);
    }
    let of_day = seconds.rem_euclid(86_400);
    let date = (year - 1980) << 9 | month << 5 | day;
    let time = ((of_day / 3600) << 11) | ((of_day / 60 % 60) << 5) | (of_day % 60 / 2);
    (date as u16, time as u16)
}

/// Year, month and day of a number of days since 1970 (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        for (days, date) in
            [(0, (1970, 1, 1)), (11_016, (2000, 2, 29)), (11_017, (2000, 3, 1)), (-1, (1969, 12, 31))]
        {
            assert_eq!(civil(days), date, "{days}");
        }
    }
}
