//! The leases, and what is known under each: memory only, with the time as an argument.
//!
//! An answer is kept if at that moment the lease is held, and nothing has happened to the inode since before the
//! question was asked (see [`Ticket`]): then no change can have come between. A change that was made here counts as
//! such an event, since it recalls no lease of our own.

use super::Ticket;
use hashlink::LinkedHashMap;
use quarry_common::ids::Ino;
use quarry_common::limits::LEASE_TERM;
use quarry_common::wire::fs::{Attr, FileKind, Name};
use quarry_common::wire::session::{LeaseGrant, LeaseMode};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Inodes share this many marks of when something last happened: sharing one only costs an answer that is not kept.
const MARKS: usize = 4096;
/// What an inode takes beside what is counted.
const NODE_COST: usize = 320;
/// What a name takes beside its bytes.
const NAME_COST: usize = 96;
/// What an entry of a page takes beside its name.
const ENTRY_COST: usize = 56;

/// What a program may do that runs from the file: changes of its data, size or owner take it away.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// The table.
pub(super) struct Table {
    /// Least recently used first.
    pub(super) nodes: LinkedHashMap<Ino, Node>,
    cost: usize,
    budget: usize,
    /// Leases hold until then.
    valid_until: Option<Instant>,
    /// Counts what happened.
    events: u64,
    /// By inode: the last event, or a later one.
    marks: Vec<u64>,
    dropped: Vec<Ino>,
    /// Leases have lapsed.
    lapsed: bool,
}

/// What is known of an inode; all of it under its lease.
#[derive(Default)]
pub(super) struct Node {
    pub(super) leased: bool,
    /// Changes of its data may wait here.
    exclusive: bool,
    pub(super) attr: Option<Attr>,
    pub(super) names: HashMap<Name, Known>,
    pub(super) pages: HashMap<PageKey, Page>,
    pub(super) target: Option<Vec<u8>>,
    /// `None`: there is no such attribute.
    pub(super) xattrs: HashMap<Name, Option<Vec<u8>>>,
    pub(super) xattr_names: Option<Vec<u8>>,
    pub(super) parent: Option<Ino>,
    pub(super) cost: usize,
}

/// What a name in a directory stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    Inode(Ino),
    Absent,
}

/// `after`, `limit` and `plus` of the request.
pub(super) type PageKey = (u64, u32, bool);

/// A part of a directory, without attributes.
pub(super) struct Page {
    pub(super) entries: Vec<(u64, Ino, FileKind, Name)>,
    pub(super) end: bool,
    pub(super) newest: u64,
}

impl Table {
    pub(super) fn new(budget: usize) -> Self {
        Self {
            nodes: LinkedHashMap::new(),
            cost: 0,
            budget,
            valid_until: None,
            events: 1,
            marks: vec![0; MARKS],
            dropped: Vec::new(),
            lapsed: false,
        }
    }

    /// A request that was sent at `sent_at` was answered at `now`: all leases hold for a term from the former, unless
    /// they had ended before the latter.
    pub(super) fn answered(&mut self, leases: &[LeaseGrant], sent_at: Instant, now: Instant) {
        self.lapse(now);
        let until = sent_at + LEASE_TERM;
        if until <= now {
            return;
        }
        self.valid_until = Some(self.valid_until.map_or(until, |before| before.max(until)));
        for lease in leases {
            if !self.nodes.contains_key(&lease.ino) {
                self.cost += NODE_COST;
                self.nodes.insert(lease.ino, Node { cost: NODE_COST, ..Node::default() });
            }
            if let Some(node) = self.nodes.to_back(&lease.ino) {
                node.leased = true;
                node.exclusive |= lease.mode == LeaseMode::Exclusive;
            }
        }
        self.shrink();
    }

    /// Drops everything if the leases have ended.
    pub(super) fn lapse(&mut self, now: Instant) {
        if self.valid_until.is_some_and(|until| now >= until) {
            self.lapsed |= !self.nodes.is_empty();
            self.clear();
        }
    }

