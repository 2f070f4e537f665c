//! Logging, the same for every role.

use crate::syslog::Syslog;
use tracing_subscriber::EnvFilter;

/// A filter that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{filter}` is no log filter: use error, warn, info, debug or trace, or a list such as `info,quarry_client=debug`"
)]
pub struct FilterError {
    filter: String,
}

/// Logs to standard error from now on, as lines for people or as one JSON object a line.
///
/// # Errors
/// When the filter makes no sense.
pub fn init(filter: &str, json: bool) -> Result<(), FilterError> {
    let bad = |_| FilterError { filter: filter.to_owned() };
    let parsed = EnvFilter::try_new(filter).map_err(bad)?;
    let builder = tracing_subscriber::fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    // A second call in one process leaves the first in charge: only tests do that.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
    Ok(())
}

/// Logs to the host's syslog from now on, under a name.
///
/// # Errors
/// When the filter makes no sense.
pub fn init_syslog(filter: &str, name: &'static str) -> Result<(), FilterError> {
    let bad = |_| FilterError { filter: filter.to_owned() };
    let parsed = EnvFilter::try_new(filter).map_err(bad)?;
    // Syslog adds the time and the severity itself.
    let builder =
        tracing_subscriber::fmt().with_env_filter(parsed).with_writer(Syslog::new(name)).without_time();
    let _ = builder.with_ansi(false).with_level(false).try_init();
    Ok(())
}
