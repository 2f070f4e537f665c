//! How a client finds its cluster and how much it may use: `client.toml`.
//!
//! ```toml
//! namenode = "10.0.0.1:7000"      # several are separated by commas
//! certs = "certs/client-local"    # a directory with ca.pem, cert.pem and key.pem
//! cache_bytes = 268435456         # the rest may be left out
//! write_buffer_bytes = 67108864
//! prefetch_bytes = 16777216
//! soft_timeout_s = 30             # give up on a cluster that is away; without it, wait
//! ```

use crate::error::ClientError;
use quarry_host::config;
use quarry_net::identity::CertPaths;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Chunks kept in memory for reading.
const CACHE_BYTES: usize = 256 << 20;
/// Written data that may wait for the cluster.
const WRITE_BUFFER_BYTES: usize = 64 << 20;
/// A write of the kernel and the chunk that it completes must fit, with room for others beside.
const WRITE_BUFFER_MIN: usize = 8 << 20;
/// How far a sequential reader is ahead of itself.
const PREFETCH_BYTES: u64 = 16 << 20;

/// A client's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// `host:port` of the NameNode; several are separated by commas.
    pub namenode: String,
    /// Who the client is.
    pub certs: CertPaths,
    /// Shown by `quarry status`: a mount point, the name of a tool.
    pub purpose: String,
    /// Bytes of chunks kept in memory for reading.
    pub cache_bytes: usize,
    /// Written bytes that may wait for the cluster.
    pub write_buffer_bytes: usize,
    /// Bytes that a sequential reader is ahead of itself, at most.
    pub prefetch_bytes: u64,
    /// Operations fail with `TimedOut` after waiting this long for a cluster that is away; `None`: they wait.
    pub soft_timeout: Option<Duration>,
}

/// The file, whose paths are relative to it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    namenode: String,
    certs: PathBuf,
    cache_bytes: Option<usize>,
    write_buffer_bytes: Option<usize>,
    prefetch_bytes: Option<u64>,
    soft_timeout_s: Option<u64>,
}

impl ClientConfig {
    /// With the defaults for all that can be left out.
    pub fn new(namenode: impl Into<String>, certs: CertPaths) -> Self {
        Self {
            namenode: namenode.into(),
            certs,
            purpose: "client".to_owned(),
            cache_bytes: CACHE_BYTES,
            write_buffer_bytes: WRITE_BUFFER_BYTES,
            prefetch_bytes: PREFETCH_BYTES,
            soft_timeout: None,
        }
    }

    /// Reads a `client.toml`.
    ///
    /// # Errors
    /// [`ClientError::Config`] and [`ClientError::Setting`].
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        let (settings, base): (Settings, PathBuf) = config::load(path)?;
        let certs = base.join(settings.certs);
        let certs =
            CertPaths { ca: certs.join("ca.pem"), cert: certs.join("cert.pem"), key: certs.join("key.pem") };
        let mut config = Self::new(settings.namenode, certs);
        config.cache_bytes = settings.cache_bytes.unwrap_or(config.cache_bytes);
        config.write_buffer_bytes = settings.write_buffer_bytes.unwrap_or(config.write_buffer_bytes);
        config.prefetch_bytes = settings.prefetch_bytes.unwrap_or(config.prefetch_bytes);
        config.soft_timeout = settings.soft_timeout_s.map(Duration::from_secs);
        config.check()?;
        Ok(config)
    }

    /// The NameNodes' addresses.
    ///
    /// # Errors
    /// [`ClientError::Setting`] for one that is not `host:port`.
    pub(crate) fn addresses(&self) -> Result<Vec<String>, ClientError> {
        let addresses: Vec<String> = self.namenode.split(',').map(|a| a.trim().to_owned()).collect();
        for address in &addresses {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|p| p != 0)) {
                let reason = format!("must be `host:port`, not `{address}`");
                return Err(ClientError::Setting { setting: "namenode", reason });
            }
        }
        Ok(addresses)
    }

    /// # Errors
    /// [`ClientError::Setting`] for a value that cannot work.
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        self.addresses()?;
        if self.write_buffer_bytes < WRITE_BUFFER_MIN {
            let reason = format!("must be at least {WRITE_BUFFER_MIN}, not {}", self.write_buffer_bytes);
            return Err(ClientError::Setting { setting: "write_buffer_bytes", reason });
        }
        if self.soft_timeout.is_some_and(|t| t.is_zero()) {
            return Err(ClientError::Setting {
                setting: "soft_timeout_s",
                reason: "must not be 0".to_owned(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<ClientConfig, ClientError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("client.toml");
        std::fs::write(&path, text).unwrap();
        let config = ClientConfig::load(&path)?;
        assert!(config.certs.key.starts_with(dir.path()) && config.certs.key.ends_with("certs/me/key.pem"));
        Ok(config)
    }

    #[test]
    fn the_shortest_file_is_enough_and_paths_are_relative_to_it() {
        let config = load("namenode = \"127.0.0.1:7000\"\ncerts = \"certs/me\"\n").unwrap();
        assert_eq!(config.addresses().unwrap(), ["127.0.0.1:7000"]);
        assert_eq!(config.soft_timeout, None);
        let config = load("namenode = \"a:1, b:2\"\ncerts = \"certs/me\"\nsoft_timeout_s = 3\n").unwrap();
        assert_eq!(config.addresses().unwrap(), ["a:1", "b:2"]);
        assert_eq!(config.soft_timeout, Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (text, word) in [
            ("certs = \"certs/me\"\n", "namenode"),
            ("namenode = \"host\"\ncerts = \"certs/me\"\n", "host:port"),
            ("namenode = \":7\"\ncerts = \"certs/me\"\n", "host:port"),
            ("namenode = \"a:1\"\ncerts = \"certs/me\"\ncolour = 1\n", "colour"),
            ("namenode = \"a:1\"\ncerts = \"certs/me\"\nwrite_buffer_bytes = 1\n", "write_buffer_bytes"),
            ("namenode = \"a:1\"\ncerts = \"certs/me\"\nsoft_timeout_s = 0\n", "soft_timeout_s"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let error = ClientConfig::load(Path::new("/nowhere/client.toml")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/client.toml"), "{error}");
    }
}
