//! Metrics as text: for Prometheus, and as the page for people.

use super::{BUCKETS, Kind, Metric, table};
use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// The present values in the text format of Prometheus.
pub fn render() -> String {
    let mut text = String::new();
    for metric in table::ALL {
        render_metric(metric, &mut text);
    }
    text
}

fn render_metric(metric: &Metric, text: &mut String) {
    let mut series: Vec<super::Series> = metric.series.read().unwrap_or_else(PoisonError::into_inner).clone();
    if series.is_empty() {
        return;
    }
    series.sort_by(|a, b| a.0.cmp(&b.0));
    let (name, kind) = (metric.name, kind(metric));
    let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n", metric.help);
    for (labels, value) in &series {
        let sum = value.sum.load(Ordering::Relaxed);
        match (metric.kind, &value.buckets) {
            (Kind::Histogram, Some(buckets)) => {
                let mut count = 0;
                for (n, bucket) in buckets.iter().enumerate() {
                    count += bucket.load(Ordering::Relaxed);
                    let bound =
                        BUCKETS.get(n).map_or_else(|| "+Inf".to_owned(), |b| b.as_secs_f64().to_string());
                    let set = label_set(metric.labels, labels, Some(&bound));
                    let _ = writeln!(text, "{name}_bucket{set} {count}");
                }
                let set = label_set(metric.labels, labels, None);
                let _ = write!(text, "{name}_sum{set} {}\n{name}_count{set} {count}\n", sum as f64 / 1e9);
            }
            (Kind::Gauge, _) => {
                let set = label_set(metric.labels, labels, None);
                let _ = writeln!(text, "{name}{set} {}", f64::from_bits(sum));
            }
            _ => {
                let set = label_set(metric.labels, labels, None);
                let _ = writeln!(text, "{name}{set} {sum}");
            }
        }
    }
}

/// `{name="value",...}`, or nothing.
fn label_set(names: &[&str], values: &[String], bound: Option<&str>) -> String {
    let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let given = names.iter().copied().zip(values.iter().map(String::as_str));
    let all: Vec<String> =
        given.chain(bound.map(|b| ("le", b))).map(|(n, v)| format!("{n}=\"{}\"", escaped(v))).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    for (title, metrics) in table::SECTIONS {
        let _ =
            write!(text, "\n## {title}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
            let labels = labels.join(", ");
            let _ = writeln!(text, "| `{}` | {} | {labels} | {} |", metric.name, kind(metric), metric.help);
        }
    }
    text
}

const HEAD: &str = "\
# Metrics

Every daemon serves these as Prometheus text under `/metrics`, with `/healthz`, `/readyz` and `/log` beside it, on an address of its own
(`--metrics ADDRESS:PORT`, `--metrics off`). Without that option it is a port of the loopback interface: NameNode and DataNodes
take the TCP port of the same number as their UDP port, a mount the first free one from 9640 on, a gateway from 9660 on; the log
says which (`metrics are served`).

A dashboard for Grafana is in [monitoring/grafana.json](monitoring/grafana.json), rules for alerts are in
[monitoring/alerts.yml](monitoring/alerts.yml), and [monitoring/prometheus.yml](monitoring/prometheus.yml) scrapes a cluster of `quarry up`.

This page is generated from `common/host/src/metrics/table.rs`: the tests of `quarry-host` say when it is out of date, and with
`UPDATE_DOCS=1` in the environment they write it anew.

Durations are in seconds, sizes in bytes. Histograms have the suffixes `_bucket`, `_sum` and `_count`.
";

#[cfg(test)]
mod tests {
    use super::super::record;
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;
    use std::time::Duration;

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let mut names = BTreeSet::new();
        for metric in table::ALL {
            let name = metric.name;
            assert!(names.insert(name), "{name} twice");
            assert!(name.starts_with("quarry_"), "{name}");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
            assert_eq!(metric.kind == Kind::Counter, name.ends_with("_total"), "{name}");
            assert_eq!(metric.kind == Kind::Histogram, name.ends_with("_duration_seconds"), "{name}");
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{name}");
        }
    }

    #[test]
    fn the_document_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, document()).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, document(), "run with UPDATE_DOCS=1");
    }

    #[test]
    fn what_is_recorded_is_rendered() {
        table::DATANODE_BYTES.add(&["read"], 1);
        assert!(!render().contains("quarry_datanode_bytes_total"), "nothing is recorded yet");
        record();
        table::DATANODE_OPERATION.observe(&["read", "ok"], Duration::from_millis(3));
        table::DATANODE_OPERATION.observe(&["read", "ok"], Duration::from_millis(5));
        table::DATANODE_OPERATION.observe(&["read", "ok"], Duration::from_secs(60));
        table::DATANODE_BYTES.add(&["read"], 7);
        table::NAMENODE_SESSIONS.set(&[], 2.0);
        let row = |node: &str, age| (vec![node.to_owned()], age);
        table::NAMENODE_HEARTBEAT_AGE.replace([row("1", 0.5), row("2", 1.0)]);
        table::NAMENODE_HEARTBEAT_AGE.replace([row("a\"b\\\n", 0.25)]);
        let text = render();
        for line in [
            "quarry_datanode_operation_duration_seconds_bucket{operation=\"read\",result=\"ok\",le=\"0.0025\"} 0",
            "quarry_datanode_operation_duration_seconds_bucket{operation=\"read\",result=\"ok\",le=\"0.005\"} 2",
            "quarry_datanode_operation_duration_seconds_bucket{operation=\"read\",result=\"ok\",le=\"30\"} 2",
            "quarry_datanode_operation_duration_seconds_bucket{operation=\"read\",result=\"ok\",le=\"+Inf\"} 3",
            "quarry_datanode_operation_duration_seconds_sum{operation=\"read\",result=\"ok\"} 60.008",
            "quarry_datanode_operation_duration_seconds_count{operation=\"read\",result=\"ok\"} 3",
            "quarry_datanode_bytes_total{direction=\"read\"} 7",
            "# TYPE quarry_namenode_sessions gauge",
            "quarry_namenode_sessions 2",
            "quarry_namenode_datanode_heartbeat_age_seconds{node=\"a\\\"b\\\\\\n\"} 0.25",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(!text.contains("node=\"2\""), "what was replaced is gone");
    }
}
