//! Numbers for open files, as the kernel keeps them.

use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Open things by their number. A number is never given twice.
pub(crate) struct Handles<T> {
    next: AtomicU64,
    open: RwLock<HashMap<u64, T>>,
}

impl<T: Clone> Handles<T> {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), open: RwLock::default() }
    }

    pub(crate) fn insert(&self, value: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().expect("no thread panics while it holds the lock").insert(number, value);
        number
    }

    pub(crate) fn find(&self, number: u64) -> Option<T> {
        self.open.read().expect("no thread panics while it holds the lock").get(&number).cloned()
    }

    pub(crate) fn remove(&self, number: u64) -> Option<T> {
        self.open.write().expect("no thread panics while it holds the lock").remove(&number)
    }
}
