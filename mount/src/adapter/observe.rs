//! What is told of each operation: metrics, the log, and a number by which requests to other processes are told to belong to it.

use crate::task::Interruptible;
use fuser::Request;
use quarry_common::wire::error::FsError;
use quarry_host::clock;
use quarry_host::metrics::{outcome, table};
use quarry_host::trace::{self, Operation};
use quarry_host::variant::VariantName;
use std::time::Instant;
use tracing::Span;

/// An operation, from its arrival from the kernel to its reply.
pub(super) struct Observed {
    name: &'static str,
    operation: Operation,
    /// The kernel's number of the request, which tools that trace the kernel show.
    unique: u64,
    /// The thread that waits.
    task: u32,
    /// It waits for a lock as long as its caller wants.
    waits: bool,
    begun: Instant,
}

impl Observed {
    pub(super) fn new(name: &'static str, request: &Request, by: Interruptible) -> Self {
        Self {
            name,
            operation: trace::begin(),
            unique: request.unique().0,
            task: request.pid(),
            waits: by == Interruptible::BySignals,
            begun: clock::now(),
        }
    }

    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    /// In which everything happens that the operation does.
    pub(super) fn span(&self) -> Span {
        tracing::debug_span!("fuse", operation = %self.operation, name = self.name)
    }

    pub(super) fn answered<T>(self, result: &Result<T, FsError>) {
        let took = clock::since(self.begun);
        table::MOUNT_OPERATION.observe(&[self.name, outcome(result)], took);
        let error = result.as_ref().err().map(|error| VariantName::of(error));
        if let Some(error) = &error {
            table::MOUNT_ERRORS.add(&[error.as_str()], 1);
        }
        let (operation, name, unique, task) = (self.operation, self.name, self.unique, self.task);
        let ms = took.as_secs_f64() * 1e3;
        if !self.waits && trace::is_slow("mount", took) {
            tracing::warn!(%operation, name, unique, task, error = error.map(tracing::field::debug), ms, "slow operation");
        } else {
            tracing::debug!(%operation, name, unique, task, error = error.map(tracing::field::debug), ms, "answered");
        }
    }
}
