//! `quarry up`: a whole cluster on one machine.

mod layout;
mod parts;
mod ports;
mod state;

use super::block_on;
use crate::output::{complain, say};
use anyhow::{Context, bail};
use clap::Args;
pub(super) use layout::Layout;
pub(super) use parts::Part;
use quarry_common::wire::cluster::Replication;
use quarry_mount::options::MountOptions;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A part that does not serve after this long has failed to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The mount and the gateway get this long to bring their last changes to the cluster.
const CLIENT_STOP_TIMEOUT: Duration = Duration::from_secs(75);
/// A server gets this long to end by itself.
const SERVER_STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// How often parts that failed are looked at: well below the shortest pause before they are started again.
const TICK: Duration = Duration::from_millis(500);

/// Make a cluster in DIR if it is new, run all of it on this machine, and mount it.
///
/// Stays in the foreground until Ctrl-C or SIGTERM, then unmounts and stops everything. Started again on the same DIR, all
/// files are there. The dashboard's address is printed at the start. A part that fails is started again, and one that was
/// stopped on SIGHUP. Other commands find the cluster by `--config DIR/client.toml`; logs are in DIR/logs/, process ids in DIR/run/.
#[derive(Args)]
pub(crate) struct Up {
    /// Where everything is kept: certificates, the NameNode's log and database, the DataNodes' chunks, the logs.
    dir: PathBuf,
    /// An existing directory to mount the cluster on. Without it nothing is mounted.
    #[arg(long, value_name = "MOUNTPOINT")]
    mount: Option<PathBuf>,
    /// How many DataNodes; a later start may ask for more [default: 3, or as many as there are]
    #[arg(long, value_name = "N")]
    datanodes: Option<u32>,
    /// How often data is kept: a number, or `all` for every DataNode. Only for a new cluster [default: 3]
    #[arg(long, value_name = "N|all")]
    replication: Option<Replication>,
    /// Name of a new cluster [default: quarry]
    #[arg(long, value_name = "CLUSTER")]
    name: Option<String>,
    /// Do not start the gateway: no dashboard, no file API, no WebHDFS.
    #[arg(long)]
    no_gateway: bool,
    /// Mount over a directory that is not empty: what is in it cannot be seen meanwhile.
    #[arg(long, requires = "mount")]
    over: bool,
    /// Mount options as of `quarry mount -o`.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
}

impl Up {
    pub(crate) fn run(self, log: &str, log_json: bool) -> anyhow::Result<()> {
        let mut options = MountOptions::parse(self.options.iter().map(String::as_str))?;
        options.over |= self.over;
        if let Some(mountpoint) = &self.mount {
            // Before anything is made.
            block_on(async { Ok(quarry_mount::check_mountpoint(mountpoint, options.over).await?) })?;
        }
        let mut layout =
            Layout::open_or_make(&self.dir, self.name.as_deref(), self.datanodes, self.replication)?;
        let log_args = if log_json { vec!["--log", log, "--log-json"] } else { vec!["--log", log] };
        let mut servers = vec![Part::namenode(&layout, &log_args)];
        servers.extend((1..=layout.datanodes()).map(|n| Part::datanode(&layout, n, &log_args)));
        let gateway = (!self.no_gateway).then(|| layout.prepare_gateway()).transpose()?;
        let gateway = gateway.map(|listen| Part::gateway(&layout, &listen, &log_args));
        let mut given = self.options.clone();
        given.extend(self.over.then(|| "nonempty".to_owned()));
        let mount = self.mount.as_ref().map(|m| Part::mount(&layout, m, &given, &log_args));
        let clients = gateway.into_iter().chain(mount).collect();
        block_on(async {
            let mut all = servers;
            let result = serve(&layout, &mut all, clients).await;
            for part in &mut all {
                part.terminate();
            }
            for part in &mut all {
                part.wait(SERVER_STOP_TIMEOUT).await;
            }
            result
        })
    }
}

/// Starts everything and stays until a signal; the clients are stopped here, the servers by the caller.
async fn serve(layout: &Layout, servers: &mut Vec<Part>, clients: Vec<Part>) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    let mut again = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let mut child = signal(SignalKind::child()).context("cannot listen to SIGCHLD")?;
    let mut parts = std::mem::take(servers);
    parts.extend(clients);

    let mut started = Ok(());
    for part in &mut parts {
        tokio::select! {
            s = part.start(START_TIMEOUT) => started = s,
            _ = terminate.recv() => started = Err(Stopped.into()),
            _ = interrupt.recv() => started = Err(Stopped.into()),
        }
        if started.is_err() {
            break;
        }
    }
    if started.is_ok() {
        announce(layout, &parts);
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = child.recv() => {
                    for part in &mut parts {
                        part.notice_end();
                    }
                }
                _ = tick.tick() => {
                    for part in &mut parts {
                        if let Err(error) = part.start_if_due(START_TIMEOUT).await {
                            complain(format_args!("quarry: {error:#}"));
                        }
                    }
                }
                _ = again.recv() => {
                    for part in &mut parts {
                        if let Err(error) = part.start_if_dead(START_TIMEOUT).await {
                            complain(format_args!("quarry: {error:#}"));
                        }
                    }
                }
            }
        }
        say(format_args!("stopping"));
    }
    // First the clients, while there is a cluster to take their changes.
    for part in parts.iter_mut().filter(|p| p.is_client()) {
        part.terminate();
        part.wait(CLIENT_STOP_TIMEOUT).await;
    }
    servers.extend(parts.into_iter().filter(|p| !p.is_client()));
    match started {
        Err(e) if e.is::<Stopped>() => Ok(()),
        other => other,
    }
}

/// A signal came before everything was up.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped;

fn announce(layout: &Layout, parts: &[Part]) {
    say(format_args!("Cluster `{}` in {}", layout.name(), layout.dir().display()));
    for part in parts {
        say(format_args!("  {part}"));
    }
    for gateway in parts.iter().filter(|p| p.is_gateway()) {
        say(format_args!(
            "Dashboard and files: {} (no login: everybody on this machine may use it)",
            gateway.place()
        ));
    }
    let config = layout.client_config().display().to_string();
    say(format_args!("Mount it elsewhere:  quarry mount MOUNTPOINT --config {config}"));
    say(format_args!("See how it is:       quarry status --config {config}"));
    say(format_args!("Logs:                {}", layout.logs().display()));
    say(format_args!("Running. Ctrl-C stops everything."));
}

/// Checked before anything is made: a cluster needs at least one DataNode.
fn checked_count(datanodes: u32) -> anyhow::Result<u32> {
    if datanodes == 0 || datanodes > layout::DATANODES_MAX {
        bail!("--datanodes must be from 1 to {}, not {datanodes}", layout::DATANODES_MAX);
    }
    Ok(datanodes)
}
