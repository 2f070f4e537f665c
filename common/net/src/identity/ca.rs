//! The cluster's certificate authority.

use super::{CertPaths, Identity, IdentityError, Role, identity_of};
use quarry_host::crashsafe;
use quarry_host::disk::RealDisk;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use time::{Duration, OffsetDateTime};

/// Clocks of machines differ: certificates are valid from a little before they are made.
const CLOCK_SKEW: Duration = Duration::days(1);
/// Certificates are renewed by hand, so they last.
const VALID: Duration = Duration::days(3650);
/// The authority outlives what it issues.
const CA_VALID: Duration = Duration::days(7300);
const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";

/// Makes the authority of a new cluster: `dir/ca.pem` and `dir/ca.key`.
///
/// # Errors
/// When the name is not allowed, there is an authority already, or the files cannot be written.
pub fn init_ca(dir: &Path, cluster: &str) -> Result<(), IdentityError> {
    // Checks the cluster's name.
    Identity::new(cluster, Role::Client, "ca")?;
    for name in [CA_CERT, CA_KEY] {
        refuse_existing(&dir.join(name))?;
    }
    fs::create_dir_all(dir).map_err(|source| IdentityError::File { path: dir.to_owned(), source })?;
    let key = new_key();
    let mut params = params(CA_VALID);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, format!("Quarry cluster {cluster}"));
    params.distinguished_name.push(DnType::OrganizationName, cluster);
    let cert = params.self_signed(&key).expect("all parameters are valid");
    write_key(&dir.join(CA_KEY), &key)?;
    write(&dir.join(CA_CERT), cert.pem().as_bytes())
}

/// Issues a certificate: `out/ca.pem`, `out/cert.pem`, `out/key.pem`. `hosts` are names and addresses of its owner.
///
/// # Errors
/// When a name is not allowed, `dir` holds no authority, or a file exists or cannot be written.
pub fn issue(
    dir: &Path,
    role: Role,
    id: &str,
    hosts: &[String],
    out: &Path,
) -> Result<CertPaths, IdentityError> {
    let ca_pem = read(&dir.join(CA_CERT))?;
    let invalid = |name: &str, reason: String| IdentityError::Invalid { path: dir.join(name), reason };
    let cluster = cluster_of(&ca_pem).map_err(|reason| invalid(CA_CERT, reason))?;
    let identity = Identity::new(&cluster, role, id)?;
    let ca_key = KeyPair::from_pem(&read(&dir.join(CA_KEY))?).map_err(|e| invalid(CA_KEY, e.to_string()))?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(|e| invalid(CA_CERT, e.to_string()))?;

    let paths = CertPaths { ca: out.join(CA_CERT), cert: out.join("cert.pem"), key: out.join("key.pem") };
    for path in [&paths.ca, &paths.cert, &paths.key] {
        refuse_existing(path)?;
    }
    let mut params = params(VALID);
    params.distinguished_name.push(DnType::CommonName, identity.to_string());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![SanType::URI(ascii(&identity.to_string())?)];
    if role.is_server() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let name = Identity::server_name(&cluster, role);
        params.subject_alt_names.push(SanType::DnsName(ascii(&name)?));
    }
    for host in hosts {
        params.subject_alt_names.push(host_name(host)?);
    }
    let key = new_key();
    let cert = params
        .signed_by(&key, &issuer)
        .map_err(|e| IdentityError::Name(format!("no certificate can be made for {identity}: {e}")))?;
    fs::create_dir_all(out).map_err(|source| IdentityError::File { path: out.to_owned(), source })?;
    write_key(&paths.key, &key)?;
    write(&paths.ca, ca_pem.as_bytes())?;
    write(&paths.cert, cert.pem().as_bytes())?;
    // What the certificate says must be what its readers will understand.
    debug_assert_eq!(identity_of(cert.der()).ok().as_ref(), Some(&identity));
    Ok(paths)
}

fn params(valid: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + valid;
    params.distinguished_name = DistinguishedName::new();
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("the system gives random numbers")
}

fn host_name(host: &str) -> Result<SanType, IdentityError> {
    if let Ok(address) = host.parse() {
        return Ok(SanType::IpAddress(address));
    }
    DnsName::try_from(host).map_err(|_| IdentityError::Name(format!("`{host}` is no host name")))?;
    ascii(host).map(SanType::DnsName)
}

