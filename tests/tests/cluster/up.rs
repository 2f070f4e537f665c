//! `quarry up`: a cluster in a directory.

use quarry_tests::process::{Process, run_quarry, shell};
use quarry_tests::{eventually, eventually_some};
use rustix::mount::{UnmountFlags, unmount};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

struct Up {
    process: Process,
    dir: TempDir,
}

impl Up {
    fn start(dir: TempDir, more: &[&str]) -> Self {
        let mountpoint = dir.path().join("mnt");
        fs::create_dir_all(&mountpoint).unwrap();
        let (cluster, mountpoint) =
            (dir.path().join("c").display().to_string(), mountpoint.display().to_string());
        let mut args = vec!["up", &cluster, "--mount", &mountpoint];
        args.extend(more);
        let process = Process::start("up", &args, &dir.path().join("up.log"));
        Self { process, dir }
    }

    fn mountpoint(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn pid(&self, part: &str) -> String {
        fs::read_to_string(self.dir.path().join(format!("c/run/{part}.pid"))).unwrap().trim().to_owned()
    }

    /// Ends it and gives the directory back, with nothing mounted and nothing running.
    fn stop(mut self) -> TempDir {
        let pids: Vec<String> = ["namenode", "datanode-1", "mount"].iter().map(|p| self.pid(p)).collect();
        let status = self.process.stop(Duration::from_secs(60)).expect("it ends");
        assert!(status.success(), "{status}: {}", self.process.log_end(10));
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(&self.mountpoint().display().to_string()), "still mounted");
        assert!(pids.iter().all(|p| !Path::new(&format!("/proc/{p}")).exists()), "still running");
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if self.process.exited().is_none() {
            let _ = self.process.stop(Duration::from_secs(20));
        }
        let _ = unmount(self.mountpoint(), UnmountFlags::DETACH);
    }
}

#[test]
fn files_are_there_again_after_a_restart() {
    let up = Up::start(tempfile::tempdir().unwrap(), &["--datanodes", "2", "--replication", "all"]);
    shell(&up.mountpoint(), "mkdir d && head -c 5000000 /dev/urandom > d/f && sha256sum d/f > sum");
    let config = up.dir.path().join("c/client.toml").display().to_string();
    let output = run_quarry(&["status", "--config", &config]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let dir = up.stop();
    let up = Up::start(dir, &["--datanodes", "3"]);
    shell(&up.mountpoint(), "sha256sum -c --quiet sum && echo more > d/g");
    eventually("three nodes", Duration::from_secs(20), || {
        let output = run_quarry(&["status", "--json", "--config", &config]);
        String::from_utf8_lossy(&output.stdout).matches("heartbeat_age_ms").count() == 3
    });
    up.stop();
}

#[test]
fn a_part_that_dies_is_started_again() {
    let up = Up::start(tempfile::tempdir().unwrap(), &[]);
    fs::write(up.mountpoint().join("f"), "x").unwrap();
    let first = up.pid("datanode-2");
    shell(Path::new("/"), &format!("kill -9 {first}"));
    let pid_file = up.dir.path().join("c/run/datanode-2.pid");
    let again = || fs::read_to_string(&pid_file).ok().filter(|pid| pid.trim() != first);
    eventually_some("it runs again", Duration::from_secs(60), again);
    up.stop();
}

#[test]
fn a_part_that_was_stopped_is_started_again_on_request() {
    let up = Up::start(tempfile::tempdir().unwrap(), &[]);
    let first = up.pid("datanode-2");
    let pid_file = up.dir.path().join("c/run/datanode-2.pid");
    shell(Path::new("/"), &format!("kill -TERM {first}"));
    eventually("its end is noticed", Duration::from_secs(30), || !pid_file.exists());
    up.process.signal(rustix::process::Signal::HUP);
    let again = || fs::read_to_string(&pid_file).ok();
    assert_ne!(eventually_some("it runs again", Duration::from_secs(60), again).trim(), first);
    up.stop();
}

#[test]
fn nothing_is_left_when_it_is_killed() {
    let mut up = Up::start(tempfile::tempdir().unwrap(), &["--datanodes", "1", "--replication", "1"]);
    fs::write(up.mountpoint().join("f"), "kept").unwrap();
    fs::File::open(up.mountpoint().join("f")).unwrap().sync_all().unwrap();
    let pids: Vec<String> = ["namenode", "datanode-1", "mount"].iter().map(|p| up.pid(p)).collect();
    up.process.kill();
    eventually("all parts end", Duration::from_secs(90), || {
        pids.iter().all(|p| !Path::new(&format!("/proc/{p}")).exists())
    });
    let dir = std::mem::replace(&mut up.dir, tempfile::tempdir().unwrap());
    let up = Up::start(dir, &[]);
    assert_eq!(fs::read_to_string(up.mountpoint().join("f")).unwrap(), "kept");
    up.stop();
}

#[test]
fn a_bad_mountpoint_is_found_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = dir.path().join("c");
    fs::create_dir(dir.path().join("full")).unwrap();
    fs::write(dir.path().join("full/thesis.tex"), "x").unwrap();
    for (mountpoint, why) in
        [("none", "no such directory"), ("full", "--over"), ("full/thesis.tex", "not a directory")]
    {
        let mountpoint = dir.path().join(mountpoint).display().to_string();
        let output = run_quarry(&["up", &cluster.display().to_string(), "--mount", &mountpoint]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{mountpoint}: {text}");
        assert!(!cluster.exists());
    }
}

#[test]
fn a_mount_over_a_full_directory_hides_it_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mnt")).unwrap();
    fs::write(dir.path().join("mnt/thesis.tex"), "x").unwrap();
    let up = Up::start(dir, &["--datanodes", "1", "--replication", "1", "--over"]);
    assert_eq!(fs::read_dir(up.mountpoint()).unwrap().count(), 0);
    let dir = up.stop();
    assert_eq!(fs::read_to_string(dir.path().join("mnt/thesis.tex")).unwrap(), "x");
}

#[test]
fn a_folder_that_is_half_deleted_keeps_its_data_and_says_what_is_missing() {
    let up = Up::start(tempfile::tempdir().unwrap(), &["--datanodes", "1", "--replication", "1"]);
    shell(&up.mountpoint(), "echo kept > f; sync f");
    let dir = up.stop();
    let (settings, saved) = (dir.path().join("c/cluster.toml"), dir.path().join("saved"));
    fs::rename(&settings, &saved).unwrap();
    let output = run_quarry(&["up", &dir.path().join("c").display().to_string()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("cluster.toml is missing"), "{text}");
    fs::rename(&saved, &settings).unwrap();
    let up = Up::start(dir, &[]);
    assert_eq!(fs::read_to_string(up.mountpoint().join("f")).unwrap(), "kept\n");
    up.stop();
}
