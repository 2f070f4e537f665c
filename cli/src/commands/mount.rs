//! `quarry mount`

use super::{block_on, transport};
use crate::exit::UsageError;
use crate::observe::{self, MOUNT_PORTS, MetricsAddress};
use crate::output::say;
use crate::supervise::{keep_credentials, systemd_ready, until_signal};
use anyhow::{Context, bail};
use clap::Args;
use quarry_client::{ClientConfig, FileSystem};
use quarry_mount::MountConfig;
use quarry_mount::options::MountOptions;
use quarry_net::transport::Transport;
use quarry_net::transport::quic::QuicTransport;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A cluster that does not answer for this long when it is to be mounted is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);
/// After a stop was asked for, what is not yet with the cluster goes there as long as some of it does within this time.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Set for the child of `--background`, which reports on its standard output: where it logs.
const CHILD: &str = "QUARRY_MOUNT_CHILD";
/// It logs to syslog, rather than to standard error.
const SYSLOG: &str = "syslog";
/// What the child reports when programs may use the mount.
const MOUNTED: &str = "mounted\n";

/// Mount the cluster on a directory. Unmount it with umount(8), Ctrl-C or SIGTERM.
///
/// In /etc/fstab:   /etc/quarry/client.toml  /mnt/quarry  fuse.quarry  _netdev,nofail  0 0
#[derive(Args)]
pub(crate) struct Mount {
    /// An existing directory.
    mountpoint: PathBuf,
    /// The client's configuration; `quarry up DIR` writes one to DIR/client.toml.
    #[arg(long, short, env = "QUARRY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Options as mount(8) gives them: ro, suid, dev, noexec, nosymfollow, sync, owner_only, direct_io, config=FILE,
    /// remount, and soft,timeo=SECONDS to give up on a cluster that is away instead of waiting for it. Without `suid`
    /// and `dev` the mount is nosuid and nodev.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Mount over a directory that is not empty: what is in it cannot be seen meanwhile. The same as `-o nonempty`.
    #[arg(long)]
    over: bool,
    /// Where metrics are served [default: the first free port of the loopback interface from 9640 on]
    #[arg(long, env = "QUARRY_METRICS", value_name = "ADDRESS:PORT|off")]
    metrics: Option<MetricsAddress>,
    /// Return when the directory is mounted and serve it in the background, as mount(8) wants it.
    #[arg(long)]
    background: bool,
    /// With --background: where the log goes [default: syslog, which on most hosts is the journal]
    #[arg(long, value_name = "FILE", requires = "background")]
    log_file: Option<PathBuf>,
}

impl Mount {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut options = MountOptions::parse(self.options.iter().map(String::as_str))?;
        if options.remount {
            return Ok(quarry_mount::remount(&self.mountpoint, &options)?);
        }
        options.over |= self.over;
        let Some(file) = self.config.as_ref().or(options.config.as_ref()) else {
            let why = "--config is missing: give the flag, set QUARRY_CONFIG, or use -o config=FILE";
            return Err(UsageError(why.to_owned()).into());
        };
        let mut config = ClientConfig::load(file)?;
        config.purpose = self.mountpoint.display().to_string();
        config.soft_timeout = options.soft_timeout.or(config.soft_timeout);
        let transport = transport(&config.certs)?;
        // What the NameNode would refuse is refused by the kernel already.
        options.read_only |= transport.identity().rights.read_only;
        let child = std::env::var_os(CHILD).is_some();
        if self.background && !child {
            return self.in_background();
        }
        let mount = MountConfig {
            mountpoint: self.mountpoint,
            source: transport.identity().cluster.clone(),
            options,
            watcher: Some(super::watch_mount::command()),
        };
        let served = block_on(serve(mount, config, transport, (child, self.metrics)));
        if let (true, Err(error)) = (child, &served) {
            // The parent hears it, unless it has heard already that the mount is there.
            let _ = report(&format!("{error:#}"));
        }
        served
    }

    /// Starts this command again as a child of its own session, and waits for its report.
    fn in_background(&self) -> anyhow::Result<()> {
        let log = match &self.log_file {
            Some(path) => std::fs::File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| format!("cannot write the log {}", path.display()))?
                .into(),
            None => Stdio::null(),
        };
        // Errors before the mount go to the report, so that the caller of mount(8) sees them.
        let (mut report, report_end) = std::io::pipe().context("cannot make a pipe")?;
        let mut child = Command::new(std::env::current_exe().context("cannot find this program")?);
        child
            .args(std::env::args_os().skip(1))
            .env(CHILD, if self.log_file.is_some() { "stderr" } else { SYSLOG })
            .stdin(Stdio::null())
            .stdout(report_end);
        child.stderr(if self.log_file.is_some() { log } else { Stdio::null() });
        // SAFETY: setsid is async-signal-safe, and nothing else happens between fork and exec.
        unsafe {
            child.pre_exec(|| {
                rustix::process::setsid()?;
                Ok(())
            });
        }
        let mut running = child.spawn().context("cannot start the background process")?;
        drop(child);
        let mut said = String::new();
        let mut buffer = [0; 256];
        while !said.ends_with(MOUNTED) {
            match report.read(&mut buffer).context("the background process cannot be heard")? {
                0 => break,
                n => said.push_str(&String::from_utf8_lossy(&buffer[..n])),
            }
        }
        if said.ends_with(MOUNTED) {
            return Ok(());
        }
        let status = running.wait().context("the background process is lost")?;
        match said.trim() {
            "" => bail!("the mount did not come up ({status}); --log-file FILE shows why"),
            reason => bail!("{reason}"),
        }
    }
}

