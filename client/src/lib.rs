//! quarry-client
