//! `quarry gateway`

use super::{block_on, transport};
use crate::exit::UsageError;
use crate::observe::{self, GATEWAY_PORTS, MetricsAddress};
use crate::output::{complain, print, say};
use crate::supervise::{keep_credentials, systemd_ready, until_signal};
use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use quarry_client::{ClientConfig, FileSystem};
use quarry_gateway::auth::{Hosts, Role, User, Users};
use quarry_gateway::{Access, GatewayConfig, TlsPaths};
use std::io::{BufRead, IsTerminal};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use tokio::sync::oneshot;

/// Where the gateway listens by default.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// Serve the cluster over HTTP: dashboard, file browser, file API, WebHDFS.
///
/// On the loopback interface everybody on this machine may come without a password and acts as the account that runs the
/// gateway. On any other address --users and TLS are demanded.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Gateway {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Users of the gateway.
    #[command(subcommand)]
    User(UserCommand),
}

#[derive(Args)]
struct Serve {
    /// The client's configuration; `quarry up DIR` writes one to DIR/client.toml.
    #[arg(long, short, env = "QUARRY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port to listen on (TCP); port 0 takes a free one.
    #[arg(long, env = "QUARRY_GATEWAY_LISTEN", value_name = "ADDRESS:PORT", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// The file of users; with it, everybody has to log in.
    #[arg(long, env = "QUARRY_GATEWAY_USERS", value_name = "FILE")]
    users: Option<PathBuf>,
    /// Serve HTTPS with the certificate of the cluster that --config names.
    #[arg(long, conflicts_with = "tls_cert")]
    tls: bool,
    /// Serve HTTPS with this certificate chain (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Clients that show a certificate `client/NAME` of the cluster are the user NAME.
    #[arg(long, requires = "users")]
    client_certificates: bool,
    /// A host name that requests may name; may be repeated [default: those of the loopback interface there, any elsewhere]
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Where metrics are served [default: the first free port of the loopback interface from 9660 on]
    #[arg(long, env = "QUARRY_METRICS", value_name = "ADDRESS:PORT|off")]
    metrics: Option<MetricsAddress>,
    /// Where the log of events is kept across restarts [default: nowhere]
    #[arg(long, env = "QUARRY_GATEWAY_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Gateway {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Some(Command::User(command)) => command.run(),
            None => self.serve.run(),
        }
    }
}

