//! The `quarry` binary: every role and every tool of the cluster as a subcommand.

// Both panic on a closed pipe: `output` has what does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod exit;
mod observe;
mod on_mount;
mod options;
mod output;
mod supervise;

use clap::{CommandFactory, Parser, Subcommand};
use exit::Exit;
use output::complain;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// What is logged unless `--log` says otherwise.
const LOG_OF_SERVERS: &str = "info,openraft=warn";
const LOG_OF_TOOLS: &str = "warn";

/// Hands the threshold of slow operations on to the parts of `quarry up`.
pub(crate) const SLOW_VARIABLE: &str = "QUARRY_LOG_SLOW";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A distributed file system that you mount and then forget is distributed.
///
/// Try it on one machine:   quarry up /tmp/demo --mount /mnt/quarry
///
/// A cluster by hand:       quarry init, quarry cert issue, then quarry namenode, quarry datanode and quarry mount
/// on their machines.
///
/// Exit codes: 0 done; 1 failed, or problems found; 2 wrong use; 3 the cluster does not answer; 4 the cluster is not whole;
/// 5 refused.
#[derive(Parser)]
#[command(name = "quarry", version, max_term_width = 100, propagate_version = true)]
struct Cli {
    /// What to log to standard error: error, warn, info, debug, trace, or a filter such as `info,quarry_client=debug`
    /// [default: info for what serves, warn for tools]
    #[arg(long, env = "QUARRY_LOG", value_name = "FILTER", global = true)]
    log: Option<String>,
    /// Log one JSON object a line.
    #[arg(long, env = "QUARRY_LOG_JSON", global = true)]
    log_json: bool,
    /// Log operations that take longer than this many seconds, 0 for none.
    #[arg(long, env = SLOW_VARIABLE, value_name = "SECONDS", global = true, default_value_t = 1.0)]
    log_slow: f64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cluster in a directory if it is new, run all of it on this machine, and mount it.
    Up(commands::up::Up),
    /// Show on a temporary cluster what happens when a DataNode is lost.
    Demo(commands::demo::Demo),
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
    /// Bring everything that was written through a mount onto the disks.
    Sync(commands::sync::Sync),
    /// Unmount, and wait until everything that was written is on the disks.
    Umount(commands::umount::Umount),
    /// Show how the cluster and each of its nodes are.
    Status(commands::status::Status),
    /// Show live what the cluster does: nodes, throughput, operations, the slowest requests.
    Top(commands::top::Top),
    /// Show where each piece of a file is.
    Locate(commands::locate::Locate),
    /// Show what changes below a directory as it happens, whichever mount does it.
    Watch(commands::watch::Watch),
    /// Show DataNodes, and take them out of the cluster in order.
    #[command(subcommand)]
    Node(commands::node::Node),
    /// Decide how safe data must be.
    #[command(subcommand)]
    Policy(commands::policy::Policy),
    /// Back up, restore and export what the NameNode keeps.
    #[command(subcommand)]
    Meta(commands::meta::Meta),
    /// Check that everything fits together, while the cluster works on.
    Fsck(commands::fsck::Fsck),
    /// Check whether this host is fit for Quarry, and say what to do where it is not.
    Doctor(commands::doctor::Doctor),
    /// Print completions for a shell.
    Completions(commands::shell::Completions),
    /// Write manual pages.
    Man(commands::shell::Man),
}

impl Command {
    /// Whether it stays and serves, so that its log is of use when all goes well.
    fn serves(&self) -> bool {
        matches!(
            self,
            Self::Up(_)
                | Self::Namenode(_)
                | Self::Datanode(_)
                | Self::Mount(_)
                | Self::Gateway(_)
                | Self::WatchMount(_)
        )
    }
}

/// The name by which umount(8) looks for what unmounts `fuse.quarry`, in /sbin.
const UMOUNT_HELPER: &str = "umount.fuse.quarry";

/// The command line. umount(8) calls its helpers by name, with the arguments of `quarry umount`.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.first().and_then(|program| Path::new(program).file_name()) == Some(OsStr::new(UMOUNT_HELPER))
    {
        arguments.insert(1, "umount".into());
    }
    arguments
}

fn main() -> ExitCode {
    let cli = Cli::parse_from(arguments());
    // Before anything can be made that other users might read.
    quarry_host::private::restrict_new_files();
    let default = if cli.command.serves() { LOG_OF_SERVERS } else { LOG_OF_TOOLS };
    let log = cli.log.as_deref().unwrap_or(default);
    let logging = match commands::mount::logs_to_syslog() {
        true => quarry_host::telemetry::init_syslog(log, "quarry-mount"),
        false => quarry_host::telemetry::init(log, cli.log_json),
    };
    if let Err(error) = logging {
        complain(format_args!("quarry: {error:#}"));
        return Exit::Usage.into();
    }
    let slow = Duration::try_from_secs_f64(cli.log_slow).unwrap_or(Duration::ZERO);
    quarry_host::trace::log_slower_than((!slow.is_zero()).then_some(slow));
    quarry_host::panics::abort_on_panic();
    let done = |result: anyhow::Result<()>| result.map(|()| Exit::Success);
    let result = match cli.command {
        Command::Up(c) => done(c.run(log, cli.log_json)),
        Command::Demo(c) => done(c.run(log)),
        Command::Init(c) => done(c.run()),
        Command::Cert(c) => done(c.run()),
        Command::Namenode(c) => done(c.run()),
        Command::Datanode(c) => done(c.run()),
        Command::Mount(c) => done(c.run()),
        Command::Gateway(c) => done(c.run()),
        Command::WatchMount(c) => done(c.run()),
        Command::Sync(c) => done(c.run()),
        Command::Umount(c) => done(c.run()),
        Command::Status(c) => c.run(),
        Command::Top(c) => done(c.run()),
        Command::Locate(c) => done(c.run()),
        Command::Watch(c) => done(c.run()),
        Command::Node(c) => done(c.run()),
        Command::Policy(c) => done(c.run()),
        Command::Meta(c) => done(c.run()),
        Command::Fsck(c) => c.run(),
        Command::Doctor(c) => c.run(),
        Command::Completions(c) => done(c.run(Cli::command())),
        Command::Man(c) => done(c.run(Cli::command())),
    };
    let exit = result.unwrap_or_else(|error| {
        complain(format_args!("quarry: {}", exit::describe(&error)));
        exit::of_error(&error)
    });
    exit.into()
}
