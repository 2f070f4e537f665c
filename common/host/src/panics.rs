//! A panic ends the process.
//!
//! A task or thread that panics takes nothing else down by itself: the process goes on half alive, with a worker that never comes
//! again or a lock that is never released, and looks well from outside. A broken invariant is a reason to stop; what was
//! acknowledged is durable, and whoever started the process starts it again.

use std::panic;

/// From now on a panic of any thread or task is reported as always, with a line in the log, and aborts the process.
pub fn abort_on_panic() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // First to standard error: it may be the log that panics.
        report(panic);
        tracing::error!(%panic, "a defect: the process ends itself");
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    const CHILD: &str = "QUARRY_TEST_PANICS";

    /// The body of the process that the test below starts.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        abort_on_panic();
        let ended = std::thread::spawn(|| panic!("an invariant is broken")).join();
        unreachable!("the process outlives a panic: {ended:?}");
    }

    #[test]
    fn a_panic_of_a_thread_ends_the_process_with_a_report() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "panics::tests::child", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let report = String::from_utf8_lossy(&child.stderr);
        assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{report}");
        assert!(report.contains("an invariant is broken"), "{report}");
    }
}
