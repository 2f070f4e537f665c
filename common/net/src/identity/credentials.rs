//! A certificate with its key and the authority that it trusts.

use super::{Identity, IdentityError};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::extensions::GeneralName;

/// The three PEM files of an owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertPaths {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The owner's certificate.
    pub cert: PathBuf,
    /// The owner's key.
    pub key: PathBuf,
}

/// What a process needs to prove who it is, and to check others.
pub struct Credentials {
    identity: Identity,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, or does not hold what it should; it is named.
    pub fn load(paths: &CertPaths) -> Result<Self, IdentityError> {
        let ca = certificate(&paths.ca)?;
        let cert = certificate(&paths.cert)?;
        let key_bytes = read(&paths.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|e| invalid(&paths.key, &e))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca).map_err(|e| invalid(&paths.ca, &e))?;
        let identity = identity_of(&cert).map_err(|e| invalid(&paths.cert, &e))?;
        Ok(Self { identity, roots: Arc::new(roots), chain: vec![cert], key })
    }

    /// Who the certificate says we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// The identity that a certificate names. The caller has checked that the authority signed it.
///
/// # Errors
/// For bytes that are no certificate, and for one that names no identity or several.
pub fn identity_of(der: &CertificateDer<'_>) -> Result<Identity, String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| format!("no certificate: {e}"))?;
    let names = cert.subject_alternative_name().map_err(|e| format!("malformed names: {e}"))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|n| &n.value.general_names)
        .filter_map(|n| if let GeneralName::URI(uri) = n { Some(*uri) } else { None })
        .collect();
    match uris[..] {
        [uri] => uri.parse().map_err(|e: IdentityError| e.to_string()),
        _ => Err("it must name exactly one quarry:// identity".to_owned()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

fn certificate(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(&read(path)?).map_err(|e| invalid(path, &e))
}

fn invalid(path: &Path, reason: &dyn std::fmt::Display) -> IdentityError {
    IdentityError::Invalid { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn certificates_of_strangers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = identity_of(&CertificateDer::from(bytes));
        }

        #[test]
        fn damaged_certificates_never_panic(place in 0..400usize, value: u8) {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec!["a.quarry".to_owned()]).unwrap();
            let mut der = params.self_signed(&key).unwrap().der().to_vec();
            let place = place % der.len();
            der[place] = value;
            let _ = identity_of(&CertificateDer::from(der));
        }
    }
}
