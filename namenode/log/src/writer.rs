//! The thread that writes frames: one write and one fdatasync for everything that has gathered.

use crate::LogError;
use crate::directory::Directory;
use crate::format::{FRAME_HEADER, FrameHeader, PAGE};
use crate::index::Place;
use crate::meta::{self, VOTE};
use crate::queue::{Frame, Job};
use crate::segment::{Segment, file_name};
use crate::shared::Shared;
use quarry_common::checksum::crc32c;
use quarry_host::metrics::table::NAMENODE_LOG_SYNC;
use quarry_host::{clock, thread};
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

/// The only one that writes segments and the vote, in the order in which it is told.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<Directory>,
    position: Position,
    segment_bytes: u64,
    seal_after: Duration,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Arc<Directory>,
        position: Position,
        segment_bytes: u64,
        seal_after: Duration,
    ) -> Self {
        Self { shared, disk, position, segment_bytes, seal_after }
    }

    /// The thread. Ends when the queue is closed or at the first error, which is never retried: after a failed fdatasync the
    /// kernel drops the pages that it could not write, and the next one would report success.
    pub(crate) async fn run(mut self) {
        loop {
            let patience = (!self.position.sealed).then_some(self.seal_after);
            let result = match self.shared.queue.next(patience).await {
                Job::Write(frame) => self.commit(frame).await,
                Job::SaveVote(content, waiting) => {
                    let result = thread::block(|| meta::replace(&self.disk, VOTE, &content)).await;
                    waiting.complete(match &result {
                        Ok(()) => Ok(()),
                        Err(_) => Err("the vote could not be saved"),
                    });
                    result
                }
                Job::Idle => self.seal().await,
                Job::Stop if self.position.sealed => return,
                Job::Stop => self.seal().await,
            };
            if let Err(error) = result {
                return self.shared.fail(&error);
            }
        }
    }

    async fn commit(&mut self, mut frame: Frame) -> Result<(), LogError> {
        let result = self.write(&mut frame.bytes, frame.records).await;
        match result {
            Ok(offset) => {
                self.note(&frame, offset);
                frame.complete(Ok(()));
                self.position.sealed = false;
                Ok(())
            }
            Err(error) => {
                frame.complete(Err(&error.to_string()));
                Err(error)
            }
        }
    }

    /// A frame without records: evidence that everything before it was acknowledged.
    async fn seal(&mut self) -> Result<(), LogError> {
        let mut frame = Frame::new();
        self.write(&mut frame.bytes, 0).await?;
        self.position.sealed = true;
        Ok(())
    }

    /// Writes the frame, and returns where it is once it is durable.
    async fn write(&mut self, bytes: &mut Vec<u8>, records: u32) -> Result<u64, LogError> {
        let crc = crc32c(&bytes[FRAME_HEADER..]);
        let length = (bytes.len() - FRAME_HEADER) as u32;
        let header = FrameHeader { sequence: self.position.sequence, length, records, crc };
        bytes.resize(header.span() as usize, 0);
        if self.position.offset + header.span() > self.segment_bytes {
            self.roll(header.span()).await?;
        }
        let Position { segment, offset, sequence, .. } = &mut self.position;
        bytes[..FRAME_HEADER].copy_from_slice(&header.encode(segment.nonce));
        let at = *offset;
        let begun = clock::now();
        thread::block(|| {
            let written = segment.file.write_at(at, bytes);
            written.map_err(|e| LogError::io("write", &file_name(segment.number))(e))?;
            segment.file.sync().map_err(|e| LogError::io("sync", &file_name(segment.number))(e))
        })
        .await?;
        NAMENODE_LOG_SYNC.observe_since(&[], begun);
        *offset += header.span();
        *sequence += 1;
        Ok(at)
    }

    async fn roll(&mut self, span: u64) -> Result<(), LogError> {
        let segment = self.shared.keeper.take().await?;
        if PAGE as u64 + span > self.segment_bytes {
            let what = format!("a frame of {span} bytes does not fit into a segment");
            return Err(LogError::Stopped(what));
        }
        self.shared.segments().insert(segment.number, segment.clone());
        self.position.segment = segment;
        self.position.offset = PAGE as u64;
        Ok(())
    }

    /// Tells the index where the frame's entries are, before anybody is told that they are durable.
    fn note(&self, frame: &Frame, offset: u64) {
        let number = self.position.segment.number;
        if let Some(segment) = self.shared.segments().get_mut(&number) {
            let last = frame.entries.iter().map(|(index, _, _)| *index).max();
            segment.last_index = segment.last_index.max(last);
        }
        let places = frame.entries.iter().map(|&(index, start, length)| {
            (index, Place { segment: number, offset: offset as u32 + start, length })
        });
        self.shared.index().set_places(places);
    }
}
