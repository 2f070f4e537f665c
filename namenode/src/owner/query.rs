//! A query: answered from the state, after what others buffer of it has been brought in.

use super::recalls::Parked;
use super::{Fatal, Owner, refusal};
use crate::events::ClientReplier;
use quarry_common::ids::{Ino, SessionId};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{FileKind, Query, QueryReply};
use quarry_common::wire::session::{LeaseGrant, LeaseMode, Reply, Response};
use quarry_namenode_core::placement;

/// Of a directory's page, entries whose leases go with it.
const PAGE_GRANTS_MAX: usize = 1024;

impl Owner {
    /// Answers a query, after everybody who keeps changes of what it shows has brought them in.
    pub(super) fn answer_query(
        &mut self,
        session: SessionId,
        query: Query,
        reply: ClientReplier,
    ) -> Result<(), Fatal> {
        let mut result = self.state.query(&query)?;
        self.feed.passed(&query, &result);
        if let Some(ino) = shown(&query, &result) {
            match self.wait_to_read(session, ino)? {
                Ok(None) => {}
                Ok(Some(ticket)) => return self.park(ticket, Parked::Query { session, query, reply }),
                Err(overloaded) => {
                    reply.send(refusal(ServiceError::Unavailable(overloaded.to_string())));
                    return Ok(());
                }
            }
        }
        match &mut result {
            Ok(QueryReply::StatFs(statfs)) => {
                let policy = self.state.meta().default_replication;
                (statfs.capacity, statfs.free) = placement::capacity(
                    &self.topology.nodes.views(self.now),
                    self.topology.nodes.timing(self.now),
                    policy,
                );
            }
            // Of files whose changes others keep, only the names: who wants to know more asks for each.
            Ok(QueryReply::Entries { entries, .. }) => {
                for entry in entries.iter_mut().filter(|e| e.kind == FileKind::File) {
                    if self.clients.leasing.table.must_acquire_to_read(session, entry.ino) {
                        entry.attr = None;
                    }
                }
            }
            _ => {}
        }
        let leases = self.leases_for(session, &query, &result)?;
        let result = result.map(Reply::Query).map_err(ServiceError::from);
        reply.send(Response { result, leases });
        Ok(())
    }

    /// Leases for what the answer to a query says.
    fn leases_for(
        &mut self,
        session: SessionId,
        query: &Query,
        result: &Result<QueryReply, FsError>,
    ) -> Result<Vec<LeaseGrant>, Fatal> {
        let asked = match query {
            Query::Lookup { parent, .. } => *parent,
            Query::Attr { ino }
            | Query::Parent { ino }
            | Query::ReadDir { ino, .. }
            | Query::ReadLink { ino }
            | Query::GetXattr { ino, .. }
            | Query::ListXattr { ino }
            | Query::Layout { ino, .. }
            | Query::NextWindow { ino, .. } => *ino,
            Query::Chunks { .. } | Query::StatFs => return Ok(Vec::new()),
        };
        // Without a name it is about to be reaped, which leases would hold up for ever.
        let is_orphan = match result {
            Ok(QueryReply::Attr(attr) | QueryReply::Layout { attr, .. }) if attr.ino == asked => {
                attr.nlink == 0
            }
            _ => self.state.inode(asked)?.is_none_or(|inode| inode.nlink == 0),
        };
        if is_orphan && !self.clients.opens.is_open_by(session, asked) {
            return Ok(Vec::new());
        }
        let mut inos = vec![asked];
        match result {
            Ok(QueryReply::Attr(attr)) if attr.ino != asked => inos.push(attr.ino),
            Ok(QueryReply::Entries { entries, .. }) => {
                let known = entries.iter().filter(|e| e.attr.is_some());
                inos.extend(known.take(PAGE_GRANTS_MAX).map(|e| e.ino));
            }
            Ok(_) => {}
            // That a name or an attribute is absent may be cached.
            Err(FsError::NotFound | FsError::NoAttribute) => {}
            Err(_) => return Ok(Vec::new()),
        }
        self.grant_leases(session, LeaseMode::Shared, inos)
    }
}

/// The file whose attributes or data an answer shows.
fn shown(query: &Query, result: &Result<QueryReply, FsError>) -> Option<Ino> {
    match (query, result) {
        (_, Ok(QueryReply::Attr(attr) | QueryReply::Layout { attr, .. })) => {
            (attr.kind == FileKind::File).then_some(attr.ino)
        }
        // What changes of data do to these waits with them.
        (Query::GetXattr { ino, .. } | Query::ListXattr { ino }, _) => Some(*ino),
        _ => None,
    }
}
