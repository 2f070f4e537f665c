//! The cluster as a whole, and where the data of a file is.

use super::FileSystem;
use crate::error::unexpected;
use crate::traits::Meta;
use crate::transfer::{ReplicaFault, ask_placement};
use quarry_common::ids::{ChunkId, Ino, NodeId, WindowIndex};
use quarry_common::wire::cluster::{Administer, ClusterStatus, FsckOptions, FsckProgress, Placement};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, ChunkInfo, Query, QueryReply, StatFs, Window};
use quarry_common::wire::session::{MetadataPage, Reply, Request};
use quarry_host::clock;
use std::sync::PoisonError;
use std::time::Duration;

/// A cluster that is away for longer than this is described as it was last known.
const STATFS_WAIT: Duration = Duration::from_secs(1);
/// Tools that walk a tree ask for the capacity again and again; heartbeats tell it to the NameNode once a second.
const STATFS_TIME: Duration = Duration::from_secs(2);

impl FileSystem {
    /// Capacity and usage, as they were at most two seconds ago, or before the cluster went away: programs that only look at what is
    /// mounted do not hang then.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn statfs(&self) -> Result<StatFs, FsError> {
        let known = || self.0.statfs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stat, since)) = &*known()
            && clock::since(*since) < STATFS_TIME
        {
            return Ok(*stat);
        }
        let answer = self.0.meta.query(Query::StatFs);
        let before = known().map(|(stat, _)| stat);
        let answer = match before {
            Some(before) => match tokio::time::timeout(STATFS_WAIT, answer).await {
                Ok(answer) => answer?,
                Err(_) => return Ok(before),
            },
            None => answer.await?,
        };
        match answer {
            QueryReply::StatFs(stat) => {
                *known() = Some((stat, clock::now()));
                Ok(stat)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// How the cluster is.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, FsError> {
        match self.0.session.ask(Request::ClusterStatus).await? {
            Reply::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Has something decided about how the cluster is run. The inner error is the NameNode's reason to refuse.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn administer(&self, wanted: Administer) -> Result<Result<(), String>, FsError> {
        match self.0.session.ask(Request::Administer(wanted)).await? {
            Reply::Done => Ok(Ok(())),
            Reply::Refused(why) => Ok(Err(why)),
            other => Err(unexpected(&other)),
        }
    }

    /// A page of all metadata as they were at one moment: the records after the key `after` of a snapshot. Snapshot 0 makes
    /// a new one; the page says its number, which is good until the last page, or a minute without a request.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn metadata_page(&self, snapshot: u64, after: Vec<u8>) -> Result<MetadataPage, FsError> {
        match self.0.session.ask(Request::Metadata { snapshot, after: after.into() }).await? {
            Reply::Metadata(page) => Ok(page),
            other => Err(unexpected(&other)),
        }
    }

    /// All nodes and placement groups.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn placement(&self) -> Result<Placement, FsError> {
        ask_placement(&self.0.session).await
    }

    /// The committed data of a file: attributes, and the windows from `first` on that have any, of `count`.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn layout(
        &self,
        ino: Ino,
        first: WindowIndex,
        count: u32,
    ) -> Result<(Attr, Vec<Window>), FsError> {
        match self.0.meta.query(Query::Layout { ino, first, count }).await? {
            QueryReply::Layout { attr, windows } => Ok((attr, windows)),
            other => Err(unexpected(&other)),
        }
    }

    /// What the NameNode knows of chunks; absent ones are left out.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn chunks(&self, ids: Vec<ChunkId>) -> Result<Vec<ChunkInfo>, FsError> {
        match self.0.meta.query(Query::Chunks { ids }).await? {
            QueryReply::Chunks(chunks) => Ok(chunks),
            other => Err(unexpected(&other)),
        }
    }

    /// Reads the replica of a chunk at one node and compares its SHA-256 with `chunk`.
    ///
    /// # Errors
    /// What is wrong with the replica, or why it could not be read.
    pub async fn verify_replica(&self, chunk: &ChunkInfo, node: NodeId) -> Result<(), ReplicaFault> {
        self.0.transfer.verify(chunk, node).await
    }

    /// Starts a check of the metadata against the data, or joins the one that runs.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn fsck_start(&self, options: FsckOptions) -> Result<FsckProgress, FsError> {
        self.fsck(Request::FsckStart(options)).await
    }

    /// How far a check is.
    ///
    /// # Errors
    /// Those of the NameNode.
    pub async fn fsck_poll(&self, run: u64) -> Result<FsckProgress, FsError> {
        self.fsck(Request::FsckPoll { run }).await
    }

    async fn fsck(&self, request: Request) -> Result<FsckProgress, FsError> {
        match self.0.session.ask(request).await? {
            Reply::Fsck(progress) => Ok(progress),
            other => Err(unexpected(&other)),
        }
    }
}
