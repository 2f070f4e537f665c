//! Errors of background writes, reported once to every handle that was open, as Linux does with `errseq_t`.

use quarry_common::wire::error::FsError;

/// The newest error of an inode.
#[derive(Debug, Default)]
pub(crate) struct ErrorLog {
    number: u64,
    error: Option<FsError>,
    reported: bool,
}

/// The newest error that a handle has reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ErrorCursor(u64);

impl ErrorLog {
    /// A write failed.
    pub(crate) fn record(&mut self, error: FsError) {
        self.number += 1;
        self.error = Some(error);
        self.reported = false;
    }

    /// A log that begins with an error that nobody has seen.
    pub(crate) fn with(error: FsError) -> Self {
        let mut log = Self::default();
        log.record(error);
        log
    }

    /// The newest error, if nobody has seen it.
    pub(crate) fn unseen(&self) -> Option<FsError> {
        self.error.filter(|_| !self.reported)
    }

    /// For a new handle: it reports an error that nobody has seen yet.
    pub(crate) fn cursor(&self) -> ErrorCursor {
        ErrorCursor(if self.reported { self.number } else { 0 })
    }

    /// The error that a handle has not reported yet; from now on it has.
    ///
    /// # Errors
    /// The newest one since the last call with this cursor.
    pub(crate) fn report(&mut self, cursor: &mut ErrorCursor) -> Result<(), FsError> {
        if cursor.0 == self.number {
            return Ok(());
        }
        cursor.0 = self.number;
        self.reported = true;
        self.error.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_open_handle_learns_once_and_the_next_opener_if_nobody_did() {
        let mut log = ErrorLog::default();
        let (mut a, mut b) = (log.cursor(), log.cursor());
        assert_eq!(log.report(&mut a), Ok(()));
        log.record(FsError::NoSpace);
        let mut late = log.cursor();
        for cursor in [&mut a, &mut b, &mut late] {
            assert_eq!(log.report(cursor), Err(FsError::NoSpace));
            assert_eq!(log.report(cursor), Ok(()));
        }
        let mut later = log.cursor();
        assert_eq!(log.report(&mut later), Ok(()));
    }
}
