//! What a process tells of itself, for those who look at sessions and logs.

use crate::world;

/// The process's number on its machine.
pub fn id() -> u32 {
    // A simulated machine runs one process.
    world::ask(|_| 1).unwrap_or_else(std::process::id)
}

/// The machine's name; empty if it has none that can be read.
pub fn host_name() -> String {
    world::ask(|world| world.host_name()).unwrap_or_else(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.trim().to_owned()
    })
}

/// Bytes of memory of this process that are in RAM; 0 where that is not known, as in a simulation.
pub fn resident_bytes() -> u64 {
    if world::current().is_some() {
        return 0;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = resident.and_then(|r| r.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or(0) * 1024
}
