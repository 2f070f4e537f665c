//! Shows a cluster as a local directory, through FUSE.
//!
//! This crate translates and nothing else: [`adapter`] turns the kernel's requests into calls of
//! [`quarry_client::FileSystem`], [`options`] reads `-o`, and [`run`] looks after the mount from its beginning to its end.

mod adapter;
pub mod control;
mod convert;
mod errno;
mod handles;
mod kernel;
mod mountpoint;
pub mod options;
mod task;
mod watcher;

pub use mountpoint::remount;
pub use watcher::Watched;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use kernel::KernelCache;
use mountpoint::Unmounted;
use options::MountOptions;
use quarry_client::FileSystem;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use watcher::Watcher;

/// Threads that read the kernel's requests: as many as cores, within these bounds.
const THREADS: std::ops::RangeInclusive<usize> = 2..=8;
/// How long programs that still use a mount keep it served after its end was asked for.
const LINGER: Duration = Duration::from_secs(3);

/// What to mount where.
#[derive(Debug)]
pub struct MountConfig {
    /// An existing directory.
    pub mountpoint: PathBuf,
    /// What `-o` said.
    pub options: MountOptions,
    /// Shown as the device by `df` and `mount`: the cluster's name.
    pub source: String,
    /// A command that, given the mount point as one more argument, runs [`Watched`]: the mount is watched by it.
    pub watcher: Option<Command>,
}

/// Why there is no mount.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The directory cannot be used.
    #[error("cannot mount on {}: {reason}", path.display())]
    Mountpoint {
        /// As given.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// The kernel refused.
    #[error("cannot mount on {}: {source}; it needs root and the kernel's fuse module (/dev/fuse)", path.display())]
    Kernel {
        /// As given.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
    /// The thread that serves the kernel ended with an error.
    #[error("the mount on {} ended: {source}", path.display())]
    Ended {
        /// As given.
        path: PathBuf,
        /// Its error.
        source: io::Error,
    },
}

/// Checks that a directory can be mounted on, before anything else is begun. A mount there whose server died is taken away.
///
/// # Errors
/// [`MountError::Mountpoint`]
pub async fn check_mountpoint(path: &Path, over: bool) -> Result<(), MountError> {
    mountpoint::prepare(path, over).await.map(|_| ())
}

/// Mounts, tells `ready`, and serves until somebody unmounts or `shutdown` is cancelled. Then everything written is
/// on its way to the cluster and the directory is free again; the file system itself is shut down by the caller.
///
/// # Errors
/// See [`MountError`].
pub async fn run(
    mut config: MountConfig,
    fs: FileSystem,
    shutdown: CancellationToken,
    ready: oneshot::Sender<()>,
) -> Result<(), MountError> {
    let watcher = config.watcher.take();
    let path = mountpoint::prepare(&config.mountpoint, config.options.over).await?;
    let adapter =
        adapter::Adapter::new(fs.clone(), tokio::runtime::Handle::current(), config.options.direct_io);
    let kernel_error = |source| MountError::Kernel { path: config.mountpoint.clone(), source };
    let fuse = fuse_config(&config);
    let mount_on = path.clone();
    let session = tokio::task::spawn_blocking(move || {
        let session = Session::new(adapter, &mount_on, &fuse)?;
        let device = File::from(session.as_fd().try_clone_to_owned()?);
        fs.set_invalidator(Arc::new(KernelCache::new(device)));
        // From here on it is unmounted by us alone: dropping fuser's own handle could unmount what came after.
        session.spawn()
    })
    .await
    .expect("mounting does not panic")
    .map_err(kernel_error)?;
    // This future runs on one thread from here on, until the mount has ended.
    let watcher = watcher.and_then(|command| watch(command, &path));
    let mut ended = join(session);
    mountpoint::raise_read_ahead(&path).await;
    if config.options.kernel.no_symfollow {
        mountpoint::set_flags(&path, &config.options).map_err(kernel_error)?;
    }
    tracing::info!(mountpoint = %path.display(), "mounted");
    let _ = ready.send(());

    let served = tokio::select! {
        served = &mut ended => served,
        () = shutdown.cancelled() => {
            match mountpoint::unmount(&path).await {
                Unmounted::Now => ended.await,
                Unmounted::WhenIdle => tokio::time::timeout(LINGER, ended).await.unwrap_or(Ok(Ok(()))),
            }
        }
    };
    if let Some(watcher) = watcher {
        watcher.dismiss();
    }
    tracing::info!(mountpoint = %path.display(), "unmounted");
    served.unwrap_or(Ok(())).map_err(|source| MountError::Ended { path: config.mountpoint, source })
}

fn watch(command: Command, mountpoint: &Path) -> Option<Watcher> {
    let watcher = Watcher::start(command, mountpoint);
    watcher.inspect_err(|error| tracing::warn!(%error, "the mount is not watched: if its process is killed, umount(8) may hang")).ok()
}

/// Waits for the session's thread on a thread of its own, since that may last as long as the mount.
fn join(session: BackgroundSession) -> oneshot::Receiver<io::Result<()>> {
    let (done, ended) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = done.send(session.join());
    });
    ended
}

fn fuse_config(config: &MountConfig) -> Config {
    let mut fuse = Config::default();
    fuse.mount_options = vec![
        MountOption::FSName(config.source.clone()),
        // fuser hands its own `Subtype` to fusermount only; the kernel takes it as well.
        MountOption::CUSTOM("subtype=quarry".into()),
        MountOption::DefaultPermissions,
    ];
    if config.options.read_only {
        fuse.mount_options.push(MountOption::RO);
    }
    let flags = config.options.kernel;
    fuse.mount_options.push(if flags.suid { MountOption::Suid } else { MountOption::NoSuid });
    fuse.mount_options.push(if flags.dev { MountOption::Dev } else { MountOption::NoDev });
    // Access times are not kept, and `mount` says so.
    fuse.mount_options.push(MountOption::NoAtime);
    if flags.no_exec {
        fuse.mount_options.push(MountOption::NoExec);
    }
    if flags.sync {
        fuse.mount_options.push(MountOption::Sync);
    }
    if flags.dir_sync {
        fuse.mount_options.push(MountOption::DirSync);
    }
    fuse.acl = if config.options.owner_only { SessionACL::Owner } else { SessionACL::All };
    let cores = std::thread::available_parallelism().map_or(*THREADS.start(), usize::from);
    fuse.n_threads = Some(cores.clamp(*THREADS.start(), *THREADS.end()));
    fuse.clone_fd = true;
    fuse
}
