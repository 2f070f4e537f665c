//! `quarry cert`

use crate::output::{print, row, say, table};
use anyhow::bail;
use clap::{Args, Subcommand};
use quarry_net::identity::{Issued, Rights, Role, Squash, Subject, issue_to, issued, revoke};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Subcommand)]
pub(crate) enum Cert {
    /// Issue a certificate: OUT/ca.pem, OUT/cert.pem and OUT/key.pem.
    Issue(Issue),
    /// List the certificates that were issued, those that end first at the beginning.
    List(List),
    /// Take a certificate back.
    Revoke(Revoke),
}

/// List the certificates that were issued in DIR, those that end first at the beginning.
#[derive(Args)]
pub(crate) struct List {
    /// The directory that `quarry init` made.
    dir: PathBuf,
    /// As a JSON array.
    #[arg(long)]
    json: bool,
}

/// Take a certificate back: writes DIR/crl.pem. Copied beside the ca.pem of every server, it closes the certificate's connections and
/// refuses new ones, within a minute or at once with SIGHUP (systemctl reload).
#[derive(Args)]
pub(crate) struct Revoke {
    /// The directory that `quarry init` made.
    dir: PathBuf,
    /// The certificate's serial number, as `quarry cert list` shows it. Give it once for each.
    #[arg(long = "serial", value_name = "SERIAL", required = true)]
    serials: Vec<String>,
}

/// Issue a certificate. Its role decides what its owner may do, its id who it is: a DataNode's id is its number in the
/// cluster.
#[derive(Args)]
pub(crate) struct Issue {
    /// The directory that `quarry init` made.
    dir: PathBuf,
    /// namenode, datanode, client or gateway; `admin` is a client that may change the cluster itself.
    #[arg(long, value_parser = role)]
    role: (Role, bool),
    /// For a client: it may change nothing.
    #[arg(long)]
    ro: bool,
    /// For a client: whose files are what it makes or hands over. `root:UID:GID` replaces root, `all:UID:GID` everybody.
    #[arg(long, value_name = "WHOM:UID:GID")]
    squash: Option<Squash>,
    /// Days until the certificate expires.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// A number for a namenode or datanode, a name for a client or gateway.
    #[arg(long)]
    id: String,
    /// Host name or address of the owner. Give it once for each.
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Where to put the files; made if it is not there. Existing files are not overwritten.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Cert {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Issue(issue) => issue.run(),
            Self::List(list) => list.run(),
            Self::Revoke(revoke) => revoke.run(),
        }
    }
}

impl Issue {
    fn run(self) -> anyhow::Result<()> {
        let (role, admin) = self.role;
        let rights = Rights { read_only: self.ro, admin, squash: self.squash };
        let subject = Subject { role, id: &self.id, hosts: &self.hosts, rights, days: self.days };
        let paths = issue_to(&self.dir, &subject, &self.out)?;
        say(format_args!("{role} {}: {}", self.id, paths.cert.display()));
        Ok(())
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let issued = issued(&self.dir)?;
        if self.json {
            let all: Vec<_> = issued.iter().map(|c| to_json(c, now)).collect();
            print(format_args!("{:#}\n", serde_json::Value::from(all)))?;
            return Ok(());
        }
        let mut rows = vec![row(["SERIAL", "ROLE", "ID", "RIGHTS", "STATE"])];
        rows.extend(issued.iter().map(|c| {
            let id = &c.identity;
            vec![c.serial.clone(), id.role.to_string(), id.id.clone(), id.rights.to_string(), state(c, now)]
        }));
        print(table(&rows))?;
        Ok(())
    }
}

fn state(c: &Issued, now: i64) -> String {
    match (c.revoked, (c.expires - now) / SECONDS_OF_DAY) {
        (Some(_), _) => "revoked".to_owned(),
        (None, _) if c.expires < now => "expired".to_owned(),
        (None, days) => format!("valid for {days} days"),
    }
}

fn to_json(c: &Issued, now: i64) -> serde_json::Value {
    serde_json::json!({
        "serial": c.serial,
        "role": c.identity.role.to_string(),
        "id": c.identity.id,
        "rights": c.identity.rights.to_string(),
        "expires": c.expires,
        "expired": c.expires < now,
        "revoked": c.revoked,
    })
}

impl Revoke {
    fn run(self) -> anyhow::Result<()> {
        let known = issued(&self.dir)?;
        if let Some(serial) = self.serials.iter().find(|s| !known.iter().any(|c| c.serial == **s)) {
            bail!("{serial} is no certificate of {}; see quarry cert list", self.dir.display());
        }
        revoke(&self.dir, &self.serials)?;
        say(format_args!(
            "Copy {} beside the ca.pem of every server and client, then: systemctl reload 'quarry-*'",
            self.dir.join("crl.pem").display()
        ));
        Ok(())
    }
}

const SECONDS_OF_DAY: i64 = 24 * 3600;

/// A role, and whether it is that of an administrator.
fn role(text: &str) -> Result<(Role, bool), String> {
    if text == "admin" { Ok((Role::Client, true)) } else { text.parse().map(|role| (role, false)) }
}
