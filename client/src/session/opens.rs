//! Which inodes the mount refers to, counted, and telling the NameNode when the last reference has gone: handles of open files,
//! and look-ups that the kernel has not forgotten (current directories, O_PATH descriptors, fifos and sockets have no handle).
//!
//! ```text
//!   enter   count 0 -> 1
//!   told    the NameNode knows, or may know if the answer gets lost. Under a lease it need not, until that is recalled
//!   look_up, forget   the same count for look-ups, of which the NameNode is told by the answer to a recall only
//!   leave   count 1 -> 0: if the NameNode knows, the inode waits to be closed; an enter meanwhile takes it back
//!   take    a batch is on its way; who wants to open one of its inodes waits, or the two could overtake each other
//!   closed  the batch was answered
//! ```

use quarry_common::ids::Ino;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Inodes in one request to close.
const BATCH: usize = 1024;

/// The table.
#[derive(Default)]
pub(crate) struct Opens {
    table: Mutex<Table>,
    /// There is something to close.
    pub(crate) work: Notify,
    /// A batch was answered.
    answered: Notify,
}

#[derive(Default)]
struct Table {
    open: HashMap<Ino, Open>,
    to_close: BTreeSet<Ino>,
    closing: HashSet<Ino>,
}

/// An inode that is referred to.
#[derive(Clone, Copy, Default)]
struct Open {
    count: usize,
    looked_up: u64,
    told: bool,
}

/// One count of an inode. Dropped, it is taken back.
pub(crate) struct Opened {
    opens: Arc<Opens>,
    ino: Ino,
    kept: bool,
}

impl Opens {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a handle.
    pub(crate) async fn enter(self: &Arc<Self>, ino: Ino) -> Opened {
        loop {
            let answered = self.answered.notified();
            tokio::pin!(answered);
            answered.as_mut().enable();
            if let Some(opened) = self.try_enter(ino) {
                return opened;
            }
            answered.await;
        }
    }

    /// Counts a handle of an inode that was just made, so that it cannot be on its way to be closed.
    pub(crate) fn enter_new(self: &Arc<Self>, ino: Ino) -> Opened {
        let mut table = self.table();
        let open = table.open.entry(ino).or_default();
        open.count += 1;
        open.told = true;
        Opened { opens: self.clone(), ino, kept: false }
    }

    /// Counts one more handle of an inode that is referred to, since the NameNode is going to be told that it is open.
    pub(crate) fn reveal(self: &Arc<Self>, ino: Ino) -> Option<Opened> {
        let mut table = self.table();
        let open = table.open.get_mut(&ino)?;
        open.count += 1;
        open.told = true;
        Some(Opened { opens: self.clone(), ino, kept: false })
    }

    fn try_enter(self: &Arc<Self>, ino: Ino) -> Option<Opened> {
        let mut table = self.table();
        if table.closing.contains(&ino) {
            return None;
        }
        let told = table.to_close.remove(&ino);
        let open = table.open.entry(ino).or_default();
        open.count += 1;
        open.told |= told;
        Some(Opened { opens: self.clone(), ino, kept: false })
    }

    /// A handle has gone.
    pub(crate) fn leave(&self, ino: Ino) {
        let mut table = self.table();
        let Some(open) = table.open.get_mut(&ino) else { return };
        open.count -= 1;
        self.settle(&mut table, ino);
    }

    /// The kernel is about to be answered with the inode, which it then refers to until it forgets it.
    pub(crate) fn look_up(&self, ino: Ino) {
        let mut table = self.table();
        let told = table.to_close.remove(&ino);
        let open = table.open.entry(ino).or_default();
        open.looked_up += 1;
        open.told |= told;
    }

    /// The kernel has forgotten so many look-ups. Tells whether these were all.
    pub(crate) fn forget(&self, ino: Ino, count: u64) -> bool {
        let mut table = self.table();
        let Some(open) = table.open.get_mut(&ino) else { return true };
        open.looked_up = open.looked_up.saturating_sub(count);
        let all = open.looked_up == 0;
        self.settle(&mut table, ino);
        all
    }

