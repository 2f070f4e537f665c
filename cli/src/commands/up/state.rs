//! Whether the folder of `quarry up` is one that may be used: looked at before anything is made in it.

use super::layout::Layout;
use crate::options::certs_in;
use crate::output::bytes;
use anyhow::{Context, bail};
use quarry_host::private;
use quarry_net::identity::Credentials;
use std::path::{Path, PathBuf};

/// A directory with things of others is no place for a new cluster.
pub(super) fn refuse_foreign(dir: &Path) -> anyhow::Result<()> {
    const OURS: [&str; 8] = ["lock", "ca", "certs", "logs", "run", "namenode", "gateway", "client.toml"];
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let name = entry.with_context(|| format!("cannot read {}", dir.display()))?.file_name();
        let ours = name.to_str().is_some_and(|n| OURS.contains(&n) || n.starts_with("datanode-"));
        if !ours {
            bail!(
                "{} is not empty and holds no cluster (there is {}); choose another directory",
                dir.display(),
                name.display()
            );
        }
    }
    Ok(())
}

/// Refuses symbolic links and files of other users wherever keys and data are written to.
pub(super) fn refuse_planted(dir: &Path) -> anyhow::Result<()> {
    private::check_entries(dir)?;
    for folder in folders(dir)? {
        private::check_entries(&folder)?;
        if folder.ends_with("certs") {
            folders(&folder)?.iter().try_for_each(|owner| private::check_entries(owner))?;
        }
    }
    Ok(())
}

fn folders(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    Ok(entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
}

/// Without `cluster.toml` a folder is new, unless a server has run on it: a new authority and new ports would cut its data off for
/// good. A file system that was made and never served has no log.
pub(super) fn refuse_orphaned(dir: &Path) -> anyhow::Result<()> {
    let datanodes = folders(dir)?.into_iter().filter(|f| !f.ends_with("namenode")).map(|f| f.join("data"));
    let mut signs = datanodes.chain([dir.join("namenode/data/log")]);
    match signs.find(|sign| sign.exists()) {
        Some(sign) => bail!(
            "{} is missing, but there is data in {}; restore the file from a backup, or move the folder away to begin anew",
            dir.join("cluster.toml").display(),
            sign.display()
        ),
        None => Ok(()),
    }
}

/// A new cluster on a full disk would stop half made.
pub(super) fn refuse_small(dir: &Path, need: u64) -> anyhow::Result<()> {
    let stat = rustix::fs::statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if free < need {
        bail!("{} has {} free; a new cluster needs {}", dir.display(), bytes(free), bytes(need));
    }
    Ok(())
}

/// A cluster is whole or not started: what is missing is named, and nothing is made in its place.
pub(super) fn refuse_damaged(layout: &Layout) -> anyhow::Result<()> {
    let ca = layout.dir().join("ca");
    let mut needed =
        vec![ca.join("ca.pem"), ca.join("ca.key"), layout.namenode_config(), layout.client_config()];
    needed.extend((1..=layout.datanodes()).map(|n| layout.datanode_config(n)));
    for (role, id) in layout.certificates() {
        let certs = certs_in(&layout.certificate_folder(role, &id));
        needed.extend([certs.ca, certs.cert, certs.key]);
    }
    let has_data = (1..=layout.datanodes()).any(|n| layout.dir().join(format!("datanode-{n}/data")).exists());
    if has_data {
        needed.push(layout.dir().join("namenode/data"));
    }
    let missing: Vec<String> =
        needed.iter().filter(|p| !p.exists()).map(|p| p.display().to_string()).collect();
    if !missing.is_empty() {
        bail!(
            "the cluster in {} is damaged: restore {} from a backup",
            layout.dir().display(),
            missing.join(", ")
        );
    }
    refuse_mixed(layout, &ca)
}

/// Certificates of another authority would make every part refuse the others.
fn refuse_mixed(layout: &Layout, ca: &Path) -> anyhow::Result<()> {
    let authority = std::fs::read(ca.join("ca.pem")).context("cannot read the authority's certificate")?;
    for (role, id) in layout.certificates() {
        let certs = certs_in(&layout.certificate_folder(role, &id));
        let trusted =
            std::fs::read(&certs.ca).with_context(|| format!("cannot read {}", certs.ca.display()))?;
        if trusted != authority {
            bail!("{} is from another authority than {}", certs.cert.display(), ca.display());
        }
        let identity = Credentials::load(&certs)?.identity().clone();
        if identity.cluster != layout.name() {
            bail!(
                "{} is of cluster `{}`, but the folder is that of `{}`",
                certs.cert.display(),
                identity.cluster,
                layout.name()
            );
        }
    }
    Ok(())
}
