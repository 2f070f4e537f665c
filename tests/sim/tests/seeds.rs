//! The simulation itself: repeatable, green on a sample of seeds, and able to find what is wrong.

use quarry_sim::{Fault, Options, Plant, run};
use std::process::Command;

/// The history of a seed, made by a process of its own.
fn history(seed: u64) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_quarry-sim")).args([&seed.to_string(), "--history"]).output();
    String::from_utf8(output.expect("run the simulation").stdout).expect("the history is text")
}

#[test]
fn one_seed_gives_one_history() {
    // The summary at the end tells the real time that it took.
    let lines = |seed| {
        history(seed).lines().filter(|l| !l.contains(" seeds in ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (first, second) = (lines(7), lines(7));
    let differs = first.iter().zip(&second).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(first.len(), second.len());
    assert!(first.len() > 1000, "only {} lines", first.len());
    assert_ne!(first, lines(8));
}

#[test]
fn a_sample_of_seeds_holds_every_promise() {
    quarry_sim::count_panics();
    let kinds = vec![Fault::ClientCrash, Fault::DataNodeCrash, Fault::DataNodeCut];
    let options = Options { kinds, ..Options::default() };
    for seed in 0..8 {
        let outcome = run(seed, &options);
        assert!(outcome.violations.is_empty(), "seed {seed}: {}", outcome.violations.join("\n"));
    }
}

/// The first seed that fails with a deliberate fault, and not without it.
fn first_that_finds(plant: Plant, kinds: &[Fault]) -> Option<u64> {
    let sound = Options { kinds: kinds.to_vec(), ..Options::default() };
    let planted = Options { plant: Some(plant), ..sound.clone() };
    let is_good = |seed: u64, options| run(seed, options).violations.is_empty();
    (0..100).find(|seed| !is_good(*seed, &planted) && is_good(*seed, &sound))
}

#[test]
fn a_log_that_is_answered_before_its_sync_is_found() {
    let found = first_that_finds(Plant::NameNodeDiskLies, &[Fault::NameNodePowerLoss]);
    assert!(found.is_some(), "a hundred seeds with a disk that lies found nothing");
}

#[test]
fn a_lease_that_is_broken_before_its_term_is_found() {
    let kinds = [Fault::ClientCut, Fault::ClientPause];
    let found = first_that_finds(Plant::NameNodeClockIsFast, &kinds);
    assert!(found.is_some(), "a hundred seeds with a fast clock found nothing");
}
