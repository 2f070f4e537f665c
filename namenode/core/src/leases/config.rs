//! Settings of the table.

use quarry_common::limits::{LEASE_TERM, RECALL_MAX};

/// Leases that the table holds by default: some 200 bytes each.
pub const LEASES_MAX: usize = 1 << 20;
/// What clocks of two machines may differ by in one term, and then some: 5 %.
pub const MARGIN_MS: u64 = 250;

/// The table's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseConfig {
    /// How long a lease lasts after the last renewal.
    pub term_ms: u64,
    /// How much longer the NameNode waits.
    pub margin_ms: u64,
    /// How long after a recall its deadline may be moved by commits.
    pub recall_max_ms: u64,
    /// Leases that there may be.
    pub budget: usize,
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            term_ms: LEASE_TERM.as_millis() as u64,
            margin_ms: MARGIN_MS,
            recall_max_ms: RECALL_MAX.as_millis() as u64,
            budget: LEASES_MAX,
        }
    }
}
