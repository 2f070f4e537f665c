//! What `quarry up` keeps in its directory.
//!
//! ```text
//! DIR/cluster.toml            name, replication, ports; written last, so that its presence means complete
//!     ca/  certs/<owner>/     the authority and the certificates
//!     namenode/  datanode-N/  data of the roles, and their configuration in <role>.toml
//!     client.toml             how clients find the cluster
//!     gateway/                the gateway's configuration and its log of events
//!     logs/  run/             a log and a pid file for each part
//! ```

use super::ports::Ports;
use super::{checked_count, state};
use crate::options::read_file;
use anyhow::{Context, bail};
use quarry_common::wire::cluster::Replication;
use quarry_host::disk::RealDisk;
use quarry_host::{crashsafe, private};
use quarry_namenode::NameNodeConfig;
use quarry_net::identity::{self, Rights, Role, Subject};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// More DataNodes on one machine make no sense.
pub(super) const DATANODES_MAX: u32 = 32;
const DATANODES_DEFAULT: u32 = 3;
pub(super) const HOST: &str = "127.0.0.1";

/// Version of this layout.
const FORMAT: u32 = 1;
/// Free space without which a new cluster is not begun: for the NameNode's log and database, and for each DataNode.
const NAMENODE_BYTES: u64 = 64 << 20;
const DATANODE_BYTES: u64 = 16 << 20;

/// The authority is in the same folder, so an earlier end would protect nothing.
const CERTIFICATE_DAYS: u32 = 3650;

/// `cluster.toml`
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Settings {
    format: u32,
    name: String,
    replication: String,
    namenode_port: u16,
    datanode_ports: Vec<u16>,
    /// 0 before the gateway was started for the first time.
    #[serde(default)]
    gateway_port: u16,
}

/// The part of `cluster.toml` that every version has.
#[derive(Deserialize, Default)]
struct Version {
    format: Option<u32>,
}

/// The directory of a cluster, locked for this process.
pub(in crate::commands) struct Layout {
    dir: PathBuf,
    settings: Settings,
    _lock: File,
}

