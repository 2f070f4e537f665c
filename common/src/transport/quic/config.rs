//! TLS and QUIC settings.

use super::HANDSHAKE_TIMEOUT;
use crate::identity::Credentials;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use std::sync::Arc;
use std::time::Duration;

/// Names our protocol in the handshake, so that nothing else that speaks QUIC gets further.
const ALPN: &[u8] = b"quarry/1";
/// What path MTU discovery probes up to: a jumbo frame without its headers. Larger packets cost less CPU per byte.
pub(super) const MTU_MAX: u16 = 8952;
/// Both sides find out that the other is gone after this long without a packet.
const IDLE_TIMEOUT_MS: u32 = 10_000;
/// Keeps an idle connection alive, and shows a dead one: several are lost before the timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Two chunks may be on their way in one stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Enough for the chunks that are in flight on one connection.
const CONNECTION_WINDOW: u32 = 64 << 20;
const SEND_WINDOW: u64 = 32 << 20;
/// Streams that a peer may have open: one for each chunk on its way.
const STREAMS_MAX: u32 = 256;
/// Heartbeats wait here.
const DATAGRAM_BUFFER: usize = 64 << 10;
/// Handshakes that a server has in progress, so that strangers cannot fill its memory.
const INCOMING_MAX: usize = 256;
/// First packets of strangers, kept until their handshake begins.
const INCOMING_BYTES: u64 = 4 << 20;

/// AES-128-GCM only: every machine that runs a cluster has instructions for it.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..aws_lc_rs::default_provider()
    })
}

pub(super) fn client(credentials: &Credentials) -> Result<quinn::ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(credentials.roots.clone())
        .with_client_auth_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    // A resumed session would not show its certificate again.
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls).map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

pub(super) fn server(credentials: &Credentials) -> Result<quinn::ServerConfig, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(credentials.roots.clone(), provider())
        .build()
        .map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())?;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicServerConfig::try_from(tls).map_err(|e| rustls::Error::General(e.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    // An address is part of who a connection was accepted from.
    config.migration(false);
    config.max_incoming(INCOMING_MAX);
    config.incoming_buffer_size_total(INCOMING_BYTES);
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MTU_MAX);
    config
        .mtu_discovery_config(Some(mtu))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    debug_assert!(HANDSHAKE_TIMEOUT.as_millis() < u128::from(IDLE_TIMEOUT_MS));
    config
}
