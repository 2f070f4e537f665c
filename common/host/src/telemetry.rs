//! Logging, the same for every role.

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
