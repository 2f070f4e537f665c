//! TLS of the gateway, and the users that client certificates name.

use crate::config::TlsPaths;
use anyhow::Context;
use quarry_net::identity::{Role, identity_of};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Reads the files.
pub(crate) fn acceptor(paths: &TlsPaths) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("TLS versions")?;
    let builder = match &paths.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).with_context(|| format!("{}", ca.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .context("cannot check client certificates")?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = std::fs::read(&paths.key).with_context(|| format!("cannot read {}", paths.key.display()))?;
    let key = PrivateKeyDer::from_pem_slice(&key).with_context(|| format!("{}", paths.key.display()))?;
    let mut config = builder
        .with_single_cert(certificates(&paths.cert)?, key)
        .with_context(|| format!("{} does not fit its key", paths.cert.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.with_context(|| format!("{}", path.display()))?;
    anyhow::ensure!(!all.is_empty(), "{} holds no certificate", path.display());
    Ok(all)
}

/// The user that a verified client certificate names: the id of its `client` identity.
pub(crate) fn user_of(connection: &rustls::ServerConnection) -> Option<String> {
    let certificate = connection.peer_certificates()?.first()?;
    let identity = identity_of(certificate).ok()?;
    (identity.role == Role::Client).then_some(identity.id)
}
