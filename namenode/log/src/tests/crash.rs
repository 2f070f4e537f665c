//! The machine stops, or a step fails, at each I/O step in turn.

use super::*;
use futures::future::join_all;

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The machine stops: this step and all later ones fail.
    Crash,
    /// Only this step fails.
    Error,
}

/// What a run was told.
#[derive(Default)]
struct History {
    /// Acknowledged entries in the order of their indices.
    acknowledged: Vec<(u64, Bytes)>,
    /// Everything that was ever proposed.
    proposed: Vec<Bytes>,
    /// A purge up to here was acknowledged, or may have happened.
    checkpoint: u64,
}

/// Proposes some rounds of entries with a purge in between, until the log stops.
async fn work(log: &Log, committed: &mut mpsc::Receiver<Committed>, seed: u64, history: &mut History) {
    for round in 0..6u64 {
        let entries: Vec<Bytes> =
            (0..4).map(|n| entry(seed * 1000 + round * 10 + n, 100 + (n as usize * 5000) % 9000)).collect();
        history.proposed.extend(entries.iter().cloned());
        let results = join_all(entries.iter().map(|entry| log.propose(entry.clone()))).await;
        for (entry, result) in entries.into_iter().zip(results) {
            match result {
                Ok(index) => history.acknowledged.push((index, entry)),
                Err(LogError::Stopped(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        while committed.try_recv().is_ok() {}
        if round % 2 == 1
            && let Some((index, _)) = history.acknowledged.last()
            && *index <= log.delivered()
        {
            history.checkpoint = *index;
            if log.purge(*index).await.is_err() {
                return;
            }
        }
    }
}

/// Opens the log again and compares it with what was acknowledged.
async fn check(disk: &FaultyDisk, history: &History, what: &str) -> u64 {
    let (log, mut committed) = open_faulty(disk, history.checkpoint)
        .await
        .unwrap_or_else(|error| panic!("{what}: the log cannot be opened: {error}"));
    let found = entries_up_to(&mut committed, log.recovered()).await;
    for (index, entry) in history.acknowledged.iter().filter(|(index, _)| *index > history.checkpoint) {
        assert!(found.iter().any(|(i, e)| i == index && e == entry), "{what}: lost entry {index}");
    }
    for (index, entry) in &found {
        assert!(history.proposed.contains(entry), "{what}: entry {index} is garbage");
    }
    let last = log.propose(entry(999_999, 100)).await.unwrap();
    log.shutdown().await;
    last
}

/// One run with a fault at a step; false if the run has fewer steps.
async fn run(step: u64, fault: Fault, survival: f64) -> bool {
    let what = format!("{fault:?} at step {step}, survival {survival}");
    let mut disk = FaultyDisk::default();
    let mut history = History::default();
    let mut happened = false;
    // The second life begins on what the first one left, and meets the fault as well.
    for life in 0..2u64 {
        match fault {
            Fault::Crash => disk.kill_at(step),
            Fault::Error => disk.fail_at(step),
        }
        if let Ok((log, mut committed)) = open_faulty(&disk, history.checkpoint).await {
            work(&log, &mut committed, life, &mut history).await;
            log.shutdown().await;
        }
        happened = disk.steps() >= step;
        disk = disk.after_power_loss(Survival::Each(survival), step);
        check(&disk, &history, &what).await;
        history.proposed.push(entry(999_999, 100));
        disk = disk.after_power_loss(Survival::Each(survival), step + 1);
    }
    happened
}

/// Every step of the whole run, for each kind of fault.
#[tokio::test]
async fn nothing_acknowledged_is_lost_whenever_the_machine_stops() {
    for survival in [0.0, 0.5, 1.0] {
        let mut step = 1;
        while run(step, Fault::Crash, survival).await {
            step += 1;
        }
        assert!(step > 40, "the run had only {step} steps");
    }
}

#[tokio::test]
async fn a_failed_step_is_never_taken_for_a_success() {
    let mut step = 1;
    while run(step, Fault::Error, 0.0).await {
        step += 1;
    }
}

#[tokio::test]
async fn after_a_failed_sync_the_log_stays_stopped() {
    let disk = FaultyDisk::default();
    let (log, _committed) = open_faulty(&disk, 0).await.unwrap();
    log.propose(entry(1, 100)).await.unwrap();
    // The next steps are at least one write and its sync; the keeper is idle by now, or fails without harm.
    disk.fail_at(disk.steps() + 2);
    let mut failed = false;
    for n in 2..10 {
        match log.propose(entry(n, 100)).await {
            Ok(_) => assert!(!failed, "acknowledged after a failure"),
            Err(LogError::Stopped(_)) => failed = true,
            Err(error) => panic!("{error}"),
        }
    }
    if failed {
        assert!(matches!(log.failed().await, LogError::Stopped(_)));
    }
    log.shutdown().await;
}
