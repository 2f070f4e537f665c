//! Congestion control: CUBIC, which lets a farewell pass.
//!
//! quinn counts the packet that closes a connection against the congestion window while other data waits, and
//! after closing it takes no more acknowledgements that would make room. A connection that is closed in the middle
//! of a transfer would then say nothing, and its peer would wait for the idle timeout. So a connection that is about
//! to be closed has no window: all that it may still send is the farewell.

use super::tls::UDP_PAYLOAD_MAX;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The first window. The Internet's 12 kB would hold a single large packet, and delay the first chunk of every
/// connection by several round trips; what networks of clusters buffer is in the order of megabytes.
const INITIAL_WINDOW: u64 = 32 * UDP_PAYLOAD_MAX as u64;

/// Makes the controllers of connections.
pub(super) struct Factory(Arc<CubicConfig>);

impl Factory {
    pub(super) fn new() -> Self {
        let mut config = CubicConfig::default();
        config.initial_window(INITIAL_WINDOW);
        Self(Arc::new(config))
    }
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = self.0.clone().build(now, current_mtu);
        Box::new(UntilFarewell { inner, closing: Arc::default() })
    }
}

/// Lifts the window of a connection, just before it is closed.
pub(super) fn let_farewell_pass(connection: &quinn::Connection) {
    if let Ok(controller) = connection.congestion_state().into_any().downcast::<UntilFarewell>() {
        controller.closing.store(true, Ordering::Relaxed);
    }
}

struct UntilFarewell {
    inner: Box<dyn Controller>,
    /// Shared by all clones, as quinn hands out clones only.
    closing: Arc<AtomicBool>,
}

impl Controller for UntilFarewell {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_acked: Option<u64>) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_acked);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, persistent: bool, lost_bytes: u64) {
        self.inner.on_congestion_event(now, sent, persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        if self.closing.load(Ordering::Relaxed) { u64::MAX } else { self.inner.window() }
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), closing: self.closing.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
