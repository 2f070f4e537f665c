//! UDP ports of a new cluster.

use super::layout::HOST;
use anyhow::bail;
use std::fs::File;
use std::io::Read;
use std::net::UdpSocket;
use std::ops::RangeInclusive;

/// Ports that a cluster may get. They are kept for good, so they are outside the range from which the kernel serves port 0: at
/// a later start any program might have one of those.
const CANDIDATES: RangeInclusive<u16> = 10_000..=65_000;
/// The kernel's range when it does not say.
const EPHEMERAL_DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

/// Hands out free ports; the sockets stay open until all are chosen, so that none comes twice.
pub(super) struct Ports {
    /// Ports of parts that do not run now.
    taken: Vec<u16>,
    chosen: Vec<UdpSocket>,
}

impl Ports {
    /// None of the ports that the cluster has already will be chosen.
    pub(super) fn besides(taken: Vec<u16>) -> Self {
        Self { taken, chosen: Vec::new() }
    }

    pub(super) fn take(&mut self) -> anyhow::Result<u16> {
        let ephemeral = ephemeral();
        let is_candidate = |port: &u16| !ephemeral.contains(port) && !self.taken.contains(port);
        let candidates: Vec<u16> = CANDIDATES.filter(is_candidate).collect();
        let start = random()? % candidates.len().max(1);
        for port in candidates[start..].iter().chain(&candidates[..start]) {
            if let Ok(socket) = UdpSocket::bind((HOST, *port)) {
                self.chosen.push(socket);
                return Ok(*port);
            }
        }
        bail!("no free UDP port from {} to {} on {HOST}", CANDIDATES.start(), CANDIDATES.end())
    }
}

/// Two clusters that are made at the same moment begin to look at different places.
fn random() -> anyhow::Result<usize> {
    let mut bytes = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes) as usize)
}

fn ephemeral() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().map(str::parse);
    match (bounds.next(), bounds.next()) {
        (Some(Ok(low)), Some(Ok(high))) => low..=high,
        _ => EPHEMERAL_DEFAULT,
    }
}
