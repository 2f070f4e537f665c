//! `docs/operations.md`, followed command by command on a staged root, each role as its own user.

use quarry_tests::process::{quarry, shell};
use quarry_tests::{eventually, ports};
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The user of the servers; it need not exist.
const SERVICE: u32 = 61_234;

/// The block of a code fence with this label, with the indentation of its list item taken away.
fn block(label: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/operations.md")).unwrap();
    let mut lines = text.lines().skip_while(|l| !(l.trim().starts_with("```") && l.trim().ends_with(label)));
    assert!(lines.next().is_some(), "docs/operations.md has no block `{label}`");
    let block = lines.take_while(|l| l.trim() != "```").map(str::trim);
    block.collect::<Vec<_>>().join("\n")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A role as its unit starts it: its user, its umask, its certificate copied as systemd's `LoadCredential` does.
struct Service(Child);

impl Service {
    fn start(root: &Path, role: &str) -> Self {
        let unit =
            fs::read_to_string(root.join(format!("etc/systemd/system/quarry-{role}.service"))).unwrap();
        let setting = |name: &str| unit.lines().filter_map(move |l| l.strip_prefix(name)).collect::<Vec<_>>();
        let credentials = root.join(format!("run/credentials/{role}"));
        fs::create_dir_all(&credentials).unwrap();
        for credential in setting("LoadCredential=") {
            let (name, from) = credential.split_once(':').unwrap();
            let to = credentials.join(name);
            fs::copy(root.join(from.trim_start_matches('/')), &to).unwrap();
            shell(root, &format!("chmod 400 '{}'", to.display()));
            chown(&to, Some(SERVICE), Some(SERVICE)).unwrap();
        }
        let state = root.join("var/lib").join(setting("StateDirectory=")[0]);
        fs::create_dir_all(&state).unwrap();
        chown(&state, Some(SERVICE), Some(SERVICE)).unwrap();
        chown(&credentials, Some(SERVICE), Some(SERVICE)).unwrap();
        let line = setting("ExecStart=")[0].replace("%d", &credentials.display().to_string());
        let words: Vec<String> = line.split_whitespace().map(|word| staged(root, word)).collect();
        let log = fs::File::create(root.join(format!("{role}.log"))).unwrap();
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .uid(SERVICE)
            .gid(SERVICE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        Self(command.spawn().unwrap())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path of the documents and units, below the staged root.
fn staged(root: &Path, word: &str) -> String {
    let is_ours = ["/usr/", "/etc/", "/var/"].iter().any(|p| word.starts_with(p));
    if is_ours { format!("{}{word}", root.display()) } else { word.to_owned() }
}

#[test]
fn the_documents_lead_to_a_cluster_that_works() {
    let dir = tempfile::Builder::new().prefix("quarry-staged-").tempdir_in("/dev/shm").unwrap();
    let root = dir.path();
    // Other users must reach what is theirs.
    shell(root, "chmod 755 .");
    let install = repository().join("scripts/install");
    // The debug binary is large, and stripping it takes longer than the rest of this test.
    shell(
        root,
        &format!(
            "STRIP=true '{}' --root '{}' --binary '{}'",
            install.display(),
            root.display(),
            quarry().display()
        ),
    );
    let bin = root.join("usr/local/bin");
    let with_quarry = |script: &str| format!("export PATH='{}':$PATH\n{script}", bin.display());
    shell(root, &with_quarry(&block("authority")));
    let (namenode_port, datanode_port) = (ports::reserve(), ports::reserve());
    let local = |text: String| {
        text.replace("0.0.0.0:7400", &format!("127.0.0.1:{}", namenode_port.number))
            .replace("0.0.0.0:7401", &format!("127.0.0.1:{}", datanode_port.number))
            .replace("nn.example.org:7400", &format!("127.0.0.1:{}", namenode_port.number))
            .replace("dn1.example.org:7401", &format!("127.0.0.1:{}", datanode_port.number))
            .replace("\"/var/", &format!("\"{}/var/", root.display()))
            .replace("\"/etc/", &format!("\"{}/etc/", root.display()))
    };
    for (issued, role) in [("nn", "namenode"), ("dn1", "datanode"), ("web1", "client")] {
        shell(root, &format!("cp -r {issued} etc/quarry/{role}"));
        fs::write(root.join(format!("etc/quarry/{role}.toml")), local(block(&format!("{role}.toml"))))
            .unwrap();
    }
    let format = block("format").replace("quarry: ", &format!("{SERVICE}:{SERVICE} "));
    let format = format.replace(" /etc/", &format!(" {}/etc/", root.display()));
    shell(root, &with_quarry(&format.replace(" /var/", &format!(" {}/var/", root.display()))));
    let _namenode = Service::start(root, "namenode");
    let _datanode = Service::start(root, "datanode");
    let config = root.join("etc/quarry/client.toml").display().to_string();
    let status = || {
        let output = Command::new(bin.join("quarry")).args(["status", "--config", &config]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    eventually("the DataNode is healthy", Duration::from_secs(60), || status().contains("healthy "));
    let mountpoint = root.join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    shell(
        root,
        &with_quarry(&format!("quarry mount '{}' --config '{config}' --background", mountpoint.display())),
    );
    let used = std::panic::catch_unwind(|| shell(&mountpoint, "echo data > f; sync f; cat f"));
    let unmounted = unmount(&mountpoint, UnmountFlags::empty());
    assert_eq!(used.expect("the mount works"), "data\n");
    unmounted.expect("it is unmounted");
    // Data belongs to the service alone.
    shell(
        root,
        &format!(
            "test -z \"$(find var/lib/quarry/namenode var/lib/quarry/datanode ! -uid {SERVICE} -o -perm /077)\""
        ),
    );
    shell(root, &format!("'{}' --root '{}' --remove", install.display(), root.display()));
    assert!(!bin.join("quarry").exists() && root.join("var/lib/quarry/namenode/namenode.toml").exists());
}
