//! Metrics of the daemons, in the terms of Prometheus.
//!
//! Every metric is a constant of [`table`]: its name carries the unit, and the table is the source of `docs/metrics.md`. A
//! daemon that serves metrics installs a recorder ([`install`]) once; without one, recording costs a branch.

pub mod table;

use metrics::{Key, KeyName, Label, Level, Metadata, SharedString, Unit, with_recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Upper bounds of the buckets of all histograms, in seconds: from a hit in memory to a deadline.
const BUCKETS_S: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows while the process runs.
    Counter,
    /// A present value.
    Gauge,
    /// A distribution of durations.
    Histogram,
}

/// A metric: what is counted or measured, without its values.
#[derive(Debug)]
pub struct Metric {
    /// With the unit last: `_seconds`, `_bytes`, `_total`.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Names of the labels, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    /// Adds to a counter.
    pub fn add(&self, labels: &[&str], n: u64) {
        debug_assert_eq!(self.kind, Kind::Counter, "{} is no counter", self.name);
        with_recorder(|r| r.register_counter(&self.key(labels), &METADATA).increment(n));
    }

    /// Sets a counter that is kept elsewhere to its present value.
    pub fn total(&self, labels: &[&str], n: u64) {
        debug_assert_eq!(self.kind, Kind::Counter, "{} is no counter", self.name);
        with_recorder(|r| r.register_counter(&self.key(labels), &METADATA).absolute(n));
    }

    /// Sets a gauge.
    pub fn set(&self, labels: &[&str], value: f64) {
        debug_assert_eq!(self.kind, Kind::Gauge, "{} is no gauge", self.name);
        with_recorder(|r| r.register_gauge(&self.key(labels), &METADATA).set(value));
    }

    /// Adds a duration to a histogram.
    pub fn observe(&self, labels: &[&str], duration: Duration) {
        debug_assert_eq!(self.kind, Kind::Histogram, "{} is no histogram", self.name);
        with_recorder(|r| r.register_histogram(&self.key(labels), &METADATA).record(duration.as_secs_f64()));
    }

    /// Adds the time since `start` to a histogram.
    pub fn observe_since(&self, labels: &[&str], start: Instant) {
        self.observe(labels, start.elapsed());
    }

    fn key(&self, values: &[&str]) -> Key {
        debug_assert_eq!(values.len(), self.labels.len(), "labels of {}", self.name);
        let labels: Vec<Label> = self
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, SharedString::from((*value).to_owned())))
            .collect();
        Key::from_parts(KeyName::from_const_str(self.name), labels)
    }
}

static METADATA: Metadata<'static> = Metadata::new("quarry", Level::INFO, None);

/// The outcome of an operation as a label: `ok` or `error`.
pub fn outcome<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "error" }
}

/// Renders what was recorded.
#[derive(Clone)]
pub struct Recorded(PrometheusHandle);

impl Recorded {
    /// The present values as Prometheus text.
    pub fn text(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// A recorder cannot be installed.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be recorded: {0}")]
pub struct InstallError(String);

/// Records metrics from now on, for the whole process.
///
/// # Errors
/// When a recorder is installed already.
pub fn install() -> Result<Recorded, InstallError> {
    let bad = |e: &dyn std::fmt::Display| InstallError(e.to_string());
    let builder = PrometheusBuilder::new().set_buckets(&BUCKETS_S).map_err(|e| bad(&e))?;
    let handle = builder.install_recorder().map_err(|e| bad(&e))?;
    for metric in table::ALL {
        let help = SharedString::const_str(metric.help);
        let name = KeyName::from_const_str(metric.name);
        with_recorder(|r| match metric.kind {
            Kind::Counter => r.describe_counter(name, None::<Unit>, help),
            Kind::Gauge => r.describe_gauge(name, None, help),
            Kind::Histogram => r.describe_histogram(name, None, help),
        });
    }
    table::BUILD_INFO.set(&[env!("CARGO_PKG_VERSION")], 1.0);
    Ok(Recorded(handle))
}

/// `docs/metrics.md`.
pub fn document() -> String {
    let mut text = String::from(HEAD);
    for (title, metrics) in table::SECTIONS {
        let _ = write!(text, "\n## {title}\n\n| metric | kind | labels | meaning |\n| --- | --- | --- | --- |\n");
        for metric in *metrics {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
            let _ = writeln!(text, "| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
        }
    }
    text
}

const HEAD: &str = "\
# Metrics

Every daemon serves these as Prometheus text under `/metrics` of the address that `--metrics ADDRESS` gives. This page is generated from
`common/host/src/metrics/table.rs`: `cargo test -p quarry-host` says when it is out of date, and with `UPDATE_DOCS=1` in the environment
it writes the page anew.

Durations are in seconds, sizes in bytes. Histograms have the suffixes `_bucket`, `_sum` and `_count`.
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::Path;

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
            assert!(metric.help.ends_with('.'), "{name}");
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
        let recorded = install().unwrap();
        table::DATANODE_OPERATION.observe(&["read", "ok"], Duration::from_millis(3));
        table::DATANODE_BYTES.add(&["read"], 7);
        table::NAMENODE_SESSIONS.set(&[], 2.0);
        let text = recorded.text();
        for line in [
            "quarry_datanode_operation_duration_seconds_bucket{operation=\"read\",result=\"ok\",le=\"0.005\"} 1",
            "quarry_datanode_bytes_total{direction=\"read\"} 7",
            "quarry_namenode_sessions 2",
            "# TYPE quarry_namenode_sessions gauge",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(install().is_err());
    }
}
