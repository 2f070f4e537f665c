//! Other users of a host read no data and no key, and plant nothing.

use quarry_tests::process::{Process, run_quarry, shell};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

/// A user that owns nothing.
const STRANGER: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

#[test]
fn chunks_logs_databases_and_keys_are_closed_to_other_users() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(mount.root(), "umask 077; echo 'a secret of root' > f; sync f");
    // The way to the folders is open, as it is in /var/lib.
    fs::set_permissions(cluster.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let dirs = ["namenode", "datanode-1", "datanode-2", "datanode-3", "ca", "certs"];
    for dir in dirs {
        shell(
            &cluster.path(""),
            &format!(
                "test -z \"$(find {dir} -perm /077 ! -type l)\" || {{ find {dir} -perm /077 -ls; exit 1; }}"
            ),
        );
    }
    // The folder's own mode would be enough; each file is closed by itself as well.
    shell(
        &cluster.path(""),
        &format!("fails {STRANGER} ls datanode-1; fails {STRANGER} cat certs/client-test/key.pem"),
    );
    assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "a secret of root\n");
}

#[test]
fn a_key_that_others_may_read_is_refused_until_it_is_mended() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let key = cluster.path("certs/client-test/key.pem");
    let config = cluster.client_config().display().to_string();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = run_quarry(&["status", "--config", &config]);
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && why.contains(&format!("chmod 600 {}", key.display())), "{why}");
    shell(Path::new("/"), &format!("chmod 600 {}", key.display()));
    assert!(run_quarry(&["status", "--config", &config]).status.success());
}

#[test]
fn folders_of_others_and_links_in_folders_are_refused() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    cluster.kill_servers();
    let refused = |role: &str, config: &str| {
        let config = cluster.path(config).display().to_string();
        Process::try_start(role, &[role, "--config", &config], &cluster.path("logs/refused.log"))
            .err()
            .expect("must be refused")
    };
    let uid = fs::metadata(cluster.path("namenode")).unwrap().uid();
    for (role, dir) in [("namenode", "namenode"), ("datanode", "datanode-1")] {
        let config = if role == "namenode" { "namenode.toml" } else { "datanode-1.toml" };
        chown(cluster.path(dir), Some(12_345), None).unwrap();
        assert!(refused(role, config).contains("belongs to user 12345"));
        chown(cluster.path(dir), Some(uid), None).unwrap();
        let link = cluster.path(dir).join("planted");
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert!(refused(role, config).contains("symbolic link"));
        fs::remove_file(link).unwrap();
    }
    cluster.start_servers();
    cluster.wait_healthy();
}

#[test]
fn up_writes_nothing_through_a_planted_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (demo, elsewhere) = (dir.path().join("demo"), dir.path().join("elsewhere"));
    fs::create_dir(&demo).unwrap();
    fs::create_dir(&elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, demo.join("ca")).unwrap();
    let demo_arg = demo.display().to_string();
    let why = |what: &str| {
        let output = run_quarry(&["up", &demo_arg]);
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(what), "{text}");
    };
    why("symbolic link");
    fs::remove_file(demo.join("ca")).unwrap();
    chown(&demo, Some(12_345), None).unwrap();
    why("belongs to user 12345");
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
    eventually("nothing was begun", Duration::from_secs(1), || !demo.join("cluster.toml").exists());
}
