//! Who a peer is: the role and id that its certificate names.

use serde::{Deserialize, Serialize};
use std::fmt;
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

/// The identity in a certificate, written as the URI `quarry://<cluster>/<role>/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Cluster name: 1 to 63 of `a-z`, `0-9` and `-`.
    pub cluster: String,
    /// Role.
    pub role: Role,
    /// A number for servers, any name of `a-z`, `0-9`, `-`, `.` for clients.
    pub id: String,
}
