//! The exact count of names per inode and of references per chunk, after their sums did not fit.

use super::names::names_claimed;
use super::{Fsck, RECOUNT_MAX};
use crate::base::BaseError;
use crate::tables::{ChunkKey, DentryKey, InodeKey, Key, WindowKey};
use quarry_common::ids::{ChunkId, Ino};
use std::collections::BTreeMap;

/// What is counted: rows of one table claim how many rows of another speak of them.
pub(super) trait Count {
    type Claims: Key;
    type Found: Key;
    /// Who claims, and how many.
    fn claim(key: &Self::Claims, value: &<Self::Claims as Key>::Value) -> (u64, u64);
    /// Of whom a row speaks.
    fn found(value: &<Self::Found as Key>::Value) -> Vec<u64>;
    fn report(fsck: &mut Fsck, who: u64, claimed: u64, found: u64);
}

/// Names of inodes.
pub(super) struct Links;

/// Slices that name chunks.
pub(super) struct References;

impl Count for Links {
    type Claims = InodeKey;
    type Found = DentryKey;

    fn claim(key: &InodeKey, value: &crate::records::Inode) -> (u64, u64) {
        (key.0.0, u64::from(names_claimed(key.0, value)))
    }

    fn found(value: &crate::records::Dentry) -> Vec<u64> {
        vec![value.ino.0]
    }

    fn report(fsck: &mut Fsck, who: u64, claimed: u64, found: u64) {
        fsck.of_inode(Ino(who), format!("it should have {claimed} names and has {found}"));
    }
}

impl Count for References {
    type Claims = ChunkKey;
    type Found = WindowKey;

    fn claim(key: &ChunkKey, value: &crate::records::ChunkRecord) -> (u64, u64) {
        (key.0.0, value.refs)
    }

    fn found(value: &crate::records::WindowRecord) -> Vec<u64> {
        value.slices.iter().filter_map(|s| s.chunk).map(|id| id.0).collect()
    }

    fn report(fsck: &mut Fsck, who: u64, claimed: u64, found: u64) {
        fsck.of_chunk(ChunkId(who), format!("it should have {claimed} references and has {found}"));
    }
}

/// One batch of claims at a time, each with a pass over the other table.
#[derive(Default)]
pub(super) struct Recount {
    /// Claimed and found.
    batch: BTreeMap<u64, (u64, u64)>,
    /// Where the next claims are.
    claims: Vec<u8>,
    more_claims: bool,
    /// Where the pass is; `None` while claims are gathered.
    pass: Option<Vec<u8>>,
}

impl Fsck {
    /// Reads on by one page. `false` when all is counted.
    pub(super) fn recount<C: Count>(&mut self, limit: usize) -> Result<bool, BaseError> {
        let mut state = std::mem::take(&mut self.recount);
        let result = self.advance::<C>(&mut state, limit);
        if !matches!(result, Ok(false)) {
            self.recount = state;
        }
        result
    }

    fn advance<C: Count>(&mut self, state: &mut Recount, limit: usize) -> Result<bool, BaseError> {
        let batch = &mut state.batch;
        let Some(pass) = &mut state.pass else {
            let limit = limit.min(RECOUNT_MAX - batch.len());
            state.more_claims = self.page_at(&mut state.claims, limit, &mut |_, key: C::Claims, value| {
                let (who, claimed) = C::claim(&key, &value);
                batch.insert(who, (claimed, 0));
                Ok(())
            })?;
            if !state.more_claims || batch.len() >= RECOUNT_MAX {
                state.pass = Some(Vec::new());
            }
            return Ok(true);
        };
        let more = self.page_at(pass, limit, &mut |_, _: C::Found, value| {
            for who in C::found(&value) {
                if let Some((_, found)) = batch.get_mut(&who) {
                    *found += 1;
                }
            }
            Ok(())
        })?;
        if more {
            return Ok(true);
        }
        for (who, (claimed, found)) in std::mem::take(batch) {
            if claimed != found {
                C::report(self, who, claimed, found);
            }
        }
        state.pass = None;
        Ok(state.more_claims)
    }
}
