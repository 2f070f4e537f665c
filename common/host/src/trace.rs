//! Operations by number: what a program, a user of the gateway or a tool asks for, through every process that works on it.
//!
//! Where an operation begins it gets a number ([`begin`]), and the tasks that carry it out run in its [`Scope`]. Requests to other
//! processes carry the number, so that the logs of mount, NameNode and DataNodes name one operation alike. Work that nobody waits
//! for, such as renewals, has no number.

use crate::metrics::table::SLOW_OPERATIONS;
use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bits of a number, so that it fits into the id of a request beside the request's own number.
pub const BITS: u32 = 40;
const MASK: u64 = (1 << BITS) - 1;

/// Operations that take longer are logged, unless something else is said.
const SLOW_DEFAULT: Duration = Duration::from_secs(1);

/// The number of an operation; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Operation(u64);

impl Operation {
    /// No operation.
    pub const NONE: Self = Self(0);

    /// From what came over the network.
    pub fn from_number(number: u64) -> Self {
        Self(number & MASK)
    }

    /// At most [`BITS`] bits.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Whether it is one.
    pub fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// This one, or the other if this is none.
    pub fn or(self, other: Self) -> Self {
        if self.is_some() { self } else { other }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:010x}", self.0)
    }
}

thread_local! {
    static CURRENT: Cell<Operation> = const { Cell::new(Operation::NONE) };
}

/// The operation that the running task works for.
pub fn current() -> Operation {
    CURRENT.get()
}

/// A number for an operation that begins. Mounts start at numbers far apart, so that one number is one operation.
pub fn begin() -> Operation {
    static NEXT: OnceLock<AtomicU64> = OnceLock::new();
    let next = NEXT.get_or_init(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seed = since.as_nanos() as u64 ^ (u64::from(std::process::id()) << 32);
        // The multiplier of Knuth's hash: neighbours end up far apart.
        AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    });
    let number = next.fetch_add(1, Ordering::Relaxed) & MASK;
    Operation(number.max(1))
}

/// A future that works for an operation.
#[derive(Debug)]
pub struct Scope<F> {
    operation: Operation,
    work: F,
}

impl<F: Future + Unpin> Scope<F> {
    /// Polls `work` for the operation.
    pub fn new(operation: Operation, work: F) -> Self {
        Self { operation, work }
    }
}

/// Sets the operation until it is dropped.
struct Entered(Operation);

impl Entered {
    fn new(operation: Operation) -> Self {
        Self(CURRENT.replace(operation))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

impl<F: Future + Unpin> Future for Scope<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let _entered = Entered::new(self.operation);
        Pin::new(&mut self.work).poll(context)
    }
}

/// Microseconds; `u64::MAX` for never.
static SLOW: AtomicU64 = AtomicU64::new(SLOW_DEFAULT.as_micros() as u64);

/// From now on operations that take longer than this are logged, with `None` none.
pub fn log_slower_than(threshold: Option<Duration>) {
    let micros = threshold.map_or(u64::MAX, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX));
    SLOW.store(micros, Ordering::Relaxed);
}

/// The threshold in seconds; 0 for none.
pub fn slow_seconds() -> f64 {
    match SLOW.load(Ordering::Relaxed) {
        u64::MAX => 0.0,
        micros => micros as f64 / 1e6,
    }
}

/// Whether an operation belongs into the log of slow operations. Counts those of this part of the cluster that do.
pub fn is_slow(part: &'static str, took: Duration) -> bool {
    let slow = took.as_micros() as u64 >= SLOW.load(Ordering::Relaxed);
    if slow {
        SLOW_OPERATIONS.add(&[part], 1);
    }
    slow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_works_for_its_operation_and_for_no_other() {
        let (a, b) = (begin(), begin());
        assert!(a.is_some() && a != b && a.number() < 1 << BITS);
        let work = |expected| {
            Scope::new(
                expected,
                Box::pin(async move {
                    for _ in 0..10 {
                        assert_eq!(current(), expected);
                        tokio::task::yield_now().await;
                    }
                }),
            )
        };
        tokio::join!(work(a), work(b));
        assert_eq!(current(), Operation::NONE);
        assert_eq!(Operation::from_number(a.number()), a);
        assert_eq!(Operation::NONE.or(a), a);
    }

    #[test]
    fn what_is_slow_is_a_matter_of_the_threshold() {
        log_slower_than(Some(Duration::from_millis(5)));
        assert!(is_slow("mount", Duration::from_millis(5)) && !is_slow("mount", Duration::from_millis(4)));
        log_slower_than(None);
        assert!(!is_slow("mount", Duration::from_secs(1 << 40)));
    }
}
