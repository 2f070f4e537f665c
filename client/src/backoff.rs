//! Pauses between attempts: they grow, and differ from those of others who lost the same server.

use quarry_host::random;
use rand::Rng;
use std::time::Duration;

/// Grows with each pause.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    pub(crate) fn new(first: Duration, max: Duration) -> Self {
        Self { next: first, max }
    }

    /// The next pause: between half of and the full duration, which doubles.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.next.mul_f64(random::rng().random_range(0.5..=1.0));
        self.next = (self.next * 2).min(self.max);
        pause
    }

    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_their_limit() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(50));
        for full in [10, 20, 40, 50, 50] {
            let pause = backoff.next();
            let full = Duration::from_millis(full);
            assert!(full / 2 <= pause && pause <= full, "{pause:?} of {full:?}");
        }
    }
}
