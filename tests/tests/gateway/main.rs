//! The gateway as its users meet it: real clusters, real HTTP, a real browser, clients that others wrote. One binary, so that it
//! links once.

// A test fails by a panic: clippy knows that of `#[test]` functions, but not of what they share.
#![allow(clippy::unwrap_used)]

mod access;
mod browser;
mod clients;
mod files;
mod hostile;
mod status;
mod support;
mod webhdfs;
