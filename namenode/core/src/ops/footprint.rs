//! Which inodes a mutation would change: those whose leases stand in its way.

use crate::error::StateError;
use crate::store::Store;
use crate::tx;
use quarry_common::ids::Ino;
use quarry_common::wire::fs::{Mutation, Name};

pub(crate) fn footprint(store: &Store, mutation: &Mutation) -> Result<Vec<Ino>, StateError> {
    let behind =
        |parent: Ino, name: &Name| Ok::<_, StateError>(tx::entry(store, parent, name)?.map(|e| e.ino));
    let mut inos = match mutation {
        Mutation::Create { parent, .. } => vec![*parent],
        Mutation::Link { ino, parent, .. } => vec![*parent, *ino],
        Mutation::Unlink { parent, name } | Mutation::Rmdir { parent, name } => {
            let mut inos = vec![*parent];
            inos.extend(behind(*parent, name)?);
            inos
        }
        Mutation::Rename { from, from_name, to, to_name, .. } => {
            let mut inos = vec![*from, *to];
            inos.extend(behind(*from, from_name)?);
            inos.extend(behind(*to, to_name)?);
            inos
        }
        Mutation::SetAttr { ino, .. }
        | Mutation::SetXattr { ino, .. }
        | Mutation::RemoveXattr { ino, .. }
        | Mutation::Fallocate { ino, .. } => vec![*ino],
        Mutation::Commit(commit) => vec![commit.ino],
        Mutation::CopyRange { to, .. } => vec![*to],
    };
    inos.sort_unstable();
    inos.dedup();
    Ok(inos)
}
