//! How a data directory is: room, fullness, failure.

use quarry_host::clock;
use quarry_host::disk::Space;
use rustix::io::Errno;
use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// A directory that refused a write for lack of room is left alone for this long, whatever it says about its room:
/// it may lack inodes, or a quota may be used up.
const FULL_HOLD: Duration = Duration::from_secs(10);
/// So many reads that failed in a row, without one that succeeded, mean that it is not some bad sectors but the disk.
const READ_ERRORS_MAX: u32 = 10;

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
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Verdict::Full,
        Some(
            Errno::IO
            | Errno::ROFS
            | Errno::NODEV
            | Errno::NXIO
            | Errno::UCLEAN
            | Errno::NOTCONN
            | Errno::STALE,
        ) => Verdict::Broken,
        _ => Verdict::Neither,
    }
}

#[derive(Debug, Default)]
struct State {
    space: Option<Space>,
    /// Taken since `space` was asked for.
    taken: u64,
    failed: Option<String>,
    full_since: Option<Instant>,
    read_errors: u32,
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
        self.state.lock().expect("no thread panics while it holds the lock")
    }

    /// Takes note of what the file system says about its room.
    pub(crate) fn refresh(&self, space: io::Result<Space>) {
        let mut state = self.state();
        match space {
            Ok(space) => {
                state.space = Some(space);
                state.taken = 0;
                if state.full_since.is_some_and(|since| clock::since(since) >= FULL_HOLD) {
                    state.full_since = None;
                }
            }
            Err(e) => state.fail(&e.to_string()),
        }
    }

    /// Takes note of a write that failed.
    pub(crate) fn write_failed(&self, error: &io::Error) {
        match judge(error) {
            Verdict::Full => self.state().full_since = Some(clock::now()),
            Verdict::Broken => self.state().fail(&error.to_string()),
            Verdict::Neither => {}
        }
    }

    /// Takes note of a read that the disk failed, and says whether the disk must be given up.
    pub(crate) fn read_failed(&self, error: &io::Error) -> bool {
        let mut state = self.state();
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

    /// Gives the directory up for writes until the next start.
    pub(crate) fn fail(&self, why: &str) {
        self.state().fail(why);
    }

    pub(crate) fn is_failed(&self) -> bool {
        self.state().failed.is_some()
    }

    /// Takes note of bytes written, until the file system is asked again.
    pub(crate) fn took(&self, bytes: u64) {
        self.state().taken += bytes;
    }

    /// Bytes that may be written here.
    pub(crate) fn room(&self) -> u64 {
        let state = self.state();
        match state.space {
            Some(space) if state.failed.is_none() && state.full_since.is_none() => {
                space.free.saturating_sub(state.taken).saturating_sub(self.reserve)
            }
            _ => 0,
        }
    }

    /// The file system's size, if it works.
    pub(crate) fn space(&self) -> Option<Space> {
        let state = self.state();
        if state.failed.is_some() { None } else { state.space }
    }

    /// What is wrong, if anything, when so many bytes of room are needed.
    pub(crate) fn trouble(&self, needed: u64) -> Option<String> {
        if let Some(why) = &self.state().failed {
            return Some(why.clone());
        }
        (self.room() < needed).then(|| "full".to_owned())
    }
}

impl State {
    fn fail(&mut self, why: &str) {
        self.failed.get_or_insert_with(|| why.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errno(e: Errno) -> io::Error {
        e.into()
    }

    #[test]
    fn a_full_directory_may_recover_and_a_failed_one_does_not() {
        let health = Health::new(10);
        let space = Space { device: 1, total: 1000, free: 500 };
        assert_eq!(health.room(), 0);
        health.refresh(Ok(space));
        health.took(90);
        assert_eq!(health.room(), 400);
        assert_eq!(health.trouble(400), None);
        assert_eq!(health.trouble(401).as_deref(), Some("full"));
        health.write_failed(&errno(Errno::NOSPC));
        health.refresh(Ok(space));
        assert_eq!(health.room(), 0);
        assert!(!health.is_failed());
        health.write_failed(&errno(Errno::IO));
        assert!(health.is_failed() && health.space().is_none());
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
}
