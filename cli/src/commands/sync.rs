//! `quarry sync`

use anyhow::Context;
use clap::Args;
use quarry_mount::control;
use std::path::PathBuf;

/// Bring everything that was written through a mount onto the disks of the cluster, and wait for it.
///
/// sync(1) does not do this for a single mount: the kernel does not pass syncfs(2) on to FUSE drivers.
#[derive(Args)]
pub(crate) struct Sync {
    /// The mount point, or any directory in the mount.
    directory: PathBuf,
}

impl Sync {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let shown = self.directory.display();
        control::sync(&self.directory).with_context(|| format!("cannot sync {shown}"))
    }
}
