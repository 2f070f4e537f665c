//! Errors as HTTP answers.
//!
//! The file API answers `{"error": {"code": "...", "message": "..."}}`; WebHDFS has a form of its own (`webhdfs/exception.rs`).

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quarry_common::wire::error::FsError;
use serde_json::json;

/// Seconds after which a client that was turned away may come again.
const RETRY_AFTER_S: &str = "2";

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The file system refuses.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The request makes no sense; the text says why.
    #[error("{0}")]
    Bad(String),
    /// The user must log in.
    #[error("log in first")]
    Unauthenticated,
    /// Wrong credentials.
    #[error("wrong user name, password or token")]
    WrongCredentials,
    /// The user's role or the request's origin does not allow it.
    #[error("{0}")]
    Forbidden(String),
    /// The state is another than the request assumes.
    #[error("{0}")]
    Conflict(String),
    /// The range lies outside the file of this size.
    #[error("the file has {0} bytes")]
    Range(u64),
    /// The request's body did not arrive in time, or broke off.
    #[error("{0}")]
    Body(String),
    /// A limit is reached; the text names it.
    #[error("{0}")]
    Busy(String),
}

impl Error {
    /// The HTTP status and a word that programs can branch on.
    pub(crate) fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Fs(error) => fs_kind(*error),
            Self::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Self::WrongCredentials => (StatusCode::UNAUTHORIZED, "wrong_credentials"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Range(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "range"),
            Self::Body(_) => (StatusCode::REQUEST_TIMEOUT, "body"),
            Self::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        }
    }
}

/// One table from the errors of the file system to HTTP.
fn fs_kind(error: FsError) -> (StatusCode, &'static str) {
    match error {
        FsError::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        FsError::Stale => (StatusCode::NOT_FOUND, "stale"),
        FsError::Exists => (StatusCode::CONFLICT, "exists"),
        FsError::NotDir => (StatusCode::CONFLICT, "not_a_directory"),
        FsError::IsDir => (StatusCode::CONFLICT, "is_a_directory"),
        FsError::NotEmpty => (StatusCode::CONFLICT, "not_empty"),
        FsError::Access => (StatusCode::FORBIDDEN, "permission_denied"),
        FsError::NotPermitted => (StatusCode::FORBIDDEN, "not_permitted"),
        FsError::ReadOnly => (StatusCode::FORBIDDEN, "read_only"),
        FsError::Invalid => (StatusCode::BAD_REQUEST, "invalid"),
        FsError::NameTooLong => (StatusCode::BAD_REQUEST, "name_too_long"),
        FsError::Range => (StatusCode::BAD_REQUEST, "buffer_too_small"),
        FsError::BadHandle => (StatusCode::BAD_REQUEST, "bad_handle"),
        FsError::AttributeTooLarge => (StatusCode::BAD_REQUEST, "attribute_too_large"),
        FsError::NoAttribute => (StatusCode::NOT_FOUND, "no_attribute"),
        FsError::NoSuchOffset => (StatusCode::BAD_REQUEST, "no_such_offset"),
        FsError::TooManyLinks => (StatusCode::CONFLICT, "too_many_links"),
        FsError::FileTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "file_too_large"),
        FsError::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
        FsError::NotSupported => (StatusCode::BAD_REQUEST, "not_supported"),
        FsError::WouldBlock | FsError::Deadlock | FsError::NoLocks => (StatusCode::CONFLICT, "locked"),
        FsError::Interrupted | FsError::TimedOut => (StatusCode::SERVICE_UNAVAILABLE, "cluster_away"),
        FsError::Io => (StatusCode::INTERNAL_SERVER_ERROR, "input_output"),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, code) = self.kind();
        let body = json!({ "error": { "code": code, "message": self.to_string() } });
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        if let Self::Range(size) = &self
            && let Ok(value) = HeaderValue::from_str(&format!("bytes */{size}"))
        {
            headers.insert(header::CONTENT_RANGE, value);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        // What is left of a body that nobody reads would be taken for the next request.
        if matches!(self, Self::Body(_)) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// What a handler returns.
pub(crate) type Result<T> = std::result::Result<T, Error>;
