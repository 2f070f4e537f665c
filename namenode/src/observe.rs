//! What is told of each client's request, and of the whole: metrics, and the log.

use crate::events::Handle;
use quarry_common::wire::cluster::{SLOWEST_MAX, SlowRequest};
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::{Reply, Request, Response};
use quarry_host::clock;
use quarry_host::metrics::{self, outcome, table};
use quarry_host::trace::{Operation, is_slow};
use quarry_host::variant::VariantName;
use quarry_net::identity::Identity;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the gauges are set.
const EVERY: Duration = Duration::from_secs(2);

/// A request, from its arrival to its answer.
pub(crate) struct Observed {
    operation: Operation,
    name: VariantName,
    client: String,
    session: Arc<AtomicU64>,
    /// Of a mutation.
    place: Option<(u16, u64)>,
    /// It waits as long as its client wants: slow by intention.
    waits: bool,
    begun: Instant,
}

impl Observed {
    pub(crate) fn new(
        client: &Identity,
        session: &Arc<AtomicU64>,
        request: &Request,
        operation: Operation,
    ) -> Self {
        let place = match request {
            Request::Mutate { slot, sequence, .. } => Some((*slot, *sequence)),
            _ => None,
        };
        Self {
            operation,
            name: request_name(request),
            client: client.id.clone(),
            session: session.clone(),
            place,
            waits: matches!(request, Request::Changes { .. } | Request::SetLock { wait: true, .. }),
            begun: clock::now(),
        }
    }

    pub(crate) fn answered(self, response: &Response) {
        let took = clock::since(self.begun);
        if let Ok(Reply::Session { session, .. }) = &response.result {
            self.session.store(session.0, Ordering::Relaxed);
        }
        let result = outcome(&response.result);
        table::NAMENODE_REQUEST.observe(&[self.name.as_str(), result], took);
        if let Err(error) = &response.result {
            table::NAMENODE_ERRORS.add(&[error_name(error).as_str()], 1);
        }
        if !self.waits {
            remember(&self, took);
        }
        let (operation, request, client) = (self.operation, self.name, &self.client);
        let (session, ms) = (self.session.load(Ordering::Relaxed), took.as_secs_f64() * 1e3);
        let (slot, sequence) = (self.place.map(|p| p.0), self.place.map(|p| p.1));
        if !self.waits && is_slow("namenode", took) {
            tracing::warn!(%operation, %request, client, session, slot, sequence, result, ms, "slow operation");
        } else {
            tracing::debug!(%operation, %request, client, session, slot, sequence, result, ms, "answered");
        }
    }
}

/// Requests are remembered for so long.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Faster ones are not worth remembering.
const FAST: Duration = Duration::from_millis(2);

/// The slowest requests, the slowest first.
static SLOWEST: Mutex<Vec<(Duration, Instant, SlowRequest)>> = Mutex::new(Vec::new());

fn remember(request: &Observed, took: Duration) {
    // A simulation has several NameNodes in one process.
    if took < FAST || !metrics::is_recording() {
        return;
    }
    let mut all = SLOWEST.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|(_, at, _)| clock::since(*at) < REMEMBERED);
    let at = all.partition_point(|(other, ..)| *other > took);
    if at < SLOWEST_MAX {
        let slow = SlowRequest {
            request: request.name.to_string(),
            client: request.client.clone(),
            operation: request.operation.number(),
            took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            age_ms: 0,
        };
        all.insert(at, (took, clock::now(), slow));
        all.truncate(SLOWEST_MAX);
    }
}

/// The requests of the last minute that took longest.
pub(crate) fn slowest() -> Vec<SlowRequest> {
    let all = SLOWEST.lock().unwrap_or_else(PoisonError::into_inner);
    let recent = all.iter().filter(|(_, at, _)| clock::since(*at) < REMEMBERED);
    recent
        .map(|(_, at, slow)| {
            let age_ms = u64::try_from(clock::since(*at).as_millis()).unwrap_or(u64::MAX);
            SlowRequest { age_ms, ..slow.clone() }
        })
        .collect()
}

/// The name of what is asked or changed.
fn request_name(request: &Request) -> VariantName {
    match request {
        Request::Query(query) => VariantName::of(query),
        Request::Mutate { mutation, .. } => VariantName::of(mutation),
        other => VariantName::of(other),
    }
}

fn error_name(error: &ServiceError) -> VariantName {
    match error {
        ServiceError::Fs(error) => VariantName::of(error),
        other => VariantName::of(other),
    }
}

/// Sets the gauges again and again, if anybody records them.
pub(crate) async fn keep_gauges(owner: Handle) {
    while metrics::is_recording() {
        table::NAMENODE_QUEUE.set(&[], owner.waiting() as f64);
        if owner.ask(|owner| owner.tell_metrics()).await.is_err() {
            return;
        }
        tokio::time::sleep(EVERY).await;
    }
}
