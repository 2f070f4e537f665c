//! The two halves of a simulated stream.

use super::connection::{Half, Pipe};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use quarry_net::transport::{RecvStream, SendStream, TransportError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a stream that may be under way; then the writer waits.
const WINDOW: usize = 4 << 20;

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What travels along a stream.
enum Piece {
    Data(Bytes),
    End,
    Reset,
}

/// One direction of a stream.
#[derive(Default)]
pub(super) struct Lane {
    pieces: Pipe<Piece>,
    /// The reader went away.
    stopped: Mutex<bool>,
}

impl Lane {
    fn bytes_under_way(&self) -> usize {
        let sizes = lock(&self.pieces.queue);
        sizes.iter().map(|(_, piece)| if let Piece::Data(data) = piece { data.len() } else { 0 }).sum()
    }
}

/// The sending half.
pub(super) struct Sender {
    lane: Arc<Lane>,
    half: Arc<Half>,
    finished: bool,
}

impl Sender {
    pub(super) fn new(lane: Arc<Lane>, half: Arc<Half>) -> Self {
        Self { lane, half, finished: false }
    }

    fn send(&self, piece: Piece) {
        // A process that was killed sends nothing.
        if !self.half.life.is_gone() {
            self.lane.pieces.send(self.half.network.arrival(), piece);
        }
    }
}

#[async_trait]
impl SendStream for Sender {
    async fn write(&mut self, data: Bytes) -> Result<(), TransportError> {
        loop {
            let (changed, over) = (self.lane.pieces.changed.notified(), self.half.ended.notified());
            tokio::pin!(changed, over);
            changed.as_mut().enable();
            over.as_mut().enable();
            if let Some(error) = self.half.failure() {
                return Err(error);
            }
            if *lock(&self.lane.stopped) {
                return Err(TransportError::Reset);
            }
            if self.lane.bytes_under_way() < WINDOW {
                if !data.is_empty() {
                    self.send(Piece::Data(data));
                }
                return Ok(());
            }
            tokio::select! {
                biased;
                () = over => {}
                () = changed => {}
            }
        }
    }

    fn finish(&mut self) -> Result<(), TransportError> {
        self.finished = true;
        if let Some(error) = self.half.failure() {
            return Err(error);
        }
        self.send(Piece::End);
        Ok(())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.finished {
            self.send(Piece::Reset);
        }
    }
}

/// The receiving half.
pub(super) struct Receiver {
    lane: Arc<Lane>,
    half: Arc<Half>,
    /// What arrived and was not read.
    rest: Bytes,
    ended: bool,
}

impl Receiver {
    pub(super) fn new(lane: Arc<Lane>, half: Arc<Half>) -> Self {
        Self { lane, half, rest: Bytes::new(), ended: false }
    }
}

#[async_trait]
impl RecvStream for Receiver {
    async fn read(&mut self, max: usize) -> Result<Option<Bytes>, TransportError> {
        if self.rest.is_empty() {
            if self.ended {
                return Ok(None);
            }
            match self.lane.pieces.receive(&self.half).await? {
                Piece::Data(data) => self.rest = data,
                Piece::End => {
                    self.ended = true;
                    return Ok(None);
                }
                Piece::Reset => return Err(TransportError::Reset),
            }
        }
        Ok(Some(self.rest.split_to(max.min(self.rest.len()))))
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), TransportError> {
        let mut read = BytesMut::with_capacity(buffer.len());
        while read.len() < buffer.len() {
            match self.read(buffer.len() - read.len()).await? {
                Some(data) => read.extend_from_slice(&data),
                None => return Err(TransportError::EndOfStream),
            }
        }
        buffer.copy_from_slice(&read);
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        *lock(&self.lane.stopped) = true;
        self.lane.pieces.changed.notify_waiters();
    }
}
