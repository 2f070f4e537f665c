//! Raft's state machine: hands committed entries on, in order, and waits when nobody takes them.

use crate::log::Committed;
use crate::raft_types::{RaftLogId, RaftStoredMembership, TypeConfig};
use crate::shared::Shared;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot, SnapshotMeta};
use std::io;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// The adapter. The state itself is elsewhere and makes itself durable; raft learns from here what it has applied.
pub(crate) struct Machine {
    shared: Arc<Shared>,
    sink: mpsc::Sender<Committed>,
    /// Turns true when the log is shut down: whoever stopped taking entries must not hold that up.
    stopping: watch::Receiver<bool>,
    applied: Option<RaftLogId>,
}

impl Machine {
    pub(crate) fn new(
        shared: Arc<Shared>,
        sink: mpsc::Sender<Committed>,
        stopping: watch::Receiver<bool>,
        applied: Option<RaftLogId>,
    ) -> Self {
        Self { shared, sink, stopping, applied }
    }

    async fn deliver(&mut self, committed: Committed) -> io::Result<()> {
        // Most of the time there is room.
        let committed = match self.sink.try_send(committed) {
            Ok(()) => return Ok(()),
            Err(
                mpsc::error::TrySendError::Full(committed) | mpsc::error::TrySendError::Closed(committed),
            ) => committed,
        };
        tokio::select! {
            sent = self.sink.send(committed) => {
                sent.map_err(|_| io::Error::other("nobody takes committed entries any more"))
            }
            _ = self.stopping.wait_for(|stopping| *stopping) => {
                Err(io::Error::other("the log is being shut down"))
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Checkpointed;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, RaftStoredMembership)> {
        let membership = match self.applied {
            Some(applied) => self.shared.index().membership_at(applied.index),
            None => RaftStoredMembership::default(),
        };
        Ok((self.applied, membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let bytes = match entry.payload {
                EntryPayload::Normal(proposal) => proposal.0,
                EntryPayload::Blank | EntryPayload::Membership(_) => Bytes::new(),
            };
            let index = entry.log_id.index;
            // Entry 0 is raft's own, and 0 is also what a state says that has applied nothing.
            if index > 0 {
                // First: whoever takes the entry may ask for its purge at once.
                self.shared.set_delivered(index);
                self.deliver(Committed { index, entry: bytes }).await?;
            }
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Checkpointed {
        Checkpointed(self.shared.clone())
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TypeConfig>,
        _snapshot: (),
    ) -> io::Result<()> {
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the only voter of a group has nobody to take a snapshot from",
        ))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<TypeConfig, ()>>> {
        Ok(None)
    }
}

/// What raft calls a snapshot: here only the claim that the caller's checkpoint contains all entries up to some index.
/// It is what permits raft to purge them.
pub(crate) struct Checkpointed(Arc<Shared>);

impl RaftSnapshotBuilder<TypeConfig> for Checkpointed {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, ()>> {
        let meta = match self.0.checkpoint() {
            Some((id, membership)) => SnapshotMeta { last_log_id: Some(id), last_membership: membership },
            None => SnapshotMeta::default(),
        };
        Ok(Snapshot { meta, snapshot: () })
    }
}
