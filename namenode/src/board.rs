//! What the workers say of themselves, for the status.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One line for each worker.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<&'static str, String>>);

impl Board {
    /// Says what a worker does now.
    pub(crate) fn set(&self, worker: &'static str, line: String) {
        self.lock().insert(worker, line);
    }

    /// All lines, by name of the worker.
    pub(crate) fn lines(&self) -> Vec<(String, String)> {
        self.lock().iter().map(|(name, line)| ((*name).to_owned(), line.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
