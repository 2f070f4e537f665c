//! A cluster for one test.

use crate::loop_disk::LoopDisk;
use crate::ports::{self, Port};
use crate::process::{Process, run_quarry};
use crate::wait::eventually;
use rustix::mount::{UnmountFlags, unmount};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// How long a node may take from its start until it is counted healthy.
const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
/// A mount that is told to stop brings its last changes to the cluster first.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(30);

/// What a new cluster is like.
pub struct Options {
    datanodes: u32,
    replication: String,
    capacity: Option<u64>,
    namenode_settings: String,
    datanode_settings: String,
    loop_disks: Vec<u32>,
    disks: bool,
}

impl Options {
    /// Number of DataNodes (3).
    #[must_use]
    pub fn datanodes(mut self, n: u32) -> Self {
        self.datanodes = n;
        self
    }

    /// Default replication ("3").
    #[must_use]
    pub fn replication(mut self, r: &str) -> Self {
        r.clone_into(&mut self.replication);
        self
    }

    /// Bytes that each DataNode may use.
    #[must_use]
    pub fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// More lines for the NameNode's configuration.
    #[must_use]
    pub fn namenode_settings(mut self, toml: &str) -> Self {
        self.namenode_settings.push_str(toml);
        self.namenode_settings.push('\n');
        self
    }

    /// More lines for each DataNode's configuration.
    #[must_use]
    pub fn datanode_settings(mut self, toml: &str) -> Self {
        self.datanode_settings.push_str(toml);
        self.datanode_settings.push('\n');
        self
    }

    /// Gives a DataNode a file system of its own, which a test can freeze or tear away.
    #[must_use]
    pub fn loop_disk(mut self, node: u32) -> Self {
        self.loop_disks.push(node);
        self
    }

    /// Each server gets a disk of its own, so that [`Cluster::cut_power`] is possible.
    #[must_use]
    pub fn disks(mut self) -> Self {
        self.disks = true;
        self
    }

    /// Starts it and waits until all nodes are healthy.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(self) -> Cluster {
        Cluster::new(self)
    }
}

/// A running cluster. Dropping it stops everything and removes its files.
pub struct Cluster {
    /// Mounts that died with their process keep their directory here.
    dir: TempDir,
    namenode: Option<Process>,
    namenode_port: Port,
    datanodes: Vec<(Option<Process>, Port)>,
    /// By the name of the folder.
    disks: BTreeMap<String, LoopDisk>,
}

impl Cluster {
    /// Three DataNodes, replication 3.
    pub fn options() -> Options {
        Options {
            datanodes: 3,
            replication: "3".into(),
            capacity: None,
            namenode_settings: String::new(),
            datanode_settings: String::new(),
            loop_disks: Vec::new(),
            disks: false,
        }
    }

    /// The default cluster.
    pub fn start() -> Self {
        Self::options().start()
    }

