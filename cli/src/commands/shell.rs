//! `quarry completions` and `quarry man`: made from the command line's own description, so that they are never out of date.

use crate::output::print;
use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use quarry_host::private;
use std::path::PathBuf;

/// Print completions for a shell: bash, zsh, fish, elvish or powershell.
#[derive(Args)]
pub(crate) struct Completions {
    /// Which shell.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: Command) -> anyhow::Result<()> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, name, &mut script);
        print(String::from_utf8_lossy(&script))?;
        Ok(())
    }
}

/// Write a manual page for each command into a directory: quarry.1, quarry-mount.1 and so on.
#[derive(Args)]
pub(crate) struct Man {
    /// Made if it is not there.
    dir: PathBuf,
}

impl Man {
    pub(crate) fn run(self, command: Command) -> anyhow::Result<()> {
        private::make_folder(&self.dir)?;
        clap_mangen::generate_to(command, &self.dir)
            .with_context(|| format!("cannot write to {}", self.dir.display()))
    }
}
