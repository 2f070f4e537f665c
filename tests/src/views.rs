//! Several mounts of one cluster, for tests of what one sees of another.

use crate::{Cluster, Mount};
use std::path::{Path, PathBuf};

/// What programs on several machines see. With `QUARRY_SAME_MOUNT=1` all views are one mount: there the kernel alone keeps
/// every promise of coherence, so that a failure is one of the test itself.
pub struct Views {
    mounts: Vec<Mount>,
    views: usize,
}

/// Whether all views are one mount.
pub fn same_mount() -> bool {
    std::env::var_os("QUARRY_SAME_MOUNT").is_some_and(|v| v == "1")
}

impl Views {
    /// So many views, each a mount of its own.
    pub fn new(cluster: &Cluster, views: usize) -> Self {
        let mounts = if same_mount() { 1 } else { views };
        Self { mounts: (0..mounts).map(|_| cluster.mount()).collect(), views }
    }

    /// So many views that are mounts of their own in any case, for what a mount cannot be beside itself: silent, for example.
    pub fn apart(cluster: &Cluster, views: usize) -> Self {
        Self { mounts: (0..views).map(|_| cluster.mount()).collect(), views }
    }

    /// The mount behind a view; the first is 0.
    ///
    /// # Panics
    /// When there is no such view.
    pub fn mount(&mut self, view: usize) -> &mut Mount {
        let shared = self.mounts.len() == 1;
        &mut self.mounts[if shared { 0 } else { view }]
    }

    /// Where a view is mounted.
    ///
    /// # Panics
    /// When there is no such view.
    pub fn root(&self, view: usize) -> &Path {
        assert!(view < self.views, "there are {} views", self.views);
        self.mounts.get(view).unwrap_or(&self.mounts[0]).root()
    }

    /// A path in a view.
    pub fn path(&self, view: usize, name: &str) -> PathBuf {
        self.root(view).join(name)
    }

    /// Where each view is mounted.
    pub fn roots(&self) -> Vec<PathBuf> {
        (0..self.views).map(|view| self.root(view).to_path_buf()).collect()
    }

    /// The processes that serve the mounts.
    pub fn pids(&mut self) -> Vec<u32> {
        self.mounts.iter_mut().map(|m| m.process().pid()).collect()
    }
}
