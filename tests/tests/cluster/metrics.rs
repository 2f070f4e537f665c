//! What daemons show of themselves: metrics, health, log levels, and slow operations that can be followed through all of them.

use quarry_tests::eventually;
use quarry_tests::process::shell;
use quarry_tests::{Cluster, ports};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring").join(name)
}

fn get(url: &str) -> String {
    shell(Path::new("/"), &format!("curl -sf --max-time 10 {url}"))
}

/// The address that a daemon logged.
fn metrics_address(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap();
    let line =
        text.lines().rev().find(|l| l.contains("metrics are served")).unwrap_or_else(|| panic!("{text}"));
    line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

/// The value of a series, which begins with this text.
fn value(text: &str, series: &str) -> f64 {
    let line =
        text.lines().find(|l| l.starts_with(series)).unwrap_or_else(|| panic!("no {series} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// What the Debian package `prometheus` says of the text.
fn check_with_promtool(text: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    shell(Path::new("/"), &format!("promtool check metrics < {}", file.path().display()));
}

#[test]
fn every_daemon_serves_metrics_that_prometheus_takes() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    fs::write(mount.path("file"), vec![7; 3 << 20]).unwrap();
    assert_eq!(fs::read(mount.path("file")).unwrap().len(), 3 << 20);
    fs::File::open(mount.path("file")).unwrap().sync_all().unwrap();
    fs::read(mount.path("missing")).unwrap_err();

    let namenode = metrics_address(&cluster.path("logs/namenode.log"));
    let datanode = metrics_address(&cluster.path("logs/datanode-1.log"));
    let mounted = metrics_address(mount.log());
    assert_eq!(namenode, cluster.namenode_address(), "the port of the same number");
    for address in [&namenode, &datanode, &mounted] {
        assert_eq!(get(&format!("{address}/healthz")).trim(), "ok");
        assert_eq!(get(&format!("{address}/readyz")).trim(), "ready");
        check_with_promtool(&get(&format!("{address}/metrics")));
    }
    eventually("three healthy DataNodes", Duration::from_secs(10), || {
        value(&get(&format!("{namenode}/metrics")), "quarry_namenode_datanodes{state=\"healthy\"}") == 3.0
    });
    let text = get(&format!("{namenode}/metrics"));
    for (series, least) in [
        ("quarry_namenode_request_duration_seconds_count{request=\"commit\",result=\"ok\"}", 1.0),
        ("quarry_namenode_log_sync_duration_seconds_count", 1.0),
        ("quarry_namenode_files", 1.0),
        ("quarry_namenode_sessions", 1.0),
        ("quarry_namenode_datanode_heartbeat_age_seconds{node=\"2\"}", 0.0),
        ("quarry_certificate_expiry_timestamp_seconds", 1.7e9),
        ("quarry_process_resident_memory_bytes", 1e6),
    ] {
        assert!(value(&text, series) >= least, "{series} in {text}");
    }
    let text = get(&format!("{datanode}/metrics"));
    for (series, least) in [
        ("quarry_datanode_operation_duration_seconds_count{operation=\"write\",result=\"ok\"}", 1.0),
        ("quarry_datanode_bytes_total{direction=\"write\"}", 3e6),
        ("quarry_datanode_writable", 1.0),
    ] {
        assert!(value(&text, series) >= least, "{series} in {text}");
    }
    assert!(text.contains("state=\"working\"} 1"), "{text}");
    let text = get(&format!("{mounted}/metrics"));
    for (series, least) in [
        ("quarry_mount_operation_duration_seconds_count{operation=\"write\",result=\"ok\"}", 1.0),
        ("quarry_mount_operation_duration_seconds_count{operation=\"fsync\",result=\"ok\"}", 1.0),
        ("quarry_mount_errors_total{error=\"not_found\"}", 1.0),
        ("quarry_mount_bytes_total{direction=\"write\"}", 3e6),
        ("quarry_client_request_duration_seconds_count{request=\"commit\",result=\"ok\"}", 1.0),
        ("quarry_client_connections_total", 1.0),
        ("quarry_client_unwritten_bytes", 0.0),
    ] {
        assert!(value(&text, series) >= least, "{series} in {text}");
    }
}

#[test]
fn a_given_address_is_used_or_refused_and_off_is_off() {
    let cluster = Cluster::start();
    let port = ports::reserve();
    let address = format!("127.0.0.1:{}", port.number);
    let mount = cluster.mount_with(&["--metrics", &address]);
    assert_eq!(metrics_address(mount.log()), address);
    let at = cluster.path("second");
    fs::create_dir(&at).unwrap();
    let (at, config) = (at.display().to_string(), cluster.client_config().display().to_string());
    let refused =
        quarry_tests::process::run_quarry(&["mount", &at, "--config", &config, "--metrics", &address]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("choose another --metrics"));
    drop(mount);
    let mount = cluster.mount_with(&["--metrics", "off"]);
    let text = fs::read_to_string(mount.log()).unwrap();
    let last = text.lines().rev().take_while(|l| !l.contains("unmounted")).collect::<Vec<_>>().join("\n");
    assert!(!last.contains("metrics are served"), "{last}");
}

#[test]
fn rules_and_dashboard_name_metrics_that_exist() {
    shell(Path::new("/"), &format!("promtool check rules {}", docs("alerts.yml").display()));
    shell(Path::new("/"), &format!("promtool check config {}", docs("prometheus.yml").display()));
    // A unit test of `quarry-host` holds this page and the code together.
    let page = fs::read_to_string(docs("../metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names: BTreeSet<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let dashboard = fs::read_to_string(docs("grafana.json")).unwrap();
    let panels: Value = serde_json::from_str(&dashboard).unwrap();
    assert!(panels["panels"].as_array().unwrap().len() > 20);
    let mut named = 0;
    for text in [dashboard, fs::read_to_string(docs("alerts.yml")).unwrap()] {
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|w| w.starts_with("quarry_")) {
            let metric =
                ["_bucket", "_count", "_sum"].iter().find_map(|s| word.strip_suffix(s)).unwrap_or(word);
            assert!(names.contains(metric), "{word} is no metric");
            named += 1;
        }
    }
    assert!(named > 40, "only {named} names were found");
}

#[test]
fn log_levels_change_at_run_time_and_one_operation_is_followed_through_all_logs() {
    let cluster = Cluster::start();
    let mount = cluster.mount();
    let logs =
        [mount.log().to_path_buf(), cluster.path("logs/namenode.log"), cluster.path("logs/datanode-1.log")];
    for log in &logs {
        let url = format!("{}/log", metrics_address(log));
        shell(
            Path::new("/"),
            &format!(
                "curl -sf --max-time 10 -X PUT --data 'info,quarry_mount=debug,quarry_namenode=debug,quarry_datanode=debug' {url}"
            ),
        );
        assert!(get(&url).contains("quarry_mount=debug"));
        let refused = shell(
            Path::new("/"),
            &format!("curl -s -o /dev/null -w '%{{http_code}}' -X PUT --data '=x=' {url}"),
        );
        assert_eq!(refused, "400");
    }
    // Another account may not.
    let url = format!("{}/log", metrics_address(&logs[0]));
    let stranger = format!(
        "setpriv --reuid 65534 --clear-groups curl -s -o /dev/null -w '%{{http_code}}' -X PUT --data trace {url}"
    );
    assert_eq!(shell(Path::new("/"), &stranger), "403");

    let file = fs::File::create(mount.path("followed")).unwrap();
    std::io::Write::write_all(&mut &file, &[1; 100_000]).unwrap();
    file.sync_all().unwrap();
    let read = |log: &Path| fs::read_to_string(log).unwrap();
    let of_mount = read(&logs[0]);
    let line = of_mount.lines().rev().find(|l| l.contains(" ms=") && l.contains("name=\"fsync\"")).unwrap();
    let operation = line.split("operation=").nth(1).unwrap().split_whitespace().next().unwrap();
    let (namenode, datanode) = (read(&logs[1]), read(&logs[2]));
    let answered = |log: &str, request: &str| {
        let (operation, request) = (format!("operation={operation}"), format!("request={request}"));
        log.lines().any(|l| l.contains(&operation) && l.contains(&request))
    };
    assert!(answered(&namenode, "commit"), "{operation}: {namenode}");
    assert!(answered(&datanode, "write"), "{operation}: {datanode}");
    let commit = namenode.lines().find(|l| l.contains(operation) && l.contains("request=commit")).unwrap();
    assert!(commit.contains("session=") && commit.contains("sequence="), "{commit}");
}

#[test]
fn what_takes_longer_than_the_threshold_is_logged_with_its_operation() {
    let mut cluster = Cluster::start();
    let mount = cluster.mount_with(&["--log-slow", "0.2"]);
    let file = fs::File::create(mount.path("slow")).unwrap();
    std::io::Write::write_all(&mut &file, b"data").unwrap();
    // A NameNode that stands still makes the fsync wait.
    cluster.namenode().signal(rustix::process::Signal::STOP);
    let syncing = std::thread::spawn(move || file.sync_all().unwrap());
    std::thread::sleep(Duration::from_secs(1));
    cluster.namenode().signal(rustix::process::Signal::CONT);
    syncing.join().unwrap();
    let log = fs::read_to_string(mount.log()).unwrap();
    let line = log.lines().find(|l| l.contains("slow operation") && l.contains("name=\"fsync\""));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    assert!(line.contains("WARN") && line.contains("operation=") && line.contains("ms="), "{line}");
    assert!(
        value(
            &get(&format!("{}/metrics", metrics_address(mount.log()))),
            "quarry_slow_operations_total{part=\"mount\"}"
        ) >= 1.0
    );
}
