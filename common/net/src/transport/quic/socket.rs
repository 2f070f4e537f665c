//! The UDP socket below an endpoint.

use super::tls::UDP_PAYLOAD_MAX;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Endpoint, EndpointConfig, Runtime, ServerConfig, TokioRuntime, UdpPoller};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Kernel buffers: bursts of several streams' windows wait here while the endpoint's task is busy.
const BUFFER: usize = 4 << 20;
/// Packets that the kernel takes in one batch: together they must fit into one IP packet of 64 KiB, headers
/// included. The kernel refuses larger ones, and quinn drops what it refuses without a word.
const SEGMENTS_MAX: usize = (u16::MAX as usize - 64) / UDP_PAYLOAD_MAX as usize;

/// An endpoint on a new socket.
pub(super) fn endpoint(
    local: SocketAddr,
    config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        // `[::]` also takes IPv4; systems without the option have only one of them anyway.
        let _ = socket.set_only_v6(false);
    }
    enlarge(&socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
    enlarge(&socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    let runtime = Arc::new(TokioRuntime);
    let inner = runtime.wrap_udp_socket(socket.into())?;
    Endpoint::new_with_abstract_socket(config, server, Arc::new(BatchLimit(inner)), runtime)
}

/// Asks for a buffer of the wanted size: beyond the system's limit as root, up to it otherwise. A smaller buffer
/// costs speed, nothing else, so failure is no error.
fn enlarge(socket: &Socket, force: libc::c_int, plain: libc::c_int) {
    let size = BUFFER as libc::c_int;
    for option in [force, plain] {
        // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the option's value is the
        // c_int behind the pointer, whose size is given.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if done == 0 {
            return;
        }
    }
}

/// A socket that is given no larger batches than [`SEGMENTS_MAX`].
#[derive(Debug)]
struct BatchLimit(Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for BatchLimit {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.0.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments().min(SEGMENTS_MAX)
    }

    fn max_receive_segments(&self) -> usize {
        self.0.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_fits_into_one_ip_packet() {
        assert_eq!(SEGMENTS_MAX, 7);
        assert!(SEGMENTS_MAX * usize::from(UDP_PAYLOAD_MAX) + 48 <= usize::from(u16::MAX));
    }
}
