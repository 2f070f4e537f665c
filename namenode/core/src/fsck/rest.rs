//! Sessions, placement groups, and the counters.

use super::Fsck;
use crate::base::BaseError;
use crate::tables::{EndedKey, FenceKey, NodeKey, SessionKey, SlotKey};
use quarry_common::wire::cluster::Group;
use std::collections::BTreeSet;

impl Fsck {
    pub(super) fn slot(&mut self, key: SlotKey) -> Result<(), BaseError> {
        if !self.exists(&SessionKey(key.session))? && !self.exists(&EndedKey(key.session))? {
            let what = format!("slot {} is of session {}, which has ended", key.slot, key.session);
            self.problem(None, None, what);
        }
        Ok(())
    }

    pub(super) fn fence(&mut self, key: FenceKey) -> Result<(), BaseError> {
        if !self.exists(&SessionKey(key.session))? {
            let what = format!("a broken lease is of session {}, which has ended", key.session);
            self.problem(Some(key.ino), None, what);
        }
        Ok(())
    }

    pub(super) fn group(&mut self, group: &Group) -> Result<(), BaseError> {
        let id = group.id;
        if group.serving().next().is_none() {
            self.problem(None, None, format!("nobody serves placement group {id}"));
        }
        let nodes: BTreeSet<_> = group.members.iter().map(|m| m.node).collect();
        if nodes.len() != group.members.len() {
            self.problem(None, None, format!("placement group {id} has a member twice"));
        }
        for node in nodes {
            if !self.exists(&NodeKey(node))? {
                self.problem(None, None, format!("member {node} of placement group {id} is unknown"));
            }
        }
        Ok(())
    }

    pub(super) fn totals(&mut self) {
        let (said, counted) = (self.meta.usage, self.usage);
        let totals = [
            ("inodes", said.inodes, counted.inodes),
            ("files", said.files, counted.files),
            ("directories", said.directories, counted.directories),
            ("bytes", said.bytes, counted.bytes),
            ("bytes of data", said.allocated, counted.allocated),
            ("chunks", said.chunks, counted.chunks),
            ("bytes of chunks", said.chunk_bytes, counted.chunk_bytes),
            ("chunks to delete", said.deleting, counted.deleting),
            ("inodes without a name", said.orphans, counted.orphans),
            ("sessions", self.meta.sessions, self.sessions),
        ];
        for (what, said, counted) in totals.into_iter().filter(|(_, said, counted)| said != counted) {
            self.problem(None, None, format!("the file system says {said} {what} and has {counted}"));
        }
    }
}
