//! Reading and writing files.
//!
//! ```text
//!  OpenFile (one per handle) ──► Inode (one per file of a mount) ──► Files (one per mount)
//!  read:   reader ─ resolve (dirty over flying over slices) ─ fetch ─ cache
//!                     └ load (layout)                           └ prefetch
//!  write:  writer ─ extents (dirty windows) ─ jobs ─ flusher ─ commit
//!                                                      └ merge
//!  size, holes, copies: change      positions: seek
//! ```
//!
//! A written byte is in one of three places: `active` in its window's dirty extents, `flying` on its way to the
//! DataNodes, or committed and then in the layout. It moves from one to the next under the inode's state lock, so a
//! reader always finds it in exactly one.

mod budget;
mod cache;
mod change;
mod commit;
mod errors;
mod extents;
mod fetch;
mod files;
mod flusher;
mod inode;
mod jobs;
mod layout;
mod load;
mod merge;
mod open_file;
mod prefetch;
mod reader;
mod resolve;
mod seek;
mod unsynced;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use files::{Files, FilesConfig};
pub(crate) use inode::Inode;
pub use open_file::{OpenFile, OpenMode};
