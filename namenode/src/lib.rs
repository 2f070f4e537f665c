//! quarry-namenode
