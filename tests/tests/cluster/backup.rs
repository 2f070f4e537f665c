//! The NameNode's folder: lost, old, backed up, restored.

use quarry_tests::process::{Process, run_quarry, shell};
use quarry_tests::{Cluster, eventually};
use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

/// Runs `quarry ARGS --config FILE`.
fn quarry(args: &[&str], config: &Path) -> Output {
    let config = config.display().to_string();
    run_quarry(&[args, &["--config", &config]].concat())
}

/// What a command that must succeed prints.
fn printed(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts the NameNode, which must refuse, and gives its last words.
fn refusal(cluster: &Cluster) -> String {
    let config = cluster.path("namenode.toml").display().to_string();
    let log = cluster.path("logs/refused.log");
    let mut process = match Process::try_start("namenode", &["namenode", "--config", &config], &log) {
        Err(why) => return why,
        Ok(process) => process,
    };
    // It listens before a DataNode tells it that it must not.
    eventually("the NameNode ends", Duration::from_secs(30), || process.exited().is_some());
    fs::read_to_string(&log).expect("read the log")
}

#[test]
fn an_empty_folder_of_the_namenode_destroys_nothing() {
    let mut cluster = Cluster::options().namenode_settings("orphan_age = 1").start();
    let mut mount = cluster.mount();
    shell(
        mount.root(),
        "for i in $(seq 20); do head -c 100000 /dev/urandom > f$i; sync f$i; done; cat f* | sha256sum > ../sum",
    );
    cluster.kill_namenode();
    let (dir, away) = (cluster.path("namenode"), cluster.path("namenode-away"));
    fs::rename(&dir, &away).expect("take the disk away");
    fs::create_dir(&dir).expect("leave the mount point");
    let why = refusal(&cluster);
    assert!(why.contains("holds no file system"), "{why}");
    // Whoever formats it all the same gets a file system that the DataNodes do not serve.
    printed(&quarry(&["namenode", "format"], &cluster.path("namenode.toml")));
    cluster.start_namenode();
    eventually("the DataNodes say why they stay away", Duration::from_secs(30), || {
        let log = fs::read_to_string(cluster.path("logs/datanode-1.log")).unwrap_or_default();
        log.contains("belongs to the file system") || log.contains("belong to the file system")
    });
    assert_eq!(cluster.status()["datanodes"].as_array().map(Vec::len), Some(0));
    // Longer than garbage is left alone.
    std::thread::sleep(Duration::from_secs(3));
    cluster.kill_namenode();
    fs::remove_dir_all(&dir).expect("remove the empty file system");
    fs::rename(&away, &dir).expect("bring the disk back");
    cluster.start_namenode();
    cluster.wait_healthy();
    mount.crash_and_remount();
    shell(mount.root(), "cat f* | sha256sum | cmp - ../sum");
    cluster.assert_sound(true);
}

#[test]
fn an_old_copy_of_the_namenodes_folder_is_not_served() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    shell(mount.root(), "head -c 100000 /dev/urandom > before; sync before");
    cluster.kill_namenode();
    shell(&cluster.path(""), "cp -a namenode copy");
    cluster.start_namenode();
    cluster.wait_healthy();
    let position = || {
        let text =
            fs::read_to_string(cluster.path("datanode-1/quarry-namespace.toml")).expect("the node keeps it");
        let value = text.lines().find_map(|line| line.strip_prefix("position = "));
        value.and_then(|value| value.parse::<u64>().ok()).expect("a position")
    };
    let before = position();
    shell(
        mount.root(),
        "for i in $(seq 50); do head -c 100000 /dev/urandom > after$i; sync after$i; done; cat after* | sha256sum > ../sum",
    );
    eventually("DataNodes know how far it is", Duration::from_secs(60), || position() > before);
    cluster.kill_namenode();
    shell(&cluster.path(""), "mv namenode newest; mv copy namenode");
    let why = refusal(&cluster);
    assert!(why.contains("old copy") && why.contains("newest folder"), "{why}");
    shell(&cluster.path(""), "rm -r namenode; mv newest namenode");
    cluster.start_namenode();
    cluster.wait_healthy();
    shell(mount.root(), "cat after* | sha256sum | cmp - ../sum");
}

