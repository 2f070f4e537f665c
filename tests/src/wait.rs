//! Waiting for what must become true, without guessing how long it takes.

use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` gives something, at most `limit`.
///
/// # Panics
/// When the limit is over; `what` says what did not happen.
pub fn eventually_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `look` is true, at most `limit`.
///
/// # Panics
/// When the limit is over.
pub fn eventually(what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    eventually_some(what, limit, || look().then_some(()));
}
