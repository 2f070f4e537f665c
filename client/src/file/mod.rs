//! Reading and writing files.
//!
//! ```text
//!  OpenFile (one per handle) ──► Inode (one per file of a mount) ──► Shared (one per mount)
//!  read:   reader ─ resolve (active over flying over slices) ─ fetch ─ cache
//!                     └ load (layout)                           └ prefetch
//!  write:  writer ─ buffer (pure) ─ flusher ─ put ─ commit
//!                                              └ merge
//!  size, holes, copies: change      positions: seek      all of a mount: files, registry
//! ```
//!
//! Imports point one way: `buffer`, `layout`, `resolve`, `errors` know no task; `inode` joins them under one lock; `reader`, `flusher`,
//! `writer`, `change`, `open_file` and `files` each use only what stands before them.
//!
//! A written byte is in one of three places: `active` in its window's extents, `flying` on its way to the
//! DataNodes, or committed and then in the layout. It moves from one to the next under the inode's state lock, so a
//! reader always finds it in exactly one.

mod budget;
mod buffer;
mod cache;
mod calls;
mod change;
mod errors;
mod fetch;
mod files;
mod flusher;
mod inode;
mod layout;
mod load;
mod open_file;
mod prefetch;
mod reader;
mod registry;
mod resolve;
mod seek;
mod shared;
mod space;
mod unsynced;
mod writer;

#[cfg(test)]
mod tests;

pub use calls::Piece;
pub(crate) use files::Files;
pub(crate) use inode::Inode;
pub use open_file::{OpenFile, OpenMode};
pub(crate) use shared::FilesConfig;