#[test]
fn an_old_backup_is_restored_under_datanodes_that_have_gone_on() {
    let mut cluster = Cluster::start();
    let mut mount = cluster.mount();
    shell(
        mount.root(),
        "mkdir d; for i in $(seq 30); do head -c 300000 /dev/urandom > d/f$i; sync d/f$i; done; cat d/f* | sha256sum > ../sum
         ln -s f1 d/soft; setfattr -n user.a -v b d/f1",
    );
    let file = cluster.path("backup");
    let path = file.display().to_string();
    let before = printed(&quarry(&["meta", "backup", &path], &cluster.client_config()));
    assert!(before.contains("records of the file system"), "{before}");
    // The cluster goes on: new files, changed ones, removed ones, and a program that never stops.
    shell(
        mount.root(),
        "for i in $(seq 30); do head -c 300000 /dev/urandom > later$i; sync later$i; done; mv d/f1 d/moved",
    );
    mount.process().kill();
    cluster.kill_namenode();
    shell(&cluster.path(""), "mv namenode lost");
    let restored = printed(&quarry(&["meta", "restore", &path], &cluster.path("namenode.toml")));
    assert!(restored.contains("restored the file system"), "{restored}");
    cluster.start_namenode();
    cluster.wait_healthy();
    mount.crash_and_remount();
    shell(
        mount.root(),
        "cat d/f* | sha256sum | cmp - ../sum; test $(ls | wc -l) = 1; test $(readlink d/soft) = f1
         test $(getfattr --only-values -n user.a d/f1) = b",
    );
    // No number is given twice: new data neither hangs nor meets the chunks of files that are gone.
    shell(
        mount.root(),
        "for i in $(seq 60); do head -c 300000 /dev/urandom > new$i; sync new$i; done; cat new* | sha256sum > ../new",
    );
    mount.remount();
    shell(mount.root(), "cat new* | sha256sum | cmp - ../new; cat d/f* | sha256sum | cmp - ../sum");
    cluster.assert_sound(true);
    // The lost folder turns up again: it is not served any more.
    cluster.kill_namenode();
    shell(&cluster.path(""), "mv namenode restored; mv lost namenode");
    let why = refusal(&cluster);
    assert!(why.contains("old copy"), "{why}");
}

#[test]
fn a_damaged_backup_is_refused() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let file = cluster.path("backup");
    let path = file.display().to_string();
    printed(&quarry(&["meta", "backup", &path], &cluster.client_config()));
    cluster.kill_namenode();
    shell(&cluster.path(""), "mv namenode lost");
    let mut bytes = fs::read(&file).expect("read the backup");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).expect("damage the backup");
    let output = quarry(&["meta", "restore", &path], &cluster.path("namenode.toml"));
    assert!(!output.status.success());
    assert!(refusal(&cluster).contains("holds no file system"));
}

#[test]
fn the_namespace_is_exported_as_json_lines() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    shell(
        mount.root(),
        "mkdir -p a/b; printf hello > a/b/f; ln a/b/f hard; ln -s a/b/f soft; chmod 640 a/b/f
         setfattr -n user.x -v y a/b/f; touch \"$(printf 'odd\\377')\"; sync a/b/f",
    );
    let text = printed(&quarry(&["meta", "export"], &cluster.client_config()));
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let of = |path: &str| {
        lines.iter().find(|line| line["path"] == path).unwrap_or_else(|| panic!("{path}: {text}"))
    };
    assert_eq!(lines.len(), 7, "{text}");
    let file = of("/a/b/f");
    assert_eq!((&file["kind"], &file["size"], &file["mode"]), (&"file".into(), &5.into(), &"0640".into()));
    assert_eq!(file["xattrs"]["user.x"], "79");
    assert_eq!(of("/hard")["ino"], file["ino"]);
    assert_eq!(of("/soft")["target"], "a/b/f");
    assert_eq!(of("/")["kind"], "directory");
    assert!(lines.iter().any(|line| line["path_hex"] == "2f6f6464ff"), "{text}");
}
