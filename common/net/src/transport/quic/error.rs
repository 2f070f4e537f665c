//! From quinn's errors to ours.

use crate::transport::{Expect, TransportError};
use quinn::{ConnectionError, VarInt};

/// Codes with which we close a connection.
pub(super) const CLOSED: VarInt = VarInt::from_u32(0);
/// The certificate is valid, yet not that of somebody who may connect.
pub(super) const UNTRUSTED: VarInt = VarInt::from_u32(1);
/// The peer may connect, but not as often as it does.
pub(super) const BUSY: VarInt = VarInt::from_u32(3);
/// Code with which an unfinished stream is reset.
pub(super) const DROPPED: VarInt = VarInt::from_u32(2);

/// Why an attempt to connect failed, before it is known as what address it was given.
#[derive(Debug)]
pub(super) enum Refusal {
    Unreachable(String),
    Untrusted(String),
    Incompatible(TransportError),
}

impl Refusal {
    /// Certificates are refused by TLS, which has error codes of its own: 0x100 and the alert (RFC 9001, 4.8).
    pub(super) fn of_handshake(error: &ConnectionError, cluster: &str, expect: &Expect) -> Self {
        match error {
            ConnectionError::TransportError(e) if is_tls(e.code.into()) => {
                Self::Untrusted(our_objection(&e.reason, cluster, expect))
            }
            ConnectionError::ConnectionClosed(close) if is_tls(close.error_code.into()) => {
                Self::Untrusted(format!(
                    "it refused our certificate ({}): is it from the same cluster?",
                    alert_name(u64::from(close.error_code) as u8)
                ))
            }
            ConnectionError::ApplicationClosed(close) if close.error_code == UNTRUSTED => {
                Self::Untrusted(String::from_utf8_lossy(&close.reason).into_owned())
            }
            other => Self::Unreachable(lost(other)),
        }
    }
}

fn is_tls(code: u64) -> bool {
    (0x100..0x200).contains(&code)
}

/// Why we refused the server's certificate. rustls tells it in words only.
fn our_objection(reason: &str, cluster: &str, expect: &Expect) -> String {
    if reason.contains("UnknownIssuer") || reason.contains("BadSignature") {
        format!("its certificate is not from the authority of our cluster `{cluster}`")
    } else if reason.contains("not valid for name") || reason.contains("NotValidForName") {
        format!("its certificate is not that of a {} of cluster `{cluster}`", expect.role)
    } else {
        format!("its certificate is not valid: {reason}")
    }
}

/// The alerts with which a certificate is refused (RFC 8446, 6.2).
fn alert_name(alert: u8) -> String {
    match alert {
        42 => "bad certificate".to_owned(),
        43 => "unsupported certificate".to_owned(),
        44 => "certificate revoked".to_owned(),
        45 => "certificate expired".to_owned(),
        46 => "certificate unknown".to_owned(),
        48 => "unknown certificate authority".to_owned(),
        51 => "signature does not match".to_owned(),
        116 => "certificate required".to_owned(),
        120 => "it is no Quarry".to_owned(),
        other => format!("TLS alert {other}"),
    }
}

/// Why a connection is gone, in words.
fn lost(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("closed by the peer: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::TimedOut => "the peer is silent".to_owned(),
        ConnectionError::Reset => "the peer has restarted".to_owned(),
        ConnectionError::LocallyClosed => "closed by us".to_owned(),
        other => other.to_string(),
    }
}

pub(super) fn of_connection(error: &ConnectionError) -> TransportError {
    TransportError::Lost(lost(error))
}
