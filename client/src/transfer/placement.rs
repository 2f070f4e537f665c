//! The client's copy of the table of nodes and placement groups.
//!
//! It may be old: then a write reaches a member that is gone, or misses one that is new, and the NameNode says so when
//! the chunk is to be committed. So it is asked for again when the NameNode pushes that it changed, and when a transfer
//! fails.

use crate::session::Session;
use quarry_common::ids::{NodeId, PgId};
use quarry_common::wire::cluster::{Group, Node, NodeState, Placement};
use quarry_common::wire::error::FsError;
use quarry_common::wire::session::{Reply, Request};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// One version of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// 0 when it must be asked for.
    version: u64,
    nodes: HashMap<NodeId, Node>,
    groups: HashMap<PgId, Group>,
}

impl Table {
    pub(crate) fn new(placement: Placement) -> Self {
        Self {
            version: placement.version,
            nodes: placement.nodes.into_iter().map(|n| (n.id, n)).collect(),
            groups: placement.groups.into_iter().map(|g| (g.id, g)).collect(),
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    pub(crate) fn group(&self, id: PgId) -> Option<&Group> {
        self.groups.get(&id)
    }

    /// The node answers, as far as the NameNode knows. A full one does: it only takes no new chunks.
    pub(crate) fn is_alive(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|n| matches!(n.state, NodeState::Healthy | NodeState::Full))
    }

    /// The node takes new chunks.
    pub(crate) fn is_writable(&self, id: NodeId) -> bool {
        self.node(id).is_some_and(|n| n.state == NodeState::Healthy)
    }
}

/// The newest table that is known, and the version that there is.
pub(crate) struct PlacementCache {
    table: watch::Sender<Arc<Table>>,
    announced: watch::Sender<u64>,
    asking: tokio::sync::Mutex<()>,
}

impl PlacementCache {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            table: watch::Sender::default(),
            announced: watch::Sender::new(0),
            asking: tokio::sync::Mutex::default(),
        })
    }

    /// The NameNode says that there is a newer table.
    pub(crate) fn announce(&self, version: u64) {
        self.announced.send_if_modified(|known| {
            let newer = version > *known;
            *known = version.max(*known);
            newer
        });
    }

    /// Announcements may have been missed: the table is asked for again before the next write.
    pub(crate) fn distrust(&self) {
        self.announced.send_replace(0);
        self.table.send_modify(|table| *table = Arc::new(Table { version: 0, ..Table::clone(table) }));
    }

    /// The table as it is known.
    pub(crate) fn known(&self) -> Arc<Table> {
        self.table.borrow().clone()
    }

    /// Sees new tables as they come.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Table>> {
        self.table.subscribe()
    }

    /// The table, asked for if it is known to be old.
    ///
    /// # Errors
    /// The NameNode's.
    pub(crate) async fn current(&self, session: &Session) -> Result<Arc<Table>, FsError> {
        let table = self.known();
        if table.version > 0 && table.version >= *self.announced.borrow() {
            return Ok(table);
        }
        self.another(session, &table).await
    }

    /// A table that was asked for after `old` had arrived. Who wants the same at the same time asks together.
    ///
    /// # Errors
    /// The NameNode's.
    pub(crate) async fn another(&self, session: &Session, old: &Arc<Table>) -> Result<Arc<Table>, FsError> {
        let _one = self.asking.lock().await;
        let known = self.known();
        if !Arc::ptr_eq(&known, old) {
            return Ok(known);
        }
        let table = Arc::new(Table::new(ask(session).await?));
        self.table.send_replace(table.clone());
        Ok(table)
    }
}

/// Asks the NameNode for its table.
///
/// # Errors
/// The NameNode's.
pub(crate) async fn ask(session: &Session) -> Result<Placement, FsError> {
    match session.ask(Request::Placement).await? {
        Reply::Placement(placement) => Ok(placement),
        other => {
            tracing::error!(
                ?other,
                "the NameNode answers the question for the placement with something else"
            );
            Err(FsError::Io)
        }
    }
}

/// Asks for each table that is announced, so that a transfer that hangs learns that its node is gone.
pub(crate) async fn follow(cache: Arc<PlacementCache>, session: Weak<Session>) {
    let mut announced = cache.announced.subscribe();
    while announced.changed().await.is_ok() {
        let Some(session) = session.upgrade() else { return };
        if let Err(error) = cache.current(&session).await {
            tracing::debug!(%error, "the new placement is not known yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_node_is_read_but_not_written() {
        let node = |id, state| Node { id: NodeId(id), address: String::new(), state };
        let nodes = vec![node(1, NodeState::Healthy), node(2, NodeState::Full), node(3, NodeState::Suspect)];
        let table = Table::new(Placement { version: 1, nodes, groups: Vec::new() });
        let verdict = |id| (table.is_alive(NodeId(id)), table.is_writable(NodeId(id)));
        assert_eq!([1, 2, 3, 4].map(verdict), [(true, true), (true, false), (false, false), (false, false)]);
    }
}
