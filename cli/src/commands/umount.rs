//! `quarry umount`, also as `umount.fuse.quarry`

use anyhow::Context;
use clap::Args;
use quarry_mount::control;
use rustix::mount::{UnmountFlags, unmount};
use std::path::PathBuf;
use std::time::Duration;

/// How often the end of the mount's process is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Unmount, and wait until everything that was written is on the disks of the cluster.
///
/// As /sbin/umount.fuse.quarry it is what umount(8) calls: by itself, umount(8) does not wait for the process behind the mount.
#[derive(Args)]
pub(crate) struct Umount {
    /// The mount point.
    mountpoint: PathBuf,
    /// Detach the mount now, also if it is in use. What was written before is on the disks even so.
    #[arg(short, long)]
    lazy: bool,
    /// Options of umount(8) that change nothing here.
    #[arg(short = 'n', short_aliases = ['f', 'v', 'r'], hide = true, action = clap::ArgAction::Count)]
    _ignored: u8,
    /// The type that umount(8) names.
    #[arg(short = 't', hide = true)]
    _kind: Option<String>,
}

impl Umount {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (path, shown) = (&self.mountpoint, self.mountpoint.display());
        let process = control::process(path).with_context(|| format!("{shown} is no mount of Quarry"))?;
        // Here an error can still be told.
        control::sync(path).with_context(|| format!("not everything written to {shown} can be stored"))?;
        let flags = if self.lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        unmount(path, flags).with_context(|| format!("cannot unmount {shown}"))?;
        // A mount that is detached goes on for the programs that use it.
        if !self.lazy {
            wait_for_end(process);
        }
        Ok(())
    }
}

/// What was written between the sync and the end of the mount is brought in by its process.
fn wait_for_end(process: u32) {
    // A process has none any more when it has ended, also before its parent asks how.
    let program = format!("/proc/{process}/exe");
    while std::fs::read_link(&program).is_ok() {
        std::thread::sleep(LOOK_EVERY);
    }
}
