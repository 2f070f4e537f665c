//! Handshakes under way: bounded in all and for each source, the oldest gives way.
//!
//! An honest client completes its handshake within a few round trips; what is old in a full table is an attacker's, or hopeless.
//! So a new handshake is never refused: when its source, or the table, is full, the oldest handshake of the source with the most
//! gives way. A flood from one source evicts its own handshakes, and leaves those of other sources alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// Handshakes at a time in all: each costs some 30 KB and a signature.
pub(super) const TOTAL_MAX: usize = 512;
/// Handshakes at a time from one source: more than the clients of one host begin in a round trip.
pub(super) const SOURCE_MAX: usize = 256;
/// From so many on, a source must first show that it receives at its address (RFC 9000, 8.1.2), and handshakes get less time.
pub(super) const LOADED: usize = 32;

/// Handshakes by age and by source.
#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    next: u64,
    sources: BTreeMap<u64, IpAddr>,
    by_source: BTreeMap<IpAddr, BTreeSet<u64>>,
}

impl HalfOpen {
    /// Whether strangers are asked to validate their address.
    pub(super) fn is_loaded(&self) -> bool {
        self.sources.len() >= LOADED
    }

    /// Takes a handshake in, and gives its number and that of the one that gives way to it.
    pub(super) fn admit(&mut self, from: IpAddr) -> (u64, Option<u64>) {
        let source = network(from);
        let evicted = if self.by_source.get(&source).is_some_and(|of| of.len() >= SOURCE_MAX) {
            self.oldest_of(source)
        } else if self.sources.len() >= TOTAL_MAX {
            self.largest_source().and_then(|source| self.oldest_of(source))
        } else {
            None
        };
        if let Some(number) = evicted {
            self.remove(number);
        }
        let number = self.next;
        self.next += 1;
        self.sources.insert(number, source);
        self.by_source.entry(source).or_default().insert(number);
        assert!(self.sources.len() <= TOTAL_MAX, "one gave way to each that came when the table was full");
        (number, evicted)
    }

    /// A handshake is over, whatever its outcome.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(source) = self.sources.remove(&number) else { return };
        if let Some(of_source) = self.by_source.get_mut(&source) {
            of_source.remove(&number);
            if of_source.is_empty() {
                self.by_source.remove(&source);
            }
        }
    }

    fn oldest_of(&self, source: IpAddr) -> Option<u64> {
        self.by_source.get(&source)?.first().copied()
    }

    fn largest_source(&self) -> Option<IpAddr> {
        self.by_source.iter().max_by_key(|(_, of)| of.len()).map(|(source, _)| *source)
    }
}

/// What one peer can have many addresses of: a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        },
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn a_flood_from_one_source_evicts_itself() {
        let mut table = HalfOpen::default();
        let (honest, _) = table.admit(address(1));
        for _ in 0..10 * TOTAL_MAX {
            let (_, evicted) = table.admit(address(2));
            assert_ne!(evicted, Some(honest));
        }
        assert_eq!(table.sources.len(), 1 + SOURCE_MAX);
        assert!(table.sources.contains_key(&honest));
    }

    #[test]
    fn a_flood_from_many_sources_evicts_the_oldest() {
        let mut table = HalfOpen::default();
        for n in 0..TOTAL_MAX as u32 {
            table.admit(address(n));
        }
        assert!(table.is_loaded());
        let (new, evicted) = table.admit(address(9_999_999));
        assert!(evicted.is_some() && table.sources.contains_key(&new));
    }

    #[test]
    fn addresses_of_one_network_are_one_source() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    proptest! {
        #[test]
        fn both_tables_agree_and_are_bounded(steps in proptest::collection::vec((0u32..6, any::<bool>()), 0..2000)) {
            let mut table = HalfOpen::default();
            let mut open = Vec::new();
            for (source, comes) in steps {
                if comes {
                    let (number, evicted) = table.admit(address(source));
                    open.retain(|n| Some(*n) != evicted);
                    open.push(number);
                } else if let Some(number) = open.pop() {
                    table.remove(number);
                }
                prop_assert_eq!(table.sources.len(), open.len());
                prop_assert_eq!(table.by_source.values().map(BTreeSet::len).sum::<usize>(), open.len());
                prop_assert!(table.by_source.values().all(|of| !of.is_empty() && of.len() <= SOURCE_MAX));
            }
        }
    }
}
