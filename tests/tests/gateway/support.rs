//! A gateway in front of a cluster of a test, and curl.

use quarry_tests::Cluster;
use quarry_tests::ports::{self, Port};
use quarry_tests::process::{Process, run_quarry};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A running gateway. Dropping it ends it.
pub(crate) struct Gateway {
    pub(crate) process: Process,
    port: Port,
    scheme: &'static str,
}

impl Gateway {
    /// Without users.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        Self::with(cluster, &[])
    }

    /// With more arguments for `quarry gateway`.
    pub(crate) fn with(cluster: &Cluster, more: &[&str]) -> Self {
        let port = ports::reserve();
        let process = Self::process(cluster, port.number, more);
        let scheme = if more.contains(&"--tls") { "https" } else { "http" };
        Self { process, port, scheme }
    }

    fn process(cluster: &Cluster, port: u16, more: &[&str]) -> Process {
        let config = cluster.client_config().display().to_string();
        let (listen, state) = (format!("127.0.0.1:{port}"), cluster.path("gateway").display().to_string());
        let mut args = vec!["gateway", "--config", &config, "--listen", &listen, "--state", &state];
        args.extend(more);
        Process::start("gateway", &args, &cluster.path("logs/gateway.log"))
    }

    /// `kill -9`, and a new one at the same address.
    pub(crate) fn crash_and_restart(&mut self, cluster: &Cluster) {
        self.process.kill();
        self.process = Self::process(cluster, self.port.number, &[]);
    }

    /// `http://127.0.0.1:PORT` and the path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address())
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// `GET` of a path of the file API.
    pub(crate) fn get(&self, path: &str) -> Answer {
        curl(&[&self.url(path)])
    }

    /// The JSON of a `GET`, which must succeed.
    pub(crate) fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }
}

/// What curl got.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    /// The code of a refusal of the file API.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or("").to_owned()
    }
}

/// Runs curl; a connection that fails has status 0.
pub(crate) fn curl(args: &[&str]) -> Answer {
    let output = Command::new("curl")
        .args(["-s", "-g", "--path-as-is", "--max-time", "120", "-w", "%{stderr}%{http_code}"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("run curl");
    let status = String::from_utf8_lossy(&output.stderr).trim().parse().unwrap_or(0);
    Answer { status, body: output.stdout }
}

/// Makes a user of the gateway with `quarry gateway user add`, and gives its token.
pub(crate) fn add_user(users: &Path, name: &str, id: u32, role: &str, password: Option<&str>) -> String {
    let (users, id) = (users.display().to_string(), id.to_string());
    let mut args =
        vec!["gateway", "user", "add", name, "--users", &users, "--uid", &id, "--role", role, "--token"];
    if password.is_some() {
        args.push("--password");
    }
    let mut child = Command::new(quarry_tests::process::quarry())
        .args(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run quarry");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{}\n", password.unwrap_or("")).as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The file of users of a cluster.
pub(crate) fn users_file(cluster: &Cluster) -> PathBuf {
    cluster.path("users.toml")
}

/// Removes a user.
pub(crate) fn remove_user(users: &Path, name: &str) {
    let output = run_quarry(&["gateway", "user", "remove", name, "--users", &users.display().to_string()]);
    assert!(output.status.success());
}

/// Bytes that no compression and no luck reproduces.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rand::fill(&mut bytes[..]);
    bytes
}

/// A file beside the cluster.
pub(crate) fn write_file(cluster: &Cluster, name: &str, data: &[u8]) -> String {
    let path = cluster.path(name);
    std::fs::write(&path, data).unwrap();
    path.display().to_string()
}
