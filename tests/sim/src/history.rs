//! What clients did and were told, in simulated time.

use crate::locks::Locking;
use crate::register::{Content, Register};
use crate::tree::{Names, Tree};
use quarry_tests::linear::{self, Done, Operation};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// A number for each operation that was begun.
pub(crate) type Ticket = usize;

/// What an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Object {
    /// The content of a file.
    File(usize),
    /// The lock on a file.
    Lock(usize),
    /// All names and attributes.
    Tree,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(number) => write!(f, "file {number}"),
            Self::Lock(number) => write!(f, "lock {number}"),
            Self::Tree => f.write_str("the tree"),
        }
    }
}

/// An operation on some object.
#[derive(Clone)]
pub(crate) enum Deed {
    Data(Register),
    Lock(Locking),
    Tree(Tree),
}

impl fmt::Debug for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Data(operation) => operation.fmt(f),
            Self::Lock(operation) => operation.fmt(f),
            Self::Tree(operation) => operation.fmt(f),
        }
    }
}

impl Deed {
    fn is_trouble(&self) -> bool {
        matches!(self, Self::Lock(Locking::Trouble(_)))
    }
}

impl From<Register> for Deed {
    fn from(operation: Register) -> Self {
        Self::Data(operation)
    }
}

impl From<Locking> for Deed {
    fn from(operation: Locking) -> Self {
        Self::Lock(operation)
    }
}

impl From<Tree> for Deed {
    fn from(operation: Tree) -> Self {
        Self::Tree(operation)
    }
}

#[derive(Clone)]
struct Entry {
    object: Object,
    by: usize,
    called_ns: u64,
    /// `None` while it runs, or when its process was killed.
    returned_ns: Option<u64>,
    /// It failed, and may take effect at any later time.
    is_open: bool,
    deed: Deed,
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

    /// The time since the run began.
    pub(crate) fn time(&self) -> Duration {
        self.began.elapsed()
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
    pub(crate) fn call(&self, object: Object, by: usize, deed: impl Into<Deed>) -> Ticket {
        let deed = deed.into();
        self.note(&format!("client {by} calls {deed:?} on {object}"));
        let called_ns = self.now_ns();
        let mut state = self.state();
        state.entries.push(Entry { object, by, called_ns, returned_ns: None, is_open: false, deed });
        state.entries.len() - 1
    }

    /// An operation returned, and turned out to be this.
    pub(crate) fn returned(&self, ticket: Ticket, deed: impl Into<Deed>) {
        let (returned_ns, deed) = (self.now_ns(), deed.into());
        let mut state = self.state();
        let entry = &mut state.entries[ticket];
        (entry.returned_ns, entry.deed) = (Some(returned_ns), deed.clone());
        let (by, object) = (entry.by, entry.object);
        drop(state);
        self.note(&format!("client {by} returns from {deed:?} on {object}"));
    }

    /// An operation failed in a way that does not tell what became of it; but it will not take effect later.
    pub(crate) fn failed(&self, ticket: Ticket, error: &dyn fmt::Display) {
        let now = self.now_ns();
        self.state().entries[ticket].returned_ns = Some(now);
        self.note_failure(ticket, error);
    }

    /// An operation failed, and may take effect at any later time.
    pub(crate) fn failed_openly(&self, ticket: Ticket, error: &dyn fmt::Display) {
        self.state().entries[ticket].is_open = true;
        self.note_failure(ticket, error);
    }

    fn note_failure(&self, ticket: Ticket, error: &dyn fmt::Display) {
        let Entry { by, object, deed, .. } = self.state().entries[ticket].clone();
        self.note(&format!("client {by} fails at {deed:?} on {object}: {error}"));
    }

    /// Operations of these clients that have not returned for some time.
    pub(crate) fn find_hanging(&self, clients: &[usize], time: Duration) {
        let before = self.now_ns().saturating_sub(time.as_nanos() as u64);
        let hangs = |entry: &&Entry| {
            let waits = entry.returned_ns.is_none() && !entry.is_open;
            waits && entry.called_ns < before && clients.contains(&entry.by) && !entry.deed.is_trouble()
        };
        let hanging: Vec<_> = self.state().entries.iter().filter(hangs).cloned().collect();
        for Entry { by, object, deed, called_ns, .. } in hanging {
            let since = called_ns as f64 / 1e9;
            self.violation(format!("client {by} waits since {since:.3} s for {deed:?} on {object}"));
        }
    }

    /// Judges what was done to each object.
    pub(crate) fn judge(&self) {
        let end = self.now_ns();
        let mut objects: BTreeMap<Object, Vec<Entry>> = BTreeMap::new();
        for entry in &self.state().entries {
            objects.entry(entry.object).or_default().push(entry.clone());
        }
        for (object, entries) in objects {
            let result = match object {
                Object::File(_) => judge(end, &entries, Content::new(0), |deed| match deed {
                    Deed::Data(operation) => Some(operation),
                    _ => None,
                }),
                Object::Lock(_) => judge(end, &entries, None, |deed| match deed {
                    Deed::Lock(operation) => Some(operation),
                    _ => None,
                }),
                Object::Tree => judge(end, &entries, Names::default(), |deed| match deed {
                    Deed::Tree(operation) => Some(operation),
                    _ => None,
                }),
            };
            if let Err(why) = result {
                self.violation(format!("{object}: {why}"));
            }
        }
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

/// Judges one object. Operations that never returned end with the run.
fn judge<O: Operation>(
    end: u64,
    entries: &[Entry],
    initial: O::State,
    of: impl Fn(Deed) -> Option<O>,
) -> Result<(), String> {
    let done = |entry: &Entry| {
        let Entry { by, called_ns, returned_ns, .. } = *entry;
        let returned_ns = returned_ns.unwrap_or(end);
        of(entry.deed.clone()).map(|operation| Done { called_ns, returned_ns, by, operation })
    };
    linear::check(initial, &entries.iter().filter_map(done).collect::<Vec<_>>())
}
