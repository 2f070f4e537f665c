//! Writing frames: one write and one fdatasync for everything that has gathered.

use crate::LogError;
use crate::disk::Disk;
use crate::format::{FRAME_HEADER, FrameHeader, PAGE};
use crate::index::Place;
use crate::meta::{self, VOTE};
use crate::queue::{Frame, Job, Wake};
use crate::segment::{Segment, file_name};
use crate::shared::Shared;
use quarry_common::checksum::crc32c;
use std::sync::Arc;
use std::time::Duration;

/// Where the next frame goes.
pub(crate) struct Position {
    pub(crate) segment: Segment,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    /// There is a frame behind the last one that was acknowledged.
    pub(crate) sealed: bool,
}

/// Writes segments and the vote, in the order in which they were queued. Whoever holds its lock takes jobs from the queue:
/// mostly the writer thread, or raft's own when only one proposal is under way, which spares two switches of threads.
pub(crate) struct Writer {
    disk: Arc<dyn Disk>,
    position: Position,
    segment_bytes: u64,
    broken: bool,
}

/// The writer thread. Ends when the queue is closed, or at the first error.
pub(crate) fn run(shared: &Shared, seal_after: Duration) {
    let mut idle_at = 0;
    loop {
        let wake = shared.queue.wait(seal_after);
        let mut writer = shared.writer();
        match wake {
            Wake::Work => writer.work(shared),
            // Sealed when nothing was written since the last time.
            Wake::Idle if idle_at != writer.position.sequence => idle_at = writer.position.sequence,
            Wake::Idle => writer.seal_if_needed(shared),
            Wake::Stop => return writer.seal_if_needed(shared),
        }
    }
}

impl Writer {
    pub(crate) fn new(disk: Arc<dyn Disk>, position: Position, segment_bytes: u64) -> Self {
        Self { disk, position, segment_bytes, broken: false }
    }

    /// Writes all that is queued.
    pub(crate) fn work(&mut self, shared: &Shared) {
        while !self.broken
            && let Some(job) = shared.queue.pop()
        {
            let result = match job {
                Job::Write(frame) => self.commit(shared, frame),
                Job::SaveVote(content, waiting) => {
                    let result = meta::replace(&*self.disk, VOTE, &content);
                    waiting.complete(match &result {
                        Ok(()) => Ok(()),
                        Err(_) => Err("the vote could not be saved"),
                    });
                    result
                }
            };
            if let Err(error) = result {
                self.give_up(shared, error);
            }
        }
    }

    /// An error is final, never retried: after a failed fdatasync the kernel drops the pages that it could not write, and the
    /// next one would report success.
    pub(crate) fn give_up(&mut self, shared: &Shared, error: LogError) {
        self.broken = true;
        shared.fail(&error);
    }

    fn commit(&mut self, shared: &Shared, mut frame: Frame) -> Result<(), LogError> {
        match self.write(shared, &mut frame.bytes, frame.records) {
            Ok(offset) => {
                self.note(shared, &frame, offset);
                self.position.sealed = false;
                frame.complete(Ok(()));
                Ok(())
            }
            Err(error) => {
                frame.complete(Err(&error.to_string()));
                Err(error)
            }
        }
    }

    fn seal_if_needed(&mut self, shared: &Shared) {
        if !self.broken
            && !self.position.sealed
            && let Err(error) = self.seal(shared)
        {
            self.give_up(shared, error);
        }
    }

    /// A frame without records: evidence that everything before it was acknowledged.
    fn seal(&mut self, shared: &Shared) -> Result<(), LogError> {
        let mut frame = Frame::new();
        self.write(shared, &mut frame.bytes, 0)?;
        self.position.sealed = true;
        Ok(())
    }

    /// Writes the frame, and returns where it is once it is durable.
    fn write(&mut self, shared: &Shared, bytes: &mut Vec<u8>, records: u32) -> Result<u64, LogError> {
        let crc = crc32c(&bytes[FRAME_HEADER..]);
        let length = (bytes.len() - FRAME_HEADER) as u32;
        let header = FrameHeader { sequence: self.position.sequence, length, records, crc };
        bytes.resize(header.span() as usize, 0);
        if self.position.offset + header.span() > self.segment_bytes {
            self.roll(shared, header.span())?;
        }
        let Position { segment, offset, sequence, .. } = &mut self.position;
        bytes[..FRAME_HEADER].copy_from_slice(&header.encode(segment.nonce));
        let written = segment.file.write_at(*offset, bytes);
        written.map_err(|e| LogError::io("write", &file_name(segment.number))(e))?;
        segment.file.sync().map_err(|e| LogError::io("sync", &file_name(segment.number))(e))?;
        let at = *offset;
        *offset += header.span();
        *sequence += 1;
        Ok(at)
    }

    fn roll(&mut self, shared: &Shared, span: u64) -> Result<(), LogError> {
        let segment = shared.keeper.take()?;
        if PAGE as u64 + span > self.segment_bytes {
            let what = format!("a frame of {span} bytes does not fit into a segment");
            return Err(LogError::Stopped(what));
        }
        shared.segments().insert(segment.number, segment.clone());
        self.position.segment = segment;
        self.position.offset = PAGE as u64;
        Ok(())
    }

    /// Tells the index where the frame's entries are, before anybody is told that they are durable.
    fn note(&self, shared: &Shared, frame: &Frame, offset: u64) {
        let number = self.position.segment.number;
        if let Some(segment) = shared.segments().get_mut(&number) {
            let last = frame.entries.iter().map(|(index, _, _)| *index).max();
            segment.last_index = segment.last_index.max(last);
        }
        let places = frame.entries.iter().map(|&(index, start, length)| {
            (index, Place { segment: number, offset: offset as u32 + start, length })
        });
        shared.index().set_places(places);
    }
}
