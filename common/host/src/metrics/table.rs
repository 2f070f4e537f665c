//! All metrics, by daemon.

use super::{Kind, Metric};

macro_rules! metrics {
    ($($(#[doc = $section:literal])+ { $($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub static $constant: Metric = Metric::new($name, Kind::$kind, &[$($label),*], $help);
        )+
        )+
        /// By daemon, with the daemon's title.
        pub static SECTIONS: &[(&str, &[&Metric])] = &[$(($($section.trim_ascii()),+, &[$(&$constant),+])),+];
        /// All of them.
        pub static ALL: &[&Metric] = &[$($(&$constant),+),+];
    };
}

metrics! {
    /// Every daemon
    {
        BUILD_INFO: Gauge "quarry_build_info" ["version"] "1, with the version of the program as a label.";
        CERTIFICATE_EXPIRY: Gauge "quarry_certificate_expiry_timestamp_seconds" [] "Unix time at which the daemon's certificate expires.";
        MEMORY: Gauge "quarry_process_resident_memory_bytes" [] "Memory of the process that is in RAM.";
        OPEN_FILES: Gauge "quarry_process_open_fds" [] "File descriptors that the process has open.";
        SLOW_OPERATIONS: Counter "quarry_slow_operations_total" ["part"] "Operations that took longer than the threshold of the slow-operation log, by part: mount, namenode, datanode, gateway.";
    }
    /// NameNode
    {
        NAMENODE_REQUEST: Histogram "quarry_namenode_request_duration_seconds" ["request", "result"] "Time from the arrival of a client's request to its answer.";
        NAMENODE_ERRORS: Counter "quarry_namenode_errors_total" ["error"] "Requests that were answered with an error, by error.";
        NAMENODE_QUEUE: Gauge "quarry_namenode_queued_events" [] "Requests and other events that wait for the owner of the state.";
        NAMENODE_APPLIED: Gauge "quarry_namenode_applied_index" [] "Index of the last log entry that the state machine applied.";
        NAMENODE_UPTIME: Gauge "quarry_namenode_uptime_seconds" [] "Time since the NameNode began to serve.";
        NAMENODE_SESSIONS: Gauge "quarry_namenode_sessions" [] "Sessions of clients.";
        NAMENODE_LEASES: Gauge "quarry_namenode_leases" [] "Leases held by all sessions.";
        NAMENODE_RECALLS: Counter "quarry_namenode_recalls_total" [] "Leases that were asked back because somebody else wanted what conflicts with them.";
        NAMENODE_OPEN_FILES: Gauge "quarry_namenode_open_inodes" [] "Inodes that sessions have open, counted once for each session.";
        NAMENODE_LOCKS: Gauge "quarry_namenode_locks" [] "Locks held by all sessions.";
        NAMENODE_FILES: Gauge "quarry_namenode_files" [] "Regular files.";
        NAMENODE_DIRECTORIES: Gauge "quarry_namenode_directories" [] "Directories.";
        NAMENODE_BYTES: Gauge "quarry_namenode_file_bytes" [] "Sum of the sizes of all files.";
        NAMENODE_CHUNKS: Gauge "quarry_namenode_chunks" [] "Chunks that files refer to.";
        NAMENODE_DELETING: Gauge "quarry_namenode_chunks_deleting" [] "Released chunks whose replicas are not removed yet.";
        NAMENODE_GROUPS: Gauge "quarry_namenode_groups" ["state"] "Placement groups by state: healthy, degraded, healing.";
        NAMENODE_LAST_REPLICA: Gauge "quarry_namenode_groups_on_last_replica" [] "Placement groups of several replicas of which one is left.";
        NAMENODE_NODES: Gauge "quarry_namenode_datanodes" ["state"] "DataNodes by state: healthy, suspect, dead, full, failing.";
        NAMENODE_HEARTBEAT_AGE: Gauge "quarry_namenode_datanode_heartbeat_age_seconds" ["node"] "Time since the last heartbeat of a DataNode.";
        NAMENODE_NODE_CAPACITY: Gauge "quarry_namenode_datanode_capacity_bytes" ["node"] "Bytes of all disks of a DataNode.";
        NAMENODE_NODE_FREE: Gauge "quarry_namenode_datanode_free_bytes" ["node"] "Bytes of them that are free for chunks.";
        NAMENODE_NODE_TROUBLE: Gauge "quarry_namenode_datanode_disks_in_trouble" ["node"] "Disks of a DataNode that are slow, stalled or failed.";
        NAMENODE_HEALED: Histogram "quarry_namenode_heal_duration_seconds" ["result"] "Time in which a DataNode brings its replicas of one placement group up to date.";
        NAMENODE_LOG_SYNC: Histogram "quarry_namenode_log_sync_duration_seconds" [] "Time of one append to the log with its fdatasync.";
        NAMENODE_CHECKPOINT: Histogram "quarry_namenode_checkpoint_duration_seconds" [] "Time of one checkpoint into the database.";
    }
    /// DataNode
    {
        DATANODE_OPERATION: Histogram "quarry_datanode_operation_duration_seconds" ["operation", "result"] "Time of one request, from its arrival to the end of its answer.";
        DATANODE_ERRORS: Counter "quarry_datanode_errors_total" ["error"] "Requests that were answered with an error, by error.";
        DATANODE_BYTES: Counter "quarry_datanode_bytes_total" ["direction"] "Bytes of chunks that were read from and written to this DataNode.";
        DATANODE_CONNECTIONS: Gauge "quarry_datanode_connections" [] "Connections of clients, DataNodes and the NameNode.";
        DATANODE_REQUESTS: Gauge "quarry_datanode_requests_in_progress" [] "Requests that are being carried out.";
        DATANODE_CHUNKS: Gauge "quarry_datanode_chunks" [] "Replicas on all disks.";
        DATANODE_CHUNK_BYTES: Gauge "quarry_datanode_chunk_bytes" [] "Their bytes.";
        DATANODE_CAPACITY: Gauge "quarry_datanode_capacity_bytes" [] "Bytes of all disks.";
        DATANODE_FREE: Gauge "quarry_datanode_free_bytes" [] "Bytes of them that are free for chunks.";
        DATANODE_WRITABLE: Gauge "quarry_datanode_writable" [] "1 when the DataNode takes new chunks.";
        DATANODE_DISK_STATE: Gauge "quarry_datanode_disk_state" ["disk", "state"] "1 for the state in which a disk is: working, slow, full, stalled or failed.";
        DATANODE_DISK_LATENCY: Gauge "quarry_datanode_disk_latency_seconds" ["disk"] "Mean time of an operation of a disk.";
        DATANODE_DISK_WAITS: Gauge "quarry_datanode_disk_oldest_operation_seconds" ["disk"] "Age of a disk's oldest operation without an answer.";
        DATANODE_DISK_ERRORS: Counter "quarry_datanode_disk_errors_total" ["disk"] "Operations of a disk that failed.";
        DATANODE_SCRUBBED: Counter "quarry_datanode_scrubbed_chunks_total" [] "Replicas that the scrubber verified.";
        DATANODE_ROTTEN: Counter "quarry_datanode_rotten_chunks_total" [] "Replicas that the scrubber found rotten.";
        DATANODE_PULLED: Counter "quarry_datanode_pulled_chunks_total" ["result"] "Replicas that were copied from another DataNode to heal a placement group.";
    }
    /// Mount
    {
        MOUNT_OPERATION: Histogram "quarry_mount_operation_duration_seconds" ["operation", "result"] "Time from an operation's arrival from the kernel to its reply.";
        MOUNT_ERRORS: Counter "quarry_mount_errors_total" ["error"] "Operations that were answered with an error, by error.";
        MOUNT_BYTES: Counter "quarry_mount_bytes_total" ["direction"] "Bytes that programs read and wrote.";
    }
    /// Mount and gateway: the client within
    {
        CLIENT_REQUEST: Histogram "quarry_client_request_duration_seconds" ["request", "result"] "Time of one request to the NameNode, attempts and waits for a NameNode that is away included.";
        CLIENT_RETRIES: Counter "quarry_client_retries_total" ["reason"] "Requests that were asked again: no answer in time, not ready, not the leader, connection lost, session expired.";
        CLIENT_CACHE: Counter "quarry_client_cache_lookups_total" ["cache", "result"] "Look-ups in a cache, `attributes`, `names` or `blocks`, by hit and miss.";
        CLIENT_RECALLS: Counter "quarry_client_recalls_total" [] "Leases that the NameNode asked back.";
        CLIENT_RECONNECTS: Counter "quarry_client_connections_total" [] "Connections to the NameNode that were made.";
        CLIENT_FENCED: Counter "quarry_client_fenced_inodes_total" [] "Inodes whose uncommitted data is dropped because the lease broke.";
        CLIENT_BUFFERED: Gauge "quarry_client_unwritten_bytes" [] "Bytes that were written and are not yet in the cluster.";
        CLIENT_DIRTY: Gauge "quarry_client_unwritten_files" [] "Files with such bytes.";
    }
    /// Gateway
    {
        GATEWAY_REQUEST: Histogram "quarry_gateway_request_duration_seconds" ["method", "status"] "Time from the head of an HTTP request to the head of its answer.";
        GATEWAY_LISTENERS: Gauge "quarry_gateway_dashboard_listeners" [] "Open dashboards.";
    }
}
