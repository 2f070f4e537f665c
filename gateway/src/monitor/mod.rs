//! Looks at the cluster for everybody who watches: one request a second to the NameNode, however many pages are open.

mod changes;
mod check;
mod health;
mod history;
mod log;
mod snapshot;

pub(crate) use check::CheckState;
pub(crate) use log::Event;

use crate::error::Result;
use axum::body::Bytes;
use check::Checks;
use history::History;
use log::{EventLog, Severity};
use quarry_client::FileSystem;
use quarry_common::wire::cluster::{ClusterStatus, Placement};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// While a page is open.
const EVERY: Duration = Duration::from_secs(1);
/// While none is: often enough that a node which is suspect for some seconds gets into the log.
const EVERY_UNWATCHED: Duration = Duration::from_secs(3);
/// The table of groups changes rarely and grows with the cluster: it is asked for only this often unless the counts change.
const PLACEMENT_EVERY: Duration = Duration::from_secs(10);
/// A NameNode that has not answered after this long is shown as away.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Events in one message to a page.
pub(crate) const EVENTS_SHOWN: usize = 100;

/// The shared look at the cluster.
#[derive(Clone)]
pub(crate) struct Monitor(Arc<Inner>);

struct Inner {
    fs: FileSystem,
    /// The newest snapshot as JSON; a slow listener skips some.
    latest: watch::Sender<Bytes>,
    history: Mutex<History>,
    log: EventLog,
    checks: Checks,
}

/// What the monitor itself remembers from look to look.
#[derive(Default)]
struct Seen {
    status: Option<ClusterStatus>,
    placement: Placement,
    placement_at: Option<Instant>,
    answered: Option<Instant>,
    away: bool,
    /// Incomplete groups at their peak, and since when: the base of the estimate.
    healing: Option<(u64, Instant)>,
}

impl Monitor {
    /// Starts looking; ends with `stop`.
    pub(crate) fn start(
        fs: FileSystem,
        state_dir: Option<&Path>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let inner = Arc::new(Inner {
            fs,
            latest: watch::Sender::new(Bytes::from_static(b"{}")),
            history: Mutex::default(),
            log: EventLog::open(state_dir)?,
            checks: Checks::default(),
        });
        let (looking, stop) = (inner.clone(), stop.clone());
        tokio::spawn(Box::pin(
            async move { stop.run_until_cancelled_owned(Box::pin(looking.look_on())).await },
        ));
        Ok(Self(inner))
    }

    /// Snapshots as they are made.
    pub(crate) fn watch(&self) -> watch::Receiver<Bytes> {
        self.0.latest.subscribe()
    }

    /// The last minutes, for a page that was just opened.
    pub(crate) fn history(&self) -> serde_json::Value {
        self.0.history().to_json()
    }

    /// The newest events, the newest first.
    pub(crate) fn events(&self, max: usize) -> Vec<Event> {
        self.0.log.latest(max).0
    }

    /// Writes an event that a user caused.
    pub(crate) fn note(&self, text: String) {
        self.0.note(Severity::Info, text);
    }

    /// Starts a check of the whole cluster.
    ///
    /// # Errors
    /// `Conflict` while one runs.
    pub(crate) async fn start_check(&self, deep: bool, user: &str) -> Result<CheckState> {
        let inner = self.0.clone();
        self.0.checks.start(&self.0.fs, deep, move |severity, text| inner.note(severity, text)).await.inspect(
            |_| {
                let kind = if deep { "deep check" } else { "check" };
                self.note(format!("{user} began a {kind} of the cluster."));
            },
        )
    }

    /// The check that runs, or the last one.
    pub(crate) fn check(&self) -> Option<CheckState> {
        self.0.checks.state()
    }
}

