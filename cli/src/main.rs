//! The `quarry` binary: every role and every tool of the cluster as a subcommand.

mod commands;
mod options;
mod output;
mod supervise;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A distributed file system that you mount and then forget is distributed.
///
/// Try it on one machine:   quarry up /tmp/demo --mount /mnt/quarry
///
/// A cluster by hand:       quarry init, quarry cert issue, then quarry namenode, quarry datanode and quarry mount
/// on their machines.
#[derive(Parser)]
#[command(version, max_term_width = 100, propagate_version = true)]
struct Cli {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `info,quarry_client=debug`.
    #[arg(long, env = "QUARRY_LOG", default_value = "info,openraft=warn", global = true)]
    log: String,
    /// Log one JSON object a line.
    #[arg(long, env = "QUARRY_LOG_JSON", global = true)]
    log_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster in a directory if it is new, run all of it on this machine, and mount it.
    Up(commands::up::Up),
    /// Make the certificate authority of a new cluster.
    Init(commands::init::Init),
    /// Certificates of a cluster.
    #[command(subcommand)]
    Cert(commands::cert::Cert),
    /// Run the NameNode: it keeps the names, the attributes and where the data is.
    Namenode(commands::namenode::Namenode),
    /// Run a DataNode: it keeps the data.
    Datanode(commands::datanode::Datanode),
    /// Mount the cluster on a directory.
    Mount(commands::mount::Mount),
    /// Serve the cluster over HTTP: dashboard, file browser, file API, WebHDFS.
    Gateway(commands::gateway::Gateway),
    #[command(hide = true)]
    WatchMount(commands::watch_mount::WatchMount),
    /// Show how the cluster and each of its nodes are.
    Status(commands::status::Status),
    /// Show where each piece of a file is.
    Locate(commands::locate::Locate),
    /// Show what changes below a directory as it happens, whichever mount does it.
    Watch(commands::watch::Watch),
    /// Check that everything fits together, while the cluster works on.
    Fsck(commands::fsck::Fsck),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = quarry_host::telemetry::init(&cli.log, cli.log_json) {
        eprintln!("quarry: {error:#}");
        return ExitCode::from(2);
    }
    let done = match cli.command {
        Command::Up(c) => c.run(&cli.log, cli.log_json),
        Command::Init(c) => c.run(),
        Command::Cert(c) => c.run(),
        Command::Namenode(c) => c.run(),
        Command::Datanode(c) => c.run(),
        Command::Mount(c) => c.run(),
        Command::Gateway(c) => c.run(),
        Command::WatchMount(c) => c.run(),
        Command::Status(c) => c.run(),
        Command::Locate(c) => c.run(),
        Command::Watch(c) => c.run(),
        Command::Fsck(c) => return exit(c.run()),
    };
    exit(done.map(|()| ExitCode::SUCCESS))
}

fn exit(done: anyhow::Result<ExitCode>) -> ExitCode {
    done.unwrap_or_else(|error| {
        eprintln!("quarry: {error:#}");
        ExitCode::FAILURE
    })
}
