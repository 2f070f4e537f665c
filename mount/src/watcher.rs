//! A small process beside the one that serves a mount. When that dies without having ended the mount, it frees the host of it.
//!
//! A killed process can be stuck in the kernel: it waits for a page of a read that it was to answer itself, and then umount(8), sync(2)
//! and whatever else walks over all file systems hang as well, until the connection is aborted by hand. So the watcher aborts it,
//! detaches the mount and says so.
//!
//! It is a child of the serving process, so that the process which was started is the one that serves, whatever kills or supervises
//! it. It learns of the end by a pipe, which closes only when every thread is gone, and by the kernel's signal for the death of
//! the thread that started it, which comes also if another thread is stuck.

use rustix::fs::{AtFlags, CWD, StatxFlags, minor, statx};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};

/// Tells the watcher that the mount has ended in order.
const ENDED: &[u8] = b"ended";
/// The kernel's list of FUSE connections.
const CONNECTIONS: &str = "/sys/fs/fuse/connections";
/// `STATX_MNT_ID_UNIQUE` of `linux/stat.h` (Linux 6.8): an id of a mount that is never given again.
const MOUNT_ID_UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// The serving process's end.
pub(crate) struct Watcher {
    child: Child,
    pipe: ChildStdin,
}

impl Watcher {
    /// Starts `command` with the mount point as its last argument. To be called by a thread that lives as long as the mount.
    ///
    /// # Errors
    /// When there can be no process.
    pub(crate) fn start(mut command: Command, mountpoint: &Path) -> io::Result<Self> {
        command.arg(mountpoint).stdin(Stdio::piped()).stdout(Stdio::null());
        // SAFETY: prctl and setpgid are async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            command.pre_exec(|| {
                set_parent_process_death_signal(Some(Signal::USR1))?;
                // Ctrl-C at the terminal is for the serving process, which ends the mount in order.
                rustix::process::setpgid(None, None::<Pid>)?;
                Ok(())
            });
        }
        let mut child = command.spawn()?;
        let pipe = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, pipe })
    }

    /// The mount has ended in order.
    pub(crate) fn dismiss(mut self) {
        if let Err(error) = self.pipe.write_all(ENDED) {
            tracing::warn!(%error, "the watcher of the mount is gone");
        }
        drop(self.pipe);
        let _ = self.child.wait();
    }
}

/// The watcher's end: what it was told to watch.
pub struct Watched {
    mountpoint: PathBuf,
    server: Option<Pid>,
    /// Open from the start: the number of a connection may be given again, its file is this connection's.
    abort: Option<File>,
    mount_id: Option<u64>,
}

impl Watched {
    /// Looks at a mount that its parent has just made. To be called before the process has a second thread.
    pub fn new(mountpoint: &Path) -> Self {
        let status = statx(CWD, mountpoint, AtFlags::STATX_DONT_SYNC, MOUNT_ID_UNIQUE).ok();
        let connection = rustix::fs::lstat(mountpoint).ok().map(|stat| minor(stat.st_dev));
        let abort = connection.and_then(|number| match open_abort(number) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(%error, "the connection of the mount cannot be aborted when its process is stuck");
                None
            }
        });
        Self {
            mountpoint: mountpoint.to_owned(),
            server: rustix::process::getppid(),
            abort,
            mount_id: status.map(|status| status.stx_mnt_id),
        }
    }

    /// Waits for the end of the serving process, and cleans up after it if it did not do so itself.
    ///
    /// # Errors
    /// When signals or the standard input cannot be waited for.
    pub async fn run(self) -> io::Result<()> {
        let mut parent_died = signal(SignalKind::user_defined1())?;
        // A service manager that stops all processes of a service lets the serving one end the mount.
        let _ignored = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let input = pipe::Receiver::from_owned_fd(io::stdin().as_fd().try_clone_to_owned()?)?;
        tokio::select! {
            biased;
            ended = said_ended(&input) => if ended { return Ok(()) },
            _ = parent_died.recv() => {}
        }
        self.clean_up();
        Ok(())
    }

    fn clean_up(self) {
        let server = self.server.map_or(0, Pid::as_raw_pid);
        let aborted = self.abort.map(|mut file| file.write_all(b"1"));
        let now = statx(CWD, &self.mountpoint, AtFlags::STATX_DONT_SYNC, MOUNT_ID_UNIQUE).ok();
        // A new mount may have taken its place already.
        let still_there = now.map(|status| status.stx_mnt_id) == self.mount_id;
        let detached = still_there.then(|| unmount(&self.mountpoint, UnmountFlags::DETACH));
        tracing::error!(
            mountpoint = %self.mountpoint.display(),
            ?aborted,
            ?detached,
            "process {server} died without ending its mount: the connection is aborted and the mount detached; what was not \
             fsynced may be lost"
        );
    }
}

/// Whether the serving process says that the mount has ended, rather than nothing at its own end.
async fn said_ended(input: &pipe::Receiver) -> bool {
    let mut said = Vec::new();
    loop {
        let mut buffer = [0; 16];
        if input.readable().await.is_err() {
            return false;
        }
        match input.try_read(&mut buffer) {
            Ok(0) => return said == ENDED,
            Ok(n) => said.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
    }
}

/// Opens the file by which a connection is aborted. Where the host has not mounted the list of connections, it is mounted in a
/// namespace that nothing else sees.
fn open_abort(connection: u32) -> io::Result<File> {
    let path = format!("{CONNECTIONS}/{connection}/abort");
    let open = || File::options().write(true).open(&path);
    match open() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        result => return result,
    }
    let home = File::open("/proc/self/ns/mnt")?;
    // SAFETY: the process has one thread, and no file descriptor depends on the namespace.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    let opened = (|| {
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("none", CONNECTIONS, "fusectl", MountFlags::empty(), None)?;
        open()
    })();
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))?;
    opened
}
