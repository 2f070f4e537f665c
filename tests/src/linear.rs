//! Is a history of concurrent operations linearizable: is there one order of all of them, in which each takes effect at one moment
//! between its call and its return, and in which each returned what it had to?
//!
//! The search is Wing and Gong's, in the form of Lowe ("Testing for linearizability", 2017): it goes through the calls and returns in
//! the order of time and keeps every configuration that the object can be in, which is its state and which of the running
//! operations took effect already. An operation need not take effect before some operation returns; so configurations only grow at
//! returns, and equal ones are merged. That is fast for any length of history as long as few operations run at a time.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// Operations that run at a time: one bit of a word each.
const RUNNING_MAX: usize = 64;
/// Configurations at which the search gives up: their number may double with each operation that never returned.
const CONFIGURATIONS_MAX: usize = 1 << 19;
/// So many operations before a violation are shown with it.
const SHOWN: usize = 24;

/// An operation on some kind of object, together with what it returned.
pub trait Operation: Clone + Debug {
    /// The object.
    type State: Clone + Eq + Hash + Debug;

    /// Some states.
    type Outcomes: IntoIterator<Item = Self::State>;

    /// The object after the operation, one state for each way it can have gone; none if on this object it could not have returned
    /// what it did.
    fn apply(&self, state: &Self::State) -> Self::Outcomes;
}

/// An operation that was done.
#[derive(Clone, Debug)]
pub struct Done<O> {
    /// When it was called, on a clock that all threads share.
    pub called_ns: u64,
    /// When it had returned.
    pub returned_ns: u64,
    /// Who did it, for messages.
    pub by: usize,
    /// What it was, and what it returned.
    pub operation: O,
}

/// Checks the history of one object, in any order. One with too many configurations stays undecided from there on, which is told on the
/// standard error output.
///
/// # Errors
/// The return that cannot be explained, with what happened before, for people.
///
/// # Panics
/// When more than 64 operations run at a time, or one returned before it was called.
pub fn check<O: Operation>(initial: O::State, history: &[Done<O>]) -> Result<(), String> {
    let mut moments: Vec<(u64, bool, usize)> = Vec::with_capacity(history.len() * 2);
    for (i, done) in history.iter().enumerate() {
        assert!(done.called_ns <= done.returned_ns, "{done:?} returned before it was called");
        moments.push((done.called_ns, false, i));
        moments.push((done.returned_ns, true, i));
    }
    // A call at the time of a return comes first: the two may be concurrent, and that permits more.
    moments.sort_unstable();
    let mut running: Vec<Option<usize>> = Vec::new();
    let mut configurations = HashSet::from([(initial, 0u64)]);
    for (_, returns, i) in moments {
        if !returns {
            let slot = running.iter().position(Option::is_none).unwrap_or_else(|| {
                running.push(None);
                running.len() - 1
            });
            assert!(slot < RUNNING_MAX, "too many operations at a time");
            running[slot] = Some(i);
            continue;
        }
        let slot = running.iter().position(|r| *r == Some(i)).expect("it was called");
        let before = configurations.iter().map(|(state, _)| state.clone()).collect();
        configurations = match after_return(configurations, slot, &running, history) {
            Some(configurations) => configurations,
            None => {
                eprintln!("undecided after {} of {} operations: {:?}", i, history.len(), history[i]);
                return Ok(());
            }
        };
        running[slot] = None;
        if configurations.is_empty() {
            return Err(explain(history, i, before));
        }
    }
    Ok(())
}

/// Checks operations on one object that are done one after the other.
///
/// # Errors
/// As [`check`].
pub fn check_in_order<O: Operation>(initial: O::State, operations: &[O]) -> Result<(), String> {
    let done = |(at, operation): (u64, &O)| Done {
        called_ns: 2 * at,
        returned_ns: 2 * at + 1,
        by: 0,
        operation: operation.clone(),
    };
    check(initial, &(0..).zip(operations).map(done).collect::<Vec<_>>())
}

/// All configurations in which the operation of `slot` has taken effect, unless there are too many on the way. Its slot is free
/// afterwards.
fn after_return<O: Operation>(
    configurations: HashSet<(O::State, u64)>,
    slot: usize,
    running: &[Option<usize>],
    history: &[Done<O>],
) -> Option<HashSet<(O::State, u64)>> {
    let mut seen = configurations.clone();
    let mut todo: Vec<_> = configurations.into_iter().collect();
    let mut reached = HashSet::new();
    while let Some((state, effective)) = todo.pop() {
        if seen.len() > CONFIGURATIONS_MAX {
            return None;
        }
        if effective & (1 << slot) != 0 {
            reached.insert((state, effective & !(1 << slot)));
            continue;
        }
        let waiting = running.iter().enumerate().filter(|(s, _)| effective & (1 << s) == 0);
        for (next, i) in waiting.filter_map(|(s, i)| Some((s, (*i)?))) {
            for state in history[i].operation.apply(&state) {
                let configuration = (state, effective | (1 << next));
                if seen.insert(configuration.clone()) {
                    todo.push(configuration);
                }
            }
        }
    }
    Some(reached)
}

