//! The time, behind a trait, so that a simulation can bring its own.

use quarry_common::wire::fs::Timestamp;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// For what people see: timestamps of files.
    fn now(&self) -> Timestamp;
    /// For how long something takes: never goes back.
    fn instant(&self) -> Instant;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        Timestamp(nanos)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}