    fn new(options: Options) -> Self {
        let base = std::env::var_os("QUARRY_TEST_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let dir = tempfile::Builder::new().prefix("quarry-test-").tempdir_in(base).expect("make a directory");
        let path = dir.path().to_path_buf();
        quarry_ok(&["init", &show(&path.join("ca")), "--name", "test"]);
        let namenode_port = ports::reserve();
        let mut cluster =
            Self { dir, namenode: None, namenode_port, datanodes: Vec::new(), disks: BTreeMap::new() };
        fs::create_dir(path.join("logs")).expect("make the log directory");
        cluster.certificate("namenode", "1");
        cluster.certificate_into("client-test", "admin", "test", &[]);
        let address = cluster.namenode_address();
        fs::write(
            path.join("namenode.toml"),
            format!(
                "listen = \"{address}\"\ndir = \"namenode\"\ncerts = \"certs/namenode-1\"\nreplication = \"{}\"\n{}",
                options.replication, options.namenode_settings
            ),
        )
        .expect("write a configuration");
        fs::write(
            cluster.client_config(),
            format!("namenode = \"{address}\"\ncerts = \"certs/client-test\"\n"),
        )
        .expect("write a configuration");
        if options.disks {
            cluster.add_disk("namenode");
        }
        quarry_ok(&["namenode", "format", "--config", &show(&path.join("namenode.toml"))]);
        cluster.start_namenode();
        for number in 1..=options.datanodes {
            cluster.add_datanode(number, &options);
        }
        cluster.wait_healthy();
        cluster
    }

    fn add_datanode(&mut self, number: u32, options: &Options) {
        if options.disks || options.loop_disks.contains(&number) {
            self.add_disk(&format!("datanode-{number}"));
        }
        self.certificate("datanode", &number.to_string());
        let port = ports::reserve();
        let mut toml = format!(
            "listen = \"127.0.0.1:{}\"\nnamenode = \"{}\"\ndirs = [\"datanode-{number}\"]\ncerts = \"certs/datanode-{number}\"\n",
            port.number,
            self.namenode_address()
        );
        // Several nodes share one disk here, and a test must not depend on how full it is.
        toml += "reserve = 0\n";
        if let Some(capacity) = options.capacity {
            toml += &format!("capacity = {capacity}\n");
        }
        toml += &options.datanode_settings;
        fs::write(self.path(&format!("datanode-{number}.toml")), toml).expect("write a configuration");
        self.datanodes.push((None, port));
        self.start_datanode(number);
    }

    fn add_disk(&mut self, name: &str) {
        let disk = LoopDisk::mount(&self.path(&format!("{name}.img")), &self.path(name));
        self.disks.insert(name.to_owned(), disk);
    }

    /// Starts one more DataNode than there are, with default settings.
    pub fn join_datanode(&mut self) -> u32 {
        let number = self.datanodes.len() as u32 + 1;
        self.add_datanode(number, &Self::options());
        number
    }

    fn certificate(&self, role: &str, id: &str) {
        self.certificate_into(&format!("{role}-{id}"), role, id, &[]);
    }

    /// Issues a certificate into `certs/NAME`, with more arguments for `quarry cert issue`.
    ///
    /// # Panics
    /// When it is not issued.
    pub fn certificate_into(&self, name: &str, role: &str, id: &str, more: &[&str]) {
        let out = show(&self.path(&format!("certs/{name}")));
        let ca = show(&self.path("ca"));
        let mut args =
            vec!["cert", "issue", &ca, "--role", role, "--id", id, "--host", "127.0.0.1", "--out", &out];
        args.extend(more);
        quarry_ok(&args);
    }

    /// The configuration of a client with the certificate in `certs/NAME`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn config_of(&self, name: &str) -> PathBuf {
        let path = self.path(&format!("{name}.toml"));
        let text = format!("namenode = \"{}\"\ncerts = \"certs/{name}\"\n", self.namenode_address());
        fs::write(&path, text).expect("write a configuration");
        path
    }

    /// A file or directory of the cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the NameNode listens.
    pub fn namenode_address(&self) -> String {
        format!("127.0.0.1:{}", self.namenode_port.number)
    }

    /// The client's configuration file.
    pub fn client_config(&self) -> PathBuf {
        self.path("client.toml")
    }

    /// Starts the NameNode (again).
    pub fn start_namenode(&mut self) {
        let config = show(&self.path("namenode.toml"));
        let log = self.path("logs/namenode.log");
        self.namenode = Some(Process::start("namenode", &["namenode", "--config", &config], &log));
    }

    /// Starts a DataNode (again); the first is 1.
    pub fn start_datanode(&mut self, number: u32) {
        let name = format!("datanode-{number}");
        let config = show(&self.path(&format!("{name}.toml")));
        let log = self.path(&format!("logs/{name}.log"));
        self.datanodes[number as usize - 1].0 =
            Some(Process::start(&name, &["datanode", "--config", &config], &log));
    }

