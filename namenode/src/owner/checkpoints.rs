//! Checkpoints: what the log no longer has to keep.

use super::Owner;
use quarry_namenode_core::{Base, Overlay};
use std::sync::Arc;

impl Owner {
    /// The changes since the last checkpoint, and the last entry that is in them; `None` if there are none.
    pub(crate) fn freeze(&mut self) -> Option<(Arc<Overlay>, u64)> {
        if self.commands.proposer.unsaved() == 0 {
            return None;
        }
        self.commands.proposer.frozen();
        self.feed_checkpointing();
        Some((self.state.freeze(), self.state.applied()))
    }

    /// The frozen changes are in the base.
    pub(crate) fn thaw(&mut self, base: Arc<dyn Base>) {
        self.state.thaw(base);
        self.commands.proposer.saved();
    }

    /// Commands that only the log has.
    pub(crate) fn unsaved(&self) -> usize {
        self.commands.proposer.unsaved()
    }

    /// The cluster's name; empty before the first start has written it.
    pub(crate) fn cluster(&self) -> String {
        self.state.meta().cluster.clone()
    }
}
