//! quarry-mount