impl Serve {
    fn run(self) -> anyhow::Result<()> {
        let Some(file) = &self.config else {
            return Err(UsageError("--config is missing: give the flag or set QUARRY_CONFIG".into()).into());
        };
        let mut client = ClientConfig::load(file)?;
        client.purpose = "gateway".to_owned();
        let certs = client.certs.clone();
        let tls = match (self.tls, self.tls_cert, self.tls_key) {
            (true, _, _) => Some((certs.cert.clone(), certs.key.clone())),
            (false, Some(cert), Some(key)) => Some((cert, key)),
            _ => None,
        };
        if self.client_certificates && tls.is_none() {
            let why = "--client-certificates needs --tls, or --tls-cert and --tls-key";
            return Err(UsageError(why.to_owned()).into());
        }
        let is_open = self.users.is_none();
        let config = GatewayConfig {
            listen: self.listen,
            access: self.users.map_or(Access::Open, Access::Users),
            hosts: if is_open { Hosts::Loopback(self.hosts) } else { Hosts::Listed(self.hosts) },
            tls: tls.map(|(cert, key)| TlsPaths {
                cert,
                key,
                client_ca: self.client_certificates.then(|| certs.ca.clone()),
            }),
            state_dir: self.state,
        };
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let transport = transport(&client.certs)?;
        block_on(async {
            let shutdown = until_signal()?;
            let readiness = observe::serve(self.metrics, GATEWAY_PORTS, shutdown.clone()).await?;
            keep_credentials(transport.clone(), client.certs.clone())?;
            let namenode = client.namenode.clone();
            let fs = tokio::select! {
                fs = FileSystem::connect(client, transport) => fs.with_context(|| format!("NameNode {namenode}"))?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let (ready, listening) = oneshot::channel();
            let client = fs.clone();
            tokio::spawn(async move {
                if let Ok(address) = listening.await {
                    readiness.ready(Some(client));
                    let note = if is_open { " (no login: everybody on this machine may use it)" } else { "" };
                    say(format_args!("gateway ready on {scheme}://{address}/{note}"));
                    systemd_ready();
                }
            });
            let result = quarry_gateway::run(config, fs.clone(), shutdown, ready).await;
            fs.shutdown().await;
            result
        })
    }
}

#[derive(Subcommand)]
enum UserCommand {
    /// Add a user, or change one: what is not given stays.
    Add(Add),
    /// Remove a user; its sessions and tokens end at once.
    Remove {
        /// Login name.
        name: String,
        #[command(flatten)]
        file: UsersFile,
    },
    /// List all users.
    List {
        #[command(flatten)]
        file: UsersFile,
    },
}

#[derive(Args)]
struct UsersFile {
    /// The file of users.
    #[arg(long, env = "QUARRY_GATEWAY_USERS", value_name = "FILE")]
    users: PathBuf,
}

#[derive(Args)]
struct Add {
    /// Login name.
    name: String,
    #[command(flatten)]
    file: UsersFile,
    /// User id in the file system.
    #[arg(long)]
    uid: Option<u32>,
    /// Group ids, separated by commas; the first is the group of new files [default: the uid]
    #[arg(long, value_delimiter = ',', value_name = "GID,...")]
    gids: Vec<u32>,
    /// admin or user [default: user]
    #[arg(long)]
    role: Option<Role>,
    /// Read a password from standard input.
    #[arg(long)]
    password: bool,
    /// Make a bearer token and print it; an older one ends.
    #[arg(long)]
    token: bool,
}

impl UserCommand {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Add(add) => add.run(),
            Self::Remove { name, file } => {
                let mut users = Users::load(&file.users)?;
                if !users.remove(&name) {
                    bail!("there is no user `{name}` in {}", file.users.display());
                }
                Ok(users.save(&file.users)?)
            }
            Self::List { file } => {
                let mut rows = vec![crate::output::row(["NAME", "ROLE", "UID", "GIDS", "LOGIN"])];
                rows.extend(Users::load(&file.users)?.iter().map(|u| {
                    let gids: Vec<String> = u.gids.iter().map(u32::to_string).collect();
                    let login = match (&u.password, &u.token_sha256) {
                        (Some(_), Some(_)) => "password, token",
                        (Some(_), None) => "password",
                        (None, Some(_)) => "token",
                        (None, None) => "certificate only",
                    };
                    vec![
                        u.name.clone(),
                        u.role.to_string(),
                        u.uid.to_string(),
                        gids.join(","),
                        login.to_owned(),
                    ]
                }));
                print(crate::output::table(&rows))?;
                Ok(())
            }
        }
    }
}

impl Add {
    fn run(self) -> anyhow::Result<()> {
        let mut users = Users::load(&self.file.users)?;
        let old = users.find(&self.name).cloned();
        let mut user = match (old, self.uid) {
            (Some(old), uid) => User { uid: uid.unwrap_or(old.uid), ..old },
            (None, Some(uid)) => User {
                name: self.name,
                uid,
                gids: vec![uid],
                role: Role::User,
                password: None,
                token_sha256: None,
            },
            (None, None) => {
                let why = "--uid is missing: whom does the new user act as in the file system?";
                return Err(UsageError(why.to_owned()).into());
            }
        };
        if !self.gids.is_empty() {
            user.gids = self.gids;
        }
        user.role = self.role.unwrap_or(user.role);
        if self.password {
            user.set_password(read_password()?.as_bytes())?;
        }
        let token = self.token.then(|| user.new_token());
        users.put(user)?;
        users.save(&self.file.users)?;
        if let Some(token) = token {
            say(token);
        }
        Ok(())
    }
}

/// One line of standard input; from a terminal with a prompt.
fn read_password() -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        complain("Password (shown while you type):");
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line).context("cannot read the password")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
