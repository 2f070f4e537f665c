//! Handshakes that are begun and never finished: an attacker without a certificate.

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig};
use rustls::crypto::aws_lc_rs as provider;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the attacker waits for a request to validate its address, before it goes on.
const RETRY_WAIT: Duration = Duration::from_millis(2);
/// Bits of the first byte of a retry packet: long header, type 3 (RFC 9000, 17.2.5).
const RETRY: u8 = 0xb0;

/// Half-open handshakes at a steady rate, until it is dropped.
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Begins `per_second` handshakes with a server. The attacker answers retry packets, so it is one with a real address.
    ///
    /// # Panics
    /// When the address makes no sense.
    pub fn start(target: &str, per_second: u32) -> Self {
        let target: SocketAddr = target.parse().expect("an address and a port");
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let config = client_config();
            let pause = Duration::from_secs(1) / per_second;
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                half_open(target, &config);
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(pause.saturating_sub(begun.elapsed()));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }

    /// Handshakes begun so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn client_config() -> ClientConfig {
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"quarry".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("the provider has the suite of QUIC")))
}

/// Sends the first flight, once more with the token of a retry packet if one comes, and is silent from then on.
fn half_open(target: SocketAddr, config: &ClientConfig) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(RETRY_WAIT)).expect("a time-out can be set");
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let (handle, mut connection) =
        endpoint.connect(Instant::now(), config.clone(), target, "any").expect("a first flight");
    send(&socket, target, &mut connection);
    let mut packet = [0; 2048];
    match socket.recv(&mut packet) {
        Ok(length) if packet[0] & RETRY == RETRY => {
            take(&mut endpoint, handle, &mut connection, target, &packet[..length]);
            send(&socket, target, &mut connection);
        }
        // A server's first flight gets no answer.
        _ => {}
    }
}

fn send(socket: &UdpSocket, target: SocketAddr, connection: &mut Connection) {
    let mut buffer = Vec::new();
    if let Some(transmit) = connection.poll_transmit(Instant::now(), 1, &mut buffer) {
        let _ = socket.send_to(&buffer[..transmit.size], target);
    }
}

fn take(
    endpoint: &mut Endpoint,
    handle: ConnectionHandle,
    connection: &mut Connection,
    from: SocketAddr,
    packet: &[u8],
) {
    let event = endpoint.handle(Instant::now(), from, None, None, packet.into(), &mut Vec::new());
    if let Some(DatagramEvent::ConnectionEvent(to, event)) = event
        && to == handle
    {
        connection.handle_event(event);
    }
}
