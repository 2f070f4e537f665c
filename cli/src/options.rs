//! Settings of the roles: a flag beats the environment, which beats the file.
//!
//! Each role has one struct of optional settings that clap fills from flags and environment and serde from the file.

use crate::exit::UsageError;
use quarry_host::config;
use quarry_net::identity::CertPaths;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Takes from `$file` what `$given` leaves open, field by field. Naming every field makes a forgotten one an error.
macro_rules! prefer {
    ($name:ident: $given:expr, $file:expr; $($field:ident),+ $(,)?) => {{
        let (given, file) = ($given, $file);
        $name { $($field: given.$field.or(file.$field)),+ }
    }};
}
pub(crate) use prefer;

/// A setting that has no default.
pub(crate) fn required<T>(value: Option<T>, name: &str) -> anyhow::Result<T> {
    let missing = || {
        let variable = name.to_uppercase().replace('-', "_");
        UsageError(format!(
            "--{name} is missing: give the flag, set QUARRY_{variable}, or put `{} = ...` in the file of --config",
            name.replace('-', "_")
        ))
    };
    Ok(value.ok_or_else(missing)?)
}

/// Reads the file, if there is one, and gives the directory that its relative paths start from.
pub(crate) fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> anyhow::Result<(T, PathBuf)> {
    match path {
        Some(path) => Ok(config::load(path)?),
        None => Ok((T::default(), PathBuf::new())),
    }
}

/// The three files that `quarry cert issue` puts into a directory.
pub(crate) fn certs_in(dir: &Path) -> CertPaths {
    CertPaths { ca: dir.join("ca.pem"), cert: dir.join("cert.pem"), key: dir.join("key.pem") }
}
