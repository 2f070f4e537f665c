//! Logging, the same for every role.

use crate::syslog::Syslog;
use std::sync::{Mutex, OnceLock, PoisonError};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// A filter that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{filter}` is no log filter: use error, warn, info, debug or trace, or a list such as `info,quarry_client=debug`"
)]
pub struct FilterError {
    filter: String,
}

/// The filter in force, and how to replace it.
struct Logging {
    handle: Handle<EnvFilter, Registry>,
    filter: Mutex<String>,
}

static LOGGING: OnceLock<Logging> = OnceLock::new();

/// Where the lines go: a layer over the one that filters.
type Output = Box<dyn Layer<Filtered> + Send + Sync>;
type Filtered = tracing_subscriber::layer::Layered<reload::Layer<EnvFilter, Registry>, Registry>;

/// Logs to standard error from now on, as lines for people or as one JSON object a line.
///
/// # Errors
/// When the filter makes no sense.
pub fn init(filter: &str, json: bool) -> Result<(), FilterError> {
    let output = fmt::layer().with_writer(std::io::stderr);
    start(filter, if json { output.json().boxed() } else { output.with_ansi(false).boxed() })
}

/// Logs to the host's syslog from now on, under a name.
///
/// # Errors
/// When the filter makes no sense.
pub fn init_syslog(filter: &str, name: &'static str) -> Result<(), FilterError> {
    // Syslog adds the time and the severity itself.
    let output = fmt::layer().with_writer(Syslog::new(name)).without_time();
    start(filter, output.with_ansi(false).with_level(false).boxed())
}

fn start(filter: &str, output: Output) -> Result<(), FilterError> {
    let (filtering, handle) = reload::Layer::new(parse(filter)?);
    // A second call in one process leaves the first in charge: only tests make one.
    if tracing_subscriber::registry().with(filtering).with(output).try_init().is_ok() {
        let _ = LOGGING.set(Logging { handle, filter: Mutex::new(filter.to_owned()) });
    }
    Ok(())
}

/// The filter in force; empty before [`init`].
pub fn filter() -> String {
    let filter = |l: &Logging| l.filter.lock().unwrap_or_else(PoisonError::into_inner).clone();
    LOGGING.get().map(filter).unwrap_or_default()
}

/// Replaces the filter of the running process.
///
/// # Errors
/// When the filter makes no sense, or nothing is logged.
pub fn set_filter(filter: &str) -> Result<(), FilterError> {
    let bad = || FilterError { filter: filter.to_owned() };
    let parsed = parse(filter)?;
    let logging = LOGGING.get().ok_or_else(bad)?;
    let mut current = logging.filter.lock().unwrap_or_else(PoisonError::into_inner);
    logging.handle.reload(parsed).map_err(|_| bad())?;
    filter.clone_into(&mut current);
    Ok(())
}

fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::try_new(filter).map_err(|_| FilterError { filter: filter.to_owned() })
}
