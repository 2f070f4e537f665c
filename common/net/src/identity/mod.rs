//! Who a peer is: the role and id that its certificate names.

mod ca;
mod credentials;
mod revocation;
mod rights;

pub use ca::{Subject, init_ca, issue, issue_to};
pub use credentials::identity_of;
pub use credentials::{CertPaths, Credentials};
pub use revocation::{Issued, issued, revoke};
pub use rights::{Rights, Squash};

use quarry_host::private::PrivateError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What a certificate allows its owner to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Keeps the namespace.
    NameNode,
    /// Keeps chunks.
    DataNode,
    /// Mounts, command-line tools.
    Client,
    /// The web gateway: a client for many users.
    Gateway,
}

impl Role {
    /// Whether others connect to it.
    pub fn is_server(self) -> bool {
        matches!(self, Self::NameNode | Self::DataNode)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameNode => "namenode",
            Self::DataNode => "datanode",
            Self::Client => "client",
            Self::Gateway => "gateway",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "namenode" => Ok(Self::NameNode),
            "datanode" => Ok(Self::DataNode),
            "client" => Ok(Self::Client),
            "gateway" => Ok(Self::Gateway),
            _ => Err(format!("`{s}` is no role: use namenode, datanode, client or gateway")),
        }
    }
}

/// The identity in a certificate, written as the URI `quarry://<cluster>/<role>/<id>[?<rights>]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Cluster name: 1 to 63 of `a-z`, `0-9` and `-`.
    pub cluster: String,
    /// Role.
    pub role: Role,
    /// A number for servers, any name of `a-z`, `0-9`, `-`, `.` for clients.
    pub id: String,
    /// What it may do; servers have no rights of their own.
    pub rights: Rights,
}

const SCHEME: &str = "quarry://";
/// Longest name of a cluster, and of an id: a DNS label.
const LABEL_MAX: usize = 63;

impl Identity {
    /// A checked identity.
    ///
    /// # Errors
    /// When a name has characters that it may not have, or a server's id is no number.
    pub fn new(cluster: &str, role: Role, id: &str) -> Result<Self, IdentityError> {
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let dns_label = (1..=LABEL_MAX).contains(&cluster.len())
            && cluster.chars().all(label)
            && !cluster.starts_with('-')
            && !cluster.ends_with('-');
        if !dns_label {
            return Err(IdentityError::Name(format!(
                "cluster name `{cluster}`: it must be 1 to {LABEL_MAX} of a-z, 0-9 and -, without - at its ends"
            )));
        }
        if role.is_server() && !id.parse::<u32>().is_ok_and(|n| n > 0 && n.to_string() == id) {
            return Err(IdentityError::Name(format!(
                "id `{id}`: that of a {role} must be a number from 1 on"
            )));
        }
        if id.is_empty() || id.len() > LABEL_MAX || !id.chars().all(|c| label(c) || c == '.') {
            return Err(IdentityError::Name(format!(
                "id `{id}`: it must be 1 to {LABEL_MAX} of a-z, 0-9, - and ."
            )));
        }
        Ok(Self { cluster: cluster.to_owned(), role, id: id.to_owned(), rights: Rights::default() })
    }

    /// The same with rights.
    ///
    /// # Errors
    /// When the role is that of a server, whose rights follow from the role.
    pub fn with_rights(self, rights: Rights) -> Result<Self, IdentityError> {
        if self.role.is_server() && !rights.is_default() {
            return Err(IdentityError::Name(format!("a {} has no rights to give or take", self.role)));
        }
        Ok(Self { rights, ..self })
    }

    /// The DNS name in every server's certificate, by which TLS checks that a server has this role in this
    /// cluster. It is never resolved: where a server is reached may change without a new certificate.
    pub fn server_name(cluster: &str, role: Role) -> String {
        format!("{role}.{cluster}.quarry")
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}", self.cluster, self.role, self.id)?;
        if self.rights.is_default() { Ok(()) } else { write!(f, "?{}", self.rights) }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Name(format!("`{s}` is no identity: quarry://CLUSTER/ROLE/ID"));
        let whole = s.strip_prefix(SCHEME).ok_or_else(bad)?;
        let (name, rights) = match whole.split_once('?') {
            Some((name, rights)) => (name, rights.parse()?),
            None => (whole, Rights::default()),
        };
        let mut parts = name.split('/');
        let (Some(cluster), Some(role), Some(id), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(bad());
        };
        Self::new(cluster, role.parse().map_err(|_| bad())?, id)?.with_rights(rights)
    }
}

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A name that is not allowed.
    #[error("{0}")]
    Name(String),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A key or its folder is open to other users.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// A file that must not be overwritten.
    #[error("{} exists already and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// A certificate whose time is over, or has not begun.
    #[error("{}: the certificate {reason}", path.display())]
    NotNow {
        /// The certificate.
        path: PathBuf,
        /// Since when, and what to do.
        reason: String,
    },
    /// A file does not hold what it should.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_what_it_writes() {
        let id = Identity::new("prod-1", Role::DataNode, "7").unwrap();
        assert_eq!(id.to_string(), "quarry://prod-1/datanode/7");
        assert_eq!(id.to_string().parse::<Identity>().unwrap(), id);
        let rights = Rights { read_only: true, ..Rights::default() };
        assert!(id.with_rights(rights).is_err(), "a server has no rights");
        let client = Identity::new("c", Role::Client, "web1").unwrap().with_rights(rights).unwrap();
        assert_eq!(client.to_string(), "quarry://c/client/web1?ro");
        assert_eq!(client.to_string().parse::<Identity>().unwrap(), client);
    }

    #[test]
    fn names_that_would_confuse_are_refused() {
        for (cluster, role, id) in [
            ("", Role::Client, "a"),
            ("A", Role::Client, "a"),
            ("-a", Role::Client, "a"),
            ("a-", Role::Client, "a"),
            ("a/b", Role::Client, "a"),
            ("a", Role::Client, "a/b"),
            ("a", Role::Client, ""),
            ("a", Role::DataNode, "one"),
            ("a", Role::DataNode, "0"),
            ("a", Role::NameNode, "01"),
        ] {
            assert!(Identity::new(cluster, role, id).is_err(), "{cluster} {role} {id}");
        }
        for bad in [
            "quarry://a/client",
            "quarry://a/client/b/c",
            "http://a/client/b",
            "quarry://a/king/b",
            "quarry://a/client/b?rw",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
    }
}
