//! Whether anybody listens at an address at all.
//!
//! When a process is killed, its host answers packets to its port with an ICMP message. QUIC ignores those, as
//! they prove nothing about a connection, and notices a dead peer only by its silence. To fail over in a second
//! instead of ten, a second, connected socket sends one meaningless byte now and then: QUIC drops it, and the kernel reports
//! the ICMP answer to it as `ECONNREFUSED`, which it does only for an answer to a packet of that very socket.
//! Where a firewall eats ICMP, the timeouts of QUIC are left.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

/// How often to ask.
const INTERVAL: Duration = Duration::from_secs(1);

/// Asks one address.
pub(super) struct Watch(UdpSocket);

impl Watch {
    pub(super) fn new(remote: SocketAddr) -> io::Result<Self> {
        let local: SocketAddr = match remote {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(local)?;
        socket.connect(remote)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket).map(Self)
    }

    /// Returns when the host says that nobody listens, and never otherwise.
    pub(super) async fn refused(&self) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut nothing = [0; 1];
        loop {
            let happened = tokio::select! {
                _ = ticks.tick() => self.0.send(&[0]).await,
                received = self.0.recv(&mut nothing) => received,
            };
            if happened.is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
                return;
            }
        }
    }
}
