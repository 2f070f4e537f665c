//! The NameNode's time, as far as this client knows it.
//!
//! A write gets its time here, long before the NameNode hears of it; a change of a name gets it there. Where the clocks of two
//! machines differ, a tree would have times that contradict the order in which it was made, which breaks make(1). So the time of
//! a write is the NameNode's: the machine's own, set right by what the answers to changes show.

use quarry_common::wire::fs::{Mutation, MutationReply, Timestamp};
use quarry_host::clock;
use std::sync::atomic::{AtomicI64, Ordering};

/// A clock that differs by less than this from the NameNode's is taken for right: answers take some of that time themselves.
const TOLERANCE_NANOS: i128 = 500_000_000;

/// The machine's clock, set right.
#[derive(Debug, Default)]
pub(crate) struct ServerClock {
    /// Nanoseconds by which the NameNode's clock is ahead of this machine's.
    ahead: AtomicI64,
}

impl ServerClock {
    /// A change was asked for at `asked`, by this machine's clock, and answered.
    pub(crate) fn learn(&self, asked: Timestamp, mutation: &Mutation, reply: &MutationReply) {
        // These always set the time of change. Others may find nothing to change, or bring a time along.
        if let (Mutation::Create { .. } | Mutation::SetAttr { .. }, MutationReply::Attr(attr)) =
            (mutation, reply)
        {
            self.set(asked, attr.ctime, clock::wall());
        }
    }

    /// The NameNode's time.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(clock::wall().0 + i128::from(self.ahead.load(Ordering::Relaxed)))
    }

    /// The NameNode's clock said `told` at some moment between `asked` and `answered`.
    fn set(&self, asked: Timestamp, told: Timestamp, answered: Timestamp) {
        let before = told.0 < asked.0 - TOLERANCE_NANOS;
        let after = told.0 > answered.0 + TOLERANCE_NANOS;
        let ahead = if before || after { told.0 - (asked.0 + answered.0) / 2 } else { 0 };
        self.ahead.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_host::clock::wall;

    const SECOND: i128 = 1_000_000_000;

    #[test]
    fn a_clock_that_is_off_is_set_right_and_one_that_is_not_is_left_alone() {
        let clock = ServerClock::default();
        let set = |told: i128| {
            clock.set(Timestamp(100 * SECOND), Timestamp(told), Timestamp(102 * SECOND));
            clock.ahead.load(Ordering::Relaxed) / SECOND as i64
        };
        assert_eq!(set(3701 * SECOND), 3600);
        assert_eq!(set(41 * SECOND), -60);
        assert_eq!(set(100 * SECOND - 400_000_000), 0);
        assert_eq!(set(101 * SECOND), 0);
        assert_eq!(set(102 * SECOND + 400_000_000), 0);
        assert_eq!(set(i128::MAX / 2), 0, "nonsense");
        assert_eq!(set(3701 * SECOND), 3600);
        let difference = clock.now().0 - wall().0;
        assert!((difference - 3600 * SECOND).abs() < SECOND, "{difference}");
    }
}
