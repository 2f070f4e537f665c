//! The model of a file's content: one value, which clients replace, read and sync.
//!
//! A write that returned is seen by every client from then on. Until a sync returns it may be lost, but only with the
//! client that wrote it: when that crashes, or cannot reach the cluster for so long that its lease breaks. What is left
//! then is the value before its writes or any of them: they reach the cluster in order, and each may be the last that did.

use quarry_tests::linear::Operation;

/// An operation on a file, with what it returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// A value was written by a client.
    Write(usize, u64),
    /// A write failed, or its client did not live to see the answer: it took effect, or it did not.
    MaybeWrite(usize, u64),
    /// A client read a value.
    Read(usize, u64),
    /// A read failed, which tells nothing.
    Nothing,
    /// Everything that a client had written before is durable.
    Sync(usize),
    /// A client crashed or was out of reach: at some moment of this time what it had not synced may be lost.
    Trouble(usize),
}

/// What a file may hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Content {
    /// The value that no client can lose.
    kept: u64,
    /// Later values of one client that it may lose, in order.
    pending: Vec<u64>,
    /// The client of `pending`.
    owner: usize,
}

impl Content {
    /// A file whose value is synced.
    pub(crate) fn new(value: u64) -> Self {
        Self { kept: value, pending: Vec::new(), owner: usize::MAX }
    }

    fn value(&self) -> u64 {
        self.pending.last().copied().unwrap_or(self.kept)
    }

    /// Nothing of it can be lost any more.
    fn settled(&self) -> Self {
        Self::new(self.value())
    }

    /// As another client comes to see it: what it sees is in the cluster.
    fn seen_by(&self, client: usize) -> Self {
        if self.owner == client { self.clone() } else { self.settled() }
    }

    fn write(&self, client: usize, value: u64) -> Self {
        let mut after = self.seen_by(client);
        after.owner = client;
        after.pending.push(value);
        after
    }

    fn without_last(&self, kept: usize) -> Self {
        match kept {
            0 => Self::new(self.kept),
            n => Self::new(self.pending[n - 1]),
        }
    }
}

impl Operation for Register {
    type State = Content;
    type Outcomes = Vec<Content>;

    fn apply(&self, content: &Content) -> Vec<Content> {
        match self {
            Self::Write(client, value) => vec![content.write(*client, *value)],
            Self::MaybeWrite(client, value) => vec![content.clone(), content.write(*client, *value)],
            Self::Read(client, value) if content.value() == *value => vec![content.seen_by(*client)],
            Self::Read(..) => Vec::new(),
            Self::Nothing => vec![content.clone()],
            Self::Sync(client) if content.owner == *client => vec![content.settled()],
            Self::Sync(_) => vec![content.clone()],
            Self::Trouble(client) if content.owner == *client => {
                let lost = (0..content.pending.len()).map(|kept| content.without_last(kept));
                lost.chain([content.clone()]).collect()
            }
            Self::Trouble(_) => vec![content.clone()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_tests::linear::{Done, check};

    /// Checks operations that are done one after the other.
    fn in_order(operations: &[Register]) -> Result<(), String> {
        let done = |(at, operation): (usize, &Register)| Done {
            called_ns: 2 * at as u64,
            returned_ns: 2 * at as u64 + 1,
            by: 0,
            operation: operation.clone(),
        };
        let history: Vec<_> = operations.iter().enumerate().map(done).collect();
        check(Content::new(0), &history)
    }

    #[test]
    fn only_what_was_not_synced_can_be_lost_and_only_with_its_client() {
        use Register::{Read, Sync, Trouble, Write};
        in_order(&[Write(1, 5), Write(1, 6), Trouble(1), Read(2, 5)]).unwrap();
        in_order(&[Write(1, 5), Write(1, 6), Trouble(1), Read(2, 0)]).unwrap();
        in_order(&[Write(1, 5), Write(1, 6), Trouble(1), Read(2, 6)]).unwrap();
        in_order(&[Write(1, 5), Sync(1), Trouble(1), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), Read(2, 5), Trouble(1), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), Trouble(2), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), Trouble(1), Read(2, 0), Read(2, 5)]).unwrap_err();
    }
}