    /// How long the leases hold.
    pub(super) fn term_left(&self, now: Instant) -> Duration {
        self.valid_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    /// The lease on an inode is no longer held.
    pub(super) fn recall(&mut self, ino: Ino) {
        self.happened(ino);
        if let Some(node) = self.nodes.remove(&ino) {
            self.cost -= node.cost;
        }
    }

    /// No lease is held.
    pub(super) fn clear(&mut self) {
        self.events += 1;
        self.marks.fill(self.events);
        self.valid_until = None;
        self.cost = 0;
        self.dropped.extend(self.nodes.drain().map(|(ino, _)| ino));
    }

    /// What was dropped since the last call, but for recalls.
    pub(super) fn take_dropped(&mut self) -> Vec<Ino> {
        std::mem::take(&mut self.dropped)
    }

    /// Whether leases have lapsed since the last call.
    pub(super) fn take_lapsed(&mut self) -> bool {
        std::mem::take(&mut self.lapsed)
    }

    pub(super) fn ticket(&self) -> Ticket {
        Ticket(self.events)
    }

    /// Answers that are on their way say nothing about the inode any more.
    pub(super) fn happened(&mut self, ino: Ino) {
        self.events += 1;
        self.marks[mark(ino)] = self.events;
    }

    /// Whether an answer from after the ticket may be kept.
    pub(super) fn may_keep(&self, ino: Ino, ticket: Ticket) -> bool {
        self.marks[mark(ino)] <= ticket.0 && self.nodes.get(&ino).is_some_and(|node| node.leased)
    }

    /// The node, if its lease is held.
    pub(super) fn leased(&mut self, ino: Ino) -> Option<&mut Node> {
        self.nodes.to_back(&ino).filter(|node| node.leased)
    }

    /// Changes what is known of an inode, if anything, and takes note of what that costs.
    pub(super) fn update(&mut self, ino: Ino, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&ino) else { return };
        let before = node.cost;
        change(node);
        self.cost = self.cost + node.cost - before;
        self.shrink();
    }

    /// The lease on an inode is held.
    pub(super) fn is_leased(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.leased)
    }

    /// An exclusive lease on an inode is held.
    pub(super) fn is_exclusive(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.exclusive)
    }

    pub(super) fn has_attr(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.leased && node.attr.is_some())
    }

    /// These are the attributes that are known under a lease.
    pub(super) fn knows_attr(&self, attr: &Attr) -> bool {
        let known = |node: &Node| node.attr.as_ref().is_some_and(|known| known.version == attr.version);
        self.nodes.get(&attr.ino).is_some_and(|node| node.leased && known(node))
    }

    fn shrink(&mut self) {
        while self.cost > self.budget
            && let Some((ino, node)) = self.nodes.pop_front()
        {
            self.cost -= node.cost;
            self.dropped.push(ino);
        }
    }
}

impl Node {
    pub(super) fn know(&mut self, name: &Name, known: Known) {
        if self.names.insert(name.clone(), known).is_none() {
            self.cost += name.len() + NAME_COST;
        }
    }

    pub(super) fn unknow(&mut self, name: &Name) {
        if self.names.remove(name).is_some() {
            self.cost -= name.len() + NAME_COST;
        }
    }

    pub(super) fn add_page(&mut self, key: PageKey, page: Page) {
        self.cost += page.cost();
        if let Some(old) = self.pages.insert(key, page) {
            self.cost -= old.cost();
        }
    }

    pub(super) fn drop_pages(&mut self) {
        self.cost -= self.pages.drain().map(|(_, page)| page.cost()).sum::<usize>();
    }

    pub(super) fn set_target(&mut self, target: &[u8]) {
        self.cost += target.len();
        self.cost -= self.target.replace(target.to_vec()).map_or(0, |old| old.len());
    }

    pub(super) fn set_xattr_names(&mut self, names: &[u8]) {
        self.cost += names.len();
        self.cost -= self.xattr_names.replace(names.to_vec()).map_or(0, |old| old.len());
    }

    pub(super) fn set_xattr(&mut self, name: &Name, value: Option<&[u8]>) {
        self.cost += xattr_cost(name, value);
        if let Some(old) = self.xattrs.insert(name.clone(), value.map(<[u8]>::to_vec)) {
            self.cost -= xattr_cost(name, old.as_deref());
        }
    }

    /// Capabilities are gone; what is known of other attributes stays true.
    pub(super) fn drop_capability(&mut self) {
        let name = Name::from(CAPABILITY);
        if self.xattrs.get(&name).is_some_and(Option::is_some) {
            self.set_xattr(&name, None);
        }
        if self.xattr_names.as_deref().is_some_and(lists_capability) {
            self.cost -= self.xattr_names.take().map_or(0, |names| names.len());
        }
    }

    pub(super) fn drop_xattrs(&mut self) {
        self.cost -= self.xattrs.drain().map(|(n, v)| xattr_cost(&n, v.as_deref())).sum::<usize>();
        self.cost -= self.xattr_names.take().map_or(0, |names| names.len());
    }
}

impl Page {
    fn cost(&self) -> usize {
        self.entries.iter().map(|(.., name)| name.len() + ENTRY_COST).sum()
    }
}

/// Whether a list of attributes names capabilities.
pub(crate) fn lists_capability(names: &[u8]) -> bool {
    names.split(|byte| *byte == 0).any(|name| name == CAPABILITY)
}

fn xattr_cost(name: &Name, value: Option<&[u8]>) -> usize {
    name.len() + value.map_or(0, <[u8]>::len) + NAME_COST
}

fn mark(ino: Ino) -> usize {
    // Fibonacci hashing: neighbours spread.
    (ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - MARKS.ilog2())) as usize
}
