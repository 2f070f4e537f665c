//! All metrics, by daemon.

use super::{Kind, Metric};

macro_rules! metrics {
    ($($(#[doc = $section:literal])+ $list:ident { $($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )+
        const $list: &[&Metric] = &[$(&$constant),+];
        )+
        /// By daemon, with the daemon's title.
        pub const SECTIONS: &[(&str, &[&Metric])] = &[$(($($section.trim_ascii()),+, $list)),+];
    };
}

metrics! {
    /// Every daemon
    PROCESS {
        BUILD_INFO: Gauge "quarry_build_info" ["version"] "1, with the version of the program as a label.";
        CERTIFICATE_EXPIRY: Gauge "quarry_certificate_expiry_timestamp_seconds" [] "Unix time at which the daemon's certificate expires.";
        PANICS: Counter "quarry_panics_total" [] "Panics that a supervisor confined to one part of the process.";
    }
    /// NameNode
    NAMENODE {
        NAMENODE_REQUEST: Histogram "quarry_namenode_request_duration_seconds" ["request", "result"] "Time from the arrival of a client's request to its answer.";
        NAMENODE_APPLIED: Gauge "quarry_namenode_applied_index" [] "Index of the last log entry that the state machine applied.";
        NAMENODE_SESSIONS: Gauge "quarry_namenode_sessions" [] "Sessions of clients.";
        NAMENODE_LEASES: Gauge "quarry_namenode_leases" [] "Leases held by all sessions.";
        NAMENODE_OPEN_FILES: Gauge "quarry_namenode_open_inodes" [] "Inodes that sessions have open, counted once for each session.";
        NAMENODE_LOCKS: Gauge "quarry_namenode_locks" [] "Locks held by all sessions.";
        NAMENODE_FILES: Gauge "quarry_namenode_files" [] "Regular files.";
        NAMENODE_DIRECTORIES: Gauge "quarry_namenode_directories" [] "Directories.";
        NAMENODE_BYTES: Gauge "quarry_namenode_file_bytes" [] "Sum of the sizes of all files.";
        NAMENODE_CHUNKS: Gauge "quarry_namenode_chunks" [] "Chunks that files refer to.";
        NAMENODE_DELETING: Gauge "quarry_namenode_chunks_deleting" [] "Released chunks whose replicas are not removed yet.";
        NAMENODE_GROUPS: Gauge "quarry_namenode_groups" ["state"] "Placement groups by state: healthy, degraded, healing.";
        NAMENODE_LAST_REPLICA: Gauge "quarry_namenode_groups_on_last_replica" [] "Placement groups of several replicas with one serving member.";
        NAMENODE_NODES: Gauge "quarry_namenode_datanodes" ["state"] "DataNodes by state: healthy, suspect, dead, full.";
        NAMENODE_HEARTBEAT_AGE: Gauge "quarry_namenode_datanode_heartbeat_age_seconds" ["node"] "Time since the last heartbeat of a DataNode.";
        NAMENODE_NODE_CAPACITY: Gauge "quarry_namenode_datanode_capacity_bytes" ["node"] "Bytes of all disks of a DataNode.";
        NAMENODE_NODE_FREE: Gauge "quarry_namenode_datanode_free_bytes" ["node"] "Bytes of them that are free for chunks.";
        NAMENODE_NODE_TROUBLE: Gauge "quarry_namenode_datanode_disk_trouble" ["node"] "1 when a DataNode reports a disk that failed or is full.";
        NAMENODE_LOG_SYNC: Histogram "quarry_namenode_log_sync_duration_seconds" [] "Time of one append to the log with its fdatasync.";
        NAMENODE_CHECKPOINT: Histogram "quarry_namenode_checkpoint_duration_seconds" [] "Time of one checkpoint into the database.";
    }
    /// DataNode
    DATANODE {
        DATANODE_OPERATION: Histogram "quarry_datanode_operation_duration_seconds" ["operation", "result"] "Time of one request, from its arrival to the end of its answer.";
        DATANODE_BYTES: Counter "quarry_datanode_bytes_total" ["direction"] "Bytes of chunks that clients and DataNodes read and wrote.";
        DATANODE_CONNECTIONS: Gauge "quarry_datanode_connections" [] "Connections of clients, DataNodes and the NameNode.";
        DATANODE_CHUNKS: Gauge "quarry_datanode_chunks" [] "Replicas on all disks.";
        DATANODE_CHUNK_BYTES: Gauge "quarry_datanode_chunk_bytes" [] "Their bytes.";
        DATANODE_CAPACITY: Gauge "quarry_datanode_capacity_bytes" [] "Bytes of all disks.";
        DATANODE_FREE: Gauge "quarry_datanode_free_bytes" [] "Bytes of them that are free for chunks.";
        DATANODE_SCRUBBED: Counter "quarry_datanode_scrubbed_chunks_total" [] "Replicas that the scrubber verified.";
        DATANODE_ROTTEN: Counter "quarry_datanode_rotten_chunks_total" [] "Replicas that the scrubber found rotten.";
        DATANODE_WRITABLE: Gauge "quarry_datanode_writable" [] "1 when the DataNode takes new chunks.";
    }
    /// Mount
    MOUNT {
        MOUNT_OPERATION: Histogram "quarry_mount_operation_duration_seconds" ["operation", "result"] "Time from an operation's arrival from the kernel to its reply.";
        MOUNT_READ_BYTES: Counter "quarry_mount_read_bytes_total" [] "Bytes that programs read.";
        MOUNT_WRITTEN_BYTES: Counter "quarry_mount_written_bytes_total" [] "Bytes that programs wrote.";
        CLIENT_CACHE: Counter "quarry_client_cache_lookups_total" ["cache", "result"] "Look-ups in a cache: `metadata` and `blocks`, by hit and miss.";
        CLIENT_RECONNECTS: Counter "quarry_client_reconnects_total" [] "Connections to the NameNode after the first one.";
        CLIENT_RETRIES: Counter "quarry_client_chunk_rewrites_total" [] "Chunks that are written again because the NameNode or a DataNode did not take them.";
        CLIENT_FENCED: Counter "quarry_client_fenced_inodes_total" [] "Inodes whose uncommitted data is dropped because the lease broke.";
        CLIENT_LOST: Counter "quarry_client_write_errors_total" [] "Inodes whose uncommitted data cannot be brought into the cluster.";
    }
}

/// All of them.
pub const ALL: &[&Metric] = &{
    const N: usize = PROCESS.len() + NAMENODE.len() + DATANODE.len() + MOUNT.len();
    let mut all = [&BUILD_INFO; N];
    let lists = [PROCESS, NAMENODE, DATANODE, MOUNT];
    let (mut i, mut at) = (0, 0);
    while i < lists.len() {
        let mut j = 0;
        while j < lists[i].len() {
            all[at] = lists[i][j];
            (at, j) = (at + 1, j + 1);
        }
        i += 1;
    }
    all
};
