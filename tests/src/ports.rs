//! UDP ports that no other test takes, also not one in another process.

use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::net::UdpSocket;
use std::path::PathBuf;

/// Below the range from which the kernel serves port 0.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port, reserved while this lives.
pub struct Port {
    /// Its number.
    pub number: u16,
    _lock: File,
}

/// Reserves a free port.
///
/// # Panics
/// When all are taken.
pub fn reserve() -> Port {
    let dir = PathBuf::from("/tmp/quarry-test-ports");
    std::fs::create_dir_all(&dir).expect("make the directory of port locks");
    let start = rand::random_range(RANGE);
    for number in (start..RANGE.end).chain(RANGE.start..start) {
        let lock = File::create(dir.join(number.to_string())).expect("make a port lock");
        let free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && UdpSocket::bind(("127.0.0.1", number)).is_ok();
        if free {
            return Port { number, _lock: lock };
        }
    }
    panic!("all ports of {RANGE:?} are taken");
}