/// Whether this process is a mount in the background that logs to syslog, or its watcher.
pub(crate) fn logs_to_syslog() -> bool {
    std::env::var_os(CHILD).is_some_and(|to| to == SYSLOG)
}

/// Mounts and serves until the mount ends or a signal asks for its end.
async fn serve(
    mount: MountConfig,
    config: ClientConfig,
    transport: Arc<QuicTransport>,
    (child, metrics): (bool, Option<MetricsAddress>),
) -> anyhow::Result<()> {
    quarry_mount::check_mountpoint(&mount.mountpoint, mount.options.over).await?;
    let shutdown = until_signal()?;
    let readiness = observe::serve(metrics, MOUNT_PORTS, shutdown.clone()).await?;
    keep_credentials(transport.clone(), config.certs.clone())?;
    let namenode = config.namenode.clone();
    let fs = tokio::select! {
        fs = FileSystem::connect(config, transport) => fs.with_context(|| format!("NameNode {namenode}"))?,
        () = tokio::time::sleep(CONNECT_TIMEOUT) => bail!(
            "the NameNode {namenode} has not answered for {} s: is it running, and is this its address?",
            CONNECT_TIMEOUT.as_secs()
        ),
        () = shutdown.cancelled() => return Ok(()),
    };
    let (ready, mounted) = oneshot::channel();
    let path = mount.mountpoint.display().to_string();
    let client = fs.clone();
    tokio::spawn(async move {
        if mounted.await.is_ok() {
            readiness.ready(Some(client));
            if child {
                report_mounted();
            } else {
                say(format_args!("mounted on {path}"));
            }
            systemd_ready();
        }
    });
    let served = quarry_mount::run(mount, fs.clone(), shutdown, ready).await;
    flush(&fs).await;
    Ok(served?)
}

/// Brings what was written into the cluster, and says what could not be.
async fn flush(fs: &FileSystem) {
    let shutdown = fs.shutdown();
    tokio::pin!(shutdown);
    let mut left = fs.unwritten();
    while tokio::time::timeout(FLUSH_TIMEOUT, &mut shutdown).await.is_err() {
        let now = fs.unwritten();
        if now == left {
            tracing::error!(
                files = now.files,
                bytes = now.bytes,
                "the cluster does not take the last changes: what was not fsynced may be lost"
            );
            return;
        }
        left = now;
    }
}

/// Tells the parent that waits in [`Mount::in_background`], and lets go of the pipe's end, so that it never fills.
fn report_mounted() {
    let told = report(MOUNTED);
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(null);
    }
    if let Err(error) = told {
        tracing::warn!(%error, "the process that waits for the mount is gone");
    }
}

fn report(what: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(what.as_bytes()).and_then(|()| out.flush())
}
