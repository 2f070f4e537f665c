//! Bits flip, files vanish, versions are from the future.

use super::*;
use crate::format::PAGE;
use crate::meta::{PURGED, VOTE};
use crate::segment::file_name;

/// A log with a few segments, and what it holds.
async fn sample() -> (FaultyDisk, Vec<(u64, Bytes)>) {
    let disk = FaultyDisk::default();
    let (log, mut committed) = open_faulty(&disk, 0).await.unwrap();
    let mut last = 0;
    for n in 0..20 {
        last = log.propose(entry(n, 100 + n as usize * 611 % 12_000)).await.unwrap();
    }
    let entries = entries_up_to(&mut committed, last).await;
    log.shutdown().await;
    (disk.after_power_loss(Survival::Each(1.0), 0), entries)
}

/// Opens the log: everything is there, or it is refused.
async fn all_or_nothing(disk: FaultyDisk, entries: &[(u64, Bytes)], what: &str) -> Option<LogError> {
    match open_faulty(&disk, 0).await {
        Ok((log, mut committed)) => {
            let found = entries_up_to(&mut committed, log.recovered()).await;
            assert_eq!(found, entries, "{what}");
            log.shutdown().await;
            None
        }
        Err(error) => Some(error),
    }
}

#[tokio::test]
async fn no_flipped_bit_goes_unnoticed_in_a_sealed_log() {
    let (disk, entries) = sample().await;
    let mut refused = 0;
    let names = disk.list(Path::new(DIR)).unwrap().into_iter().map(|entry| entry.name);
    let segments = names.filter(|name| crate::segment::number_of(name).is_some());
    for name in segments {
        let bytes = disk.content(&file(&name));
        // Every byte of headers, and a sample of payload and padding.
        let offsets = (0..bytes.len()).filter(|at| at % PAGE < 72 || at % 509 == 0);
        for at in offsets {
            if bytes[at..].iter().all(|&b| b == 0) && at % PAGE != 0 {
                continue;
            }
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let what = format!("{name}, byte {at}");
            if let Some(error) = all_or_nothing(with_content(&disk, &name, flipped), &entries, &what).await {
                assert!(
                    matches!(&error, LogError::Damaged { .. } | LogError::FutureVersion { .. }),
                    "{error}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 500, "only {refused} refused");
    let bytes = disk.content(&file(VOTE));
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x10;
        let error = all_or_nothing(with_content(&disk, VOTE, flipped), &entries, VOTE).await;
        assert!(error.is_some(), "vote, byte {at}");
    }
}

#[tokio::test]
async fn the_error_names_file_and_offset() {
    let (disk, entries) = sample().await;
    let name = file_name(1);
    let mut bytes = disk.content(&file(&name));
    // The payload of the first frame, which holds raft's first entry.
    bytes[PAGE + 40] ^= 1;
    let error = all_or_nothing(with_content(&disk, &name, bytes), &entries, "").await.unwrap();
    let message = error.to_string();
    assert!(message.starts_with("0000000000000001.log is damaged at offset 4096: "), "{message}");
}

#[tokio::test]
async fn an_unfinished_last_write_is_cut_and_the_log_goes_on() {
    let disk = FaultyDisk::default();
    let (log, mut committed) = open_faulty(&disk, 0).await.unwrap();
    let mut last = 0;
    for n in 0..5 {
        last = log.propose(entry(n, 6000)).await.unwrap();
    }
    let kept = entries_up_to(&mut committed, last).await;
    // As if the machine had stopped now: the log is not sealed, and of the last frame a page is missing.
    let disk = disk.after_power_loss(Survival::Each(0.0), 0);
    log.shutdown().await;
    let name = file_name(1);
    let mut bytes = disk.content(&file(&name));
    let end = bytes.iter().rposition(|&b| b != 0).unwrap();
    bytes[end / PAGE * PAGE..][..PAGE].fill(0);
    let disk = with_content(&disk, &name, bytes);
    let mut expected = kept.clone();
    let (_, lost) = expected.pop().unwrap();
    assert_eq!(lost, entry(4, 6000));
    for n in 10..13 {
        let (log, mut committed) = open_faulty(&disk, 0).await.unwrap();
        assert_eq!(entries_up_to(&mut committed, log.recovered()).await, expected);
        let index = log.propose(entry(n, 700)).await.unwrap();
        expected.push((index, entry(n, 700)));
        log.shutdown().await;
    }
}

#[tokio::test]
async fn missing_files_are_noticed() {
    let (disk, entries) = sample().await;
    for name in [file_name(1), VOTE.to_owned()] {
        let error = all_or_nothing(without(&disk, &name), &entries, &name).await.unwrap();
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
    }
    let (log, mut committed) = open_faulty(&disk, 0).await.unwrap();
    let last = log.recovered();
    entries_up_to(&mut committed, last).await;
    log.purge(last).await.unwrap();
    log.shutdown().await;
    let disk = disk.after_power_loss(Survival::Each(1.0), 0);
    let error = all_or_nothing(without(&disk, PURGED), &entries, PURGED).await.unwrap();
    assert!(matches!(error, LogError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn a_future_version_is_refused_by_name() {
    let (disk, entries) = sample().await;
    for (name, at) in [(file_name(1), 8), (VOTE.to_owned(), 8)] {
        let mut bytes = disk.content(&file(&name));
        bytes[at] = 9;
        let error = all_or_nothing(with_content(&disk, &name, bytes), &entries, &name).await.unwrap();
        assert!(
            matches!(&error, LogError::FutureVersion { file, found: 9, supported: 1 } if *file == name),
            "{error}"
        );
    }
}
