//! openraft's own tests of a log storage, and those of what a single voter never does: taking entries back.
//!
//! Left out of the former are those that begin their log in the middle or purge beyond its end, as only the installation of
//! a snapshot does.

use super::*;
use crate::log::Storage;
use crate::machine::Machine;
use crate::raft_types::{Proposal, RaftEntry, RaftMembership, RaftVote, TypeConfig, log_id};
use crate::storage::LogStore;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, StorageError};
use std::io;
use tokio::sync::watch;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, Storage> for Builder {
    async fn build(&self) -> Result<(Storage, LogStore, Machine), StorageError<TypeConfig>> {
        Ok(build(&FaultyDisk::default()))
    }
}

fn build(disk: &FaultyDisk) -> (Storage, LogStore, Machine) {
    let storage = Storage::open(Arc::new(disk.clone()), &small(), 0).unwrap();
    let (sink, _) = mpsc::channel(1);
    let machine = Machine::new(storage.shared.clone(), sink, watch::channel(false).1, None);
    let store = LogStore(storage.shared.clone());
    (storage, store, machine)
}

macro_rules! suite {
    ($($name:ident)*) => {
        $(#[tokio::test]
        async fn $name() {
            type Tests = Suite<TypeConfig, LogStore, Machine, Builder, Storage>;
            let (storage, store, machine) = Builder.build().await.unwrap();
            Tests::$name(store, machine).await.unwrap();
            storage.close().await;
        })*
    };
}

suite! {
    append_to_log
    delete_logs_after_0
    delete_logs_after_11
    delete_logs_after_5
    delete_logs_after_none
    entries_stream
    get_initial_state_without_init
    get_log_entries
    get_log_id
    initial_logs
    last_membership_in_log_initial
    leader_bounded_stream
    limited_get_log_entries
    log_reader_reads_new_entries
    purge_logs_upto_0
    purge_logs_upto_5
    save_vote
    try_get_log_entry
}

fn raft_entry(term: u64, index: u64, size: usize) -> RaftEntry {
    let bytes = entry(term * 1000 + index, size);
    RaftEntry { log_id: log_id(term, index), payload: EntryPayload::Normal(Proposal(bytes)) }
}

async fn append(store: &mut LogStore, entries: Vec<RaftEntry>) -> io::Result<()> {
    let (done, flushed) = TypeConfig::oneshot();
    store.append(entries, IOFlushed::signal(done)).await?;
    flushed.await.map_err(|_| io::Error::other("not answered"))?
}

#[tokio::test]
async fn entries_that_were_taken_back_stay_away_after_a_restart() {
    let disk = FaultyDisk::default();
    let (storage, mut store, _machine) = build(&disk);
    let members = RaftMembership::new_with_defaults(vec![[1].into()], []);
    let first = RaftEntry { log_id: log_id(0, 0), payload: EntryPayload::Membership(members) };
    store.save_vote(&RaftVote::new(9, 1)).await.unwrap();
    append(&mut store, vec![first.clone()]).await.unwrap();
    let old: Vec<RaftEntry> = (1..40).map(|index| raft_entry(1, index, 3000)).collect();
    for entry in &old {
        append(&mut store, vec![entry.clone()]).await.unwrap();
    }
    store.truncate_after(Some(log_id(1, 9))).await.unwrap();
    let new: Vec<RaftEntry> = (10..20).map(|index| raft_entry(2, index, 500)).collect();
    append(&mut store, new.clone()).await.unwrap();
    store.truncate_after(Some(log_id(2, 15))).await.unwrap();
    let expected: Vec<RaftEntry> =
        std::iter::once(&first).chain(&old[..9]).chain(&new[..6]).cloned().collect();
    assert_eq!(store.try_get_log_entries(..).await.unwrap(), expected);
    storage.close().await;

    let (storage, mut store, _machine) = build(&disk.after_power_loss(Survival::Each(0.0), 0));
    assert_eq!(store.try_get_log_entries(..).await.unwrap(), expected);
    assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 15)));
    storage.close().await;
}

#[tokio::test]
async fn an_entry_out_of_turn_is_refused() {
    let (storage, mut store, _machine) = build(&FaultyDisk::default());
    assert!(append(&mut store, vec![raft_entry(1, 1, 10)]).await.is_err());
    append(&mut store, vec![raft_entry(1, 0, 10), raft_entry(1, 1, 10)]).await.unwrap();
    assert!(append(&mut store, vec![raft_entry(1, 3, 10)]).await.is_err());
    storage.close().await;
}
