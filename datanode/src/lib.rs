//! quarry-datanode
