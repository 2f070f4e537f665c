//! The model of a lock: one client has it, or none.
//!
//! A client that is out of reach for too long loses its locks, and learns of it later.

use quarry_tests::linear::Operation;

/// An operation on a lock, with what it returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// A client was given the lock.
    Taken(usize),
    /// The lock was refused to a client, since another has it.
    Busy(usize),
    /// A client asked for the lock and was told nothing: it has it, or not.
    MaybeTaken(usize),
    /// A client gave the lock back.
    Freed(usize),
    /// A client failed to give the lock back, or did not live to see the answer.
    MaybeFreed(usize),
    /// A client crashed or was out of reach: at some moment of this time it may lose the lock.
    Trouble(usize),
}

impl Operation for Locking {
    /// Who has it.
    type State = Option<usize>;
    type Outcomes = Vec<Option<usize>>;

    fn apply(&self, holder: &Option<usize>) -> Vec<Option<usize>> {
        let holder = *holder;
        match *self {
            Self::Taken(client) if holder.is_none() => vec![Some(client)],
            Self::MaybeTaken(client) if holder.is_none() => vec![None, Some(client)],
            Self::Taken(_) => Vec::new(),
            Self::Busy(client) if holder.is_some_and(|other| other != client) => vec![holder],
            Self::Busy(_) => Vec::new(),
            Self::Freed(client) if holder == Some(client) => vec![None],
            Self::MaybeFreed(client) | Self::Trouble(client) if holder == Some(client) => vec![None, holder],
            // It had lost the lock before.
            Self::MaybeTaken(_) | Self::Freed(_) | Self::MaybeFreed(_) | Self::Trouble(_) => vec![holder],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_tests::linear::check_in_order;

    fn in_order(operations: &[Locking]) -> Result<(), String> {
        check_in_order(None, operations)
    }

    #[test]
    fn a_lock_has_one_holder_and_is_lost_in_trouble_only() {
        use Locking::{Busy, Freed, Taken, Trouble};
        in_order(&[Taken(1), Busy(2), Freed(1), Taken(2)]).unwrap();
        in_order(&[Taken(1), Taken(2)]).unwrap_err();
        in_order(&[Taken(1), Freed(1), Busy(2)]).unwrap_err();
        in_order(&[Taken(1), Trouble(1), Taken(2), Freed(1), Busy(1)]).unwrap();
        in_order(&[Taken(1), Trouble(2), Taken(2)]).unwrap_err();
    }
}
