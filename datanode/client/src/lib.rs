//! The client of the DataNode protocol, for the mount, for DataNodes among themselves, and for the NameNode.
//!
//! ```text
//!   DataNodeClient   one method for each request     (requests)
//!     └ exchange     one conversation: request, body, answer, bytes that follow
//!         └ Pool     at most one connection to each node
//! ```
//!
//! [`timing`] holds the deadlines of everything that waits for a DataNode, since each must be longer than those that it
//! contains. [`CallError`] is the one error: its variants are what callers branch on.

mod error;
mod exchange;
mod pool;
mod requests;
pub mod timing;

pub use error::{Away, CallError};
pub use exchange::Body;
pub use requests::{DataNodeClient, Page, Pulled, Written};