    /// Whether the kernel refers to the inode.
    pub(crate) fn is_looked_up(&self, ino: Ino) -> bool {
        self.table().open.get(&ino).is_some_and(|open| open.looked_up > 0)
    }

    fn settle(&self, table: &mut Table, ino: Ino) {
        let Some(Open { count: 0, looked_up: 0, told }) = table.open.get(&ino).copied() else { return };
        table.open.remove(&ino);
        if told {
            table.to_close.insert(ino);
            self.work.notify_one();
        }
    }

    /// Inodes that have handles, and those of which the NameNode knew that they are referred to: it is going to be told.
    pub(crate) fn all(&self) -> Vec<Ino> {
        let mut table = self.table();
        table.open.values_mut().for_each(|open| open.told |= open.count > 0);
        let mut all: Vec<Ino> =
            table.open.iter().filter(|(_, open)| open.told).map(|(ino, _)| *ino).collect();
        all.sort_unstable();
        all
    }

    /// The next inodes to close; empty when there are none.
    pub(crate) fn take(&self) -> Vec<Ino> {
        let mut table = self.table();
        let mut batch = Vec::new();
        while batch.len() < BATCH
            && let Some(ino) = table.to_close.pop_first()
        {
            table.closing.insert(ino);
            batch.push(ino);
        }
        batch
    }

    /// They are closed.
    pub(crate) fn closed(&self, batch: &[Ino]) {
        let mut table = self.table();
        for ino in batch {
            table.closing.remove(ino);
        }
        drop(table);
        self.answered.notify_waiters();
    }
}

impl Opened {
    /// The NameNode is going to be told.
    pub(crate) fn told(&self) {
        if let Some(open) = self.opens.table().open.get_mut(&self.ino) {
            open.told = true;
        }
    }

    /// From now on somebody else calls [`Opens::leave`].
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if !self.kept {
            self.opens.leave(self.ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_handle_closes_and_a_new_one_takes_it_back() {
        let (opens, ino) = (Arc::new(Opens::default()), Ino(5));
        let (a, b) = (opens.enter(ino).await, opens.enter(ino).await);
        a.told();
        drop(a);
        assert!(opens.take().is_empty());
        drop(b);
        let again = opens.enter(ino).await;
        assert!(opens.take().is_empty());
        assert_eq!(opens.all(), [ino]);
        again.keep();
        opens.leave(ino);
        assert_eq!(opens.take(), [ino]);
        assert!(opens.all().is_empty());
    }

    #[tokio::test]
    async fn an_open_waits_for_a_close_on_its_way() {
        let (opens, ino) = (Arc::new(Opens::default()), Ino(5));
        drop(opens.enter_new(ino));
        let batch = opens.take();
        let open = opens.enter(ino);
        tokio::pin!(open);
        assert!(futures::poll!(&mut open).is_pending());
        opens.closed(&batch);
        open.await.keep();
        assert_eq!(opens.all(), [ino]);
    }

    #[tokio::test]
    async fn what_the_kernel_has_looked_up_is_revealed_until_it_is_forgotten() {
        let (opens, ino) = (Arc::new(Opens::default()), Ino(5));
        opens.look_up(ino);
        opens.look_up(ino);
        assert!(opens.is_looked_up(ino) && opens.all().is_empty(), "the NameNode need not know");
        drop(opens.reveal(ino).unwrap());
        assert_eq!(opens.all(), [ino]);
        opens.forget(ino, 1);
        drop(opens.enter(ino).await);
        assert!(opens.take().is_empty());
        opens.forget(ino, 1);
        assert_eq!(opens.take(), [ino]);
        assert!(!opens.is_looked_up(ino) && opens.reveal(ino).is_none());
        opens.forget(ino, 1);
    }

    #[tokio::test]
    async fn what_the_namenode_was_never_told_is_not_closed_there() {
        let (opens, ino) = (Arc::new(Opens::default()), Ino(5));
        drop(opens.enter(ino).await);
        assert!(opens.take().is_empty() && opens.reveal(ino).is_none());
        let open = opens.enter(ino).await;
        let revealed = opens.reveal(ino).unwrap();
        drop(open);
        assert!(opens.take().is_empty(), "not before the answer");
        drop(revealed);
        assert_eq!(opens.take(), [ino]);
    }
}
