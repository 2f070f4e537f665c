//! Runs seeds of the simulation, and shows the history of one that fails.

use clap::Parser;
use quarry_sim::{Options, Outcome, run, shrink};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines of the history that are shown before the end of a failed run.
const SHOWN: usize = 60;

/// Runs a whole cluster from a seed.
#[derive(Parser)]
struct Arguments {
    /// The first seed.
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Kinds of faults that may happen, as in `ClientCrash,DataNodeCut`; all without it.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Searches for smaller options under which the seed still fails, and shows the history with those.
    #[arg(long)]
    shrink: bool,
    /// Logs of the processes, in simulated order: a filter such as `info` or `quarry_client=debug`.
    #[arg(long)]
    log: Option<String>,
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
    if arguments.shrink && !run(arguments.seed, &options).violations.is_empty() {
        options = shrink(arguments.seed, &options);
        println!(
            "seed {} still fails with {} faults of {:?} and at most {} clients",
            arguments.seed, options.faults, options.kinds, options.clients_max
        );
    }
    let (next, writes, began) = (AtomicU64::new(arguments.seed), AtomicU64::new(0), Instant::now());
    let failed = Mutex::new(Vec::new());
    let end = arguments.seed.saturating_add(arguments.count);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = run(seed, &options);
                    writes.fetch_add(outcome.operations, Ordering::Relaxed);
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
        "{} seeds in {:.1} s, {} writes, failed: {failed:?}",
        arguments.count,
        began.elapsed().as_secs_f64(),
        writes.into_inner()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(seed: u64, outcome: &Outcome, whole: bool) {
    if whole {
        outcome.history.iter().for_each(|line| println!("{line}"));
    } else if !outcome.violations.is_empty() {
        println!("seed {seed} failed; the end of its history:");
        let from = outcome.history.len().saturating_sub(SHOWN);
        outcome.history[from..].iter().for_each(|line| println!("{line}"));
    }
    for violation in &outcome.violations {
        println!("seed {seed}: {violation}");
    }
    if whole {
        println!("seed {seed}: hash {:016x}, {} writes", outcome.hash, outcome.operations);
    }
}
