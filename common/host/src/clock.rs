//! The clocks: of a simulated process in a simulation, of the machine elsewhere.

use crate::world;
use quarry_common::wire::fs::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// For what users see, such as the timestamps of files. Jumps when the clock is set.
pub fn wall() -> Timestamp {
    world::ask(|world| world.wall()).unwrap_or_else(|| {
        let nanos = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i128,
            Err(before) => -(before.duration().as_nanos() as i128),
        };
        Timestamp(nanos)
    })
}

/// For how long something takes: never goes back.
pub fn now() -> Instant {
    // Tokio's, so that timers and instants agree when a simulation or a test pauses the clock.
    tokio::time::Instant::now().into_std()
}

/// The time that passed since an instant.
pub fn since(instant: Instant) -> Duration {
    now().saturating_duration_since(instant)
}

/// Time since the machine started, with the times in which it was suspended: for rights that end by time.
pub fn boot() -> Duration {
    world::ask(|world| world.boot()).unwrap_or_else(|| {
        let time = clock_gettime(ClockId::Boottime);
        // Neither is negative: the kernel counts from the start.
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    })
}

/// [`boot`] as an instant, for what compares such instants with one another. [`now`] stands still during a suspend: the instants of the
/// two are not to be mixed.
pub fn boot_instant() -> Instant {
    if let Some(instant) = world::ask(|world| world.boot_anchor() + world.boot()) {
        return instant;
    }
    static ANCHOR: OnceLock<(Instant, Duration)> = OnceLock::new();
    let (instant, at) = *ANCHOR.get_or_init(|| (now(), boot()));
    instant + boot().saturating_sub(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_advance() {
        let (instant, since_boot) = (now(), boot());
        std::thread::sleep(Duration::from_millis(2));
        assert!(since(instant) >= Duration::from_millis(2));
        assert!(boot() >= since_boot + Duration::from_millis(2));
        let first = boot_instant();
        std::thread::sleep(Duration::from_millis(2));
        assert!(boot_instant() >= first + Duration::from_millis(2) && boot_instant() <= now());
        assert!(wall().0 > 0);
    }
}
