//! The health of one data directory: room, fullness, failure, return.

use quarry_host::clock;
use quarry_host::disk::Space;
use rustix::io::Errno;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A directory that refused a write for lack of room is left alone for this long, whatever its file system says about its
/// room: inodes may be lacking, or a quota may be used up.
const FULL_HOLD: Duration = Duration::from_secs(10);
/// So many reads that failed in a row, without one that succeeded, mean that not some sectors are bad but the disk.
const READ_ERRORS_MAX: u32 = 10;
/// Probes in a row that a failed directory must answer before it is used again.
const PROBES_TO_RETURN: u32 = 3;
/// The largest number of such probes: a directory that fails again and again stays out longer each time, for some minutes at
/// most.
const PROBES_TO_RETURN_MAX: u32 = 150;

/// What an error says about the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// No room.
    Full,
    /// The disk is broken or gone.
    Broken,
    /// Something passing, or of the process.
    Neither,
}

/// Judges an error of a system call.
pub(crate) fn judge(error: &io::Error) -> Verdict {
    if error.kind() == io::ErrorKind::StaleNetworkFileHandle {
        return Verdict::Broken;
    }
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Verdict::Full,
        Some(Errno::IO | Errno::ROFS | Errno::NODEV | Errno::NXIO | Errno::UCLEAN | Errno::NOTCONN) => {
            Verdict::Broken
        }
        _ => Verdict::Neither,
    }
}

#[derive(Clone, Debug)]
struct Failure {
    why: String,
    since: Instant,
    /// Its chunks are no longer counted on: they were reported as lost.
    given_up: bool,
    /// Probes answered in a row.
    answered: u32,
}

#[derive(Debug, Default)]
struct State {
    space: Option<Space>,
    /// Bytes written since `space` was asked for.
    taken: u64,
    failure: Option<Failure>,
    full_since: Option<Instant>,
    read_errors: u32,
    errors: u64,
    failures: u32,
}

/// The health of one directory.
#[derive(Debug)]
pub(crate) struct Health {
    reserve: u64,
    state: Mutex<State>,
}

