//! Reads the whole metadata for backups and exports, as they were at one moment, while the cluster works on.
//!
//! A *snapshot* is the database as a forced checkpoint left it. It is read page by page by whoever asked for it, and let go
//! when nobody has read it for a while: it keeps pages of the database from being used again.

use super::checkpoint::CheckpointError;
use super::{Round, Tools, Worker};
use crate::events::{ClientReplier, Stopped};
use crate::owner::refusal;
use async_trait::async_trait;
use quarry_common::wire::error::ServiceError;
use quarry_common::wire::session::{METADATA_PAGE_MAX, MetadataPage, Reply, Response};
use quarry_host::task;
use quarry_namenode_core::{Base, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

/// Requests that wait: each reader has one at a time.
const WAITING_MAX: usize = 64;
/// Snapshots at once. Each may keep the database from reusing what changed since.
const SNAPSHOTS_MAX: usize = 4;
/// A snapshot that nobody has read for this long is let go.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Records that one look at the database brings.
const RECORDS: usize = 256;
/// No key is greater: tables have numbers below it.
const END: [u8; 1] = [0xff];

/// A client's request for a page.
pub(crate) struct PageRequest {
    /// Which snapshot; 0 makes a new one.
    pub(crate) snapshot: u64,
    /// The last key that the client has.
    pub(crate) after: Vec<u8>,
    /// How to answer.
    pub(crate) reply: ClientReplier,
}

/// Where pages are asked for.
pub(crate) struct SnapshotDesk {
    requests: mpsc::Sender<PageRequest>,
    incoming: Mutex<mpsc::Receiver<PageRequest>>,
}

impl Default for SnapshotDesk {
    fn default() -> Self {
        let (requests, incoming) = mpsc::channel(WAITING_MAX);
        Self { requests, incoming: Mutex::new(incoming) }
    }
}

impl SnapshotDesk {
    /// Hands a request over, or tells the client that there are too many.
    pub(crate) fn ask(&self, request: PageRequest) {
        if let Err(refused) = self.requests.try_send(request) {
            let why = "too many backups are under way".to_owned();
            refused.into_inner().reply.send(refusal(ServiceError::Unavailable(why)));
        }
    }
}

/// A snapshot that is being read.
struct Snapshot {
    base: Arc<dyn Base>,
    used: Instant,
}

pub(super) struct Snapshots {
    tools: Tools,
    desk: Arc<SnapshotDesk>,
    open: BTreeMap<u64, Snapshot>,
    last: u64,
    pages: u64,
}

impl Snapshots {
    pub(super) fn new(tools: Tools, desk: Arc<SnapshotDesk>) -> Self {
        Self { tools, desk, open: BTreeMap::new(), last: 0, pages: 0 }
    }

    async fn page(&mut self, snapshot: u64, after: Vec<u8>) -> Result<MetadataPage, CheckpointError> {
        let number = if snapshot == 0 { self.begin().await? } else { snapshot };
        let Some(found) = self.open.get_mut(&number) else {
            return Err(CheckpointError::Failed(format!("there is no snapshot {number} any more")));
        };
        found.used = Instant::now();
        let base = found.base.clone();
        let read = task::spawn_blocking(move || read_page(base, number, &after)).await;
        let page =
            read.map_err(|e| CheckpointError::Failed(e.to_string()))?.map_err(CheckpointError::Failed)?;
        self.pages += 1;
        if page.end {
            self.open.remove(&number);
        }
        Ok(page)
    }

    async fn begin(&mut self) -> Result<u64, CheckpointError> {
        if self.open.len() >= SNAPSHOTS_MAX {
            return Err(CheckpointError::Failed(format!("{SNAPSHOTS_MAX} backups are under way")));
        }
        self.tools.checkpointer.checkpoint().await?;
        let base = self.tools.checkpointer.snapshot()?;
        self.last += 1;
        self.open.insert(self.last, Snapshot { base, used: Instant::now() });
        tracing::info!(snapshot = self.last, "the metadata are being read");
        Ok(self.last)
    }
}

/// The records after a key, as many as one answer holds.
fn read_page(base: Arc<dyn Base>, snapshot: u64, after: &[u8]) -> Result<MetadataPage, String> {
    let stamp = State::open(base.clone()).map_err(|e| e.to_string())?.meta().stamp();
    let mut page = MetadataPage { snapshot, stamp, records: Vec::new(), end: false };
    let (mut from, mut bytes) = (after.to_vec(), 0);
    loop {
        // The smallest key after it.
        from.push(0);
        let rows = base.scan(&from, &END, RECORDS).map_err(|e| e.to_string())?;
        let last = rows.len() < RECORDS;
        for (key, value) in rows {
            bytes += key.len() + value.len();
            if bytes > METADATA_PAGE_MAX && !page.records.is_empty() {
                return Ok(page);
            }
            from.clone_from(&key);
            page.records.push((key.into(), value.into()));
        }
        if last {
            page.end = true;
            return Ok(page);
        }
    }
}

#[async_trait]
impl Worker for Snapshots {
    fn name(&self) -> &'static str {
        "snapshots"
    }

    async fn round(&mut self) -> Result<Round, Stopped> {
        let desk = self.desk.clone();
        let mut incoming = desk.incoming.lock().await;
        if let Ok(Some(PageRequest { snapshot, after, reply })) =
            tokio::time::timeout(IDLE_MAX, incoming.recv()).await
        {
            match self.page(snapshot, after).await {
                Ok(page) => reply.send(Response { result: Ok(Reply::Metadata(page)), leases: Vec::new() }),
                Err(CheckpointError::Stopped(stopped)) => return Err(stopped),
                Err(CheckpointError::Failed(why)) => reply.send(refusal(ServiceError::Unavailable(why))),
            }
        }
        self.open.retain(|_, snapshot| snapshot.used.elapsed() < IDLE_MAX);
        let line = format!("{} being read, {} pages given", self.open.len(), self.pages);
        Ok(Round { line, pause: Duration::ZERO })
    }
}
