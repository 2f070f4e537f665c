//! A cluster that is away: programs wait, can be killed, and go on when it returns.

use quarry_tests::process::shell;
use quarry_tests::{Cluster, eventually, program};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn a_blocked_process_can_be_killed_and_the_mount_goes_on() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "hello").unwrap();
    cluster.kill_servers();
    for (signal, script) in
        [("INT", "exec cat f"), ("TERM", "exec ls -l"), ("KILL", "exec touch new"), ("INT", "exec mkdir d")]
    {
        // The shell goes there by itself: otherwise starting it would already wait.
        let mut child = Command::new("bash")
            .args(["-c", &format!("cd '{}' && {script}", mount.root().display())])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert!(child.try_wait().unwrap().is_none(), "`{script}` must wait for the cluster");
        shell(std::path::Path::new("/"), &format!("kill -{signal} {}", child.id()));
        eventually(&format!("`{script}` ends by SIG{signal}"), Duration::from_secs(10), || {
            child.try_wait().unwrap().is_some()
        });
    }
    cluster.start_servers();
    cluster.wait_healthy();
    assert_eq!(fs::read_to_string(mount.path("f")).unwrap(), "hello");
    fs::write(mount.path("g"), "again").unwrap();
}

#[test]
fn a_waiting_program_goes_on_by_itself() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    fs::write(mount.path("f"), "hello").unwrap();
    cluster.kill_servers();
    let waiting = {
        let root = mount.root().to_path_buf();
        std::thread::spawn(move || shell(&root, "cat f && echo more >> f && sync f && cat f"))
    };
    std::thread::sleep(Duration::from_millis(500));
    assert!(!waiting.is_finished());
    cluster.start_servers();
    assert_eq!(waiting.join().expect("no error"), "hellohellomore\n");
}

#[test]
fn df_tells_what_was_known() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount();
    let before = shell(mount.root(), "stat -f -c %b .");
    cluster.kill_servers();
    let root = mount.root().display();
    assert_eq!(shell(std::path::Path::new("/"), &format!("timeout 20 stat -f -c %b '{root}'")), before);
    shell(std::path::Path::new("/"), &format!("timeout 20 df '{root}'"));
    cluster.start_servers();
}

#[test]
fn a_soft_mount_gives_up_in_time() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount_with(&["-o", "soft,timeo=5"]);
    fs::write(mount.path("f"), "hello").unwrap();
    fs::File::open(mount.path("f")).unwrap().sync_all().unwrap();
    cluster.kill_servers();
    // A name that the mount does not know.
    let error = fs::metadata(mount.path("g")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT));
    cluster.start_servers();
    eventually("it works again", Duration::from_secs(30), || {
        fs::read(mount.path("f")).is_ok_and(|d| d == b"hello")
    });
}

#[test]
fn a_handled_signal_breaks_no_call() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let signals = program::compile("signals", &cluster.path("logs"));
    shell(mount.root(), &format!("{} . 15 1000", signals.display()));
}

#[test]
fn a_handled_signal_breaks_no_call_of_a_slow_cluster() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let signals = program::compile("signals", &cluster.path("logs"));
    let root = mount.root().to_path_buf();
    let running = std::thread::spawn(move || shell(&root, &format!("{} . 3 1000", signals.display())));
    // Calls take about half a second, many times what passes between two looks at the caller.
    while !running.is_finished() {
        cluster.namenode().signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(500));
        cluster.namenode().signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(30));
    }
    running.join().expect("no call fails");
}

#[test]
fn shells_and_git_go_on_when_their_children_end() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let root = mount.root().to_path_buf();
    let running = std::thread::spawn(move || {
        shell(
            &root,
            "for i in 1 2 3 4 5 6; do sleep 0.2 & echo $i >> log; mkdir d$i; done; wait; test $(wc -l < log) = 6
             git init -q a; cd a; git config user.name n; git config user.email e; cp ../log .
             git add log; git commit -qm m; cd ..; git clone -q --progress a b 2> /dev/null; test -f b/log",
        )
    });
    while !running.is_finished() {
        cluster.namenode().signal(Signal::STOP);
        std::thread::sleep(Duration::from_millis(300));
        cluster.namenode().signal(Signal::CONT);
        std::thread::sleep(Duration::from_millis(50));
    }
    running.join().expect("nothing fails");
}

#[test]
fn a_hangup_ends_no_part() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    mount.process().signal(Signal::HUP);
    cluster.namenode().signal(Signal::HUP);
    cluster.datanode(1).signal(Signal::HUP);
    for i in 0..20 {
        shell(mount.root(), &format!("echo {i} > f{i} && sync f{i}"));
    }
    assert!(mount.process().exited().is_none() && cluster.namenode().exited().is_none());
    assert!(cluster.datanode(1).exited().is_none());
}

#[test]
fn a_mount_without_servers_ends_in_time_and_says_what_is_lost() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mut mount = cluster.mount();
    let mut file = fs::File::create(mount.path("f")).unwrap();
    file.write_all(&[7; 100_000]).unwrap();
    cluster.kill_servers();
    // A program that waits for the cluster keeps the mount busy.
    let path = mount.path("g");
    let waiting = std::thread::spawn(move || fs::write(path, [8; 100_000]));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!waiting.is_finished());
    let ended = mount.process().stop(Duration::from_secs(60));
    assert!(ended.is_some(), "{}", mount.process().log_end(10));
    let log = mount.process().log_end(10);
    assert!(log.contains("the cluster does not take the last changes") && log.contains("files=1"), "{log}");
    waiting.join().unwrap().expect_err("what waits is told");
}