fn explain<O: Operation>(history: &[Done<O>], at: usize, before: HashSet<O::State>) -> String {
    let bad = &history[at];
    let mut around: Vec<&Done<O>> = history.iter().filter(|d| d.called_ns <= bad.returned_ns).collect();
    around.sort_by_key(|d| d.returned_ns);
    let mut text = format!(
        "not linearizable: {:?} by {} could not return that; before, the object was one of {before:?}\n",
        bad.operation, bad.by
    );
    for done in &around[around.len().saturating_sub(SHOWN)..] {
        let mark = if std::ptr::eq(*done, bad) { ">" } else { " " };
        let (from, to) = (done.called_ns as f64 / 1e6, done.returned_ns as f64 / 1e6);
        text += &format!("{mark} {from:12.3} to {to:12.3} ms, by {}: {:?}\n", done.by, done.operation);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    enum Register {
        Write(u64),
        Read(u64),
        /// Succeeds for one of several.
        Take(bool),
    }
    use Register::{Read, Take, Write};

    impl Operation for Register {
        type State = u64;
        type Outcomes = Option<u64>;

        fn apply(&self, state: &u64) -> Option<u64> {
            match self {
                Write(value) => Some(*value),
                Read(value) => (value == state).then_some(*state),
                Take(taken) => ((*state != 0) == *taken).then_some(0),
            }
        }
    }

    /// (called, returned, operation), by one client each.
    fn history(operations: &[(u64, u64, Register)]) -> Vec<Done<Register>> {
        let done = |(by, (called_ns, returned_ns, operation)): (usize, &(u64, u64, Register))| Done {
            called_ns: *called_ns,
            returned_ns: *returned_ns,
            by,
            operation: operation.clone(),
        };
        operations.iter().enumerate().map(done).collect()
    }

    fn accepts(operations: &[(u64, u64, Register)]) -> bool {
        check(0, &history(operations)).is_ok()
    }

    #[test]
    fn one_after_another() {
        assert!(accepts(&[]));
        assert!(accepts(&[(0, 1, Read(0)), (2, 3, Write(1)), (4, 5, Read(1))]));
        assert!(!accepts(&[(0, 1, Write(1)), (2, 3, Read(0))]), "a stale read");
        assert!(!accepts(&[(0, 1, Read(1)), (2, 3, Write(1))]), "a read from the future");
        assert!(!accepts(&[(0, 1, Write(1)), (2, 3, Write(2)), (4, 5, Read(1))]), "a lost write");
    }

    #[test]
    fn a_concurrent_write_may_be_seen_or_not_but_not_unseen_again() {
        assert!(accepts(&[(0, 9, Write(1)), (1, 2, Read(0)), (3, 4, Read(1))]));
        assert!(accepts(&[(0, 9, Write(1)), (1, 2, Read(0)), (3, 4, Read(0))]));
        assert!(!accepts(&[(0, 9, Write(1)), (1, 2, Read(1)), (3, 4, Read(0))]));
        // Equal times are concurrent.
        assert!(accepts(&[(0, 2, Write(1)), (2, 3, Read(0)), (4, 5, Read(1))]));
    }

    #[test]
    fn all_observers_see_one_order() {
        let writes = [(0, 20, Write(1)), (0, 20, Write(2))];
        let with = |reads: [(u64, u64, Register); 4]| accepts(&[&writes[..], &reads[..]].concat());
        assert!(with([(1, 2, Read(1)), (3, 4, Read(2)), (1, 2, Read(1)), (3, 4, Read(2))]));
        assert!(!with([(1, 2, Read(1)), (3, 4, Read(2)), (5, 6, Read(1)), (7, 8, Read(2))]));
    }

    #[test]
    fn one_of_several_wins() {
        assert!(accepts(&[(0, 1, Write(1)), (2, 5, Take(true)), (2, 5, Take(false))]));
        assert!(!accepts(&[(0, 1, Write(1)), (2, 5, Take(true)), (2, 5, Take(true))]));
        assert!(!accepts(&[(0, 1, Write(1)), (2, 5, Take(false)), (2, 5, Take(false))]));
        assert!(accepts(&[(0, 9, Write(1)), (2, 3, Take(false)), (4, 5, Take(true)), (6, 7, Take(false))]));
    }

    #[test]
    fn a_long_history_with_some_concurrency_is_checked_quickly() {
        // Eight clients whose operations overlap, with effects at the moment 10 i; reads see the write before.
        let mut operations = Vec::new();
        for i in 0..20_000u64 {
            let operation = if i % 3 == 0 { Write(i + 1) } else { Read(i / 3 * 3 + 1) };
            operations.push((10 * i + 100 - i * 7 % 36, 10 * i + 100 + i * 11 % 36, operation));
        }
        assert!(accepts(&operations));
        operations[15_001].2 = Read(1);
        let error = check(0, &history(&operations)).unwrap_err();
        assert!(error.contains("Read(1) by 15001"), "{error}");
    }
}
