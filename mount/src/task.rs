//! The thread that waits for an answer: what it may do, and whether it is still going to take the answer.
//!
//! The kernel's own message, FUSE INTERRUPT, is answered by fuser before it reaches this crate. So an operation that takes long
//! looks into `/proc/TID/status` of its caller from time to time.

use quarry_client::Credentials;
use quarry_common::wire::session::LockFamily;
use std::time::Duration;

/// An operation that ends within this time never looks. Short enough for Ctrl-C to feel immediate.
const LOOK_EVERY: Duration = Duration::from_millis(150);
/// Signals that do nothing, stop or continue a process by default (17 SIGCHLD, 18 SIGCONT, 19 SIGSTOP, 20 SIGTSTP, 21 SIGTTIN,
/// 22 SIGTTOU, 23 SIGURG, 28 SIGWINCH); all others end it.
const HARMLESS: u64 = bit(17) | bit(18) | bit(19) | bit(20) | bit(21) | bit(22) | bit(23) | bit(28);
/// flock(2) in the tables of system calls of x86-64, i386 and the architectures that share the generic one (arm64, riscv64).
/// These numbers stand for no call of fcntl(2) in any of them.
const FLOCK: [&str; 3] = ["73", "143", "32"];
/// write(2) and pwrite64(2) in the same tables.
const WRITES: [&str; 6] = ["1", "18", "4", "181", "64", "68"];
/// CAP_FSETID of `linux/capability.h`.
const CAP_FSETID: u32 = 4;

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// Which signals end the waiting of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruptible {
    /// Those that are about to kill the process. The kernel cannot restart an operation of a FUSE file system, so a signal that the
    /// process handles must not show.
    WhenKilled,
    /// Those that the thread handles as well: the operation is a wait for a lock, which the kernel restarts.
    BySignals,
}

/// The thread of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    tid: u32,
    uid: u32,
    gid: u32,
}

impl Task {
    pub(crate) fn of(req: &fuser::Request) -> Self {
        Self { tid: req.pid(), uid: req.uid(), gid: req.gid() }
    }

    /// Its number, as the kernel names it in every request of the thread.
    pub(crate) fn tid(self) -> u32 {
        self.tid
    }

    /// What it may do: all, for root, and nothing for others, where the kernel does not show more.
    pub(crate) fn credentials(self) -> Credentials {
        let status = self.status().unwrap_or_default();
        credentials(&status, self.uid, self.gid)
    }

    /// The call in which it asks for a lock, which fuser does not pass on. Where the kernel does not show it, all locks are of one
    /// family.
    pub(crate) fn lock_family(self) -> LockFamily {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.tid)).unwrap_or_default();
        lock_family(&call)
    }

    /// How many bytes the thread writes with its call, of which the request may be a part. To be asked during a write only; unknown
    /// where the kernel does not show it, and for the calls that gather their bytes.
    pub(crate) fn bytes_of_call(self) -> Option<u64> {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.tid)).ok()?;
        bytes_of_call(&call)
    }

    fn status(self) -> Option<String> {
        // The kernel itself asks as thread 0.
        (self.tid != 0).then(|| std::fs::read_to_string(format!("/proc/{}/status", self.tid)).ok()).flatten()
    }

    /// Returns once a signal ends the waiting. Never returns for the kernel itself, nor for a thread that is gone: the kernel
    /// then no longer waits for the answer.
    pub(crate) async fn interrupted(self, by: Interruptible) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            match self.status() {
                Some(status) if is_interrupted(&status, by) => return,
                Some(_) => {}
                None => return std::future::pending().await,
            }
        }
    }
}

/// What `/proc/TID/syscall` says of a thread that asks for a lock: the number of the call comes first.
fn lock_family(call: &str) -> LockFamily {
    match call.split_whitespace().next() {
        Some(number) if FLOCK.contains(&number) => LockFamily::Flock,
        _ => LockFamily::Record,
    }
}

