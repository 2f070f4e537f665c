//! Finds out whether a process that waits for us was sent a signal.
//!
//! The kernel's own message, FUSE INTERRUPT, is answered by fuser before we see it. So an operation that takes
//! long looks into `/proc/<tid>/status` of its caller from time to time.

use std::time::Duration;

/// An operation that ends within this time never looks. Short enough for Ctrl-C to feel immediate.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// Returns once the thread has a signal pending that it neither blocks nor ignores. Never returns for the kernel
/// itself (pid 0), nor for a thread that is gone: the kernel then no longer waits for the answer.
pub(crate) async fn interrupted(tid: u32) {
    if tid == 0 {
        return std::future::pending().await;
    }
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match std::fs::read_to_string(format!("/proc/{tid}/status")) {
            Ok(status) if signal_pending(&status) => return,
            Ok(_) => {}
            Err(_) => return std::future::pending().await,
        }
    }
}

fn signal_pending(status: &str) -> bool {
    let mask = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
            .unwrap_or(0)
    };
    (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signal_that_would_be_delivered_counts() {
        let status = |pending, blocked, ignored| {
            format!(
                "Name:\tcat\nSigQ:\t1/5\nSigPnd:\t0000000000000000\nShdPnd:\t{pending}\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\n"
            )
        };
        let (none, int) = ("0000000000000000", "0000000000000002");
        assert!(signal_pending(&status(int, none, none)));
        assert!(!signal_pending(&status(none, none, none)));
        assert!(!signal_pending(&status(int, int, none)));
        assert!(!signal_pending(&status(int, none, int)));
        assert!(!signal_pending(""));
    }
}
