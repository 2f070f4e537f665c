//! Runs seeds of the simulation, and shows the history of one that fails.

use clap::Parser;
use quarry_sim::{Options, Outcome, Plant, run, shrink};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines of the history that are shown of a failed run.
const SHOWN: usize = 60;

/// Runs a whole cluster from a seed.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Begins no more seeds after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Kinds of faults that may happen, as in `ClientCrash,DataNodeCut`; all without it.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// A deliberate fault, as in `ReplicaRots`.
    #[arg(long)]
    plant: Option<String>,
    /// Searches for smaller options under which the seed still fails, and shows the history with those.
    #[arg(long)]
    shrink: bool,
    /// Logs of the processes, in simulated order: a filter such as `info` or `quarry_client=debug`.
    #[arg(long)]
    log: Option<String>,
    /// Runs each seed twice, one after the other, and compares.
    #[arg(long)]
    twice: bool,
    /// The whole history, also of a good run.
    #[arg(long)]
    history: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(filter) = &arguments.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
    }
    quarry_sim::count_panics();
    let mut options = Options::default();
    if !arguments.faults.is_empty() {
        options.kinds.retain(|kind| arguments.faults.contains(&format!("{kind:?}")));
    }
    options.plant = arguments.plant.as_ref().and_then(|name| plant(name));
    if arguments.plant.is_some() && options.plant.is_none() {
        eprintln!("there is no such deliberate fault; there are {:?}", Plant::ALL);
        return ExitCode::FAILURE;
    }
    if arguments.shrink && !run(arguments.seed, &options).violations.is_empty() {
        options = shrink(arguments.seed, &options);
        println!(
            "seed {} still fails with {} faults of {:?}, {:?} and at most {} clients",
            arguments.seed, options.faults, options.kinds, options.work, options.clients_max
        );
    }
    let (next, writes, began) = (AtomicU64::new(arguments.seed), AtomicU64::new(0), Instant::now());
    let (done, simulated) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    let end = arguments.seed.saturating_add(arguments.count);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let is_late = arguments.seconds.is_some_and(|limit| began.elapsed().as_secs() >= limit);
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if is_late || seed >= end {
                        return;
                    }
                    let mut outcome = run(seed, &options);
                    if arguments.twice && run(seed, &options).hash != outcome.hash {
                        outcome.violations.push("a second run has another history".to_owned());
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    writes.fetch_add(outcome.operations, Ordering::Relaxed);
                    simulated.fetch_add(outcome.time.as_secs(), Ordering::Relaxed);
                    show(seed, &outcome, arguments.history);
                    if !outcome.violations.is_empty() {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds in {:.1} s, {:.1} hours of the clusters, {} values, failed: {failed:?}",
        done.into_inner(),
        began.elapsed().as_secs_f64(),
        simulated.into_inner() as f64 / 3600.0,
        writes.into_inner()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plant(name: &str) -> Option<Plant> {
    Plant::ALL.into_iter().find(|plant| format!("{plant:?}") == name)
}

fn show(seed: u64, outcome: &Outcome, whole: bool) {
    if whole {
        outcome.history.iter().for_each(|line| println!("{line}"));
    } else if !outcome.violations.is_empty() {
        println!("seed {seed} failed; what went wrong around its clients, and what is violated:");
        let is_call = |line: &str| line.contains(" calls ") || line.contains(" returns from ");
        let notes = outcome.history.iter().filter(|line| line.contains(" s  ") && !is_call(line));
        notes.take(SHOWN).for_each(|line| println!("{}", line.lines().next().unwrap_or_default()));
    }
    for violation in &outcome.violations {
        println!("seed {seed}: {violation}");
    }
    if whole {
        println!("seed {seed}: hash {:016x}, {} writes", outcome.hash, outcome.operations);
    }
}
