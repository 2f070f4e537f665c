//! Configuration files: TOML, read whole, with errors that name the file and the line.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is no TOML, or has a setting that is unknown or of the wrong type.
    #[error("{} is no valid configuration: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
}

/// Reads a file, and gives the directory from which its relative paths start.
///
/// # Errors
/// See [`ConfigError`].
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<(T, PathBuf), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    let settings = toml::from_str(&text)
        .map_err(|e| ConfigError::Invalid { path: path.to_owned(), reason: e.to_string() })?;
    Ok((settings, path.parent().unwrap_or(Path::new("")).to_path_buf()))
}
