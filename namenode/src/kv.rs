//! The database below the state: [redb](https://docs.rs/redb), one file, one writer.
//!
//! It has two tables. `base` holds the state's pairs; each value carries a checksum over key and value, since redb checks
//! its pages only when it repairs. `about` holds the format version.
//!
//! ```text
//! base:   key of the state  ->  value, then CRC32C(value) xor (CRC32C(key) rotated left by one bit), little-endian
//! about:  "format"          ->  1
//! ```
//!
//! Reads never open a transaction of their own: they share one that the last checkpoint left open. A checkpoint is one
//! durable transaction, and then replaces it.

use quarry_common::checksum::crc32c;
use quarry_host::crashsafe;
use quarry_host::disk::{Disk, DiskFile};
use quarry_namenode_core::{Base, BaseError, Overlay, Pair};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
};
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// Pages that redb keeps in memory. 256 MiB hold some two million records, the hot part of a large namespace.
const CACHE_BYTES: usize = 256 << 20;
/// Newest format that is read, and the one that is written.
const FORMAT: u32 = 1;
/// Bytes of the checksum behind each value.
const CRC_BYTES: usize = 4;

const BASE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("base");
const ABOUT: TableDefinition<'_, &str, u32> = TableDefinition::new("about");
const FORMAT_KEY: &str = "format";

/// Why the database cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KvError {
    #[error("the database is in use by another process")]
    InUse,
    #[error("the database has format {found}, this program reads up to {FORMAT}")]
    FutureFormat { found: u32 },
    #[error("the file is a database, but not one of a NameNode")]
    Foreign,
    #[error("database: {0}")]
    Store(String),
}

fn store(error: impl std::fmt::Display) -> KvError {
    KvError::Store(error.to_string())
}

fn lock(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Send + Sync>, KvError> {
    disk.lock(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => KvError::InUse,
        _ => store(error),
    })
}

/// The durable part of the state.
pub(crate) struct RedbBase {
    database: Database,
    view: RwLock<Arc<View>>,
    /// Held until the database is closed.
    _lock: Box<dyn Send + Sync>,
}

/// The database's file on a disk.
struct Backend(Arc<dyn DiskFile>);

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a file")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.length()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_length(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

/// The database as one checkpoint left it; it stays so as long as this lives.
struct View {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

impl RedbBase {
    /// Makes a new, empty database. Locks it against other processes.
    ///
    /// # Errors
    /// When the file is there already, or cannot be written.
    pub(crate) fn create(disk: &dyn Disk, path: &Path) -> Result<Self, KvError> {
        if disk.open(path).is_ok() {
            return Err(KvError::Store(format!("{} is there already", path.display())));
        }
        let lock = lock(disk, path)?;
        // On a real disk the lock makes the file.
        let file = match disk.open_writable(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(path),
            other => other,
        };
        let base = Self::over(file.map_err(store)?, lock)?;
        disk.sync_dir(crashsafe::parent(path)).map_err(store)?;
        Ok(base)
    }

    /// Opens the database. Locks it against other processes.
    ///
    /// # Errors
    /// When the file is missing, cannot be read, is in use, or is not a database of a NameNode of this or an older version.
    pub(crate) fn open(disk: &dyn Disk, path: &Path) -> Result<Self, KvError> {
        let file = disk.open_writable(path).map_err(store)?;
        if file.length().map_err(store)? == 0 {
            return Err(KvError::Foreign);
        }
        let lock = lock(disk, path)?;
        Self::over(file, lock)
    }

    fn over(file: Arc<dyn DiskFile>, lock: Box<dyn Send + Sync>) -> Result<Self, KvError> {
        let database = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(Backend(file));
        let database = database.map_err(store)?;
        check_format(&database)?;
        let view = RwLock::new(Arc::new(View::open(&database)?));
        Ok(Self { database, view, _lock: lock })
    }

