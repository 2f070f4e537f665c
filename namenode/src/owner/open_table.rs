//! Who has which inode open: an inode outlives its last name while somebody has it.
//!
//! In memory only. A client says what it has open when it resumes its session.

use quarry_common::ids::{Ino, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Inodes that one session may have open: a resume lists them all, in one frame.
pub(crate) const SESSION_OPENS_MAX: usize = 100_000;

/// The session has too many inodes open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// The open table.
#[derive(Debug, Default)]
pub(crate) struct OpenTable {
    sessions: BTreeMap<SessionId, BTreeSet<Ino>>,
    /// Sessions that have the inode open; no zeros.
    inodes: BTreeMap<Ino, usize>,
    /// Open inodes whose sessions were told that they have lost their last name.
    told: BTreeSet<Ino>,
}

impl OpenTable {
    /// The session has the inode open, now if not already.
    pub(crate) fn open(&mut self, session: SessionId, ino: Ino) -> Result<(), TooMany> {
        let opens = self.sessions.entry(session).or_default();
        if opens.contains(&ino) {
            return Ok(());
        }
        if opens.len() >= SESSION_OPENS_MAX {
            return Err(TooMany);
        }
        opens.insert(ino);
        self.told.remove(&ino);
        *self.inodes.entry(ino).or_default() += 1;
        Ok(())
    }

    /// The session has the inode no longer open. Tells whether nobody has it open now, but somebody had.
    pub(crate) fn close(&mut self, session: SessionId, ino: Ino) -> bool {
        let Some(opens) = self.sessions.get_mut(&session) else { return false };
        if !opens.remove(&ino) {
            return false;
        }
        if opens.is_empty() {
            self.sessions.remove(&session);
        }
        self.uncount(ino)
    }

    /// The session has nothing open any more. Tells whether there is an inode that nobody has open now.
    pub(crate) fn close_all(&mut self, session: SessionId) -> bool {
        let mut last = false;
        for ino in self.sessions.remove(&session).unwrap_or_default() {
            last |= self.uncount(ino);
        }
        last
    }

    /// The sessions that have an inode without a name open and were not told so, as of now they are.
    pub(crate) fn untold(&mut self, ino: Ino) -> Vec<SessionId> {
        if !self.is_open(ino) || !self.told.insert(ino) {
            return Vec::new();
        }
        let has_it =
            |(session, opens): (&SessionId, &BTreeSet<Ino>)| opens.contains(&ino).then_some(*session);
        self.sessions.iter().filter_map(has_it).collect()
    }

    fn uncount(&mut self, ino: Ino) -> bool {
        match self.inodes.get_mut(&ino) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => {
                self.told.remove(&ino);
                self.inodes.remove(&ino).is_some()
            }
        }
    }

    /// Whether any session has it open.
    pub(crate) fn is_open(&self, ino: Ino) -> bool {
        self.inodes.contains_key(&ino)
    }

    /// Whether this session has it open.
    pub(crate) fn is_open_by(&self, session: SessionId, ino: Ino) -> bool {
        self.sessions.get(&session).is_some_and(|opens| opens.contains(&ino))
    }

    /// Inodes that the session has open.
    pub(crate) fn count(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_close_counts() {
        let (a, b, ino) = (SessionId(1), SessionId(2), Ino(7));
        let mut table = OpenTable::default();
        for session in [a, a, b] {
            table.open(session, ino).unwrap();
        }
        assert_eq!((table.count(a), table.count(b)), (1, 1));
        assert!(!table.close(a, ino));
        assert!(!table.close(a, ino), "it was closed already");
        assert!(table.is_open(ino));
        assert!(table.close_all(b));
        assert!(!table.is_open(ino));
        assert!(!table.close_all(b));
        assert!(table.told.is_empty() && table.sessions.is_empty() && table.inodes.is_empty());
    }

    #[test]
    fn sessions_are_told_once_that_an_inode_has_no_name() {
        let (a, b, ino) = (SessionId(1), SessionId(2), Ino(7));
        let mut table = OpenTable::default();
        assert_eq!(table.untold(ino), []);
        table.open(a, ino).unwrap();
        table.open(b, ino).unwrap();
        assert_eq!(table.untold(ino), [a, b]);
        assert_eq!(table.untold(ino), []);
        table.close(b, ino);
        assert_eq!(table.untold(ino), []);
        // A session that resumes may have missed it.
        table.open(b, ino).unwrap();
        assert_eq!(table.untold(ino), [a, b]);
    }

    #[test]
    fn a_session_has_a_limit() {
        let mut table = OpenTable::default();
        for ino in 0..SESSION_OPENS_MAX as u64 {
            table.open(SessionId(1), Ino(ino)).unwrap();
        }
        assert_eq!(table.open(SessionId(1), Ino(u64::MAX)), Err(TooMany));
        assert_eq!(table.open(SessionId(1), Ino(0)), Ok(()));
        assert_eq!(table.open(SessionId(2), Ino(u64::MAX)), Ok(()));
    }
}
