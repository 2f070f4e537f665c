//! Properties of the whole state machine under random commands.

mod data;
mod determinism;
mod large;
mod namespace;