    /// Brings the changes in as one durable transaction: after a crash all are there, or none.
    ///
    /// # Errors
    /// When they could not be written; then none is there.
    pub(crate) fn checkpoint(&self, overlay: &Overlay) -> Result<(), KvError> {
        let transaction = begin_write(&self.database)?;
        {
            let mut table = transaction.open_table(BASE).map_err(store)?;
            let mut stored = Vec::new();
            for (key, value) in overlay {
                match value {
                    Some(value) => {
                        stored.clear();
                        stored.extend_from_slice(value);
                        stored.extend_from_slice(&checksum(key, value).to_le_bytes());
                        table.insert(key.as_slice(), stored.as_slice()).map_err(store)?;
                    }
                    None => {
                        table.remove(key.as_slice()).map_err(store)?;
                    }
                }
            }
        }
        transaction.commit().map_err(store)?;
        let view = Arc::new(View::open(&self.database)?);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        Ok(())
    }

    /// The database as it is now, unchanged by later checkpoints. It keeps the pages that they free from being used again,
    /// so it should not be kept for long.
    pub(crate) fn snapshot(&self) -> Result<Arc<dyn Base>, KvError> {
        Ok(self.view())
    }

    fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Base for RedbBase {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BaseError> {
        self.view().get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError> {
        self.view().scan(from, to, limit)
    }
}

impl View {
    fn open(database: &Database) -> Result<Self, KvError> {
        let transaction = database.begin_read().map_err(store)?;
        // The table keeps its transaction alive.
        Ok(Self { table: transaction.open_table(BASE).map_err(store)? })
    }
}

impl Base for View {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, BaseError> {
        match self.table.get(key).map_err(unreadable)? {
            Some(stored) => checked(key, stored.value()).map(Some),
            None => Ok(None),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, BaseError> {
        if from >= to {
            return Ok(Vec::new());
        }
        let range = self.table.range(from..to).map_err(unreadable)?;
        range
            .take(limit)
            .map(|pair| {
                let (key, stored) = pair.map_err(unreadable)?;
                let key = key.value().to_vec();
                let value = checked(&key, stored.value())?;
                Ok((key, value))
            })
            .collect()
    }
}

fn unreadable(error: impl std::fmt::Display) -> BaseError {
    BaseError(format!("the database cannot be read: {error}"))
}

fn begin_write(database: &Database) -> Result<redb::WriteTransaction, KvError> {
    let mut transaction = database.begin_write().map_err(store)?;
    transaction.set_durability(Durability::Immediate).map_err(store)?;
    // Without this, a start after a crash reads the whole file first.
    transaction.set_quick_repair(true);
    Ok(transaction)
}

/// Refuses a database that is not ours or too new, and makes the tables of an empty one.
fn check_format(database: &Database) -> Result<(), KvError> {
    let transaction = begin_write(database)?;
    let tables = transaction.list_tables().map_err(store)?.count();
    let found = {
        let mut about = transaction.open_table(ABOUT).map_err(store)?;
        let found = about.get(FORMAT_KEY).map_err(store)?.map(|format| format.value());
        if found.is_none() && tables == 0 {
            about.insert(FORMAT_KEY, FORMAT).map_err(store)?;
        }
        found
    };
    match found {
        Some(found) if found > FORMAT => Err(KvError::FutureFormat { found }),
        Some(FORMAT) => transaction.abort().map_err(store),
        None if tables == 0 => {
            transaction.open_table(BASE).map_err(store)?;
            transaction.commit().map_err(store)
        }
        _ => Err(KvError::Foreign),
    }
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    crc32c(value) ^ crc32c(key).rotate_left(1)
}

/// The value without its checksum, if that is right.
fn checked(key: &[u8], stored: &[u8]) -> Result<Vec<u8>, BaseError> {
    let sound = stored
        .split_last_chunk::<CRC_BYTES>()
        .filter(|(value, crc)| checksum(key, value) == u32::from_le_bytes(**crc));
    match sound {
        Some((value, _)) => Ok(value.to_vec()),
        None => Err(BaseError(format!("a record of the database is damaged: key {}", hex(key)))),
    }
}

fn hex(key: &[u8]) -> String {
    key.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quarry_host::disk::RealDisk;
    use quarry_namenode_core::MemoryBase;

    fn open(path: &Path) -> Result<RedbBase, KvError> {
        RedbBase::open(&RealDisk, path)
    }

    fn create(path: &Path) -> RedbBase {
        RedbBase::create(&RealDisk, path).unwrap()
    }

    fn overlay(changes: &[(&str, Option<&str>)]) -> Overlay {
        changes.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.map(|v| v.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn checkpoints_survive_and_snapshots_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        assert!(matches!(open(&path), Err(KvError::Store(_))), "it is made by `create` only");
        let base = create(&path);
        assert!(matches!(open(&path), Err(KvError::InUse)));
        assert_eq!(base.get(b"a").unwrap(), None);
        base.checkpoint(&overlay(&[("a", Some("1")), ("b", Some("2")), ("c", Some(""))])).unwrap();
        let snapshot = base.snapshot().unwrap();
        base.checkpoint(&overlay(&[("a", None), ("b", Some("3")), ("d", Some("4"))])).unwrap();
        assert_eq!(snapshot.get(b"a").unwrap(), Some(b"1".to_vec()));
        assert_eq!(snapshot.scan(b"a", b"z", 10).unwrap().len(), 3);
        drop((base, snapshot));
        let base = open(&path).unwrap();
        let pairs = base.scan(b"a", b"d", 10).unwrap();
        assert_eq!(pairs, [(b"b".to_vec(), b"3".to_vec()), (b"c".to_vec(), Vec::new())]);
        assert_eq!(base.scan(b"", b"z", 1).unwrap().len(), 1);
        assert!(base.scan(b"z", b"a", 10).unwrap().is_empty());
    }

    #[test]
    fn a_damaged_record_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let base = create(&path);
        base.checkpoint(&overlay(&[("key", Some("a value that is easy to find"))])).unwrap();
        drop(base);
        let mut bytes = std::fs::read(&path).unwrap();
        let needle = b"easy to find";
        let found: Vec<usize> =
            (0..bytes.len() - needle.len()).filter(|&at| bytes[at..].starts_with(needle)).collect();
        assert!(!found.is_empty());
        for at in found {
            bytes[at] ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
        // Or redb itself refuses it.
        if let Ok(base) = open(&path) {
            assert!(base.get(b"key").is_err());
            assert!(base.scan(b"a", b"z", 10).is_err());
        }
    }

    #[test]
    fn other_and_newer_databases_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let newer = dir.path().join("newer");
        drop(create(&newer));
        let database = Database::create(&newer).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(ABOUT).unwrap().insert(FORMAT_KEY, FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        assert!(matches!(open(&newer), Err(KvError::FutureFormat { found }) if found == FORMAT + 1));

        let other = dir.path().join("other");
        let database = Database::create(&other).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(TableDefinition::<u64, u64>::new("something")).unwrap();
        transaction.commit().unwrap();
        drop(database);
        assert!(matches!(open(&other), Err(KvError::Foreign)));

        let text = dir.path().join("text");
        std::fs::write(&text, "not a database").unwrap();
        assert!(matches!(open(&text), Err(KvError::Store(_))));
    }

    type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    fn changes() -> impl Strategy<Value = Vec<Changes>> {
        let key = prop::collection::vec(0..4u8, 0..4);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
        prop::collection::vec(prop::collection::vec((key, value), 0..20), 1..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_agrees_with_a_base_in_memory(rounds in changes(), from in prop::collection::vec(0..4u8, 0..3)) {
            let dir = tempfile::tempdir().unwrap();
            let base = create(&dir.path().join("state.redb"));
            let mut memory = MemoryBase::default();
            for changes in rounds {
                let overlay: Overlay = changes.into_iter().collect();
                base.checkpoint(&overlay).unwrap();
                memory.checkpoint(&overlay);
                for key in overlay.keys() {
                    prop_assert_eq!(base.get(key).unwrap(), memory.get(key).unwrap());
                }
                for limit in [0, 1, 5, 100] {
                    let to = [9];
                    prop_assert_eq!(base.scan(&from, &to, limit).unwrap(), memory.scan(&from, &to, limit).unwrap());
                }
            }
        }
    }
}
