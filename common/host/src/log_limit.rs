//! Log lines that strangers cause: some of them, and how many were left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in one interval: enough to see what happens.
const LINES: u32 = 5;
/// The interval.
const INTERVAL: Duration = Duration::from_secs(10);

/// Counts lines of one kind.
#[derive(Debug, Default)]
pub struct LogLimit(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl LogLimit {
    /// Whether a line may be written at this time, and if so how many were left out before it.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = window.get_or_insert(Window { since: now, lines: 0, left_out: 0 });
        if now.saturating_duration_since(window.since) >= INTERVAL {
            (window.since, window.lines) = (now, 0);
        }
        if window.lines >= LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let written = (0..1000).filter(|_| limit.admit(start).is_some()).count();
        assert_eq!(written, LINES as usize);
        assert_eq!(limit.admit(start + INTERVAL), Some(1000 - u64::from(LINES)));
        assert_eq!(limit.admit(start + INTERVAL), Some(0));
    }
}
