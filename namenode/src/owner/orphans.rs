//! Inodes without a name: freed once no session has them open.

use super::recalls::Parked;
use super::{Fatal, Owner};
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::session::Push;
use quarry_namenode_core::leases::Access;

/// Orphans of one command.
const REAP_MAX: usize = 256;
/// Orphans that one look goes through.
const REAP_SCAN_MAX: usize = 4096;
/// The NameNode itself, which recalls leases on orphans.
const NAMENODE: SessionId = SessionId(0);

impl Owner {
    /// Orphans after `after` that nobody has open: they cannot be opened any more. The second part is where to go on;
    /// `None` when there are no more.
    pub(crate) fn pick_orphans(&mut self, after: Ino) -> Result<(Vec<Ino>, Option<Ino>), Fatal> {
        if self.clients.in_grace || !(self.orphans.due || after.0 > 0) {
            return Ok((Vec::new(), None));
        }
        self.orphans.due = false;
        let orphans = self.state.orphans(after, REAP_SCAN_MAX)?;
        let mut next = (orphans.len() == REAP_SCAN_MAX).then(|| orphans[REAP_SCAN_MAX - 1]);
        let mut picked = Vec::new();
        for ino in orphans {
            if picked.len() >= REAP_MAX {
                next = picked.last().copied();
                break;
            }
            if !self.is_in_use(ino)? {
                picked.push(ino);
            }
            self.tell_nameless(ino);
        }
        self.orphans.reaping.extend(&picked);
        Ok((picked, next))
    }

    /// Some files with erased windows, which are freed whether they are open or not.
    pub(crate) fn erased_files(&self) -> Result<Vec<Ino>, Fatal> {
        Ok(self.state.erased(Ino(0), REAP_MAX)?)
    }

    /// Picked orphans were reaped, or not.
    pub(crate) fn reaped(&mut self, picked: &[Ino], all: bool) {
        for ino in picked {
            self.orphans.reaping.remove(ino);
        }
        self.orphans.due |= !all;
    }

    /// Has clients drop what they only remember: the kernel of one that has looked a file up refers to it until it is told otherwise,
    /// and the file's space is not freed before.
    fn tell_nameless(&mut self, ino: Ino) {
        for session in self.clients.opens.untold(ino) {
            if let Some(pusher) = self.clients.registry.pusher(session) {
                pusher.push(Push::Nameless(ino));
            }
        }
    }

    fn is_in_use(&mut self, ino: Ino) -> Result<bool, Fatal> {
        Ok(self.clients.opens.is_open(ino) || self.orphans.reaping.contains(&ino) || self.is_leased(ino)?)
    }

    /// Whether somebody may have the orphan open under a lease. If so its leases are recalled: the answers will tell.
    fn is_leased(&mut self, ino: Ino) -> Result<bool, Fatal> {
        let now = self.now_ms();
        if self.clients.leasing.kept.is_open(ino) || self.clients.leasing.orphans.contains(&ino) {
            return Ok(true);
        }
        if self.clients.leasing.table.holders(ino).next().is_none() {
            return Ok(false);
        }
        // With too many requests under way, the next look tries again.
        let Ok((ticket, actions)) =
            self.clients.leasing.table.acquire(now, NAMENODE, &[(ino, Access::Write)])
        else {
            self.orphans.due = true;
            return Ok(true);
        };
        self.clients.leasing.orphans.insert(ino);
        self.clients.leasing.parked.insert(ticket, Parked::Orphan(ino));
        self.carry_out(actions)?;
        Ok(true)
    }
}
