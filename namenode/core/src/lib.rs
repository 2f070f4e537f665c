//! quarry-namenode-core
