//! What can be chosen about a log, and its limits.

use crate::format::{FRAME_HEADER, PAGE, RECORD_HEADER};
use quarry_common::ids::NameNodeId;
use std::path::PathBuf;
use std::time::Duration;

/// Largest entry: what many batched commands need, small enough that one frame stays a short write.
const ENTRY_MAX: usize = 4 << 20;

/// Bytes of proposals that may wait for their answer; whoever proposes more waits.
pub(crate) const IN_FLIGHT_MAX: usize = 64 << 20;

/// Size of a segment file unless another is chosen: some thousand group commits.
pub const SEGMENT_BYTES: u64 = 16 << 20;

/// Where a log is and how large its parts are.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The directory of the segment files; created when it is missing.
    pub dir: PathBuf,
    /// The NameNode that owns the log. Not 0.
    pub node: NameNodeId,
    /// Size of a segment file in bytes, a multiple of 4096.
    pub segment_bytes: u64,
    /// Bytes that the log may take before [`Log::purge`](crate::Log::purge) makes room; then proposals fail with
    /// [`LogError::Full`](crate::LogError::Full).
    pub max_bytes: u64,
    /// Bytes of recent entries that are kept in memory, so that what is committed need not be read back.
    pub cache_bytes: usize,
    /// An idle log seals its last frame after this time: from then on damage to that frame is refused, and no longer taken
    /// for a write that a crash cut short.
    pub seal_after: Duration,
}

impl LogConfig {
    /// The defaults: segments of [`SEGMENT_BYTES`], at most 8 GiB of them.
    pub fn new(dir: impl Into<PathBuf>, node: NameNodeId) -> Self {
        Self {
            dir: dir.into(),
            node,
            segment_bytes: SEGMENT_BYTES,
            max_bytes: 8 << 30,
            cache_bytes: 16 << 20,
            seal_after: Duration::from_secs(1),
        }
    }

    /// Most payload bytes of one frame.
    pub(crate) fn frame_payload_max(&self) -> usize {
        let room = self.segment_bytes as usize - PAGE - FRAME_HEADER;
        room.min(ENTRY_MAX + RECORD_HEADER)
    }

    /// Largest entry that fits into a frame.
    pub(crate) fn entry_max(&self) -> usize {
        self.frame_payload_max() - RECORD_HEADER
    }

    /// Says what is wrong with the values, if anything is.
    pub(crate) fn problem(&self) -> Option<&'static str> {
        if self.node.0 == 0 {
            return Some("node must not be 0");
        }
        if !self.segment_bytes.is_multiple_of(PAGE as u64)
            || self.segment_bytes < 4 * PAGE as u64
            || self.segment_bytes > 1 << 30
        {
            return Some("segment_bytes must be a multiple of 4096 between 16 KiB and 1 GiB");
        }
        if self.max_bytes < 3 * self.segment_bytes {
            return Some("max_bytes must hold at least three segments");
        }
        None
    }
}
