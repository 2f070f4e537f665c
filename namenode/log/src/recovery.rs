//! Opening a log: reads every frame, cuts what a crash left unfinished, refuses everything else.

use crate::LogError;
use crate::config::LogConfig;
use crate::directory::Directory;
use crate::format::{FRAME_HEADER, FrameHeader, Kind, PAGE, Record};
use crate::index::{LogIndex, Place};
use crate::meta::{self, PURGED, VOTE};
use crate::raft_types::{RaftVote, decode_membership, log_id};
use crate::segment::{self, SPARE, Segment, file_name};
use crate::writer::Position;
use std::collections::{BTreeMap, VecDeque};

/// A log as it was found.
pub(crate) struct Recovered {
    pub(crate) index: LogIndex,
    /// Segments with frames; the last one is written next.
    pub(crate) segments: BTreeMap<u64, Segment>,
    /// Empty segments behind them.
    pub(crate) prepared: VecDeque<Segment>,
    pub(crate) next_number: u64,
    pub(crate) has_spare: bool,
    pub(crate) vote: Option<RaftVote>,
    pub(crate) position: Position,
}

/// Reads the log in `disk`, or makes a new one. When this returns, all that was found is durable.
pub(crate) fn recover(disk: &Directory, config: &LogConfig) -> Result<Recovered, LogError> {
    let names = disk.list().map_err(LogError::io("list", "the directory"))?;
    for name in names.iter().filter(|name| name.ends_with(".tmp")) {
        disk.remove(name).map_err(LogError::io("remove", name))?;
    }
    let has = |name: &str| names.iter().any(|n| n == name);
    let vote = if has(VOTE) { Some(meta::decode_vote(&meta::read(disk, VOTE)?)?) } else { None };
    let purged = if has(PURGED) { Some(meta::decode_purged(&meta::read(disk, PURGED)?)?) } else { None };
    let numbers = segment_numbers(&names, vote.is_some() || purged.is_some())?;

    let (last, membership) = purged.map(|p| (p.last, p.membership)).unzip();
    let index = LogIndex::new(last, membership, config.cache_bytes);
    let mut scan = Scan { index, next_index: None, term: 0, sequence: None, end: None, sealed: true };
    let mut segments = BTreeMap::new();
    if numbers.is_empty() {
        let segment = segment::prepare(disk, 1, config.node.0, config.segment_bytes, false)?;
        segments.insert(1, segment);
    }
    for (at, &number) in numbers.iter().enumerate() {
        let (mut segment, length) = segment::open(disk, number, config.node.0)?;
        if length != config.segment_bytes {
            let what = format!("segments are configured to have {} bytes", config.segment_bytes);
            return Err(LogError::damaged(&file_name(number), length, what));
        }
        scan.segment(&mut segment, length, at == 0)?;
        segments.insert(number, segment);
    }
    scan.check(&vote)?;

    let first = segments.keys().next().copied().unwrap_or(1);
    let (active, offset) = scan.end.unwrap_or((first, PAGE as u64));
    let prepared: VecDeque<Segment> = segments.split_off(&(active + 1)).into_values().collect();
    let segment = segments[&active].clone();
    // The last frame may be whole only in the page cache. It is about to be applied, so it must be durable.
    segment.file.sync().map_err(|e| LogError::io("sync", &file_name(active))(e))?;
    let next_number = active + 1 + prepared.len() as u64;
    let spare = has(SPARE) && spare_is_usable(disk, config.segment_bytes)?;
    let sequence = scan.sequence.unwrap_or(1);
    let position = Position { segment, offset, sequence, sealed: scan.sealed };
    Ok(Recovered { index: scan.index, segments, prepared, next_number, has_spare: spare, vote, position })
}

/// The numbers of the segments, which must have no hole.
fn segment_numbers(names: &[String], must_exist: bool) -> Result<Vec<u64>, LogError> {
    let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
    numbers.sort_unstable();
    if numbers.is_empty() && must_exist {
        return Err(LogError::damaged(&file_name(1), 0, "all segments are missing"));
    }
    match numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]) {
        Some(pair) => Err(LogError::damaged(&file_name(pair[0] + 1), 0, "the segment is missing")),
        None => Ok(numbers),
    }
}

fn spare_is_usable(disk: &Directory, segment_bytes: u64) -> Result<bool, LogError> {
    let length = disk.open_file(SPARE).and_then(|file| file.length()).map_err(LogError::io("open", SPARE))?;
    if length == segment_bytes {
        return Ok(true);
    }
    disk.remove(SPARE).map_err(LogError::io("remove", SPARE))?;
    Ok(false)
}

struct Scan {
    index: LogIndex,
    /// The index that the next entry must have; unknown before the first one.
    next_index: Option<u64>,
    term: u64,
    /// The sequence that the next frame must have; unknown before the first one.
    sequence: Option<u64>,
    /// Segment and offset behind the last sound frame.
    end: Option<(u64, u64)>,
    sealed: bool,
}

