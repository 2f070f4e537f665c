//! The seam between the state and its storage.

use std::collections::BTreeMap;

/// Changes on top of a [`Base`]: key to new value, `None` for a deleted key.
pub type Overlay = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The store below the state could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BaseError(pub String);

/// What the last checkpoint made durable: pairs sorted by key, whose first byte names the table.
pub trait Base: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BaseError>;

    /// The first `limit` pairs with `from <= key < to`, in order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError>;
}

/// A base in memory, for tests and simulations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBase {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl MemoryBase {
    /// Takes a checkpoint in.
    pub fn checkpoint(&mut self, overlay: &Overlay) {
        for (key, value) in overlay {
            match value {
                Some(value) => self.pairs.insert(key.clone(), value.clone()),
                None => self.pairs.remove(key),
            };
        }
    }

    /// All pairs, in order of their keys.
    pub fn pairs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(k, v)| (k.as_slice(), v.as_slice()))
    }
}

impl Base for MemoryBase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BaseError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range =
            self.pairs.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)));
        Ok(range.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
