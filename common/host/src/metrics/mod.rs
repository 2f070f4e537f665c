//! Metrics of the daemons, in the terms of Prometheus.
//!
//! Every metric is a static of [`table`]: its name carries the unit, and the table is the source of `docs/metrics.md`. Nothing is
//! recorded before [`record`]: tools and simulations pay one look at a flag. What is recorded takes a bounded amount of memory: a
//! metric has at most [`SERIES_MAX`] combinations of labels, and a histogram counts in buckets.

pub mod table;
mod text;

pub use text::{document, render};

use crate::clock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Upper bounds of the buckets of all histograms: from a hit in memory to a deadline.
const BUCKETS: [Duration; 14] = [
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];

/// Combinations of labels of one metric. Labels are kinds, states and nodes, never what users name, so that more are a mistake.
pub const SERIES_MAX: usize = 2048;

static RECORDING: AtomicBool = AtomicBool::new(false);

/// Records from now on, for the whole process.
pub fn record() {
    RECORDING.store(true, Ordering::Relaxed);
    table::BUILD_INFO.set(&[env!("CARGO_PKG_VERSION")], 1.0);
}

/// Whether anything is recorded: what is costly to find out is left otherwise.
pub fn is_recording() -> bool {
    RECORDING.load(Ordering::Relaxed)
}

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

/// A metric with its values.
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
    series: RwLock<Vec<Series>>,
}

/// The values of the labels, and the value that they name.
type Series = (Box<[String]>, Arc<Value>);

/// The value of one combination of labels.
#[derive(Debug, Default)]
struct Value {
    /// Of a counter the number, of a gauge the bits of its floating-point value, of a histogram the nanoseconds in all.
    sum: AtomicU64,
    /// Observations by bucket, of which the last has no bound. Only of histograms.
    buckets: Option<Box<[AtomicU64; BUCKETS.len() + 1]>>,
}

/// One row of a gauge that is set as a whole.
pub type Row = (Vec<String>, f64);

impl Metric {
    pub(crate) const fn new(
        name: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, kind, labels, help, series: RwLock::new(Vec::new()) }
    }

    /// Adds to a counter.
    pub fn add(&self, labels: &[&str], n: u64) {
        debug_assert_eq!(self.kind, Kind::Counter, "{} is no counter", self.name);
        self.with(labels, |value| {
            value.sum.fetch_add(n, Ordering::Relaxed);
        });
    }

    /// Sets a counter that is kept elsewhere to its present value.
    pub fn total(&self, labels: &[&str], n: u64) {
        debug_assert_eq!(self.kind, Kind::Counter, "{} is no counter", self.name);
        self.with(labels, |value| value.sum.store(n, Ordering::Relaxed));
    }

    /// Sets a gauge.
    pub fn set(&self, labels: &[&str], n: f64) {
        debug_assert_eq!(self.kind, Kind::Gauge, "{} is no gauge", self.name);
        self.with(labels, |value| value.sum.store(n.to_bits(), Ordering::Relaxed));
    }

    /// Sets all rows of a gauge: what is not among them is gone, as a node is that was removed.
    pub fn replace(&self, rows: impl IntoIterator<Item = Row>) {
        debug_assert_eq!(self.kind, Kind::Gauge, "{} is no gauge", self.name);
        if !is_recording() {
            return;
        }
        let row = |(labels, n): Row| {
            debug_assert_eq!(labels.len(), self.labels.len(), "labels of {}", self.name);
            (labels.into(), Arc::new(Value { sum: AtomicU64::new(n.to_bits()), buckets: None }))
        };
        let rows = rows.into_iter().take(SERIES_MAX).map(row).collect();
        *self.series.write().unwrap_or_else(PoisonError::into_inner) = rows;
    }

    /// Adds a duration to a histogram.
    pub fn observe(&self, labels: &[&str], duration: Duration) {
        debug_assert_eq!(self.kind, Kind::Histogram, "{} is no histogram", self.name);
        self.with(labels, |value| {
            let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
            value.sum.fetch_add(nanos, Ordering::Relaxed);
            let bucket = BUCKETS.partition_point(|bound| *bound < duration);
            if let Some(buckets) = &value.buckets {
                buckets[bucket].fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Adds the time since `start` to a histogram.
    pub fn observe_since(&self, labels: &[&str], start: Instant) {
        if is_recording() {
            self.observe(labels, clock::since(start));
        }
    }

    fn with(&self, labels: &[&str], change: impl FnOnce(&Value)) {
        debug_assert_eq!(labels.len(), self.labels.len(), "labels of {}", self.name);
        if !is_recording() {
            return;
        }
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = find(&known, labels) {
            return change(value);
        }
        drop(known);
        let mut all = self.series.write().unwrap_or_else(PoisonError::into_inner);
        // Another thread may have been faster.
        if let Some(value) = find(&all, labels) {
            return change(value);
        }
        if all.len() < SERIES_MAX {
            let buckets = (self.kind == Kind::Histogram).then(Box::default);
            let value = Arc::new(Value { sum: AtomicU64::new(0), buckets });
            change(&value);
            all.push((labels.iter().map(|label| (*label).to_owned()).collect(), value));
        }
    }
}

/// There are few combinations, and their order is that of their first use: the frequent ones come early.
fn find<'a>(series: &'a [Series], labels: &[&str]) -> Option<&'a Value> {
    series.iter().find(|(known, _)| known.iter().eq(labels)).map(|(_, value)| &**value)
}

/// The outcome of an operation as a label: `ok` or `error`.
pub fn outcome<T, E>(result: &Result<T, E>) -> &'static str {
    if result.is_ok() { "ok" } else { "error" }
}
