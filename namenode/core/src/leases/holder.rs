//! What the table keeps of each session: its recalls, its losses, and recalls that it did not acknowledge.

use quarry_common::ids::{Ino, LeaseGeneration};
use quarry_common::wire::session::{LOSSES_MAX, LeaseId, LeaseMode, Losses};
use std::collections::{BTreeMap, BTreeSet};

/// Unanswered recalls of ended leases that are kept for each session.
const LATE_MAX: usize = 4096;
/// How long a session that lives and did not acknowledge a recall is granted no lease: it would delay others again.
pub const BARRED_MS: u64 = 30_000;
/// The same for a lease that a write waits for: an append is not carried out without, so it is barred for one lease term only.
pub const WRITES_BARRED_MS: u64 = 5_000;
/// Recalls in a row that a living session may leave unacknowledged before it is evicted. Those of one lease term count as one.
pub const MISSES_MAX: u32 = 3;

/// A session.
#[derive(Debug)]
pub(super) struct Holder {
    /// When its last request arrived.
    pub(super) renewed: u64,
    pub(super) inos: BTreeSet<Ino>,
    /// Recalls without an answer.
    pub(super) recalls: BTreeMap<u64, Ino>,
    /// The same, of leases that have ended meanwhile: the answer still tells what is open. The newest ones.
    pub(super) late: BTreeMap<u64, Ino>,
    pub(super) last_number: u64,
    pub(super) losses: Lost,
    pub(super) misses: Misses,
}

impl Holder {
    pub(super) fn new(now: u64) -> Self {
        Self {
            renewed: now,
            inos: BTreeSet::new(),
            recalls: BTreeMap::new(),
            late: BTreeMap::new(),
            last_number: 0,
            losses: Lost::default(),
            misses: Misses::default(),
        }
    }

    /// Recalls of a lease that ended without their answers.
    pub(super) fn remember_late(&mut self, ino: Ino, numbers: impl Iterator<Item = u64>) {
        self.late.extend(numbers.map(|number| (number, ino)));
        while self.late.len() > LATE_MAX {
            self.late.pop_first();
        }
    }
}

/// A session has lost more leases of one mode than are told one by one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Overflow;

/// Broken leases of a session that it has not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Lost {
    last_number: u64,
    exclusive: Broken,
    shared: Broken,
}

/// Broken leases of one mode.
#[derive(Debug, Default)]
struct Broken {
    leases: BTreeMap<u64, LeaseId>,
    /// All with a smaller generation as well.
    below: LeaseGeneration,
}

impl Lost {
    /// A lease is broken.
    pub(super) fn add(&mut self, lease: LeaseId, mode: LeaseMode) -> Option<Overflow> {
        let next = self.last_number + 1;
        let broken = self.of(mode);
        if lease.generation < broken.below || broken.leases.values().any(|known| *known == lease) {
            return None;
        }
        broken.leases.insert(next, lease);
        let overflow = (broken.leases.len() > LOSSES_MAX).then_some(Overflow);
        self.last_number = next;
        overflow
    }

    /// All leases of a mode with a smaller generation are broken.
    pub(super) fn add_below(&mut self, below: LeaseGeneration, mode: LeaseMode) {
        let broken = self.of(mode);
        if below > broken.below {
            broken.below = below;
            broken.leases.retain(|_, lease| lease.generation >= below);
            self.last_number += 1;
        }
    }

    /// The session has taken note of losses up to this number; gives those of exclusive leases.
    pub(super) fn acknowledge(&mut self, number: u64) -> Vec<LeaseId> {
        self.shared.acknowledge(number);
        self.exclusive.acknowledge(number)
    }

    /// As they are told to the session.
    pub(super) fn told(&self) -> Losses {
        let leases = self.exclusive.leases.values().chain(self.shared.leases.values());
        Losses {
            number: self.last_number,
            leases: leases.copied().collect(),
            below: self.exclusive.below,
            shared_below: self.shared.below,
            locks: Vec::new(),
        }
    }

    fn of(&mut self, mode: LeaseMode) -> &mut Broken {
        match mode {
            LeaseMode::Shared => &mut self.shared,
            LeaseMode::Exclusive => &mut self.exclusive,
        }
    }
}

impl Broken {
    fn acknowledge(&mut self, number: u64) -> Vec<LeaseId> {
        let later = self.leases.split_off(&number.saturating_add(1));
        std::mem::replace(&mut self.leases, later).into_values().collect()
    }
}

/// Recalls that a living session left unacknowledged.
#[derive(Debug, Default)]
pub(super) struct Misses {
    in_a_row: u32,
    last: Option<u64>,
}

impl Misses {
    /// A recall was not acknowledged in time. Tells whether that makes too many.
    pub(super) fn add(&mut self, now: u64, term_ms: u64) -> bool {
        if self.last.is_none_or(|last| now >= last + term_ms) {
            self.in_a_row += 1;
        }
        self.last = Some(now);
        self.in_a_row >= MISSES_MAX
    }

    /// A recall was acknowledged in time.
    pub(super) fn forget(&mut self) {
        self.in_a_row = 0;
    }

    /// Whether the session is granted no lease now, in the queue of those that writes wait for or with an answer.
    pub(super) fn bar(&self, now: u64, queued: bool) -> bool {
        let time = if queued { WRITES_BARRED_MS } else { BARRED_MS };
        self.in_a_row > 0 && self.last.is_some_and(|last| now < last + time)
    }
}
