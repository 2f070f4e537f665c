//! Why there is no file system to use.

use quarry_host::config::ConfigError;
use quarry_net::transport::TransportError;

/// Why a client cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting has a value that it cannot have.
    #[error("{setting} {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The NameNode cannot be reached, and the client was not told to wait for ever.
    #[error("the cluster is away: {0}")]
    Away(String),
    /// The NameNode is not to be trusted, or does not trust this client.
    #[error(transparent)]
    Untrusted(TransportError),
    /// The system does not give what a client needs.
    #[error("cannot start a thread: {0}")]
    Resources(String),
    /// The NameNode does not take this client.
    #[error("the NameNode refuses this client: {0}")]
    Refused(String),
}
