//! `quarry datanode`

use super::{block_on, transport};
use crate::observe::{self, MetricsAddress, Usual};
use crate::options::{certs_in, prefer, read_file, required};
use crate::supervise::{keep_credentials, until_signal, when_ready};
use anyhow::Context;
use clap::Args;
use quarry_common::ids::NodeId;
use quarry_datanode::DataNodeConfig;
use quarry_host::private::{self, PrivateError};
use quarry_net::transport::Transport;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Run a DataNode. Its number is the id of its certificate. It stops cleanly on SIGTERM or Ctrl-C.
#[derive(Args)]
pub(crate) struct Datanode {
    /// A TOML file with the settings below, with _ for -. Relative paths in it start at the file's directory.
    #[arg(long, short, env = "QUARRY_DATANODE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Address and port to listen on (UDP).
    #[arg(long, env = "QUARRY_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where clients reach it, if that is not the address above (0.0.0.0, or behind a translation).
    #[arg(long, env = "QUARRY_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Where the NameNode is.
    #[arg(long, env = "QUARRY_NAMENODE", value_name = "HOST:PORT")]
    namenode: Option<String>,
    /// Data directories, best one for each disk. Give it once for each, or a list in the file.
    #[arg(long = "dir", env = "QUARRY_DIRS", value_name = "DIR", value_delimiter = ',')]
    dirs: Option<Vec<PathBuf>>,
    /// Where metrics are served [default: the TCP port of the loopback interface with the number of --listen]
    #[arg(long, env = "QUARRY_METRICS", value_name = "ADDRESS:PORT|off")]
    metrics: Option<MetricsAddress>,
    /// The directory with ca.pem, cert.pem and key.pem.
    #[arg(long, env = "QUARRY_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,
    /// Failure domain: copies are put into different racks where possible.
    #[arg(long, env = "QUARRY_RACK")]
    rack: Option<String>,
    /// Use at most this many bytes, whatever the disks have.
    #[arg(long, env = "QUARRY_CAPACITY", value_name = "BYTES")]
    capacity: Option<u64>,
    /// Leave this many bytes of each disk free [default: 256 MiB]
    #[arg(long, env = "QUARRY_RESERVE", value_name = "BYTES")]
    reserve: Option<u64>,
    /// Read and check this many bytes a second in the background, 0 for none [default: 8 MiB]
    #[arg(long, env = "QUARRY_SCRUB", value_name = "BYTES")]
    scrub: Option<u64>,
}

impl Datanode {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (file, base): (Settings, _) = read_file(self.config.as_deref())?;
        let file = Settings {
            dirs: file.dirs.map(|dirs| dirs.into_iter().map(|d| base.join(d)).collect()),
            certs: file.certs.map(|d| base.join(d)),
            ..file
        };
        let s = prefer!(Settings: self.settings, file;
            listen, advertise, namenode, dirs, metrics, certs, rack, capacity, reserve, scrub);
        let certs = required(s.certs, "certs")?;
        let transport = transport(&certs_in(&certs))?;
        let id = &transport.identity().id;
        let node = id.parse().with_context(|| {
            format!("the certificate in {} has id `{id}`: a DataNode's is a number", certs.display())
        })?;
        let mut config = DataNodeConfig::new(
            NodeId(node),
            required(s.dirs, "dir")?,
            required(s.listen, "listen")?,
            required(s.namenode, "namenode")?,
        );
        config.advertise = s.advertise;
        config.rack = s.rack.unwrap_or_default();
        config.capacity = s.capacity;
        if let Some(reserve) = s.reserve {
            config.reserve_bytes = reserve;
        }
        if let Some(scrub) = s.scrub {
            config.scrub_bytes_per_second = scrub;
        }
        for dir in &config.dirs {
            match private::open_folder(dir) {
                // A disk that fails is looked after by the store, and does not keep the others from serving.
                Err(PrivateError::Io { .. }) | Ok(()) => {}
                Err(refused) => return Err(refused.into()),
            }
        }
        block_on(async {
            let shutdown = until_signal()?;
            let usual = Usual::Port(config.listen.port());
            let readiness = observe::serve(s.metrics, usual, shutdown.clone()).await?;
            let ready = when_ready("datanode", readiness);
            keep_credentials(transport.clone(), certs_in(&certs))?;
            quarry_datanode::run(config, transport, shutdown, ready).await
        })
    }
}