impl Health {
    pub(crate) fn new(reserve: u64) -> Self {
        Self { reserve, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what the file system says about its room.
    pub(crate) fn refresh(&self, space: Space) {
        let mut state = self.state();
        state.space = Some(space);
        state.taken = 0;
        if state.full_since.is_some_and(|since| clock::since(since) >= FULL_HOLD) {
            state.full_since = None;
        }
    }

    /// Takes note of a write that failed.
    pub(crate) fn write_failed(&self, error: &io::Error) {
        let mut state = self.state();
        state.errors += 1;
        match judge(error) {
            Verdict::Full => state.full_since = Some(clock::now()),
            Verdict::Broken => state.fail(&error.to_string()),
            Verdict::Neither => {}
        }
    }

    /// Takes note of a read that the disk failed, and says whether the disk must be given up.
    pub(crate) fn read_failed(&self, error: &io::Error) -> bool {
        let mut state = self.state();
        state.errors += 1;
        state.read_errors += 1;
        if state.read_errors == READ_ERRORS_MAX {
            state.fail(&format!("{READ_ERRORS_MAX} reads in a row failed: {error}"));
            return true;
        }
        false
    }

    /// Takes note of a read that succeeded.
    pub(crate) fn read_succeeded(&self) {
        self.state().read_errors = 0;
    }

    /// Takes the directory out of use.
    pub(crate) fn fail(&self, why: &str) {
        self.state().fail(why);
    }

    /// Notes that the chunks of the failed directory are no longer counted on; says whether they were until now.
    pub(crate) fn give_up(&self) -> bool {
        match &mut self.state().failure {
            Some(failure) => !std::mem::replace(&mut failure.given_up, true),
            None => false,
        }
    }

    /// Takes note of a probe of a failed directory, and says whether the directory may be used again.
    pub(crate) fn probed(&self, answered: bool) -> bool {
        let mut state = self.state();
        let needed = (PROBES_TO_RETURN << state.failures.saturating_sub(1).min(8)).min(PROBES_TO_RETURN_MAX);
        let Some(failure) = &mut state.failure else { return false };
        failure.answered = if answered { failure.answered + 1 } else { 0 };
        failure.answered >= needed
    }

    /// Says why a failed directory does not come back.
    pub(crate) fn explain(&self, why: &str) {
        if let Some(failure) = &mut self.state().failure {
            why.clone_into(&mut failure.why);
        }
    }

    /// Puts the directory into use again; says whether its chunks had been given up.
    pub(crate) fn returned(&self) -> bool {
        let mut state = self.state();
        state.read_errors = 0;
        state.full_since = None;
        state.failure.take().is_some_and(|failure| failure.given_up)
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.state().failure.is_some()
    }

    /// Since when the directory is out of use.
    pub(crate) fn failed_for(&self) -> Option<Duration> {
        self.state().failure.as_ref().map(|failure| clock::since(failure.since))
    }

    /// The directory's chunks are not counted on.
    pub(crate) fn is_given_up(&self) -> bool {
        self.state().failure.as_ref().is_some_and(|failure| failure.given_up)
    }

    /// Operations that failed since the start.
    pub(crate) fn errors(&self) -> u64 {
        self.state().errors
    }

    /// Takes note of bytes written, until the file system is asked again.
    pub(crate) fn took(&self, bytes: u64) {
        self.state().taken += bytes;
    }

    /// Bytes that may be written here.
    pub(crate) fn room(&self) -> u64 {
        let state = self.state();
        match state.space {
            Some(space) if state.failure.is_none() && state.full_since.is_none() => {
                space.free.saturating_sub(state.taken).saturating_sub(self.reserve)
            }
            _ => 0,
        }
    }

    /// The file system's size, if it works.
    pub(crate) fn space(&self) -> Option<Space> {
        let state = self.state();
        if state.failure.is_some() { None } else { state.space }
    }

    /// Why the directory is out of use, if it is.
    pub(crate) fn failure(&self) -> Option<String> {
        self.state().failure.as_ref().map(|failure| failure.why.clone())
    }
}

impl State {
    fn fail(&mut self, why: &str) {
        match &mut self.failure {
            Some(failure) => failure.answered = 0,
            None => {
                self.failures += 1;
                let why = why.to_owned();
                self.failure = Some(Failure { why, since: clock::now(), given_up: false, answered: 0 });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(e: Errno) -> io::Error {
        e.into()
    }

    const SPACE: Space = Space { device: 1, total: 1000, free: 500 };

    #[test]
    fn a_full_directory_is_not_a_failed_one() {
        let health = Health::new(10);
        assert_eq!(health.room(), 0);
        health.refresh(SPACE);
        health.took(90);
        assert_eq!(health.room(), 400);
        health.write_failed(&errno(Errno::NOSPC));
        health.refresh(SPACE);
        assert_eq!(health.room(), 0);
        assert!(!health.is_failed());
        health.write_failed(&errno(Errno::IO));
        assert!(health.is_failed() && health.space().is_none());
        assert_eq!(health.errors(), 2);
    }

    #[test]
    fn reads_fail_the_disk_only_in_a_row() {
        let health = Health::new(0);
        for _ in 1..READ_ERRORS_MAX {
            assert!(!health.read_failed(&errno(Errno::IO)));
        }
        health.read_succeeded();
        for _ in 1..READ_ERRORS_MAX {
            assert!(!health.read_failed(&errno(Errno::IO)));
        }
        assert!(health.read_failed(&errno(Errno::IO)));
    }

    #[test]
    fn a_failed_directory_returns_after_probes_in_a_row_and_later_each_time() {
        let health = Health::new(0);
        health.refresh(SPACE);
        let probes = |health: &Health| (1..).find(|_| health.probed(true)).unwrap();
        health.write_failed(&errno(Errno::ROFS));
        assert!(!health.probed(true) && !health.probed(true) && !health.probed(false));
        assert_eq!(probes(&health), PROBES_TO_RETURN);
        assert!(!health.returned() && !health.is_failed());
        assert_eq!(health.room(), 500);
        health.fail("again");
        assert!(health.give_up() && !health.give_up() && health.is_given_up());
        assert_eq!(probes(&health), 2 * PROBES_TO_RETURN);
        assert!(health.returned());
        for _ in 0..20 {
            health.fail("again");
            health.returned();
        }
        health.fail("again");
        assert_eq!(probes(&health), PROBES_TO_RETURN_MAX);
    }
}
