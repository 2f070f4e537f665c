//! quarry-log