impl Inner {
    async fn look_on(self: Arc<Self>) {
        let mut seen = Seen::default();
        loop {
            let begun = Instant::now();
            match tokio::time::timeout(ANSWER_WITHIN, self.fs.cluster_status()).await {
                Ok(Ok(status)) => self.answered(&mut seen, status).await,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the NameNode does not tell its status");
                    self.not_answered(&mut seen);
                }
                Err(_) => self.not_answered(&mut seen),
            }
            let every = if self.latest.receiver_count() > 0 { EVERY } else { EVERY_UNWATCHED };
            self.wait(every.saturating_sub(begun.elapsed())).await;
        }
    }

    /// Until it is time to look again, or the first page is opened.
    async fn wait(&self, pause: Duration) {
        let watched = self.latest.receiver_count() > 0;
        let deadline = Instant::now() + pause;
        while Instant::now() < deadline && (watched || self.latest.receiver_count() == 0) {
            tokio::time::sleep(pause.min(Duration::from_millis(200))).await;
        }
    }

    async fn answered(&self, seen: &mut Seen, status: ClusterStatus) {
        if std::mem::take(&mut seen.away) {
            self.note(Severity::Info, format!("The NameNode {} answers again.", status.namenode));
        }
        seen.answered = Some(Instant::now());
        let counts = |s: &ClusterStatus| {
            let states: Vec<_> = s.nodes.iter().map(|n| (n.node.id, n.node.state)).collect();
            (s.groups_healthy, s.groups_degraded, s.groups_healing, states)
        };
        let changed = seen.status.as_ref().is_none_or(|old| counts(old) != counts(&status));
        let due = changed || seen.placement_at.is_none_or(|at| at.elapsed() >= PLACEMENT_EVERY);
        if due && let Ok(Ok(placement)) = tokio::time::timeout(ANSWER_WITHIN, self.fs.placement()).await {
            seen.placement = placement;
            seen.placement_at = Some(Instant::now());
        }
        for (severity, text) in changes::between(seen.status.as_ref(), &status) {
            self.note(severity, text);
        }
        seen.follow_healing(&status);
        self.history().add(seen.status.as_ref(), &status);
        seen.status = Some(status);
        self.publish(seen);
    }

    fn not_answered(&self, seen: &mut Seen) {
        if !std::mem::replace(&mut seen.away, true) {
            self.note(Severity::Error, "The NameNode does not answer.".to_owned());
        }
        self.publish(seen);
    }

    fn publish(&self, seen: &Seen) {
        let away_s = seen.away.then(|| seen.answered.map_or(0, |at| at.elapsed().as_secs()));
        let (events, count) = self.log.latest(EVENTS_SHOWN);
        let history = self.history().newest();
        let view = snapshot::View {
            status: seen.status.as_ref(),
            placement: &seen.placement,
            away_s,
            healing: seen.progress(),
            history,
            check: self.checks.state(),
            events: &events,
            event_count: count,
        };
        self.latest.send_replace(view.to_json().to_string().into());
    }

    fn note(&self, severity: Severity, text: String) {
        tracing::info!(event = text, "the cluster changed");
        self.log.add(Event { at_ms: now_ms(), severity, text });
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn follow_healing(&mut self, status: &ClusterStatus) {
        let incomplete = status.groups_degraded + status.groups_healing;
        self.healing = match self.healing {
            _ if incomplete == 0 => None,
            Some((peak, since)) if incomplete <= peak => Some((peak, since)),
            _ => Some((incomplete, Instant::now())),
        };
    }

    /// Groups done and groups in all of the healing that goes on, and the seconds that it may still take.
    fn progress(&self) -> Option<(u64, u64, Option<u64>)> {
        let (peak, since) = self.healing?;
        let status = self.status.as_ref()?;
        let done = peak.saturating_sub(status.groups_degraded + status.groups_healing);
        let left = (done > 0).then(|| since.elapsed().as_secs() * (peak - done) / done);
        Some((done, peak, left))
    }
}

/// Milliseconds since 1970-01-01 UTC.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use quarry_common::wire::cluster::{Node, NodeMode, NodeStatus};

    /// A node without figures.
    pub(crate) fn node_status(node: Node) -> NodeStatus {
        NodeStatus {
            node,
            rack: String::new(),
            heartbeat_age_ms: Some(1),
            chunks: 0,
            bytes: 0,
            capacity: 0,
            free: 0,
            trouble: String::new(),
            disks: Vec::new(),
            scrubbed: (0, 0),
            mode: NodeMode::Active,
            groups: 1,
        }
    }
}
