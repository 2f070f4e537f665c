//! The feed of changes: what any mount does, seen by whoever watches.

use quarry_tests::process::{quarry, run_quarry, shell};
use quarry_tests::{Cluster, eventually};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An event is seen within moments; a NameNode that starts again takes longer.
const SEEN_LIMIT: Duration = Duration::from_secs(30);

/// A `quarry watch --json` that runs.
struct Watch {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    position: u64,
}

impl Watch {
    fn start(cluster: &Cluster, path: &str, from: Option<u64>) -> Self {
        let config = cluster.client_config().display().to_string();
        let mut command = Command::new(quarry());
        command.args(["watch", path, "--json", "--config", &config]);
        if let Some(from) = from {
            command.args(["--from", &from.to_string()]);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let position = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the watch has ended");
            if line.starts_with("watching") {
                break line.trim().rsplit(' ').next().unwrap().parse().unwrap();
            }
        };
        std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let seen = lines.clone();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| seen.lock().unwrap().push(line));
        });
        Self { child, lines, position }
    }

    fn events(&self) -> Vec<Value> {
        self.lines.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for the event with this kind and path, and gives all up to now.
    fn until(&self, kind: &str, path: &str) -> Vec<Value> {
        let is_it = |e: &Value| e["kind"] == kind && e["path"] == path;
        eventually(&format!("{kind} {path}"), SEEN_LIMIT, || self.events().iter().any(is_it));
        self.events()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Events as `kind path` or `kind path to`, each once in a row: it is the client's choice how often it commits.
fn told(events: &[Value]) -> Vec<String> {
    let text = |v: &Value| v.as_str().map_or_else(String::new, |s| format!(" {s}"));
    let line = |e: &Value| format!("{}{}{}", e["kind"].as_str().unwrap(), text(&e["path"]), text(&e["to"]));
    let mut lines: Vec<String> = events.iter().map(line).collect();
    lines.dedup();
    lines
}

#[test]
fn what_one_mount_does_is_told_in_order() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let (a, b) = (cluster.mount(), cluster.mount());
    shell(a.root(), "mkdir -p in out in/deep");
    let watch = Watch::start(&cluster, "/", None);
    let below = Watch::start(&cluster, "/in", None);
    shell(a.root(), "touch in/deep/f; echo text > out/g; sync out/g");
    shell(b.root(), "mv in/deep/f out/f; chmod 600 out/f; mv out in/moved; mkdir in/moved/d");
    shell(a.root(), "rm in/moved/g; rmdir in/moved/d; touch last");
    let all = watch.until("create", "/last");
    let positions: Vec<u64> = all.iter().map(|e| e["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted_by(|a, b| a < b) && positions[0] > watch.position, "{positions:?}");
    let all = told(&all);
    // `touch` sets times as well; that is not the point here.
    let told_of =
        |kind: &str| all.iter().filter(|e| e.starts_with(kind)).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        told_of("create"),
        ["create /in/deep/f", "create /out/g", "create /in/moved/d", "create /last"]
    );
    assert_eq!(told_of("change"), ["change /out/g"]);
    assert!(all.contains(&"attributes /out/f".to_owned()), "{all:?}");
    assert_eq!(told_of("rename"), ["rename /in/deep/f /out/f", "rename /out /in/moved"]);
    assert_eq!(told_of("delete"), ["delete /in/moved/g", "delete /in/moved/d"]);
    let at = |event: &str| all.iter().position(|e| e == event).unwrap();
    let order = ["create /in/deep/f", "change /out/g", "rename /in/deep/f /out/f", "attributes /out/f"];
    assert!(order.map(at).is_sorted() && at("attributes /out/f") < at("rename /out /in/moved"), "{all:?}");

    let inside = told(&below.until("delete", "/in/moved/d"));
    assert!(inside.contains(&"rename /in/deep/f /out/f".to_owned()), "what leaves is told: {inside:?}");
    assert!(inside.contains(&"rename /out /in/moved".to_owned()), "what enters is told: {inside:?}");
    assert!(inside.iter().all(|e| e.contains(" /in/")), "nothing else is: {inside:?}");
}

#[test]
fn a_watch_goes_on_where_another_ended() {
    let cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    let first = Watch::start(&cluster, "/", None);
    shell(mount.root(), "mkdir d; mkdir d/1 d/2; echo x > d/file");
    let events = first.until("create", "/d/2");
    let at = events.iter().position(|e| e["path"] == "/d/1").unwrap();
    let position = events[at]["position"].as_u64().unwrap();
    drop(first);
    shell(mount.root(), "mkdir d/3");
    let second = Watch::start(&cluster, "/", Some(position));
    let after = told(&second.until("create", "/d/3"));
    assert_eq!(after[0], "create /d/2");
    // A file is watched alone.
    let file = Watch::start(&cluster, "/d/file", None);
    shell(mount.root(), "mkdir d/4; echo y >> d/file; sync d/file; mv d/file d/other");
    let events = told(&file.until("rename", "/d/file"));
    assert_eq!(events, ["change /d/file", "rename /d/file /d/other"]);
}

#[test]
fn a_watch_survives_a_restart_of_the_namenode() {
    let mut cluster = Cluster::options().datanodes(1).replication("1").start();
    let mount = cluster.mount();
    shell(mount.root(), "mkdir -p a/b");
    let watch = Watch::start(&cluster, "/a", None);
    for (round, clean) in [false, true].into_iter().enumerate() {
        shell(mount.root(), &format!("mkdir a/b/before{round}; mkdir elsewhere{round}"));
        watch.until("create", &format!("/a/b/before{round}"));
        if clean {
            assert!(cluster.namenode().stop(SEEN_LIMIT).is_some_and(|s| s.success()));
        } else {
            cluster.kill_namenode();
        }
        cluster.start_namenode();
        shell(mount.root(), &format!("mkdir a/b/after{round}"));
        watch.until("create", &format!("/a/b/after{round}"));
    }
    let names = ["before0", "after0", "before1", "after1"].map(|n| format!("create /a/b/{n}"));
    assert_eq!(told(&watch.events()), names, "each is told once");
    // What came before the last checkpoint is not in the feed of a NameNode that started anew.
    let config = cluster.client_config().display().to_string();
    let refused = |from: &str| {
        let output = run_quarry(&["watch", "/", "--from", from, "--config", &config]);
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let missed = refused("1");
    assert!(missed.contains("events after position 1 were missed"), "{missed}");
    let oldest: u64 =
        missed.split("back to position ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(oldest > watch.position, "{missed}");
    let resumed = Watch::start(&cluster, "/", Some(oldest));
    fs::create_dir(mount.path("a/last")).unwrap();
    resumed.until("create", "/a/last");
    assert!(refused("9000000000000000000").contains("there is no position"));
}
