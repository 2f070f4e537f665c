//! Reading tables in pages, and single rows.

use super::Fsck;
use crate::base::BaseError;
use crate::tables::{Fields, Key};
use quarry_common::ids::Ino;

impl Fsck {
    /// Reads the next page of a table and gives its rows to `check`. `false` after the last page. A row that does not
    /// decode is a problem by itself.
    pub(super) fn page<K: Key>(
        &mut self,
        limit: usize,
        mut check: impl FnMut(&mut Self, K, K::Value) -> Result<(), BaseError>,
    ) -> Result<bool, BaseError> {
        let mut cursor = std::mem::take(&mut self.cursor);
        let result = self.page_at(&mut cursor, limit, &mut check);
        self.cursor = cursor;
        result
    }

    /// The same, from a place that moves on by the page.
    pub(super) fn page_at<K: Key>(
        &mut self,
        cursor: &mut Vec<u8>,
        limit: usize,
        check: &mut impl FnMut(&mut Self, K, K::Value) -> Result<(), BaseError>,
    ) -> Result<bool, BaseError> {
        if cursor.is_empty() {
            cursor.push(K::TABLE);
        }
        let rows = self.base.scan(cursor, &[K::TABLE + 1], limit)?;
        let more = rows.len() >= limit;
        for (bytes, value) in &rows {
            let key = bytes.get(1..).and_then(|fields| K::read(Fields(fields)));
            match (key, postcard::from_bytes(value)) {
                (Some(key), Ok(value)) => check(self, key, value)?,
                (None, _) => self.problem(None, None, format!("the key {} is malformed", hex(bytes))),
                (_, Err(e)) => {
                    self.problem(None, None, format!("the record of key {} is corrupt: {e}", hex(bytes)));
                }
            }
        }
        if let Some((last, _)) = rows.last() {
            cursor.clone_from(last);
            // The smallest key after it.
            cursor.push(0);
        }
        Ok(more)
    }

    /// A row; `None` also for one that does not decode, which the pass over its own table reports.
    pub(super) fn row<K: Key>(&self, key: &K) -> Result<Option<K::Value>, BaseError> {
        Ok(self.base.get(&key.bytes())?.and_then(|value| postcard::from_bytes(&value).ok()))
    }

    pub(super) fn exists<K: Key>(&self, key: &K) -> Result<bool, BaseError> {
        Ok(self.base.get(&key.bytes())?.is_some())
    }

    /// Whether a table whose keys begin with an inode has a row of this one.
    pub(super) fn has_rows<K: Key>(&self, ino: Ino) -> Result<bool, BaseError> {
        let mut from = vec![K::TABLE];
        from.extend_from_slice(&ino.0.to_be_bytes());
        let to = match ino.0.checked_add(1) {
            Some(next) => [&[K::TABLE][..], &next.to_be_bytes()].concat(),
            None => vec![K::TABLE + 1],
        };
        Ok(!self.base.scan(&from, &to, 1)?.is_empty())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
