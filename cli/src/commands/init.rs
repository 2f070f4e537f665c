//! `quarry init`

use crate::output::say;
use clap::Args;
use std::path::PathBuf;

/// Make the certificate authority of a new cluster: DIR/ca.pem and DIR/ca.key. Keep the key away from the servers; it
/// is needed only to issue certificates.
#[derive(Args)]
pub(crate) struct Init {
    /// Where to put it; made if it is not there.
    dir: PathBuf,
    /// The cluster's name: 1 to 63 of a-z, 0-9 and -. It is part of every certificate and never changes.
    #[arg(long, value_name = "CLUSTER")]
    name: String,
}

impl Init {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        quarry_net::identity::init_ca(&self.dir, &self.name)?;
        say(format_args!(
            "The certificate authority of cluster `{}` is in {}.",
            self.name,
            self.dir.display()
        ));
        say(format_args!(
            "Next: quarry cert issue {} --role namenode --id 1 --host HOST --out DIR",
            self.dir.display()
        ));
        Ok(())
    }
}
