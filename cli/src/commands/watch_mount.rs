//! `quarry watch-mount`: started by `quarry mount` for itself.

use anyhow::Context;
use clap::Args;
use quarry_mount::Watched;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Clean up after a mount whose process dies.
#[derive(Args)]
pub(crate) struct WatchMount {
    /// Where its parent has mounted.
    mountpoint: PathBuf,
}

impl WatchMount {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let watched = Watched::new(&self.mountpoint);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.context("cannot start the runtime")?.block_on(watched.run())?;
        Ok(())
    }
}

/// Starts this program again, also if its file was replaced meanwhile. The mount point is to be added.
pub(crate) fn command() -> Command {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(Path::new("/proc/self/exe"));
    command.arg0("quarry-mount-watcher").arg("watch-mount");
    command
}
