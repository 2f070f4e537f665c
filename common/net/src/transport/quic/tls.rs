//! TLS and QUIC settings: who is let in, and the windows and timers of a connection.

use super::congestion::Factory;
use crate::identity::{Credentials, Identity, Role, identity_of};
use aws_lc_rs::hmac;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig, TransportConfig, VarInt,
};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::Duration;

/// Largest UDP payload: an Ethernet jumbo frame of 9,000 without IP and UDP headers, rounded down. On loopback it
/// costs a third of the CPU time per byte that 1,452 costs; MTU discovery finds what the path carries.
pub(super) const UDP_PAYLOAD_MAX: u16 = 8952;
/// Two chunks in flight on a stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// What a peer may have in flight to us over all streams of a connection.
const CONNECTION_WINDOW: u32 = 64 << 20;
/// Unacknowledged bytes that are kept for each connection. A peer that acknowledges nothing makes a server keep all of it, so
/// it is a few chunks for a DataNode and a few listings for a NameNode; a client only harms itself.
const SEND_WINDOW: u64 = 32 << 20;
const SEND_WINDOW_OF_DATANODE: u64 = 16 << 20;
const SEND_WINDOW_OF_NAMENODE: u64 = 4 << 20;
/// Streams that a peer may have open: chunks in flight are limited elsewhere, long before.
const STREAMS_MAX: u32 = 256;
/// The welcome is the only unidirectional stream.
const UNI_STREAMS_MAX: u32 = 1;
/// Datagrams are heartbeats of at most 1.2 kB: a queue of 200 is a minute of a large cluster.
const DATAGRAM_BUFFER: usize = 256 << 10;
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Four keep-alives may be lost.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections whose handshake nobody has looked at yet.
const INCOMING_MAX: usize = 256;
/// What their peers have sent meanwhile.
const INCOMING_BYTES: u64 = 4 << 20;
const ALPN: &[u8] = b"quarry";

/// Settings of one identity.
pub(super) struct Tls {
    pub(super) client: ClientConfig,
    pub(super) server: ServerConfig,
    restart_key: [u8; 64],
}

impl Tls {
    pub(super) fn new(credentials: &Credentials) -> Result<Self, rustls::Error> {
        let crypto = crypto();
        let transport_of_client = Arc::new(transport(SEND_WINDOW));
        let unusable = |e: VerifierBuilderError| rustls::Error::General(e.to_string());
        let servers = WebPkiServerVerifier::builder_with_provider(credentials.roots.clone(), crypto.clone())
            .with_crls(credentials.crls.clone())
            .build()
            .map_err(unusable)?;
        let mut client = rustls::ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would skip the certificates.
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_early_data = false;

        let verifier = WebPkiClientVerifier::builder_with_provider(credentials.roots.clone(), crypto.clone())
            .with_crls(credentials.crls.clone())
            .build()
            .map_err(unusable)?;
        let mut server = rustls::ServerConfig::builder_with_provider(crypto)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.max_early_data_size = 0;

        const SUITE: &str = "the provider has the suite that QUIC begins with";
        let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).expect(SUITE)));
        client.transport_config(transport_of_client);
        let transport_of_server = Arc::new(transport(send_window(credentials.identity().role)));
        let mut server =
            ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).expect(SUITE)));
        server
            .transport_config(transport_of_server)
            // A peer's address is part of what is logged about it, and none of ours moves.
            .migration(false)
            .max_incoming(INCOMING_MAX)
            .incoming_buffer_size_total(INCOMING_BYTES);
        Ok(Self { client, server, restart_key: restart_key(credentials) })
    }

    /// For a listener. Its connection ids and reset tokens come from its private key, so that a restarted process
    /// can tell peers at once that their old connections are gone (stateless reset, RFC 9000, 10.3). Otherwise
    /// they would talk into the void until the idle timeout.
    pub(super) fn restartable_endpoint_config(&self) -> EndpointConfig {
        let (reset, ids) = self.restart_key.split_at(32);
        let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset)));
        let id_key = u64::from_le_bytes(*ids.first_chunk().expect("32 bytes are left"));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id_key)));
        with_large_packets(config)
    }
}

/// For outgoing connections.
pub(super) fn endpoint_config() -> EndpointConfig {
    with_large_packets(EndpointConfig::default())
}

fn with_large_packets(mut config: EndpointConfig) -> EndpointConfig {
    config.max_udp_payload_size(UDP_PAYLOAD_MAX).expect("within the range of QUIC");
    config
}

/// aws-lc-rs with one suite: every CPU that we run on has AES instructions, and a single suite leaves nothing to
/// negotiate down.
fn crypto() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![provider::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..provider::default_provider()
    })
}

fn send_window(role: Role) -> u64 {
    match role {
        Role::NameNode => SEND_WINDOW_OF_NAMENODE,
        Role::DataNode => SEND_WINDOW_OF_DATANODE,
        Role::Client | Role::Gateway => SEND_WINDOW,
    }
}

fn transport(send_window: u64) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let mut t = TransportConfig::default();
    t.congestion_controller_factory(Arc::new(Factory::new()))
        .mtu_discovery_config(Some(mtu))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(send_window)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("fits into 62 bits")));
    t
}

fn restart_key(credentials: &Credentials) -> [u8; 64] {
    let secret = hmac::Key::new(hmac::HMAC_SHA512, credentials.key.secret_der());
    let tag = hmac::sign(&secret, b"quarry: connection ids and reset tokens");
    tag.as_ref().try_into().expect("a SHA-512 tag has 64 bytes")
}

/// The serial number of a peer's certificate, in the bytes of its encoding.
pub(super) fn serial(connection: &quinn::Connection) -> Option<Vec<u8>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let (_, cert) = x509_parser::parse_x509_certificate(chain.first()?).ok()?;
    Some(cert.raw_serial().to_vec())
}

/// Who a peer is, whose certificate TLS has verified.
pub(super) fn peer(connection: &quinn::Connection) -> Result<Identity, String> {
    let chain =
        connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let first = chain.as_ref().and_then(|chain| chain.first()).ok_or("it showed no certificate")?;
    identity_of(first).map_err(|e| format!("its certificate is from our cluster, but unusable: {e}"))
}
