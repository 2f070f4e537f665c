//! The command line: clear errors, useful output.

use quarry_tests::Cluster;
use quarry_tests::process::{Process, run_quarry, shell};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command that must fail, and gives its message: one line, no panic.
fn error(args: &[&str]) -> String {
    let output = run_quarry(args);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{args:?} must fail");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    text
}

#[test]
fn wrong_use_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca").display().to_string();
    assert!(error(&["init", &ca, "--name", "Not Valid!"]).contains("name"));
    assert!(run_quarry(&["init", &ca, "--name", "c"]).status.success());
    assert!(error(&["init", &ca, "--name", "c"]).contains("exist"));
    let out = dir.path().join("x").display().to_string();
    assert!(
        error(&["cert", "issue", &ca, "--role", "king", "--id", "1", "--out", &out])
            .contains("namenode, datanode")
    );
    assert!(
        error(&["cert", "issue", &ca, "--role", "datanode", "--id", "one", "--out", &out]).contains("one")
    );
    assert!(error(&["namenode", "--dir", "/tmp/x"]).contains("--certs is missing"));
    assert!(error(&["mount", "/tmp"]).contains("--config is missing"));
    assert!(error(&["mount", "/tmp", "-o", "rwx"]).contains("unknown mount option `rwx`"));
    assert!(error(&["status", "--config", "/no/such/file"]).contains("/no/such/file"));
    fs::write(dir.path().join("bad.toml"), "namenode = 7\n").unwrap();
    assert!(
        error(&["status", "--config", &dir.path().join("bad.toml").display().to_string()])
            .contains("bad.toml")
    );
    fs::write(dir.path().join("odd.toml"), "lisen = \"127.0.0.1:1\"\n").unwrap();
    assert!(
        error(&["namenode", "--config", &dir.path().join("odd.toml").display().to_string()])
            .contains("lisen")
    );
    for command in
        [vec!["--help"], vec!["up", "--help"], vec!["mount", "--help"], vec!["cert", "issue", "--help"]]
    {
        assert!(run_quarry(&command).status.success());
    }
}

#[test]
fn a_server_that_is_away_and_a_port_in_use() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let config = cluster.path("namenode.toml").display().to_string();
    let log = cluster.path("logs/second.log");
    let why =
        Process::try_start("second", &["namenode", "--config", &config], &log).err().expect("must fail");
    assert!(why.contains("in use") || why.contains("another process"), "{why}");
    cluster.kill_namenode();
    let client = cluster.client_config().display().to_string();
    assert!(error(&["status", "--timeout", "2", "--config", &client]).contains("NameNode"));
}

#[test]
fn directories_are_not_mixed_up() {
    let mut cluster = Cluster::options().datanodes(2).replication("2").start();
    cluster.kill_datanode(1);
    let text = fs::read_to_string(cluster.path("datanode-1.toml")).unwrap();
    fs::write(cluster.path("mixed.toml"), text.replace("\"datanode-1\"", "\"datanode-2\"")).unwrap();
    cluster.kill_datanode(2);
    let config = cluster.path("mixed.toml").display().to_string();
    let why =
        Process::try_start("mixed", &["datanode", "--config", &config], &cluster.path("logs/mixed.log"));
    let why = why.err().expect("node 1 must not take the data of node 2");
    assert!(why.contains("node 2") || why.contains("DataNode 2"), "{why}");
}

#[test]
fn status_locate_and_fsck_speak_to_people_and_programs() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    shell(mount.root(), "mkdir d; head -c 3000000 /dev/urandom > d/f; sync d/f");
    let config = cluster.client_config().display().to_string();
    let text = |args: &[&str]| {
        let output = run_quarry(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let status = text(&["status", "--config", &config]);
    assert!(status.contains("healthy") && status.contains("Placement groups"), "{status}");
    assert_eq!(cluster.status()["datanodes"].as_array().unwrap().len(), 3);
    assert_eq!(cluster.status()["files"], 1);
    assert_eq!(cluster.status()["bytes"], 3_000_000);
    assert_eq!(text(&["locate", "/d/f", "--config", &config]).lines().count(), 3);
    assert!(error(&["locate", "/d", "--config", &config]).contains("not a regular file"));
    assert!(error(&["locate", "/none", "--config", &config]).contains("no such file"));
    assert!(text(&["fsck", "--config", &config]).contains("0 problems"));
}

#[test]
fn fsck_finds_what_is_missing() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    shell(mount.root(), "head -c 100000 /dev/urandom > f; sync f");
    cluster.kill_datanode(1);
    shell(&cluster.path("datanode-1/data_blocks"), "find . -type f | head -1 | xargs rm");
    cluster.start_datanode(1);
    cluster.wait_healthy();
    let output = run_quarry(&["fsck", "--config", &cluster.client_config().display().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    // An honest error, and no garbage.
    mount.remount();
    assert_eq!(fs::read(mount.path("f")).map_err(|e| e.raw_os_error()), Err(Some(libc::EIO)));
}

#[test]
fn a_dead_mount_is_replaced_and_a_living_one_is_not() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    let config = cluster.client_config().display().to_string();
    let path = mount.root().display().to_string();
    assert!(error(&["mount", &path, "--config", &config]).contains("mounted there already"));
    mount.crash_and_remount();
    fs::write(mount.path("f"), "x").unwrap();
    assert!(error(&["mount", "/no/such/dir", "--config", &config]).contains("no such directory"));
}

#[test]
fn a_mount_that_cannot_come_up_says_why_and_leaves_nothing() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let nobody = quarry_tests::ports::reserve();
    let address = format!("127.0.0.1:{}", nobody.number);
    let config = cluster.path("away.toml");
    fs::write(&config, format!("namenode = \"{address}\"\ncerts = \"certs/client-test\"\n")).unwrap();
    let (path, config) = (cluster.path("away"), config.display().to_string());
    fs::create_dir(&path).unwrap();
    let path = path.display().to_string();
    for background in [false, true] {
        let mut args = vec!["mount", &path, "--config", &config, "-o", "soft,timeo=2"];
        args.extend(background.then_some("--background"));
        let said = error(&args);
        assert!(said.contains(&address), "{said}");
        let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("cmdline"));
        let left = processes.filter(|file| fs::read_to_string(file).is_ok_and(|line| line.contains(&path)));
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn mount_8_and_read_only() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "x").unwrap();
    let other = cluster.path("other");
    fs::create_dir(&other).unwrap();
    let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/mount.fuse.quarry");
    let bin = quarry_tests::process::quarry();
    shell(
        &cluster.path(""),
        &format!(
            "export PATH={}:$PATH; '{}' '{}' other -o ro,noexec,_netdev; trap 'umount other' EXIT
             test $(cat other/f) = x; fails touch other/g; grep \" $PWD/other fuse.quarry ro,nosuid,nodev\" /proc/mounts
             helper='{}'; config='{}'
             $helper $config other -f -v -o bad-option; $helper $config other -n -o remount,rw; touch other/g
             $helper $config other -o remount,ro; fails touch other/h
             fails $helper $config other -o bad-option",
            bin.parent().unwrap().display(),
            helper.display(),
            cluster.client_config().display(),
            helper.display(),
            cluster.client_config().display()
        ),
    );
}

