//! The operations, one file each.
//!
//! Every mutation reads and checks first and changes after: an error changes nothing.

mod commit;
mod copy_range;
mod create;
mod fallocate;
pub(crate) mod fences;
mod footprint;
pub(crate) mod groups;
mod layout;
mod link;
mod lookup;
pub(crate) mod nodes;
mod readdir;
pub(crate) mod reap;
mod rename;
mod rmdir;
pub(crate) mod sessions;
mod setattr;
mod truncate;
mod unlink;
mod windows;
mod xattr;

pub(crate) use footprint::footprint;

use crate::command::Outcome;
use crate::error::{OpError, StateError};
use crate::store::Store;
use crate::tables::InodeKey;
use crate::tx::Tx;
use quarry_common::ids::{Ino, NamespaceId, SessionId};
use quarry_common::wire::cluster::Replication;
use quarry_common::wire::fs::{Mutation, MutationReply, Query, QueryReply, RenameMode, StatFs};
use quarry_common::wire::session::LeaseId;

/// Open sessions: each may keep 64 replies of a few hundred bytes, so this is some hundred megabytes at worst.
pub(crate) const SESSIONS_MAX: usize = 16_384;
/// DataNodes: more than the wire's table of nodes should hold.
pub(crate) const NODES_MAX: usize = 4096;
/// Placement groups: clients cache the whole table, and it must fit one frame.
pub(crate) const GROUPS_MAX: usize = 16_384;

/// A mutation's or a query's answer.
pub(crate) type OpResult<T> = Result<T, OpError>;

/// The first command of a cluster.
pub(crate) fn format(
    tx: &mut Tx<'_>,
    cluster: &str,
    (namespace, generation): (NamespaceId, u64),
    default: Replication,
) -> Result<Outcome, StateError> {
    if !tx.store.meta.cluster.is_empty() {
        return Ok(Outcome::Refused(format!("this is cluster `{}` already", tx.store.meta.cluster)));
    }
    if cluster.is_empty() || namespace == NamespaceId(0) {
        return Ok(Outcome::Refused("a file system needs a cluster's name and an identity".to_owned()));
    }
    tx.store.meta.cluster = cluster.to_owned();
    (tx.store.meta.namespace, tx.store.meta.generation) = (namespace, generation);
    tx.store.meta.default_replication = default;
    let mut root = tx.store.expect(&InodeKey(Ino::ROOT))?;
    (root.atime, root.mtime, root.ctime, root.btime) = (tx.now, tx.now, tx.now, tx.now);
    tx.save(Ino::ROOT, &mut root);
    Ok(Outcome::Done)
}

/// Carries a mutation of a session out.
pub(crate) fn mutate(tx: &mut Tx<'_>, session: SessionId, mutation: &Mutation) -> OpResult<MutationReply> {
    match mutation {
        Mutation::Create { parent, name, node, mode, umask, caller } => create::create(
            tx,
            *parent,
            name,
            &create::Spec { node, mode: *mode, umask: *umask, caller: *caller },
        ),
        Mutation::Link { ino, parent, name } => link::link(tx, *ino, *parent, name),
        Mutation::Unlink { parent, name } => unlink::unlink(tx, *parent, name),
        Mutation::Rmdir { parent, name } => rmdir::rmdir(tx, *parent, name),
        Mutation::Rename { from, from_name, to, to_name, mode } => {
            let ends = rename::Ends { from: *from, from_name, to: *to, to_name };
            match mode {
                RenameMode::Whiteout => rename::rename_leaving_whiteout(tx, &ends),
                RenameMode::Replace | RenameMode::NoReplace | RenameMode::Exchange => {
                    rename::rename(tx, &ends, *mode)
                }
            }
        }
        Mutation::SetAttr { ino, set, keep_sgid } => setattr::setattr(tx, *ino, set, *keep_sgid),
        Mutation::SetXattr { ino, name, value, mode } => xattr::set(tx, *ino, name, value, *mode),
        Mutation::RemoveXattr { ino, name } => xattr::remove(tx, *ino, name),
        Mutation::Commit(commit) => {
            if let Some(generation) = commit.lease {
                fences::check(tx.store, session, LeaseId { ino: commit.ino, generation })?;
            }
            commit::commit(tx, commit)
        }
        Mutation::Fallocate { ino, mode, offset, length, kill_suidgid } => {
            fallocate::fallocate(tx, *ino, *mode, *offset, *length, *kill_suidgid)
        }
        Mutation::CopyRange { from, from_offset, to, to_offset, length, kill_suidgid } => {
            let copy = copy_range::Copy {
                from: *from,
                from_offset: *from_offset,
                to: *to,
                to_offset: *to_offset,
                length: *length,
            };
            copy_range::copy_range(tx, &copy, *kill_suidgid)
        }
    }
}

/// Answers a query.
pub(crate) fn query(store: &Store, query: &Query) -> OpResult<QueryReply> {
    match query {
        Query::Lookup { parent, name } => lookup::lookup(store, *parent, name),
        Query::Attr { ino } => lookup::attr(store, *ino),
        Query::Parent { ino } => lookup::parent(store, *ino),
        Query::ReadDir { ino, after, limit, plus } => readdir::readdir(store, *ino, *after, *limit, *plus),
        Query::ReadLink { ino } => lookup::readlink(store, *ino),
        Query::GetXattr { ino, name } => xattr::get(store, *ino, name),
        Query::ListXattr { ino } => xattr::list(store, *ino),
        Query::Layout { ino, first, count } => layout::layout(store, *ino, *first, *count),
        Query::NextWindow { ino, from } => layout::next_window(store, *ino, *from),
        Query::Chunks { ids } => layout::chunks(store, ids),
        Query::StatFs => {
            Ok(QueryReply::StatFs(StatFs { capacity: 0, free: 0, inodes: store.meta.usage.inodes }))
        }
    }
}
