//! `quarry namenode`

use super::{block_on, transport};
use crate::observe::{self, MetricsAddress, Usual};
use crate::options::{certs_in, prefer, read_file, required};
use crate::output::say;
use crate::supervise::{keep_credentials, until_signal, when_ready};
use clap::{Args, Subcommand};
use quarry_common::wire::cluster::Replication;
use quarry_host::private;
use quarry_namenode::NameNodeConfig;
use quarry_net::identity::CertPaths;
use quarry_net::transport::Transport;
use quarry_net::transport::quic::QuicTransport;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Run the NameNode. It stops cleanly on SIGTERM or Ctrl-C. Its directory must hold a file system: `quarry namenode format`
/// makes a new one.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Namenode {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    home: Home,
}

/// What there is to do besides running it.
#[derive(Subcommand)]
enum Action {
    /// Make a new, empty file system in the NameNode's directory, which must hold none.
    Format(Home),
}

/// The configuration of a NameNode.
#[derive(Args)]
pub(crate) struct Home {
    /// A TOML file with the settings below, with _ for -. Relative paths in it start at the file's directory.
    #[arg(long, short, env = "QUARRY_NAMENODE_CONFIG", value_name = "FILE")]
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
    /// Where the log and the database are.
    #[arg(long, env = "QUARRY_DIR")]
    dir: Option<PathBuf>,
    /// Where metrics are served [default: the TCP port of the loopback interface with the number of --listen]
    #[arg(long, env = "QUARRY_METRICS", value_name = "ADDRESS:PORT|off")]
    metrics: Option<MetricsAddress>,
    /// The directory with ca.pem, cert.pem and key.pem.
    #[arg(long, env = "QUARRY_CERTS", value_name = "DIR")]
    certs: Option<PathBuf>,
    /// How often data is kept where nothing else is said: a number, or `all` for every DataNode. Used when the cluster is
    /// new [default: 3]
    #[arg(long, env = "QUARRY_REPLICATION", value_name = "N|all")]
    #[serde(deserialize_with = "replication")]
    replication: Option<Replication>,
    /// Chunks that no file refers to are collected after this long [default: 3600]
    #[arg(long, env = "QUARRY_ORPHAN_AGE", value_name = "SECONDS")]
    orphan_age: Option<u64>,
}

fn replication<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Replication>, D::Error> {
    /// TOML has both a number and `all` for this.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Value {
        Number(u8),
        Text(String),
    }
    let text = match Value::deserialize(d)? {
        Value::Number(n) => n.to_string(),
        Value::Text(t) => t,
    };
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

impl Namenode {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if let Some(Action::Format(home)) = self.action {
            let config = home.load()?.config;
            let namespace = quarry_namenode::format(&config)?;
            say(format_args!("made the file system {namespace} in {}", config.dir.display()));
            return Ok(());
        }
        let Loaded { config, transport, certs, metrics } = self.home.load()?;
        block_on(async {
            let shutdown = until_signal()?;
            let usual = Usual::Port(config.listen.port());
            let readiness = observe::serve(metrics, usual, shutdown.clone()).await?;
            let ready = when_ready("namenode", readiness);
            keep_credentials(transport.clone(), certs)?;
            quarry_namenode::run(config, transport, shutdown, ready).await
        })
    }
}

/// What a NameNode's configuration leads to.
pub(crate) struct Loaded {
    pub(crate) config: NameNodeConfig,
    transport: Arc<QuicTransport>,
    certs: CertPaths,
    metrics: Option<MetricsAddress>,
}

impl Home {
    /// The configuration, and its certificate.
    pub(crate) fn load(self) -> anyhow::Result<Loaded> {
        let (file, base): (Settings, _) = read_file(self.config.as_deref())?;
        let file =
            Settings { dir: file.dir.map(|d| base.join(d)), certs: file.certs.map(|d| base.join(d)), ..file };
        let s = prefer!(Settings: self.settings, file; listen, dir, metrics, certs, replication, orphan_age);
        let certs = certs_in(&required(s.certs, "certs")?);
        let transport = transport(&certs)?;
        let mut config = NameNodeConfig::new(required(s.listen, "listen")?, required(s.dir, "dir")?);
        config.cluster = transport.identity().cluster.clone();
        if let Some(replication) = s.replication {
            config.default_replication = replication;
        }
        if let Some(seconds) = s.orphan_age {
            config.orphan_age = std::time::Duration::from_secs(seconds);
        }
        private::open_folder(&config.dir)?;
        Ok(Loaded { config, transport, certs, metrics: s.metrics })
    }
}
