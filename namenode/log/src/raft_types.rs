//! How openraft is parametrised here.

use crate::format::{Kind, Record};
use crate::runtime::Runtime;
use bytes::Bytes;
use openraft::entry::RaftPayload;
use openraft::impls::leader_id_std;
use openraft::vote::leader_id_std::CommittedLeaderId;
use openraft::{EntryPayload, LogId, Membership, StoredMembership, Vote};
use serde::{Deserialize, Serialize};
use std::fmt;

openraft::declare_raft_types!(
    /// One leader in a term, so that term and index identify an entry; nodes have no address yet.
    pub(crate) TypeConfig:
        D = Proposal,
        R = (),
        NodeId = u64,
        Node = (),
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

/// An entry that was proposed: bytes that nobody here looks into.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal(pub(crate) Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

pub(crate) type Payload = EntryPayload<Proposal, u64, ()>;
pub(crate) type RaftEntry = openraft::Entry<CommittedLeaderId<u64>, Payload>;
pub(crate) type RaftLogId = LogId<CommittedLeaderId<u64>>;
pub(crate) type RaftMembership = Membership<u64, ()>;
pub(crate) type RaftStoredMembership = StoredMembership<CommittedLeaderId<u64>, u64, ()>;
pub(crate) type RaftVote = Vote<leader_id_std::LeaderId<u64, u64>>;

pub(crate) fn log_id(term: u64, index: u64) -> RaftLogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// Appends the entry's record to `buffer`.
pub(crate) fn encode_entry(entry: &RaftEntry, buffer: &mut Vec<u8>) {
    let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
    let members;
    let (kind, payload): (Kind, &[u8]) = match &entry.payload {
        EntryPayload::Blank => (Kind::Blank, &[]),
        EntryPayload::Normal(proposal) => (Kind::Entry, &proposal.0),
        EntryPayload::Membership(membership) => {
            members = postcard::to_stdvec(membership).expect("a membership holds only numbers");
            (Kind::Membership, &members)
        }
    };
    Record { kind, index, term, payload }.encode(buffer);
}

/// The entry in a record, or what is wrong with it.
pub(crate) fn decode_entry(record: &Record<'_>) -> Result<RaftEntry, &'static str> {
    let payload = match record.kind {
        Kind::Blank => Payload::blank(),
        Kind::Entry => EntryPayload::Normal(Proposal(Bytes::copy_from_slice(record.payload))),
        Kind::Membership => EntryPayload::Membership(decode_membership(record)?),
        Kind::Truncation => return Err("a truncation in the place of an entry"),
    };
    Ok(RaftEntry { log_id: log_id(record.term, record.index), payload })
}

/// The membership in a record of that kind.
pub(crate) fn decode_membership(record: &Record<'_>) -> Result<RaftMembership, &'static str> {
    postcard::from_bytes(record.payload).map_err(|_| "a membership that cannot be decoded")
}
