//! Typed tables over three layers: what changed since the last freeze, what is on its way into the base, the base.

use crate::base::{Base, Overlay, Pair};
use crate::error::StateError;
use crate::records::Meta;
use crate::tables::{Fields, Key, MetaKey};
use std::ops::Bound;
use std::sync::Arc;

/// The tables, and the record that there is once.
pub(crate) struct Store {
    active: Overlay,
    frozen: Option<Arc<Overlay>>,
    base: Arc<dyn Base>,
    /// Kept decoded: nearly every command changes it. Goes to the active layer with each freeze.
    pub(crate) meta: Meta,
}

/// Takes a key and its value.
type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), StateError> + 'a;

/// Pairs that one read of the base asks for at least: a page costs little more than its first pair.
const BASE_PAGE_MIN: usize = 32;
/// Pairs that one read of the base asks for at most: a scan without a limit must not be one huge read.
const BASE_PAGE_MAX: usize = 4096;

impl Store {
    pub(crate) fn new(base: Arc<dyn Base>, meta: Meta) -> Self {
        Self { active: Overlay::new(), frozen: None, base, meta }
    }

    /// The value of a key.
    pub(crate) fn get<K: Key>(&self, key: &K) -> Result<Option<K::Value>, StateError> {
        let key = key.bytes();
        let layered = self.active.get(&key).or_else(|| self.frozen.as_ref().and_then(|f| f.get(&key)));
        match layered {
            Some(Some(value)) => decode::<K>(&key, value).map(Some),
            Some(None) => Ok(None),
            None => match self.base.get(&key)? {
                Some(value) => decode::<K>(&key, &value).map(Some),
                None => Ok(None),
            },
        }
    }

    /// The value of a key that another record says is there.
    pub(crate) fn expect<K: Key>(&self, key: &K) -> Result<K::Value, StateError> {
        self.get(key)?
            .ok_or_else(|| StateError::Corrupt(format!("no record for the key {}", hex(&key.bytes()))))
    }

    pub(crate) fn contains<K: Key>(&self, key: &K) -> Result<bool, StateError> {
        let key = key.bytes();
        match self.active.get(&key).or_else(|| self.frozen.as_ref().and_then(|f| f.get(&key))) {
            Some(value) => Ok(value.is_some()),
            None => Ok(self.base.get(&key)?.is_some()),
        }
    }

    pub(crate) fn put<K: Key>(&mut self, key: &K, value: &K::Value) {
        let value = postcard::to_stdvec(value).expect("records always encode into memory");
        self.active.insert(key.bytes(), Some(value));
    }

    pub(crate) fn delete<K: Key>(&mut self, key: &K) {
        self.active.insert(key.bytes(), None);
    }

    /// The first `limit` pairs with `from <= key < to`; `None` for `to` means the end of the table.
    pub(crate) fn range<K: Key>(
        &self,
        from: &K,
        to: Option<&K>,
        limit: usize,
    ) -> Result<Vec<(K, K::Value)>, StateError> {
        let end = to.map_or_else(|| vec![K::TABLE + 1], Key::bytes);
        let mut pairs = Vec::new();
        self.scan(from.bytes(), &end, limit, &mut |key, value| {
            let typed = K::read(Fields(&key[1..]))
                .ok_or_else(|| StateError::Corrupt(format!("malformed key {}", hex(key))))?;
            pairs.push((typed, decode::<K>(key, value)?));
            Ok(())
        })?;
        Ok(pairs)
    }

    /// Gives the live pairs of a range in order, at most `limit`.
    fn scan(
        &self,
        mut from: Vec<u8>,
        to: &[u8],
        limit: usize,
        each: &mut Visit<'_>,
    ) -> Result<(), StateError> {
        let page = limit.clamp(BASE_PAGE_MIN, BASE_PAGE_MAX);
        let mut left = limit;
        while left > 0 && from.as_slice() < to {
            let below = self.base.scan(&from, to, page)?;
            // Beyond the last pair of a full page the base may have more: merge up to there only.
            let resume = match below.last() {
                Some((last, _)) if below.len() >= page => Some(successor(last)),
                _ => None,
            };
            let end = resume.as_deref().unwrap_or(to);
            left -= self.merge(&from, end, &below, left, each)?;
            match resume {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Merges the three layers within a range that `below` covers. Returns how many pairs it gave.
    fn merge(
        &self,
        from: &[u8],
        to: &[u8],
        below: &[Pair],
        limit: usize,
        each: &mut Visit<'_>,
    ) -> Result<usize, StateError> {
        let bounds = (Bound::Included(from), Bound::Excluded(to));
        let mut active = self.active.range::<[u8], _>(bounds).peekable();
        let mut frozen = self.frozen.iter().flat_map(|f| f.range::<[u8], _>(bounds)).peekable();
        let mut base = below.iter().peekable();
        let mut given = 0;
        while given < limit {
            let heads = [active.peek().map(|p| p.0), frozen.peek().map(|p| p.0), base.peek().map(|p| &p.0)];
            let Some(key) = heads.into_iter().flatten().min().cloned() else { break };
            // Take the key from every layer that has it; the newest layer decides.
            let lowest = base.next_if(|p| p.0 == key).map(|p| Some(&p.1));
            let middle = frozen.next_if(|p| *p.0 == key).map(|p| p.1.as_ref());
            let newest = active.next_if(|p| *p.0 == key).map(|p| p.1.as_ref());
            if let Some(value) = newest.or(middle).or(lowest).flatten() {
                each(&key, value)?;
                given += 1;
            }
        }
        Ok(given)
    }

    /// See [`State::freeze`](crate::State::freeze).
    pub(crate) fn freeze(&mut self) -> Arc<Overlay> {
        if let Some(frozen) = &self.frozen {
            return Arc::clone(frozen);
        }
        let meta = self.meta.clone();
        self.put(&MetaKey, &meta);
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    /// See [`State::thaw`](crate::State::thaw).
    pub(crate) fn thaw(&mut self, base: Arc<dyn Base>) {
        self.base = base;
        self.frozen = None;
    }
}

/// The smallest key after `key`.
fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

fn decode<K: Key>(key: &[u8], value: &[u8]) -> Result<K::Value, StateError> {
    postcard::from_bytes(value).map_err(|e| StateError::Corrupt(format!("record of key {}: {e}", hex(key))))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Reads the record that there is once, straight from a base.
pub(crate) fn read_meta(base: &dyn Base) -> Result<Option<Meta>, StateError> {
    let key = MetaKey.bytes();
    match base.get(&key)? {
        Some(value) => decode::<MetaKey>(&key, &value).map(Some),
        None => Ok(None),
    }
}
