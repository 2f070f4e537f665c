//! One file per subcommand.

pub(crate) mod cert;
pub(crate) mod datanode;
pub(crate) mod demo;
pub(crate) mod doctor;
mod export;
pub(crate) mod fsck;
pub(crate) mod gateway;
pub(crate) mod init;
pub(crate) mod locate;
pub(crate) mod meta;
pub(crate) mod mount;
pub(crate) mod namenode;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod sync;
pub(crate) mod top;
pub(crate) mod umount;
pub(crate) mod up;
pub(crate) mod watch;
pub(crate) mod watch_mount;

use crate::exit::UsageError;
use crate::on_mount;
use anyhow::Context;
use clap::Args;
use quarry_client::{ClientConfig, FileSystem};
use quarry_net::identity::{CertPaths, Credentials, Role};
use quarry_net::transport::quic::QuicTransport;
use quarry_net::transport::{Expect, Transport, TransportError};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Threads of the network runtime. More only pays with more cores than the network needs.
const WORKERS: usize = 2;
/// A tool that only asks gives up on a cluster that does not answer after this long: one handshake and a second attempt.
const TOOL_TIMEOUT: Duration = Duration::from_secs(5);

/// A host on whose port nothing listens says so within this time, if it says so at all.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

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
pub(crate) fn transport(certs: &CertPaths) -> anyhow::Result<Arc<QuicTransport>> {
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
    /// A path as people give it: one on a mount of this cluster, or else one within the cluster.
    pub(crate) fn path_in_cluster(&self, given: &str) -> anyhow::Result<String> {
        let config = ClientConfig::load(&self.config)?;
        let cluster = Credentials::load(&config.certs)?.identity().cluster.clone();
        match on_mount::path_in_cluster(Path::new(given), &cluster) {
            Some(path) => path.into_os_string().into_string().map_err(|path| {
                UsageError(format!("{}: a path that is not UTF-8 cannot be given", path.display())).into()
            }),
            None if given.starts_with('/') => Ok(given.to_owned()),
            None => Err(UsageError(format!(
                "{given}: neither on a mount of cluster `{cluster}` nor a path within it, which begins with /"
            ))
            .into()),
        }
    }

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
            refused_at_once(&config, transport.as_ref()).await?;
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

/// Fails when the host of each NameNode says that nothing listens there: a mount waits for that to change, a tool does not.
async fn refused_at_once(config: &ClientConfig, transport: &dyn Transport) -> anyhow::Result<()> {
    let expect = Expect { role: Role::NameNode, id: None };
    let mut refused = None;
    for address in config.namenode.split(',').map(str::trim) {
        match tokio::time::timeout(REFUSAL_TIMEOUT, transport.connect(address, &expect)).await {
            Ok(Err(error @ TransportError::Unreachable { .. })) => refused = Some(error),
            Ok(Err(error @ TransportError::Untrusted { .. })) => return Err(error.into()),
            _ => return Ok(()),
        }
    }
    match refused {
        Some(error) => Err(anyhow::Error::new(error).context("the NameNode does not answer")),
        None => Ok(()),
    }
}
