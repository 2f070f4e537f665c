//! One file per subcommand.

pub(crate) mod cert;
pub(crate) mod datanode;
pub(crate) mod fsck;
pub(crate) mod gateway;
pub(crate) mod init;
pub(crate) mod locate;
pub(crate) mod mount;
pub(crate) mod namenode;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod watch;
pub(crate) mod watch_mount;

use anyhow::Context;
use clap::Args;
use quarry_client::{ClientConfig, FileSystem};
use quarry_net::identity::{CertPaths, Credentials};
use quarry_net::transport::Transport;
use quarry_net::transport::quic::QuicTransport;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Threads of the network runtime. More only pays with more cores than the network needs.
const WORKERS: usize = 2;
/// A tool that only asks gives up on a cluster that does not answer after this long.
const TOOL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a role or a tool to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(work);
    // Whatever still runs in the background must not keep a finished command alive.
    runtime.shutdown_timeout(Duration::from_secs(2));
    result
}

/// The transport of the certificate's owner.
pub(crate) fn transport(certs: &CertPaths) -> anyhow::Result<Arc<dyn Transport>> {
    let credentials = Credentials::load(certs)?;
    Ok(Arc::new(QuicTransport::new(credentials)?))
}

/// How a tool finds its cluster.
#[derive(Args)]
pub(crate) struct Cluster {
    /// The client's configuration; `quarry up DIR` writes one to DIR/client.toml.
    #[arg(long, short, env = "QUARRY_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// How long to wait for a cluster that does not answer, in seconds.
    #[arg(long, default_value_t = TOOL_TIMEOUT.as_secs(), value_name = "SECONDS")]
    timeout: u64,
}

impl Cluster {
    /// Connects, does the work, and ends the session.
    pub(crate) fn with<T, W, F>(&self, purpose: &str, work: W) -> anyhow::Result<T>
    where
        W: FnOnce(FileSystem) -> F,
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut config = ClientConfig::load(&self.config)?;
        config.purpose = purpose.to_owned();
        let timeout = Duration::from_secs(self.timeout.max(1));
        config.soft_timeout = Some(timeout);
        let transport = transport(&config.certs)?;
        block_on(async {
            let namenode = config.namenode.clone();
            let fs =
                tokio::time::timeout(timeout, FileSystem::connect(config, transport)).await.with_context(
                    || format!("the NameNode at {namenode} did not answer within {} s", self.timeout),
                )??;
            let result = work(fs.clone()).await;
            fs.shutdown().await;
            result
        })
    }
}
