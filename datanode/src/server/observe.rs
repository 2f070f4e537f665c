//! What is told of each request: metrics, and the log.

use quarry_common::wire::data::{DataRequest, DataResponse};
use quarry_common::wire::error::ServiceError;
use quarry_host::clock;
use quarry_host::metrics::{outcome, table};
use quarry_host::trace::{Operation, is_slow};
use quarry_host::variant::VariantName;
use quarry_net::identity::Identity;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

static IN_PROGRESS: AtomicI64 = AtomicI64::new(0);

/// Requests that are being carried out.
pub(crate) fn in_progress() -> i64 {
    IN_PROGRESS.load(Ordering::Relaxed)
}

/// A request, from its arrival to its answer.
pub(super) struct Observed {
    operation: Operation,
    name: VariantName,
    /// The chunk that it is about, or what else tells it from others.
    about: String,
    peer: String,
    begun: Instant,
}

impl Observed {
    pub(super) fn new(peer: &Identity, request: &DataRequest, operation: Operation) -> Self {
        IN_PROGRESS.fetch_add(1, Ordering::Relaxed);
        let about = match request {
            DataRequest::Write(header) => header.id.to_string(),
            DataRequest::Read { id, .. } => id.to_string(),
            _ => String::new(),
        };
        let (name, peer) = (VariantName::of(request), peer.to_string());
        Self { operation, name, about, peer, begun: clock::now() }
    }

    pub(super) fn answered(self, response: &DataResponse) {
        let took = clock::since(self.begun);
        let (request, chunk, peer) = (self.name, &self.about, &self.peer);
        let result = outcome(response);
        table::DATANODE_OPERATION.observe(&[request.as_str(), result], took);
        if let Err(error) = response {
            table::DATANODE_ERRORS.add(&[error_name(error).as_str()], 1);
        }
        let (operation, ms) = (self.operation, took.as_secs_f64() * 1e3);
        if is_slow("datanode", took) {
            tracing::warn!(%operation, %request, chunk, peer, result, ms, "slow operation");
        } else {
            tracing::debug!(%operation, %request, chunk, peer, result, ms, "answered");
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        IN_PROGRESS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn error_name(error: &ServiceError) -> VariantName {
    match error {
        ServiceError::Fs(error) => VariantName::of(error),
        other => VariantName::of(other),
    }
}
