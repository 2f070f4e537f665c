//! The model of a file's content: one value, which clients replace, read and sync.
//!
//! A write that returned is seen by every client from then on. Until a sync returns it may be lost, but only with the
//! client that wrote it: when that crashes, or cannot reach the cluster for so long that its lease breaks. What is left
//! then is the value before its writes or any of them: they reach the cluster in order, and each may be the last that did.

use quarry_tests::linear::Operation;
use std::collections::BTreeMap;

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
    /// From now on whatever a client wrote and did not sync may be lost, at any time and again and again: it crashed or is out of
    /// reach, or the disks fail.
    TroubleBegins(usize),
    /// From now on nothing of the client's is lost any more.
    TroubleEnds(usize),
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
    /// How many troubles each client is in.
    troubles: BTreeMap<usize, u32>,
}

impl Content {
    /// A file whose value is synced.
    pub(crate) fn new(value: u64) -> Self {
        Self { kept: value, pending: Vec::new(), owner: usize::MAX, troubles: BTreeMap::new() }
    }

    fn value(&self) -> u64 {
        self.pending.last().copied().unwrap_or(self.kept)
    }

    /// Nothing of it can be lost any more.
    fn settled(&self) -> Self {
        Self { kept: self.value(), pending: Vec::new(), owner: usize::MAX, troubles: self.troubles.clone() }
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

    /// Everything that may be left of it.
    fn leftovers(&self) -> Vec<Self> {
        let mut all = vec![self.clone()];
        if self.troubles.contains_key(&self.owner) {
            all.extend((0..self.pending.len()).map(|left| {
                let kept = if left == 0 { self.kept } else { self.pending[left - 1] };
                Self { kept, ..self.settled() }
            }));
        }
        all
    }

    fn with_trouble(mut self, client: usize, begins: bool) -> Self {
        let count = self.troubles.entry(client).or_default();
        *count = if begins { *count + 1 } else { count.saturating_sub(1) };
        self.troubles.retain(|_, count| *count > 0);
        self
    }

    fn after(self, operation: &Register) -> Option<Self> {
        Some(match *operation {
            Register::Write(client, value) | Register::MaybeWrite(client, value) => self.write(client, value),
            Register::Read(client, value) if self.value() == value => self.seen_by(client),
            Register::Read(..) => return None,
            Register::Sync(client) if self.owner == client => self.settled(),
            Register::Sync(_) | Register::Nothing => self,
            Register::TroubleBegins(client) => self.with_trouble(client, true),
            Register::TroubleEnds(client) => self.with_trouble(client, false),
        })
    }
}

impl Operation for Register {
    type State = Content;
    type Outcomes = Vec<Content>;

    fn apply(&self, content: &Content) -> Vec<Content> {
        let left = content.leftovers();
        let unchanged = if let Self::MaybeWrite(..) = self { left.clone() } else { Vec::new() };
        left.into_iter().filter_map(|content| content.after(self)).chain(unchanged).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_tests::linear::check_in_order;

    fn in_order(operations: &[Register]) -> Result<(), String> {
        check_in_order(Content::new(0), operations)
    }

    #[test]
    fn only_what_was_not_synced_can_be_lost_and_only_with_its_client() {
        use Register::{Read, Sync, TroubleBegins, TroubleEnds, Write};
        in_order(&[Write(1, 5), Write(1, 6), TroubleBegins(1), Read(2, 5)]).unwrap();
        in_order(&[Write(1, 5), Write(1, 6), TroubleBegins(1), Read(2, 0)]).unwrap();
        in_order(&[Write(1, 5), Write(1, 6), TroubleBegins(1), Read(2, 6)]).unwrap();
        in_order(&[TroubleBegins(1), Write(1, 5), Read(2, 0), Write(1, 6), Read(2, 0)]).unwrap();
        in_order(&[TroubleBegins(1), TroubleEnds(1), Write(1, 5), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), Sync(1), TroubleBegins(1), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), Read(2, 5), TroubleBegins(1), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), TroubleBegins(2), Read(2, 0)]).unwrap_err();
        in_order(&[Write(1, 5), TroubleBegins(1), Read(2, 0), Read(2, 5)]).unwrap_err();
    }
}
