//! The simulation itself: repeatable, green on a sample of seeds, and able to find what is wrong.

use quarry_sim::{Fault, Options, Plant, run};

#[test]
fn one_seed_gives_one_history() {
    let first = run(7, &Options::default());
    let second = run(7, &Options::default());
    let differs = first.history.iter().zip(&second.history).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert_eq!(first.hash, second.hash);
    assert!(first.operations > 20, "only {} writes", first.operations);
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

#[test]
fn a_log_that_is_answered_before_its_sync_is_found() {
    let sound = Options { kinds: vec![Fault::NameNodePowerLoss], ..Options::default() };
    let lying = Options { plant: Some(Plant::NameNodeDiskLies), ..sound.clone() };
    let is_good = |seed: &u64, options| run(*seed, options).violations.is_empty();
    let found = (0..100).find(|seed| !is_good(seed, &lying) && is_good(seed, &sound));
    assert!(found.is_some(), "a hundred seeds with a disk that lies found nothing");
}