impl Scan {
    /// Reads the frames of one segment.
    ///
    /// They end at a page without the frame that is due. If that is because the frame did not fit any more, it starts the
    /// next segment. If it is because a crash cut it short, nothing is behind it, since nothing is written before it is
    /// synced. So a sound frame with a later sequence means that acknowledged frames are damaged or gone.
    fn segment(&mut self, segment: &mut Segment, length: u64, first: bool) -> Result<(), LogError> {
        let name = file_name(segment.number);
        let mut bytes = vec![0; length as usize];
        segment.file.read_at(0, &mut bytes).map_err(LogError::io("read", &name))?;
        let mut offset = PAGE;
        while let Some(frame) = self.frame_at(&bytes, offset, segment.nonce, first) {
            self.records(segment, &bytes[offset + FRAME_HEADER..][..frame.length as usize], offset, frame)?;
            offset += frame.span() as usize;
            self.sequence = Some(frame.sequence + 1);
            self.end = Some((segment.number, offset as u64));
            self.sealed = frame.records == 0;
        }
        for page in (offset..bytes.len()).step_by(PAGE) {
            let Some(frame) = FrameHeader::decode(&bytes[page..], segment.nonce) else { continue };
            if self.sequence.is_none_or(|due| frame.sequence > due) {
                return Err(self.lost(segment.number, page as u64, frame.sequence));
            }
            tracing::warn!(
                "{name}: cut a write at offset {page} that a crash cut short; it was not acknowledged"
            );
        }
        Ok(())
    }

    /// The frame at `offset`, if it is sound and the one that is due.
    fn frame_at(&self, bytes: &[u8], offset: usize, nonce: u64, first: bool) -> Option<FrameHeader> {
        let frame = FrameHeader::decode(bytes.get(offset..)?, nonce)?;
        let due = match self.sequence {
            Some(sequence) => frame.sequence == sequence,
            None => first && offset == PAGE,
        };
        let records = bytes[offset + FRAME_HEADER..].get(..frame.length as usize)?;
        let whole = quarry_common::checksum::crc32c(records) == frame.crc;
        (due && whole).then_some(frame)
    }

    fn lost(&self, found_in: u64, found_at: u64, sequence: u64) -> LogError {
        let behind = format!("behind it, {} has frame {sequence} at offset {found_at}", file_name(found_in));
        match (self.sequence, self.end) {
            (Some(due), Some((number, offset))) => LogError::damaged(
                &file_name(number),
                offset,
                format!(
                    "the acknowledged frame {due} is not here, nor at the start of the next file; {behind}"
                ),
            ),
            _ => LogError::damaged(
                &file_name(found_in),
                PAGE as u64,
                format!("the first frame is damaged; {behind}"),
            ),
        }
    }

    fn records(
        &mut self,
        segment: &mut Segment,
        mut bytes: &[u8],
        frame_offset: usize,
        frame: FrameHeader,
    ) -> Result<(), LogError> {
        let name = file_name(segment.number);
        let mut offset = frame_offset + FRAME_HEADER;
        let mut count = 0;
        while !bytes.is_empty() {
            let damaged = |what: &str| LogError::damaged(&name, offset as u64, what);
            let record = Record::decode(bytes).map_err(damaged)?;
            let place =
                Place { segment: segment.number, offset: offset as u32, length: record.size() as u32 };
            self.record(&record, place).map_err(|what| damaged(&what))?;
            if record.kind != Kind::Truncation {
                segment.last_index = segment.last_index.max(Some(record.index));
            }
            bytes = &bytes[record.size()..];
            offset += record.size();
            count += 1;
        }
        if count != frame.records {
            let what = format!("a frame of {} records has {count}", frame.records);
            return Err(LogError::damaged(&name, frame_offset as u64, what));
        }
        Ok(())
    }

    fn record(&mut self, record: &Record<'_>, place: Place) -> Result<(), String> {
        if record.kind == Kind::Truncation {
            self.index.truncate(record.index);
            self.next_index = Some(record.index);
            self.term = self.index.last().map_or(0, |last| last.leader_id.term);
            return Ok(());
        }
        if self.next_index.is_some_and(|due| due != record.index) || record.term < self.term {
            return Err(format!("entry {} of term {} is out of order", record.index, record.term));
        }
        self.next_index = Some(record.index + 1);
        self.term = record.term;
        if record.index < self.index.first() {
            return Ok(());
        }
        if record.index != self.index.next() {
            return Err(format!("entries {} to {} are missing", self.index.next(), record.index - 1));
        }
        let membership = match record.kind {
            Kind::Membership => Some(decode_membership(record)?),
            _ => None,
        };
        self.index.push_recovered(log_id(record.term, record.index), membership, place);
        Ok(())
    }

    /// What no single segment shows.
    fn check(&self, vote: &Option<RaftVote>) -> Result<(), LogError> {
        if self.next_index.is_some_and(|next| next < self.index.first()) {
            let (number, offset) = self.end.unwrap_or_default();
            let what = format!("the log ends before entry {}, which was purged", self.index.first() - 1);
            return Err(LogError::damaged(&file_name(number), offset, what));
        }
        // A vote is saved behind the first entry, which names the members.
        if vote.is_some() && self.index.last().is_none() {
            let what = "there is no entry, though there is a vote";
            return Err(LogError::damaged(&file_name(1), PAGE as u64, what));
        }
        let term = vote.map_or(0, |vote| vote.leader_id.term);
        if self.term > term {
            let what = format!("the vote is of term {term}, the log has entries of term {}", self.term);
            return Err(LogError::damaged(VOTE, 0, what));
        }
        Ok(())
    }
}
