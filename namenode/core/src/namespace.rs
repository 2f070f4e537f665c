//! Whether a DataNode belongs to this file system, and this NameNode's state is not older than the DataNode's.

use quarry_common::ids::{ChunkId, NamespaceId, PgId};
use quarry_common::wire::cluster::{Holdings, NamespaceStamp};

/// What is to be done about a DataNode that registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may register, once these sequence numbers are skipped (see [`Body::SkipChunks`](crate::Body::SkipChunks)): it holds
    /// chunks of an earlier generation that the restored backup did not know.
    Ours(Vec<(PgId, u64)>),
    /// It serves another file system, whose chunks would be garbage here: it must not register.
    Foreign(NamespaceId),
    /// It knows this file system at a later time: this NameNode has an old copy of its folder, and must not serve.
    Ahead(String),
}

/// Judges what a DataNode holds by what this NameNode has. `next` gives the next sequence number of a group; 0 for one that
/// does not exist.
///
/// A NameNode tells its stamp only after the entry is durable, and hands chunk numbers out only after their reservation is,
/// so no DataNode is ever ahead of the NameNode that it really served.
///
/// # Errors
/// Those of `next`.
pub fn judge<E>(
    ours: &NamespaceStamp,
    holdings: &Holdings,
    next: impl Fn(PgId) -> Result<u64, E>,
) -> Result<Verdict, E> {
    if let Some(theirs) = &holdings.stamp {
        if theirs.namespace != ours.namespace {
            return Ok(Verdict::Foreign(theirs.namespace));
        }
        if theirs.is_ahead_of(ours) {
            return Ok(Verdict::Ahead(format!(
                "it has seen position {} of generation {}, this NameNode is at position {} of generation {}",
                theirs.position, theirs.generation, ours.position, ours.generation
            )));
        }
    }
    let mut above = Vec::new();
    for &(pg, held) in holdings.next.iter().filter(|(pg, held)| is_possible(*pg, *held)) {
        if held > next(pg)? {
            above.push((pg, held));
        }
    }
    let restored = holdings.stamp.is_some_and(|theirs| theirs.generation < ours.generation);
    match above.first() {
        Some((pg, held)) if !restored => Ok(Verdict::Ahead(format!(
            "it holds chunk {} of group {pg}, which this NameNode has not handed out",
            held - 1
        ))),
        _ => Ok(Verdict::Ours(above)),
    }
}

/// Chunk ids have room for it, and it says that there is a chunk.
fn is_possible(pg: PgId, held: u64) -> bool {
    pg <= ChunkId::MAX_PG && (1..=ChunkId::MAX_SEQUENCE).contains(&held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    const OURS: NamespaceStamp = NamespaceStamp { namespace: NamespaceId(7), generation: 20, position: 500 };

    /// Group 1 is at sequence 100, and there is no other.
    fn verdict(stamp: Option<NamespaceStamp>, next: &[(u32, u64)]) -> Verdict {
        let next = next.iter().map(|&(pg, held)| (PgId(pg), held)).collect();
        let cursor = |pg| Ok::<_, Infallible>(if pg == PgId(1) { 100 } else { 0 });
        match judge(&OURS, &Holdings { stamp, next }, cursor) {
            Ok(verdict) => verdict,
            Err(never) => match never {},
        }
    }

    #[test]
    fn a_node_of_this_file_system_registers() {
        assert_eq!(verdict(None, &[]), Verdict::Ours(vec![]));
        assert_eq!(verdict(Some(OURS), &[(1, 100)]), Verdict::Ours(vec![]));
        let behind = NamespaceStamp { position: 3, ..OURS };
        assert_eq!(verdict(Some(behind), &[(1, 100)]), Verdict::Ours(vec![]));
    }

    #[test]
    fn a_node_of_another_file_system_does_not() {
        let other = NamespaceStamp { namespace: NamespaceId(8), ..OURS };
        assert_eq!(verdict(Some(other), &[]), Verdict::Foreign(NamespaceId(8)));
    }

    #[test]
    fn an_old_copy_of_the_folder_shows_by_position_generation_or_chunks() {
        for later in
            [NamespaceStamp { position: 501, ..OURS }, NamespaceStamp { generation: 21, position: 0, ..OURS }]
        {
            assert!(matches!(verdict(Some(later), &[]), Verdict::Ahead(_)));
        }
        for stamp in [None, Some(OURS)] {
            assert!(matches!(verdict(stamp, &[(1, 101)]), Verdict::Ahead(_)));
            assert!(matches!(verdict(stamp, &[(2, 1)]), Verdict::Ahead(_)), "an unknown group");
        }
    }

    #[test]
    fn after_a_restoration_what_the_nodes_hold_is_skipped() {
        let before = NamespaceStamp { generation: 19, position: 9_000, ..OURS };
        let held = [(1, 130), (2, 5)];
        assert_eq!(verdict(Some(before), &held), Verdict::Ours(vec![(PgId(1), 130), (PgId(2), 5)]));
        assert_eq!(
            verdict(Some(before), &[(1, u64::MAX), (u32::MAX, 1)]),
            Verdict::Ours(vec![]),
            "no such chunks"
        );
    }
}
