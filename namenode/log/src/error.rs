//! Everything that can go wrong with a log.

use std::io;

/// Why the log could not be opened, or refused or lost a proposal.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The configuration makes no sense.
    #[error("log configuration: {0}")]
    Config(&'static str),
    /// Another process has the directory.
    #[error("the log in {0} is in use by another process")]
    InUse(String),
    /// A file could not be read or written.
    #[error("cannot {action} {file}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file's name in the log's directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Bytes that were acknowledged are not what was written. Nothing was changed.
    #[error("{file} is damaged at offset {offset}: {what}")]
    Damaged {
        /// The file's name in the log's directory.
        file: String,
        /// Where the damage begins, in bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The file was written by a newer version of this program.
    #[error("{file} has format version {found}, this program reads up to {supported}")]
    FutureVersion {
        /// The file's name in the log's directory.
        file: String,
        /// The version in the file.
        found: u32,
        /// The newest version that is understood.
        supported: u32,
    },
    /// The log belongs to another NameNode.
    #[error("{file} belongs to NameNode {found}, not {expected}")]
    ForeignNode {
        /// The file's name in the log's directory.
        file: String,
        /// The number in the file.
        found: u64,
        /// The number that was configured.
        expected: u64,
    },
    /// The state has applied more than the log holds: the log lost entries, or the two do not belong together.
    #[error("the state has applied entry {applied}, but the log ends at {last}")]
    Behind {
        /// The last entry that the state has applied.
        applied: u64,
        /// The last entry of the log.
        last: u64,
    },
    /// The state is older than the log's first entry.
    #[error("the state has applied entry {applied}, but the log was purged up to {purged}")]
    Gap {
        /// The last entry that the state has applied.
        applied: u64,
        /// The last entry that was purged.
        purged: u64,
    },
    /// An entry is empty or larger than the log takes.
    #[error("an entry of {size} bytes: the log takes 1 to {max}")]
    EntrySize {
        /// The entry's size in bytes.
        size: usize,
        /// The largest size.
        max: usize,
    },
    /// The log has reached its size limit; checkpoint and purge.
    #[error("the log holds {bytes} bytes, its limit")]
    Full {
        /// What it holds.
        bytes: u64,
    },
    /// Only entries that were applied may be purged.
    #[error("cannot purge up to entry {up_to}: only {delivered} was delivered")]
    PurgeAhead {
        /// What was asked for.
        up_to: u64,
        /// The last entry that was delivered.
        delivered: u64,
    },
    /// The log has stopped. An entry whose proposal ends so may or may not be there after a restart.
    #[error("the log has stopped: {0}")]
    Stopped(String),
}

impl LogError {
    /// Names action and file of an I/O error.
    pub(crate) fn io(action: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::Io { action, file, source }
    }

    /// Bytes that are not what they should be.
    pub(crate) fn damaged(file: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what: what.into() }
    }
}
