//! Directories as programs list them.

use super::FileSystem;
use quarry_common::ids::Ino;
use quarry_common::limits::READDIR_ENTRIES_MAX;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::DirEntry;
use std::sync::{Mutex, PoisonError};

/// Entries asked for at once.
const BATCH: u32 = if READDIR_ENTRIES_MAX < 256 { READDIR_ENTRIES_MAX } else { 256 };
/// Positions of `.` and `..`, before those of the directory's own entries.
const DOTS: u64 = 2;

/// An open directory. A listing has an end whatever happens meanwhile: it shows no entry that is newer than its beginning.
pub struct Listing {
    ino: Ino,
    /// The largest cookie that existed when the listing began.
    newest: Mutex<Option<u64>>,
}

impl Listing {
    /// Of a directory, from its beginning.
    pub fn new(ino: Ino) -> Self {
        Self { ino, newest: Mutex::default() }
    }

    fn begin(&self) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the listing shows an entry, in an answer that says which cookie is the newest.
    fn shows(&self, cookie: u64, newest: u64) -> bool {
        cookie <= *self.newest.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(newest)
    }
}

impl FileSystem {
    /// Hands the entries behind `offset` to `add`, each with the offset behind it, until it says that it takes no more. Offset 0
    /// begins anew, as opendir(3) and rewinddir(3) do.
    ///
    /// # Errors
    /// `NotDir`, `Stale`.
    pub async fn list(
        &self,
        listing: &Listing,
        offset: u64,
        mut add: impl FnMut(u64, &DirEntry) -> bool + Send,
    ) -> Result<(), FsError> {
        if offset == 0 {
            listing.begin();
        }
        for (position, name) in [(0, b".".as_slice()), (1, b"..".as_slice())] {
            if offset <= position {
                let attr = if position == 0 {
                    self.getattr(listing.ino).await?
                } else {
                    self.parent(listing.ino).await?
                };
                let entry =
                    DirEntry { cookie: 0, ino: attr.ino, kind: attr.kind, name: name.into(), attr: None };
                if add(position + 1, &entry) {
                    return Ok(());
                }
            }
        }
        let mut after = offset.saturating_sub(DOTS);
        loop {
            // With attributes, which come under leases: programs that list a directory often look at its files next.
            let page = self.readdir(listing.ino, after, BATCH, true).await?;
            let complete = page.end || page.entries.is_empty();
            for entry in page.entries {
                after = entry.cookie;
                if !listing.shows(entry.cookie, page.newest) || add(entry.cookie + DOTS, &entry) {
                    return Ok(());
                }
            }
            if complete {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;
    use quarry_common::wire::fs::{Caller, NewNode};

    async fn names(fs: &FileSystem, listing: &Listing, from: u64, count: usize) -> (Vec<Vec<u8>>, u64) {
        let (mut names, mut next) = (Vec::new(), from);
        fs.list(listing, from, |offset, entry| {
            next = offset;
            names.push(entry.name.to_vec());
            names.len() == count
        })
        .await
        .unwrap();
        (names, next)
    }

    #[tokio::test]
    async fn a_listing_ends_where_the_directory_ended_when_it_began() {
        let world = World::new(0).await;
        let fs = world.mount().await;
        let make = async |name: &[u8]| {
            let caller = Caller { uid: 0, gid: 0 };
            fs.create(Ino::ROOT, name, NewNode::File { open: false }, 0o644, 0, caller).await.unwrap();
        };
        make(b"a").await;
        make(b"b").await;
        let listing = Listing::new(Ino::ROOT);
        let (first, next) = names(&fs, &listing, 0, 3).await;
        assert_eq!(first, [b".".to_vec(), b"..".to_vec(), b"a".to_vec()]);
        make(b"c").await;
        assert_eq!(names(&fs, &listing, next, 10).await.0, [b"b".to_vec()]);
        assert_eq!(names(&fs, &listing, 0, 10).await.0.len(), 5, "rewound");
    }
}
