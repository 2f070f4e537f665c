//! The gateway: dashboard, HTTP file API and WebHDFS in front of a cluster.
//!
//! It is a client as a mount is one; everything is read and written through [`quarry_client`], so through the same checksums.
//!
//! - `server`: connections: TLS, limits, slow clients.
//! - `app`: routes, and what every request passes: host, origin, user.
//! - [`auth`]: users, passwords, tokens, sessions.
//! - [`files`]: the file system with the rights of one user.
//! - `api`: the file API and the live status, for the page and for programs.
//! - `webhdfs`: the REST API of HDFS.
//! - `monitor`: asks the NameNode once a second for everybody, and keeps the log of events.
//! - `web/`: the page.

mod api;
mod app;
pub mod auth;
mod config;
mod error;
pub mod files;
mod monitor;
mod server;
mod tls;
mod webhdfs;

pub use config::{Access, GatewayConfig, TlsPaths};
pub use server::run;
