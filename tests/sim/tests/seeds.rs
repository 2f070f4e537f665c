//! The simulation itself: repeatable, green on a sample of seeds, and able to find what is wrong.

use quarry_sim::{Options, Plant, run};

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
    for seed in 0..12 {
        let outcome = run(seed, &Options::default());
        assert!(outcome.violations.is_empty(), "seed {seed}: {}", outcome.violations.join("\n"));
    }
}

#[test]
fn a_log_that_is_answered_before_its_sync_is_found() {
    let options = Options { plant: Some(Plant::NameNodeDiskLies), ..Options::default() };
    let found = (0..100).find(|seed| !run(*seed, &options).violations.is_empty());
    assert!(found.is_some(), "a hundred seeds with a disk that lies found nothing");
}