    /// The NameNode's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn namenode(&mut self) -> &mut Process {
        self.namenode.as_mut().expect("the NameNode runs")
    }

    /// A DataNode's process.
    ///
    /// # Panics
    /// When it does not run.
    pub fn datanode(&mut self, number: u32) -> &mut Process {
        self.datanodes[number as usize - 1].0.as_mut().expect("the DataNode runs")
    }

    /// The disk of a DataNode that has one of its own.
    ///
    /// # Panics
    /// When it has none.
    pub fn disk(&self, number: u32) -> &LoopDisk {
        self.disks.get(&format!("datanode-{number}")).expect("the DataNode has a disk of its own")
    }

    /// `kill -9`.
    pub fn kill_namenode(&mut self) {
        self.namenode = None;
    }

    /// `kill -9`.
    pub fn kill_datanode(&mut self, number: u32) {
        self.datanodes[number as usize - 1].0 = None;
    }

    /// `kill -9` of every server.
    pub fn kill_servers(&mut self) {
        self.kill_namenode();
        for (process, _) in &mut self.datanodes {
            *process = None;
        }
    }

    /// Starts every server again.
    pub fn start_servers(&mut self) {
        self.start_namenode();
        for number in 1..=self.datanodes.len() as u32 {
            self.start_datanode(number);
        }
    }

    /// Kills every server, cuts the power of their disks, and starts the servers again as after a boot.
    ///
    /// # Panics
    /// When a disk cannot be stopped, or a server does not start.
    pub fn cut_power(&mut self) {
        self.kill_servers();
        self.disks.values().for_each(LoopDisk::cut_power);
        for number in 1..=self.datanodes.len() {
            let run = self.path(&format!("datanode-{number}/quarry-run.toml"));
            let text = fs::read_to_string(&run).expect("the node took note that it runs");
            let other = |line: &str| match line.starts_with("boot_id") {
                true => "boot_id = \"another\"\n".to_owned(),
                false => format!("{line}\n"),
            };
            fs::write(&run, text.lines().map(other).collect::<String>()).expect("write the boot's name");
        }
        self.start_servers();
    }

    /// Waits until every node is healthy and every placement group is complete.
    pub fn wait_healthy(&self) {
        eventually("all nodes healthy, all groups complete", HEALTHY_LIMIT, || {
            let status = self.status();
            let nodes = status["datanodes"].as_array().map_or(0, Vec::len);
            nodes == self.datanodes.len()
                && (1..=nodes as u64).all(|n| self.node_state_in(&status, n) == "healthy")
                && status["groups"]["healthy"].as_u64() > Some(0)
                && status["groups"]["degraded"] == 0
                && status["groups"]["healing"] == 0
        });
    }

    fn node_state_in(&self, status: &Value, number: u64) -> String {
        let nodes = status["datanodes"].as_array().into_iter().flatten();
        let node = nodes.into_iter().find(|n| n["id"].as_u64() == Some(number));
        node.and_then(|n| n["state"].as_str()).unwrap_or("unknown").to_owned()
    }

    /// `healthy`, `suspect`, `dead`, `full`, or `unknown`.
    pub fn node_state(&self, number: u32) -> String {
        self.node_state_in(&self.status(), number.into())
    }

    /// `quarry status --json`; null when the NameNode does not answer.
    pub fn status(&self) -> Value {
        self.json(&["status", "--json", "--timeout", "5"])
    }

    /// `quarry locate PATH --json`.
    pub fn locate(&self, path: &str) -> Value {
        self.json(&["locate", path, "--json"])
    }

    fn json(&self, args: &[&str]) -> Value {
        let config = show(&self.client_config());
        let mut args = args.to_vec();
        args.extend(["--config", &config]);
        let output = run_quarry(&args);
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Runs `quarry fsck --json` until no member of a group is behind, and demands that nothing is wrong.
    ///
    /// # Panics
    /// When there is a problem, and when members do not catch up.
    pub fn assert_sound(&self, deep: bool) -> Value {
        let config = show(&self.client_config());
        let mut args = vec!["fsck", "--json", "--timeout", "60", "--config", &config];
        if deep {
            args.push("--deep");
        }
        let mut report = Value::Null;
        eventually("every member is checked", HEALTHY_LIMIT, || {
            let output = run_quarry(&args);
            let text = String::from_utf8_lossy(&output.stdout);
            report = serde_json::from_str(&text).unwrap_or(Value::Null);
            // A server that has just started may not have all DataNodes back.
            let away = report["unreachable"].as_array().is_some_and(|nodes| !nodes.is_empty());
            let catching_up = (away || report["behind"].as_u64() > Some(0)) && report["problem_count"] == 0;
            assert!(
                output.status.success() || catching_up,
                "fsck: {text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            !catching_up
        });
        report
    }

    /// Mounts the cluster on a directory of its own.
    pub fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    /// The same with another client's configuration.
    pub fn mount_as(&self, config: &Path) -> Mount {
        Mount::new(self, self.mountpoint(), config, &[])
    }

    /// Mounts the cluster through another address of the NameNode, such as a [`Relay`](crate::relay::Relay)'s.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn mount_through(&self, namenode: &str) -> Mount {
        let config = self.path(&format!("client-{}.toml", namenode.replace(':', "-")));
        fs::write(&config, format!("namenode = \"{namenode}\"\ncerts = \"certs/client-test\"\n"))
            .expect("write a configuration");
        self.mount_as(&config)
    }

    /// The same with more arguments for `quarry mount`.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn mount_with(&self, args: &[&str]) -> Mount {
        Mount::new(self, self.mountpoint(), &self.client_config(), args)
    }

    fn mountpoint(&self) -> PathBuf {
        let made = tempfile::Builder::new().prefix("mnt-").tempdir_in(self.dir.path());
        made.expect("make a mount point").keep()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A process that waits for a frozen disk cannot even be killed.
        self.disks.clear();
        // A mount that outlived its `Mount` would make the removal of the files below it dangerous.
        let below = fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        for entry in below.filter(|e| e.file_name().to_string_lossy().starts_with("mnt-")) {
            let _ = unmount(entry.path(), UnmountFlags::DETACH);
        }
        // Before their directory is removed.
        self.kill_servers();
    }
}

