//! What an entry of the log holds: commands, and from where they came.
//!
//! ```text
//! 1 byte   format version
//! varint   incarnation: which run of which NameNode proposed it
//! varint   tag: which of its proposals it is
//! varint   number of commands
//! ...      the commands, each in postcard
//! ```
//!
//! Whoever proposed an entry finds those who wait for its outcome by incarnation and tag.

use bytes::Bytes;
use quarry_namenode_core::Command;

/// The version of this layout.
const FORMAT: u8 = 1;
/// Commands of one entry at most: applying them takes a few milliseconds.
pub(crate) const COMMANDS_MAX: usize = 1024;
/// Bytes of commands of one entry, unless a single one is larger: a frame of a client is at most 1 MiB.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// An entry that is being put together.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    commands: Vec<u8>,
    count: usize,
}

impl Builder {
    /// Adds a command.
    pub(crate) fn push(&mut self, command: &Command) {
        let buffer = std::mem::take(&mut self.commands);
        self.commands = postcard::to_extend(command, buffer).expect("commands always encode into memory");
        self.count += 1;
    }

    /// Whether the next command should go into another entry.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= COMMANDS_MAX || self.commands.len() >= BYTES_MAX
    }

    /// The entry.
    pub(crate) fn finish(self, incarnation: u64, tag: u64) -> Bytes {
        let head = Vec::with_capacity(self.commands.len() + 32);
        let head = postcard::to_extend(&(FORMAT, incarnation, tag, self.count as u64), head)
            .expect("numbers always encode into memory");
        let mut entry = head;
        entry.extend_from_slice(&self.commands);
        entry.into()
    }
}

/// An entry as it comes out of the log.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) incarnation: u64,
    pub(crate) tag: u64,
    pub(crate) commands: Vec<Command>,
}

/// Reads an entry; says what is wrong with it.
pub(crate) fn decode(bytes: &[u8]) -> Result<Entry, String> {
    let (format, rest) = postcard::take_from_bytes::<u8>(bytes).map_err(|e| e.to_string())?;
    if format != FORMAT {
        return Err(format!("entry format {format}, this program reads format {FORMAT}"));
    }
    let ((incarnation, tag, commands), rest) =
        postcard::take_from_bytes::<(u64, u64, Vec<Command>)>(rest).map_err(|e| e.to_string())?;
    if !rest.is_empty() {
        return Err(format!("{} bytes too many", rest.len()));
    }
    Ok(Entry { incarnation, tag, commands })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quarry_common::ids::SessionId;
    use quarry_common::wire::fs::Timestamp;
    use quarry_namenode_core::{Body, LogicalTime};

    #[test]
    fn an_entry_reads_what_it_writes() {
        let commands: Vec<Command> = (0..300)
            .map(|n| Command {
                now: Timestamp(n),
                clock: LogicalTime(n as u64),
                body: Body::EndSession { session: SessionId(n as u64), expired: false },
            })
            .collect();
        let mut builder = Builder::default();
        for command in &commands {
            builder.push(command);
        }
        let entry = decode(&builder.finish(u64::MAX, 7)).unwrap();
        assert_eq!((entry.incarnation, entry.tag), (u64::MAX, 7));
        assert_eq!(entry.commands, commands);
        assert!(decode(&Builder::default().finish(1, 2)).unwrap().commands.is_empty());
        assert!(decode(&[2, 0, 0, 0]).unwrap_err().contains("format 2"));
    }

    proptest! {
        #[test]
        fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