fn ascii(text: &str) -> Result<Ia5String, IdentityError> {
    Ia5String::try_from(text).map_err(|_| IdentityError::Name(format!("`{text}` is not ASCII")))
}

/// The cluster's name in the authority's certificate.
fn cluster_of(pem: &str) -> Result<String, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("no certificate: {e}"))?;
    let (_, cert) = x509_parser::parse_x509_certificate(&der).map_err(|e| format!("no certificate: {e}"))?;
    let name = cert.subject().iter_organization().next().and_then(|o| o.as_str().ok());
    name.map(str::to_owned).ok_or_else(|| "not the authority of a Quarry cluster".to_owned())
}

fn refuse_existing(path: &Path) -> Result<(), IdentityError> {
    if path.exists() { Err(IdentityError::Exists(path.to_owned())) } else { Ok(()) }
}

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    crashsafe::write_file(&RealDisk, path, bytes)
        .map_err(|source| IdentityError::File { path: path.to_owned(), source })
}

/// A key nobody else may read, from its first byte on.
fn write_key(path: &Path, key: &KeyPair) -> Result<(), IdentityError> {
    let file_error = |source| IdentityError::File { path: path.to_owned(), source };
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(file_error)?;
    file.write_all(key.serialize_pem().as_bytes()).map_err(file_error)?;
    file.sync_all().map_err(file_error)
}

#[cfg(test)]
mod tests {
    use super::super::Credentials;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_certificate_names_its_owner_and_keeps_its_key_private() {
        let dir = tempfile::tempdir().unwrap();
        let (ca, out) = (dir.path().join("ca"), dir.path().join("out"));
        init_ca(&ca, "prod").unwrap();
        let hosts = ["dn1.example.org".to_owned(), "10.0.0.7".to_owned()];
        let paths = issue(&ca, Role::DataNode, "7", &hosts, &out).unwrap();
        let credentials = Credentials::load(&paths).unwrap();
        assert_eq!(credentials.identity().to_string(), "quarry://prod/datanode/7");
        for key in [&paths.key, &ca.join(CA_KEY)] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        init_ca(dir.path(), "a").unwrap();
        assert!(matches!(init_ca(dir.path(), "a"), Err(IdentityError::Exists(_))));
        let out = dir.path().join("out");
        issue(dir.path(), Role::Client, "x", &[], &out).unwrap();
        assert!(matches!(issue(dir.path(), Role::Client, "x", &[], &out), Err(IdentityError::Exists(_))));
    }

    #[test]
    fn a_host_that_no_name_can_be_is_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        init_ca(dir.path(), "a").unwrap();
        let out = dir.path().join("out");
        for bad in ["", "two words", "-x", "ü"] {
            let error = issue(dir.path(), Role::DataNode, "1", &[bad.to_owned()], &out).unwrap_err();
            assert!(matches!(error, IdentityError::Name(_)), "{bad}: {error}");
        }
        assert!(!out.exists());
    }

    #[test]
    fn files_that_hold_something_else_are_named() {
        let dir = tempfile::tempdir().unwrap();
        init_ca(dir.path(), "a").unwrap();
        let paths = issue(dir.path(), Role::Client, "x", &[], &dir.path().join("out")).unwrap();
        for wrong in [&paths.ca, &paths.cert, &paths.key] {
            let good = fs::read(wrong).unwrap();
            fs::write(wrong, "nonsense").unwrap();
            let error = Credentials::load(&paths).err().unwrap().to_string();
            assert!(error.contains(&wrong.display().to_string()), "{error}");
            fs::write(wrong, good).unwrap();
        }
        // The authority's own certificate names no owner.
        let ca = CertPaths { cert: paths.ca.clone(), ..paths };
        let error = Credentials::load(&ca).err().unwrap().to_string();
        assert!(error.contains("quarry://"), "{error}");
    }

    #[test]
    fn a_directory_without_an_authority_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = issue(dir.path(), Role::Client, "x", &[], dir.path()).unwrap_err().to_string();
        assert!(error.contains("ca.pem"), "{error}");
    }
}