fn bytes_of_call(call: &str) -> Option<u64> {
    let mut words = call.split_whitespace();
    let number = words.next()?;
    let count = words.nth(2)?;
    WRITES.contains(&number).then(|| u64::from_str_radix(count.strip_prefix("0x")?, 16).ok()).flatten()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

fn mask(status: &str, name: &str) -> u64 {
    field(status, name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}

fn is_interrupted(status: &str, by: Interruptible) -> bool {
    let mask = |name| mask(status, name);
    let pending = (mask("SigPnd") | mask("ShdPnd")) & !mask("SigBlk") & !mask("SigIgn");
    match by {
        Interruptible::BySignals => pending != 0,
        Interruptible::WhenKilled => pending & !mask("SigCgt") & !HARMLESS != 0,
    }
}

fn credentials(status: &str, uid: u32, gid: u32) -> Credentials {
    let keeps_suidgid =
        field(status, "CapEff").map_or(uid == 0, |_| mask(status, "CapEff") >> CAP_FSETID & 1 == 1);
    let listed = field(status, "Groups").unwrap_or_default().split_whitespace();
    let groups = listed.filter_map(|group| group.parse().ok()).chain(std::iter::once(gid)).collect();
    Credentials { keeps_suidgid, groups }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Interruptible::{BySignals, WhenKilled};

    #[test]
    fn only_a_signal_that_kills_or_a_lock_is_waited_for_counts() {
        let status = |pending: u64, blocked: u64, ignored: u64, caught: u64| {
            format!(
                "Name:\tcat\nSigQ:\t1/5\nSigPnd:\t0000000000000000\nShdPnd:\t{pending:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
            )
        };
        let (int, chld, winch, kill) = (bit(2), bit(17), bit(28), bit(9));
        for (status, killed, interrupted) in [
            (status(int, 0, 0, 0), true, true),
            (status(int, 0, 0, int), false, true),
            (status(chld, 0, 0, chld), false, true),
            (status(winch, 0, 0, 0), false, true),
            (status(kill, 0, 0, int), true, true),
            (status(0, 0, 0, 0), false, false),
            (status(int, int, 0, 0), false, false),
            (status(int, 0, int, 0), false, false),
            (String::new(), false, false),
        ] {
            assert_eq!(is_interrupted(&status, WhenKilled), killed, "{status}");
            assert_eq!(is_interrupted(&status, BySignals), interrupted, "{status}");
        }
    }

    #[test]
    fn the_call_tells_the_family_of_a_lock() {
        assert_eq!(
            lock_family("73 0x3 0x6 0x0 0x7f47e1ccb720 0x0 0x0 0x7ffe24251fb8 0x7f47e2316897\n"),
            LockFamily::Flock
        );
        for other in ["72 0x3 0x6\n", "221 0x3 0x6\n", "55 0x3\n", "25 0x3\n", "running\n", ""] {
            assert_eq!(lock_family(other), LockFamily::Record, "{other}");
        }
    }

    #[test]
    fn the_call_tells_how_much_it_writes() {
        let call =
            |number: u32| format!("{number} 0x3 0x7f47e1ccb720 0x300000 0x0 0x0 0x0 0x7ffe24251fb8 0x7f\n");
        assert_eq!([1, 18, 64].map(|number| bytes_of_call(&call(number))), [Some(3 << 20); 3]);
        for other in [&*call(20), "running\n", "1 0x3\n", ""] {
            assert_eq!(bytes_of_call(other), None, "{other}");
        }
    }

    #[test]
    fn credentials_come_from_the_thread_or_its_numbers() {
        let status = "Groups:\t4 24 \nCapEff:\t0000000000000010\n";
        assert_eq!(credentials(status, 1000, 7), Credentials { keeps_suidgid: true, groups: vec![4, 24, 7] });
        let status = "Groups:\t\nCapEff:\t0000000000000000\n";
        assert_eq!(credentials(status, 0, 7), Credentials { keeps_suidgid: false, groups: vec![7] });
        assert_eq!(credentials("", 0, 0), Credentials { keeps_suidgid: true, groups: vec![0] });
        assert_eq!(credentials("", 5, 0), Credentials { keeps_suidgid: false, groups: vec![0] });
    }
}
