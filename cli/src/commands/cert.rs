//! `quarry cert`

use clap::{Args, Subcommand};
use quarry_net::identity::Role;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(crate) enum Cert {
    /// Issue a certificate: OUT/ca.pem, OUT/cert.pem and OUT/key.pem.
    Issue(Issue),
}

/// Issue a certificate. Its role decides what its owner may do, its id who it is: a DataNode's id is its number in the
/// cluster.
#[derive(Args)]
pub(crate) struct Issue {
    /// The directory that `quarry init` made.
    dir: PathBuf,
    /// namenode, datanode, client or gateway.
    #[arg(long)]
    role: Role,
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
        let Self::Issue(c) = self;
        let paths = quarry_net::identity::issue(&c.dir, c.role, &c.id, &c.hosts, &c.out)?;
        println!("{} {}: {}", c.role, c.id, paths.cert.display());
        Ok(())
    }
}
