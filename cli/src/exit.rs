//! Exit codes, the same for every tool, and how an error is told.

use quarry_client::ClientError;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_host::config::ConfigError;
use quarry_mount::options::OptionError;
use quarry_net::transport::TransportError;
use std::error::Error;
use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, and all is well.
    Success = 0,
    /// It failed, or it found problems.
    Failed = 1,
    /// The command line or a configuration file makes no sense. clap uses the same code.
    Usage = 2,
    /// The cluster does not answer.
    Unreachable = 3,
    /// The command worked, and shows a cluster that is not whole.
    Degraded = 4,
    /// The cluster answers, and does not let this certificate do that.
    Refused = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A command line that clap cannot judge alone.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// The exit code of an error.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Failed)
}

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if cause.is::<UsageError>() || cause.is::<ConfigError>() || cause.is::<OptionError>() {
        return Some(Exit::Usage);
    }
    if cause.is::<tokio::time::error::Elapsed>() {
        return Some(Exit::Unreachable);
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return match error {
            ClientError::Config(_) | ClientError::Setting { .. } => Some(Exit::Usage),
            ClientError::Away(_) => Some(Exit::Unreachable),
            ClientError::Untrusted(_) | ClientError::Refused(_) => Some(Exit::Refused),
            ClientError::Resources(_) => Some(Exit::Failed),
        };
    }
    if let Some(error) = cause.downcast_ref::<TransportError>() {
        return match error {
            TransportError::Unreachable { .. } | TransportError::Lost(_) => Some(Exit::Unreachable),
            TransportError::Untrusted { .. } => Some(Exit::Refused),
            _ => None,
        };
    }
    if let Some(ServiceError::Unauthorised(_)) = cause.downcast_ref() {
        return Some(Exit::Refused);
    }
    match cause.downcast_ref::<FsError>() {
        Some(FsError::TimedOut) => Some(Exit::Unreachable),
        Some(FsError::NotPermitted) => Some(Exit::Refused),
        _ => None,
    }
}

/// An error with its causes. A cause that the text before it repeats is left out.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn errors_have_codes_of_their_own() {
        let away = Err::<(), _>(ClientError::Away("no answer".into())).context("status").unwrap_err();
        assert_eq!(of_error(&away), Exit::Unreachable);
        let refused = TransportError::Untrusted { address: "a:1".into(), reason: "r".into() };
        assert_eq!(of_error(&refused.into()), Exit::Refused);
        assert_eq!(of_error(&UsageError("x".into()).into()), Exit::Usage);
        assert_eq!(of_error(&anyhow!("anything else")), Exit::Failed);
    }

    #[test]
    fn a_cause_is_told_once() {
        let inner = std::io::Error::other("disk is full");
        let error = anyhow::Error::new(inner).context("cannot write /x: disk is full").context("start");
        assert_eq!(describe(&error), "start: cannot write /x: disk is full");
    }
}