/// Runs a tool on a cluster and gives its exit code and what it said on standard error.
fn tool(args: &[&str], config: &str) -> (Option<i32>, String) {
    let mut command = Command::new(quarry_tests::process::quarry());
    command.args(args).args(["--config", config]).env_remove("QUARRY_LOG").stdin(Stdio::null());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn exit_codes_tell_unreachable_degraded_refused_and_wrong_use_apart() {
    let mut cluster = Cluster::options().datanodes(2).replication("2").start();
    let config = cluster.client_config().display().to_string();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "x").unwrap();
    for args in [&["status"][..], &["locate", "/f"], &["fsck"], &["status", "--json"]] {
        assert_eq!(tool(args, &config), (Some(0), String::new()), "{args:?}: nothing is logged on success");
    }
    assert_eq!(tool(&["status", "--no-such-flag"], &config).0, Some(2));
    assert_eq!(tool(&["status"], "/no/such/file").0, Some(2));
    cluster.kill_datanode(2);
    quarry_tests::eventually("its loss shows", Duration::from_secs(30), || {
        tool(&["status"], &config).0 == Some(4)
    });
    let node = cluster.path("node.toml");
    fs::write(
        &node,
        format!("namenode = \"{}\"\ncerts = \"certs/datanode-1\"\n", cluster.namenode_address()),
    )
    .unwrap();
    let (code, why) = tool(&["status"], &node.display().to_string());
    assert_eq!(code, Some(5), "{why}");
    drop(mount);
    cluster.kill_namenode();
    for args in [&["status"][..], &["locate", "/f"], &["fsck"], &["watch", "/"]] {
        let begun = Instant::now();
        let (code, why) = tool(args, &config);
        assert_eq!(code, Some(3), "{args:?}: {why}");
        assert_eq!(why.matches("connection refused").count(), 1, "told once: {why}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{args:?} took {:?}", begun.elapsed());
    }
}

#[test]
fn a_closed_pipe_is_survived() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "x").unwrap();
    let config = cluster.client_config().display().to_string();
    let quarry = quarry_tests::process::quarry();
    for tool in ["status", "status --json", "locate /f", "fsck", "fsck --json"] {
        let script = format!(
            "exec 3>&1; set +e; {{ '{}' {tool} --config '{config}' 2>&3; echo \"code $?\" >&3; }} | true",
            quarry.display()
        );
        let said = shell(Path::new("/"), &script);
        assert_eq!(said.trim(), "code 0", "{tool}: {said}");
    }
}

#[test]
fn locate_and_watch_take_paths_on_a_mount() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    shell(mount.root(), "mkdir -p a/b; echo x > 'a/b/f g'; sync 'a/b/f g'");
    let config = cluster.client_config().display().to_string();
    let quarry = quarry_tests::process::quarry();
    let within =
        shell(Path::new("/"), &format!("'{}' locate '/a/b/f g' --config '{config}'", quarry.display()));
    let on_mount = shell(
        &mount.path("a"),
        &format!(
            "'{0}' locate 'b/f g' --config '{config}'; '{0}' locate \"$PWD/b/f g\" --config '{config}'",
            quarry.display()
        ),
    );
    assert_eq!(on_mount, format!("{within}{within}"));
    let (code, why) = tool(&["locate", "b/f g"], &config);
    assert!(code == Some(2) && why.contains("neither on a mount"), "{why}");
}

#[test]
fn names_of_clients_cannot_steer_the_terminal() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let path = cluster.path("mnt-\u{1b}]0;owned\u{7}\u{202e}");
    fs::create_dir(&path).unwrap();
    let config = cluster.client_config().display().to_string();
    let path = path.display().to_string();
    let _mount =
        Process::start("mount", &["mount", &path, "--config", &config], &cluster.path("logs/odd.log"));
    let output = run_quarry(&["status", "--all", "--config", &config]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("owned"), "the session is shown: {text}");
    assert!(!text.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{text:?}");
}