/// A kernel mount of a cluster. Dropping it unmounts.
pub struct Mount {
    path: PathBuf,
    process: Process,
    args: Vec<String>,
    log: PathBuf,
}

impl Mount {
    fn new(cluster: &Cluster, path: PathBuf, config: &Path, more: &[&str]) -> Self {
        let mut args = vec!["mount".to_owned(), show(&path), "--config".into(), show(config)];
        args.extend(more.iter().map(|a| (*a).to_owned()));
        let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let log = cluster.path(&format!("logs/{name}.log"));
        let process = Process::start("mount", &args, &log);
        Self { path, process, args, log }
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.path
    }

    /// A path in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where its process logs.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The process that serves it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Unmounts cleanly and mounts again: a client that remembers nothing.
    ///
    /// # Panics
    /// When the old one does not end, or the new one does not start.
    pub fn remount(&mut self) {
        let ended = self.process.stop(UNMOUNT_LIMIT);
        assert!(
            ended.is_some_and(|s| s.success()),
            "the mount did not end cleanly: {ended:?}\n{}",
            self.process.log_end(20)
        );
        self.process = Process::start("mount", &self.args, &self.log);
    }

    /// `kill -9` of the client, and a new one on the same directory.
    pub fn crash_and_remount(&mut self) {
        self.process.kill();
        self.process = Process::start("mount", &self.args, &self.log);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.exited().is_none() {
            let limit = if std::thread::panicking() { Duration::from_secs(3) } else { UNMOUNT_LIMIT };
            let _ = self.process.stop(limit);
        }
        self.process.kill();
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// A path for a command line.
fn show(path: &Path) -> String {
    path.display().to_string()
}

fn quarry_ok(args: &[&str]) {
    let output = run_quarry(args);
    assert!(output.status.success(), "quarry {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}
