//! What a log does as long as nothing goes wrong.

use super::*;
use futures::future::join_all;

async fn open(dir: &Path, applied: u64) -> Result<(Log, mpsc::Receiver<Committed>), LogError> {
    let (sink, committed) = mpsc::channel(4096);
    let config = LogConfig { dir: dir.to_owned(), ..small() };
    Ok((Log::open(config, applied, sink).await?, committed))
}

#[tokio::test]
async fn entries_come_back_in_order_after_every_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for run in 0..4 {
        let (log, mut committed) = open(dir.path(), 0).await.unwrap();
        let replayed = entries_up_to(&mut committed, log.recovered()).await;
        assert_eq!(replayed, expected, "run {run}");
        let proposals = (0..100).map(|n| log.propose(entry(run * 100 + n, 1 + (n as usize * 37) % 3000)));
        let indices: Vec<u64> = join_all(proposals).await.into_iter().map(Result::unwrap).collect();
        let last = *indices.iter().max().unwrap();
        let own = entries_up_to(&mut committed, last).await;
        let mut proposed: Vec<(u64, Bytes)> = (0..100)
            .map(|n| (indices[n as usize], entry(run * 100 + n, 1 + (n as usize * 37) % 3000)))
            .collect();
        proposed.sort();
        assert_eq!(own, proposed);
        expected.extend(own);
        log.shutdown().await;
    }
}

#[tokio::test]
async fn replay_begins_behind_what_was_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _committed) = open(dir.path(), 0).await.unwrap();
    let mut last = 0;
    for n in 0..20 {
        last = log.propose(entry(n, 10)).await.unwrap();
    }
    log.shutdown().await;
    let (log, mut committed) = open(dir.path(), last - 3).await.unwrap();
    let replayed = entries_up_to(&mut committed, last).await;
    assert_eq!(replayed.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [last - 2, last - 1, last]);
    log.shutdown().await;
    let (log, mut committed) = open(dir.path(), last).await.unwrap();
    let next = log.propose(entry(99, 10)).await.unwrap();
    assert_eq!(entries_up_to(&mut committed, next).await, [(next, entry(99, 10))]);
}

#[tokio::test]
async fn purged_segments_are_used_again_and_never_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let mut applied = 0;
    for run in 0..5 {
        let (log, mut committed) = open(dir.path(), applied).await.unwrap();
        for n in 0..40 {
            applied = log.propose(entry(run * 40 + n, 2000)).await.unwrap();
        }
        entries_up_to(&mut committed, applied).await;
        log.purge(applied).await.unwrap();
        log.purge(applied).await.unwrap();
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert!(files <= 6, "lock, vote, purged, a spare, an active and a prepared segment, not {files}");
        if run % 2 == 0 {
            applied = log.propose(entry(0, 2000)).await.unwrap();
            entries_up_to(&mut committed, applied).await;
        }
        log.shutdown().await;
    }
    let error = open(dir.path(), 1).await.err().unwrap();
    assert!(matches!(error, LogError::Gap { applied: 1, .. }), "{error}");
    let error = open(dir.path(), applied + 100).await.err().unwrap();
    assert!(matches!(error, LogError::Behind { .. }), "{error}");
}

#[tokio::test]
async fn a_full_sink_holds_the_log_up_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, mut committed) = mpsc::channel(1);
    let config = LogConfig { dir: dir.path().to_owned(), ..small() };
    let log = Arc::new(Log::open(config.clone(), 0, sink).await.unwrap());
    let proposer = {
        let log = log.clone();
        tokio::spawn(async move { join_all((0..50).map(|n| log.propose(entry(n, 10)))).await })
    };
    let mut expected = 0;
    while expected < 50 {
        let Committed { entry: bytes, .. } = committed.recv().await.unwrap();
        if !bytes.is_empty() {
            assert_eq!(bytes, entry(expected, 10));
            expected += 1;
        }
        tokio::task::yield_now().await;
    }
    assert!(proposer.await.unwrap().iter().all(Result::is_ok));
    Arc::into_inner(log).unwrap().shutdown().await;

    // Opening does not wait for the one who reads, and a shutdown does not either.
    let (sink, committed) = mpsc::channel(1);
    let log = Log::open(config, 0, sink).await.unwrap();
    log.shutdown().await;
    drop(committed);
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, mut committed) = open(dir.path(), 0).await.unwrap();
    let max = log.entry_max();
    for size in [0, max + 1] {
        assert!(matches!(log.propose(vec![1; size].into()).await, Err(LogError::EntrySize { .. })));
    }
    let index = log.propose(vec![7; max].into()).await.unwrap();
    assert_eq!(entries_up_to(&mut committed, index).await, [(index, vec![7; max].into())]);
    assert!(matches!(log.purge(index + 1).await, Err(LogError::PurgeAhead { .. })));
    assert!(matches!(open(dir.path(), 0).await, Err(LogError::InUse(_))));
    log.shutdown().await;

    let (log, mut committed) = open(dir.path(), 0).await.unwrap();
    assert_eq!(entries_up_to(&mut committed, index).await, [(index, vec![7; max].into())]);
    log.shutdown().await;
    let (sink, _committed) = mpsc::channel(1);
    let other = LogConfig { dir: dir.path().to_owned(), node: NameNodeId(2), ..small() };
    assert!(matches!(Log::open(other, 0, sink).await, Err(LogError::ForeignNode { found: 1, .. })));
}

#[tokio::test]
async fn a_log_at_its_limit_takes_entries_again_once_purged() {
    let dir = tempfile::tempdir().unwrap();
    let (sink, mut committed) = mpsc::channel(4096);
    let config = LogConfig { dir: dir.path().to_owned(), max_bytes: 4 * (64 << 10), ..small() };
    let log = Log::open(config, 0, sink).await.unwrap();
    let mut last = 0;
    let error = loop {
        match log.propose(entry(1, 8000)).await {
            Ok(index) => last = index,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    entries_up_to(&mut committed, last).await;
    log.purge(last).await.unwrap();
    log.propose(entry(2, 8000)).await.unwrap();
    log.shutdown().await;
}

#[tokio::test]
async fn a_log_whose_sink_is_gone_stops() {
    let dir = tempfile::tempdir().unwrap();
    let (log, committed) = open(dir.path(), 0).await.unwrap();
    drop(committed);
    assert!(matches!(log.propose(entry(1, 10)).await, Err(LogError::Stopped(_))));
    assert!(matches!(log.propose(entry(1, 10)).await, Err(LogError::Stopped(_))));
    log.shutdown().await;
}
