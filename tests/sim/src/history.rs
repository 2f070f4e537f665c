//! What clients did and were told, in simulated time.

use crate::register::Register;
use quarry_tests::linear::Done;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// A number for each operation that was begun.
pub(crate) type Ticket = usize;

struct Entry {
    object: usize,
    by: usize,
    called_ns: u64,
    /// `None` while it runs, or when its process was killed.
    returned_ns: Option<u64>,
    operation: Register,
}

#[derive(Default)]
struct State {
    entries: Vec<Entry>,
    lines: Vec<String>,
    violations: Vec<String>,
}

/// The record of one run; clones share it.
#[derive(Clone)]
pub(crate) struct History {
    began: Instant,
    state: Arc<Mutex<State>>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), state: Arc::default() }
    }
}

impl History {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Notes that something happened.
    pub(crate) fn note(&self, line: &str) {
        let line = format!("{:>10.3} s  {line}", self.began.elapsed().as_secs_f64());
        tracing::info!("{line}");
        self.state().lines.push(line);
    }

    /// Notes what must not be.
    pub(crate) fn violation(&self, what: String) {
        self.note(&what);
        self.state().violations.push(what);
    }

    /// An operation on an object begins. What is given is what is known of it if it never returns.
    pub(crate) fn call(&self, object: usize, by: usize, operation: Register) -> Ticket {
        self.note(&format!("client {by} calls {operation:?} on file {object}"));
        let called_ns = self.now_ns();
        let mut state = self.state();
        state.entries.push(Entry { object, by, called_ns, returned_ns: None, operation });
        state.entries.len() - 1
    }

    /// An operation returned, and turned out to be this.
    pub(crate) fn returned(&self, ticket: Ticket, operation: Register) {
        let returned_ns = self.now_ns();
        let mut state = self.state();
        let entry = &mut state.entries[ticket];
        (entry.returned_ns, entry.operation) = (Some(returned_ns), operation.clone());
        let (by, object) = (entry.by, entry.object);
        drop(state);
        self.note(&format!("client {by} returns from {operation:?} on file {object}"));
    }

    /// The operations of each object. Those that never returned end with the run.
    pub(crate) fn operations(&self) -> BTreeMap<usize, Vec<Done<Register>>> {
        let end = self.now_ns();
        let mut objects: BTreeMap<usize, Vec<Done<Register>>> = BTreeMap::new();
        for entry in &self.state().entries {
            objects.entry(entry.object).or_default().push(Done {
                called_ns: entry.called_ns,
                returned_ns: entry.returned_ns.unwrap_or(end),
                by: entry.by,
                operation: entry.operation.clone(),
            });
        }
        objects
    }

    /// Everything that was noted, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    /// What must not be, and was.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }
}
