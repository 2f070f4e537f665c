//! Deadlines of requests to DataNodes.
//!
//! A deadline that contains another is longer: the mount waits for a chain, each member of the chain for the members
//! behind it, a member for its disk and for a handshake. Otherwise a slow member at the end of a chain makes all members before
//! it look dead. The assertions at the end of this file hold these relations.

use quarry_common::limits::PG_MEMBERS_MAX;
use std::time::Duration;

/// Time to connect: longer than a handshake over a line that loses a packet, shorter than the time after which a member
/// of a chain is given up.
pub const CONNECT: Duration = Duration::from_millis(2500);
/// Time for which a node that could not be reached is not dialled again: requests that wait for the same node fail
/// together instead of one connection time-out after the other.
pub const REDIAL_AFTER: Duration = Duration::from_millis(500);
/// Time for a chunk of the mount, from the first byte to the answer of the whole chain: 2 MiB at 1 Mbit/s and a slow disk
/// need less.
pub const WRITE: Duration = Duration::from_secs(20);
/// Time for all members behind one member of a chain, once that member has the whole chunk.
pub const CHAIN: Duration = Duration::from_millis(CHAIN_MS);
/// Time for a range of a chunk. Other replicas are asked long before.
pub const READ: Duration = Duration::from_secs(20);
/// Time to bring the chunks of one request to the disk.
pub const SYNC: Duration = Duration::from_secs(30);
/// Time for a page of a list, a deletion, a digest or a verification: memory, or some file operations.
pub const SHORT: Duration = Duration::from_secs(30);
/// Time to pull a group: a whole disk at 20 MB/s takes half a day. A sync goes on when its asker goes away.
pub const PULL_GROUP: Duration = Duration::from_secs(12 * 3600);

const CHAIN_MS: u64 = 16_000;

/// Time for a member of a chain with so many members behind it: 8, 12, 14, 15 s and so on, always less than the member
/// before it gets, so that members give up in the order from the back to the front.
pub const fn member(behind: usize) -> Duration {
    let steps = if behind > 10 { 10 } else { behind };
    Duration::from_millis(CHAIN_MS - CHAIN_MS / (2 << steps))
}

const _: () = {
    assert!(WRITE.as_millis() > CHAIN.as_millis() + CONNECT.as_millis());
    assert!(CHAIN.as_millis() > member(PG_MEMBERS_MAX).as_millis());
    assert!(member(1).as_millis() > member(0).as_millis());
    assert!(member(0).as_millis() > 2 * CONNECT.as_millis());
    assert!(CONNECT.as_millis() > REDIAL_AFTER.as_millis());
    assert!(PULL_GROUP.as_millis() > SHORT.as_millis() + READ.as_millis());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_give_up_from_the_back_to_the_front() {
        let limits: Vec<Duration> = (0..8).map(member).collect();
        assert_eq!(limits[0], Duration::from_secs(8));
        assert!(limits.is_sorted_by(|a, b| a < b) && limits[7] < CHAIN);
    }
}
