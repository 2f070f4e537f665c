//! How the parts of Quarry talk: identities in certificates, QUIC behind traits, frames, and requests over one stream.

pub mod frame;
pub mod identity;
pub mod rpc;
pub mod transport;
