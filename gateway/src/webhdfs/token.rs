//! Delegation tokens: sessions of the gateway in the form that Hadoop carries around.
//!
//! A token is the URL-safe base64 of Hadoop's `Token`: identifier, password, kind and service, each with its length as a
//! variable-length integer before it. The identifier is the session's secret; clients fill in the service.

use super::{Call, json};
use crate::auth::{Denied, SESSION_LIFE};
use crate::error::{Error, Result};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

const KIND: &[u8] = b"WEBHDFS delegation";

/// The token that stands for a session. All parts are shorter than 128 bytes, so each length is one byte.
fn encode(secret: &str) -> String {
    let mut bytes = Vec::new();
    for part in [secret.as_bytes(), b"", KIND, b""] {
        bytes.push(part.len() as u8);
        bytes.extend_from_slice(part);
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The session that a token stands for.
pub(super) fn secret_of(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?;
    let (length, rest) = bytes.split_first()?;
    let secret = rest.get(..usize::from(*length))?;
    String::from_utf8(secret.to_vec()).ok()
}

impl Call {
    pub(super) fn new_token(&self) -> Result<Response> {
        let secret = self.gateway.auth.session_for(self.fs.who());
        Ok(json(json!({ "Token": { "urlString": encode(&secret) } })))
    }

    pub(super) fn renew_token(&self) -> Result<Response> {
        let secret = secret_of(self.params.required("token")?).ok_or(Error::from(Denied::Wrong))?;
        self.gateway.auth.by_session(&secret).ok_or(Error::from(Denied::Wrong))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(json(json!({ "long": (now + SESSION_LIFE).as_millis() as u64 })))
    }

    pub(super) fn cancel_token(&self) -> Result<Response> {
        let secret = secret_of(self.params.required("token")?).ok_or(Error::from(Denied::Wrong))?;
        self.gateway.auth.end_session(&secret);
        Ok(().into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_brings_its_session_back() {
        let secret = "ab".repeat(32);
        assert_eq!(secret_of(&encode(&secret)), Some(secret));
        for bad in ["", "!", "gA", "_w"] {
            assert_eq!(secret_of(bad), None, "{bad}");
        }
    }
}
