//! A certificate with its key and the authority that it trusts.

use super::{Identity, IdentityError, revocation};
use quarry_host::private;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
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
    /// The authority's list of certificates that it has taken back, if there is one.
    pub(crate) crls: Vec<CertificateRevocationListDer<'static>>,
    expires: SystemTime,
}

impl Credentials {
    /// Reads the files.
    ///
    /// # Errors
    /// When one cannot be read, does not hold what it should, or is a key that other users may read; it is named.
    pub fn load(paths: &CertPaths) -> Result<Self, IdentityError> {
        let ca = certificate(&paths.ca)?;
        let cert = certificate(&paths.cert)?;
        private::check_key(&paths.key)?;
        let key_bytes = read(&paths.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key_bytes).map_err(|e| invalid(&paths.key, &e))?;
        let mut roots = RootCertStore::empty();
        roots.add(ca).map_err(|e| invalid(&paths.ca, &e))?;
        let identity = identity_of(&cert).map_err(|e| invalid(&paths.cert, &e))?;
        let expires = valid_until(&cert, SystemTime::now())
            .map_err(|reason| IdentityError::NotNow { path: paths.cert.clone(), reason })?;
        let crls = revocation_lists(&paths.ca.with_file_name(revocation::CRL))?;
        Ok(Self { identity, roots: Arc::new(roots), chain: vec![cert], key, crls, expires })
    }

    /// When the certificate ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Whether the authority has taken back the certificate with this serial number, in the bytes of its encoding.
    pub fn revokes(&self, serial: &[u8]) -> bool {
        self.crls.iter().any(|der| match x509_parser::parse_x509_crl(der) {
            Ok((_, list)) => list.iter_revoked_certificates().any(|revoked| revoked.raw_serial() == serial),
            // TLS refuses such a list as well, when it is loaded.
            Err(_) => false,
        })
    }

    /// Who the certificate says we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// When a certificate ends.
///
/// # Errors
/// When that is over, or its time has not begun.
fn valid_until(der: &CertificateDer<'_>, now: SystemTime) -> Result<SystemTime, String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| format!("no certificate: {e}"))?;
    let validity = cert.validity();
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
    if now > at(validity.not_after.timestamp()) {
        return Err(format!(
            "expired on {}; issue a new one (quarry cert issue) and put it in its place",
            validity.not_after
        ));
    }
    if now < at(validity.not_before.timestamp()) {
        return Err(format!("is valid from {} on; is the clock of this machine right?", validity.not_before));
    }
    Ok(at(validity.not_after.timestamp()))
}

fn revocation_lists(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, IdentityError> {
    match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(IdentityError::File { path: path.to_owned(), error }),
        Ok(bytes) => {
            let list = CertificateRevocationListDer::from_pem_slice(&bytes).map_err(|e| invalid(path, &e))?;
            Ok(vec![list])
        }
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
    std::fs::read(path).map_err(|error| IdentityError::File { path: path.to_owned(), error })
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

    #[test]
    fn a_certificate_is_used_in_its_time_only() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.quarry".to_owned()]).unwrap();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_000_000).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(2_000_000).unwrap();
        let der = params.self_signed(&key).unwrap().der().clone();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(valid_until(&der, at(1_500_000)), Ok(at(2_000_000)));
        assert!(valid_until(&der, at(2_500_000)).unwrap_err().contains("expired on"));
        assert!(valid_until(&der, at(500_000)).unwrap_err().contains("clock"));
    }

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
