//! Configuration files: TOML, read whole, with errors that name the file and the line.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
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
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    let settings = toml::from_str(&text)
        .map_err(|e| ConfigError::Invalid { path: path.to_owned(), reason: e.to_string() })?;
    Ok((settings, path.parent().unwrap_or(Path::new("")).to_path_buf()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        port: u16,
    }

    fn load_text(text: &str) -> Result<(Settings, PathBuf), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        load(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn settings_and_their_directory() {
        let (settings, dir) = load_text("port = 7").unwrap();
        assert_eq!(settings.port, 7);
        assert!(dir.is_absolute());
    }

    #[test]
    fn errors_name_the_file_and_the_setting() {
        for (text, what) in
            [("prot = 7", "prot"), ("port = 70000", "port"), ("", "port"), ("port =", "line 1")]
        {
            let error = load_text(text).unwrap_err();
            assert!(error.contains("node.toml") && error.contains(what), "{error}");
        }
        let error = load::<Settings>(Path::new("/no/such.toml")).unwrap_err().to_string();
        assert!(error.contains("cannot read /no/such.toml"), "{error}");
    }
}