impl Layout {
    /// Opens the cluster, or makes it if the directory is new. More DataNodes than there are get added.
    pub(in crate::commands) fn open_or_make(
        dir: &Path,
        name: Option<&str>,
        datanodes: Option<u32>,
        replication: Option<Replication>,
    ) -> anyhow::Result<Self> {
        let datanodes = datanodes.map(checked_count).transpose()?;
        private::refuse_link(dir)?;
        private::open_folder(dir)?;
        let dir = dir.canonicalize().with_context(|| format!("cannot use {}", dir.display()))?;
        let lock = lock(&dir)?;
        state::refuse_planted(&dir)?;
        if dir.join("cluster.toml").exists() {
            let settings = read_settings(&dir)?;
            let mut layout = Self { dir, settings, _lock: lock };
            layout.check(name, replication)?;
            state::refuse_damaged(&layout)?;
            if let Some(wanted) = datanodes {
                layout.grow(wanted)?;
            }
            return Ok(layout);
        }
        state::refuse_foreign(&dir)?;
        state::refuse_orphaned(&dir)?;
        let count = datanodes.unwrap_or(DATANODES_DEFAULT);
        state::refuse_small(&dir, NAMENODE_BYTES + DATANODE_BYTES * u64::from(count))?;
        let settings = Settings {
            format: FORMAT,
            name: name.unwrap_or("quarry").to_owned(),
            replication: replication.unwrap_or(Replication::Factor(3)).to_string(),
            namenode_port: 0,
            datanode_ports: Vec::new(),
            gateway_port: 0,
        };
        let mut layout = Self { dir, settings, _lock: lock };
        layout.make(count)?;
        Ok(layout)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn datanodes(&self) -> u32 {
        self.settings.datanode_ports.len() as u32
    }

    pub(super) fn namenode_address(&self) -> String {
        format!("{HOST}:{}", self.settings.namenode_port)
    }

    pub(super) fn datanode_address(&self, number: u32) -> String {
        format!("{HOST}:{}", self.settings.datanode_ports[number as usize - 1])
    }

    pub(super) fn namenode_config(&self) -> PathBuf {
        self.dir.join("namenode/namenode.toml")
    }

    pub(super) fn datanode_config(&self, number: u32) -> PathBuf {
        self.dir.join(format!("datanode-{number}/datanode.toml"))
    }

    pub(in crate::commands) fn client_config(&self) -> PathBuf {
        self.dir.join("client.toml")
    }

    pub(super) fn gateway_config(&self) -> PathBuf {
        self.dir.join("gateway/client.toml")
    }

    /// Ports of the servers that the cluster has already.
    fn taken_ports(&self) -> Vec<u16> {
        let mut taken = self.settings.datanode_ports.clone();
        taken.push(self.settings.namenode_port);
        taken
    }

    /// Where the gateway listens. The port stays the same from start to start as long as it is free.
    pub(super) fn prepare_gateway(&mut self) -> anyhow::Result<String> {
        if !self.dir.join("certs/gateway-local").exists() {
            self.certificate(Role::Gateway, "local")?;
        }
        std::fs::create_dir_all(self.dir.join("gateway")).context("cannot make gateway")?;
        self.write(
            &self.gateway_config(),
            &format!("namenode = \"{}\"\ncerts = \"../certs/gateway-local\"\n", self.namenode_address()),
        )?;
        let known = match self.settings.gateway_port {
            0 => Ports::besides(self.taken_ports()).take()?,
            known => known,
        };
        let listener = TcpListener::bind((HOST, known)).or_else(|_| TcpListener::bind((HOST, 0)));
        let address = listener.and_then(|l| l.local_addr()).context("no free TCP port")?;
        if address.port() != self.settings.gateway_port {
            self.settings.gateway_port = address.port();
            self.write(&self.dir.join("cluster.toml"), &toml::to_string(&self.settings)?)?;
        }
        Ok(address.to_string())
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    pub(super) fn run(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The certificates of the cluster's parts, each in a folder of its own.
    pub(super) fn certificates(&self) -> Vec<(Role, String)> {
        let datanodes = (1..=self.datanodes()).map(|n| (Role::DataNode, n.to_string()));
        [(Role::NameNode, "1".to_owned()), (Role::Client, "local".to_owned())]
            .into_iter()
            .chain(datanodes)
            .collect()
    }

    /// Where a certificate is.
    pub(super) fn certificate_folder(&self, role: Role, id: &str) -> PathBuf {
        self.dir.join("certs").join(format!("{role}-{id}"))
    }

    fn make(&mut self, datanodes: u32) -> anyhow::Result<()> {
        let ca = self.dir.join("ca");
        if ca.exists() {
            // A start that was cut off before cluster.toml: no data can be there yet.
            std::fs::remove_dir_all(&ca).context("cannot remove a half-made ca")?;
            let _ = std::fs::remove_dir_all(self.dir.join("certs"));
        }
        identity::init_ca(&ca, &self.settings.name)?;
        for dir in ["logs", "run", "namenode", "certs"] {
            private::open_folder(&self.dir.join(dir))?;
        }
        let mut ports = Ports::besides(Vec::new());
        self.settings.namenode_port = ports.take()?;
        self.certificate(Role::NameNode, "1")?;
        self.certificate(Role::Client, "local")?;
        self.write(
            &self.namenode_config(),
            &format!(
                "listen = \"{}\"\ndir = \"data\"\ncerts = \"../certs/namenode-1\"\nreplication = \"{}\"\n",
                self.namenode_address(),
                self.settings.replication
            ),
        )?;
        self.format()?;
        self.write(
            &self.client_config(),
            &format!("namenode = \"{}\"\ncerts = \"certs/client-local\"\n", self.namenode_address()),
        )?;
        self.add_datanodes(datanodes, &mut ports)
    }

    /// Makes the new cluster's file system.
    fn format(&self) -> anyhow::Result<()> {
        let listen = self.namenode_address().parse().context("the NameNode's address")?;
        let mut config = NameNodeConfig::new(listen, self.dir.join("namenode/data"));
        config.cluster.clone_from(&self.settings.name);
        config.default_replication = self.settings.replication.parse().map_err(anyhow::Error::msg)?;
        // A start that was cut off before cluster.toml has made it already.
        if !config.dir.join("namenode.toml").exists() {
            quarry_namenode::format(&config)?;
        }
        Ok(())
    }

    fn add_datanodes(&mut self, wanted: u32, ports: &mut Ports) -> anyhow::Result<()> {
        for number in self.datanodes() + 1..=wanted {
            self.settings.datanode_ports.push(ports.take()?);
            self.certificate(Role::DataNode, &number.to_string())?;
            let config = self.datanode_config(number);
            private::open_folder(&self.dir.join(format!("datanode-{number}")))?;
            self.write(
                &config,
                &format!(
                    "listen = \"{}\"\nnamenode = \"{}\"\ndirs = [\"data\"]\ncerts = \"../certs/datanode-{number}\"\n",
                    self.datanode_address(number),
                    self.namenode_address()
                ),
            )?;
        }
        self.write(&self.dir.join("cluster.toml"), &toml::to_string(&self.settings)?)
    }

    fn grow(&mut self, wanted: u32) -> anyhow::Result<()> {
        if wanted < self.datanodes() {
            bail!(
                "{} has {} DataNodes; fewer than that cannot be started, since data is on them",
                self.dir.display(),
                self.datanodes()
            );
        }
        if wanted > self.datanodes() {
            self.add_datanodes(wanted, &mut Ports::besides(self.taken_ports()))?;
        }
        Ok(())
    }

    fn check(&self, name: Option<&str>, replication: Option<Replication>) -> anyhow::Result<()> {
        if let Some(name) = name
            && name != self.settings.name
        {
            bail!("{} holds cluster `{}`, not `{name}`", self.dir.display(), self.settings.name);
        }
        if let Some(r) = replication
            && r.to_string() != self.settings.replication
        {
            bail!(
                "{} has replication {}; change it for a directory with: setfattr -n trusted.quarry.replication -v {r} DIRECTORY",
                self.dir.display(),
                self.settings.replication
            );
        }
        Ok(())
    }

    fn certificate(&self, role: Role, id: &str) -> anyhow::Result<()> {
        let out = self.certificate_folder(role, id);
        if out.exists() {
            // Left over from a start that was cut off before the ports were recorded.
            std::fs::remove_dir_all(&out).with_context(|| format!("cannot remove {}", out.display()))?;
        }
        let hosts = [HOST.to_owned(), "localhost".to_owned()];
        let rights = Rights { admin: role == Role::Client, ..Rights::default() };
        let subject = Subject { role, id, hosts: &hosts, rights, days: CERTIFICATE_DAYS };
        identity::issue_to(&self.dir.join("ca"), &subject, &out)?;
        Ok(())
    }

    fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        crashsafe::write_file(&RealDisk, path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn read_settings(dir: &Path) -> anyhow::Result<Settings> {
    let path = dir.join("cluster.toml");
    let (Version { format }, _) = read_file(Some(&path))?;
    match format {
        Some(FORMAT) => Ok(read_file(Some(&path))?.0),
        Some(other) => bail!(
            "{} was made by another version of Quarry: it has format {other}, this version reads {FORMAT}; start it with the \
             version that made it",
            dir.display()
        ),
        None => bail!("{} says no format: it is not of `quarry up`, or damaged", path.display()),
    }
}

fn lock(dir: &Path) -> anyhow::Result<File> {
    let path = dir.join("lock");
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| anyhow::anyhow!("another `quarry up` runs on {}; stop it first", dir.display()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(result: anyhow::Result<Layout>) -> String {
        format!("{:#}", result.err().expect("must be refused"))
    }

    #[test]
    fn a_cluster_keeps_its_ports_and_can_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        let first = Layout::open_or_make(&path, None, Some(2), None).unwrap();
        let ports = first.settings.datanode_ports.clone();
        assert!(message(Layout::open_or_make(&path, None, None, None)).contains("another `quarry up` runs"));
        drop(first);
        let second = Layout::open_or_make(&path, None, Some(4), None).unwrap();
        assert_eq!(second.settings.datanode_ports[..2], ports);
        assert_eq!(second.datanodes(), 4);
        drop(second);
        assert!(message(Layout::open_or_make(&path, None, Some(3), None)).contains("has 4 DataNodes"));
        assert!(
            message(Layout::open_or_make(&path, Some("other"), None, None))
                .contains("holds cluster `quarry`")
        );
        assert!(
            message(Layout::open_or_make(&path, None, None, Some(Replication::All)))
                .contains("has replication 3")
        );
    }

    #[test]
    fn the_gateway_keeps_its_port_while_it_is_free() {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::open_or_make(dir.path(), None, Some(1), None).unwrap();
        let first = layout.prepare_gateway().unwrap();
        assert_eq!(layout.prepare_gateway().unwrap(), first);
        let _taken = TcpListener::bind(&first).unwrap();
        let second = layout.prepare_gateway().unwrap();
        assert_ne!(second, first);
        drop(layout);
        let mut layout = Layout::open_or_make(dir.path(), None, None, None).unwrap();
        assert_eq!(layout.prepare_gateway().unwrap(), second);
    }

    #[test]
    fn a_start_that_was_cut_off_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        identity::init_ca(&dir.path().join("ca"), "quarry").unwrap();
        assert_eq!(Layout::open_or_make(dir.path(), None, Some(1), None).unwrap().datanodes(), 1);
        // The last step of all is lost.
        std::fs::remove_file(dir.path().join("cluster.toml")).unwrap();
        assert_eq!(Layout::open_or_make(dir.path(), None, Some(2), None).unwrap().datanodes(), 2);
    }

    #[test]
    fn what_is_half_deleted_is_refused_and_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Layout::open_or_make(dir.path(), None, None, None);
        drop(Layout::open_or_make(dir.path(), None, Some(1), None).unwrap());
        std::fs::create_dir_all(dir.path().join("namenode/data")).unwrap();
        std::fs::create_dir_all(dir.path().join("datanode-1/data")).unwrap();
        std::fs::write(dir.path().join("namenode/data/namenode.toml"), "").unwrap();
        drop(open().unwrap());
        for lost in [
            "cluster.toml",
            "ca/ca.key",
            "certs/datanode-1/key.pem",
            "certs/client-local/cert.pem",
            "client.toml",
            "namenode/namenode.toml",
            "datanode-1/datanode.toml",
            "namenode/data",
        ] {
            std::fs::rename(dir.path().join(lost), dir.path().join("lock.saved")).unwrap();
            let away = tempfile::tempdir().unwrap();
            let saved = away.path().join("x");
            std::fs::rename(dir.path().join("lock.saved"), &saved).unwrap();
            let why = message(open());
            assert!(why.contains(lost), "{lost}: {why}");
            assert_eq!(message(open()), why, "nothing was made");
            std::fs::rename(saved, dir.path().join(lost)).unwrap();
        }
        drop(open().unwrap());
    }

    #[test]
    fn folders_of_other_versions_and_clusters_are_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop(Layout::open_or_make(dir.path(), None, Some(1), None).unwrap());
        drop(Layout::open_or_make(other.path(), None, Some(1), None).unwrap());
        let settings = dir.path().join("cluster.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        std::fs::write(&settings, text.replace("format = 1", "format = 2\nnew = 1")).unwrap();
        let why = message(Layout::open_or_make(dir.path(), None, None, None));
        assert!(why.contains("format 2"), "{why}");
        std::fs::write(&settings, text).unwrap();
        // The authority of another cluster, of the same name, signs nothing that this one's parts accept.
        for file in ["ca.pem", "ca.key"] {
            std::fs::copy(other.path().join("ca").join(file), dir.path().join("ca").join(file)).unwrap();
        }
        let why = message(Layout::open_or_make(dir.path(), None, None, None));
        assert!(why.contains("another authority"), "{why}");
    }

    #[test]
    fn planted_links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("certs")).unwrap();
        assert!(message(Layout::open_or_make(dir.path(), None, None, None)).contains("symbolic link"));
        let link = elsewhere.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(message(Layout::open_or_make(&link, None, None, None)).contains("symbolic link"));
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "nothing was written there");
    }

    #[test]
    fn ports_are_outside_the_range_of_outgoing_connections() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::open_or_make(dir.path(), None, Some(3), None).unwrap();
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let range: Vec<u16> = range.split_whitespace().map(|n| n.parse().unwrap()).collect();
        let all = layout.settings.datanode_ports.iter().chain([&layout.settings.namenode_port]);
        for port in all {
            assert!(!(range[0]..=range[1]).contains(port), "{port} in {range:?}");
        }
    }

    #[test]
    fn things_of_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        assert!(message(Layout::open_or_make(dir.path(), None, None, None)).contains("thesis.tex"));
        assert!(message(Layout::open_or_make(dir.path(), None, Some(0), None)).contains("--datanodes"));
    }
}
