//! Which certificates an authority has issued, and which of them it has taken back.
//!
//! ```text
//! ca/issued/<serial>.pem   a copy of each certificate
//! ca/revoked               one line for each that was taken back: serial, seconds since 1970
//! ca/crl.pem               the list that servers and clients read, signed by the authority
//! ```

use super::ca::{Authority, CLOCK_SKEW};
use super::{Identity, IdentityError, identity_of};
use quarry_host::crashsafe;
use quarry_host::disk::RealDisk;
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::path::Path;
use time::{Duration, OffsetDateTime};

const ISSUED: &str = "issued";
const REVOKED: &str = "revoked";
/// The list's file, in the authority's folder and beside the `ca.pem` of each part.
pub(super) const CRL: &str = "crl.pem";
/// A list has no date at which it ends to be true: the next one replaces it.
const CRL_VALID: Duration = Duration::days(7300);

/// A certificate of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Whose.
    pub identity: Identity,
    /// Serial number, lower-case hexadecimal.
    pub serial: String,
    /// When it ends, in seconds since 1970.
    pub expires: i64,
    /// When it was taken back, in seconds since 1970.
    pub revoked: Option<i64>,
}

/// Keeps a copy of a certificate that was issued.
pub(super) fn record(dir: &Path, der: &CertificateDer<'_>, pem: &str) -> Result<(), IdentityError> {
    let folder = dir.join(ISSUED);
    quarry_host::private::make_folder(&folder)?;
    let (serial, _) = facts(der).map_err(|reason| IdentityError::Invalid { path: folder.clone(), reason })?;
    let path = folder.join(format!("{serial}.pem"));
    crashsafe::write_file(&RealDisk, &path, pem.as_bytes())
        .map_err(|error| IdentityError::File { path, error })
}

/// All certificates that were issued in a folder, those that end first at the beginning.
///
/// # Errors
/// When a file cannot be read, or is no certificate.
pub fn issued(dir: &Path) -> Result<Vec<Issued>, IdentityError> {
    let revoked = revoked(dir)?;
    let folder = dir.join(ISSUED);
    let entries = match std::fs::read_dir(&folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| IdentityError::File { path: folder.clone(), error })?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| IdentityError::File { path: folder.clone(), error })?.path();
        if path.extension().is_none_or(|e| e != "pem") {
            continue;
        }
        let invalid = |reason: String| IdentityError::Invalid { path: path.clone(), reason };
        let der = CertificateDer::from_pem_file(&path).map_err(|e| invalid(e.to_string()))?;
        let (serial, expires) = facts(&der).map_err(invalid)?;
        let identity = identity_of(&der).map_err(invalid)?;
        all.push(Issued { identity, revoked: revoked.get(&serial).copied(), serial, expires });
    }
    all.sort_by(|a, b| (a.expires, &a.serial).cmp(&(b.expires, &b.serial)));
    Ok(all)
}

/// Takes certificates back: writes a new list, which is then copied to the servers.
///
/// # Errors
/// When the folder holds no authority, or the files cannot be written.
pub fn revoke(dir: &Path, serials: &[String]) -> Result<(), IdentityError> {
    let authority = Authority::open(dir)?;
    let now = OffsetDateTime::now_utc();
    let mut all = revoked(dir)?;
    for serial in serials {
        all.entry(serial.clone()).or_insert(now.unix_timestamp());
    }
    let params = CertificateRevocationListParams {
        this_update: now - CLOCK_SKEW,
        next_update: now + CRL_VALID,
        crl_number: SerialNumber::from(now.unix_timestamp().unsigned_abs()),
        issuing_distribution_point: None,
        revoked_certs: all.iter().map(|(serial, at)| entry(serial, *at)).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params
        .signed_by(&authority.issuer)
        .and_then(|list| list.pem())
        .map_err(|e| IdentityError::Invalid { path: dir.join(CRL), reason: e.to_string() })?;
    let text: String = all.iter().map(|(serial, at)| format!("{serial} {at}\n")).collect();
    for (name, text) in [(REVOKED, text), (CRL, list)] {
        let path = dir.join(name);
        crashsafe::write_file(&RealDisk, &path, text.as_bytes())
            .map_err(|error| IdentityError::File { path, error })?;
    }
    Ok(())
}

fn entry(serial: &str, at: i64) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from(from_hex(serial)),
        revocation_time: OffsetDateTime::from_unix_timestamp(at).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        reason_code: Some(RevocationReason::Unspecified),
        invalidity_date: None,
    }
}

fn revoked(dir: &Path) -> Result<BTreeMap<String, i64>, IdentityError> {
    let path = dir.join(REVOKED);
    let text = match std::fs::read_to_string(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => other.map_err(|error| IdentityError::File { path: path.clone(), error })?,
    };
    let parsed = text.lines().map(|line| {
        let (serial, at) = line.split_once(' ')?;
        Some((serial.to_owned(), at.parse().ok()?))
    });
    let invalid =
        || IdentityError::Invalid { path: path.clone(), reason: "a line is no serial and time".into() };
    parsed.collect::<Option<_>>().ok_or_else(invalid)
}

/// Serial number and end of a certificate.
pub(super) fn facts(der: &CertificateDer<'_>) -> Result<(String, i64), String> {
    let (_, cert) = x509_parser::parse_x509_certificate(der).map_err(|e| format!("no certificate: {e}"))?;
    let serial = cert.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((serial, cert.validity().not_after.timestamp()))
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Credentials, Role, init_ca, issue};
    use super::*;

    #[test]
    fn what_was_issued_is_listed_and_can_be_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let ca = dir.path().join("ca");
        init_ca(&ca, "c").unwrap();
        assert_eq!(issued(&ca).unwrap(), []);
        for id in ["a", "b"] {
            issue(&ca, Role::Client, id, &[], &dir.path().join(id)).unwrap();
        }
        let all = issued(&ca).unwrap();
        assert_eq!(all.len(), 2);
        let serial = all.iter().find(|i| i.identity.id == "a").unwrap().serial.clone();
        revoke(&ca, std::slice::from_ref(&serial)).unwrap();
        revoke(&ca, std::slice::from_ref(&serial)).unwrap();
        let all = issued(&ca).unwrap();
        assert_eq!(all.iter().filter(|i| i.revoked.is_some()).count(), 1);
        // Its reader understands the list.
        let paths = issue(&ca, Role::Client, "d", &[], &dir.path().join("d")).unwrap();
        std::fs::copy(ca.join(CRL), dir.path().join("d").join(CRL)).unwrap();
        let credentials = Credentials::load(&paths).unwrap();
        assert!(credentials.revokes(&from_hex(&serial)));
        assert!(!credentials.revokes(b"other"));
    }
}
