//! Errors as WebHDFS has them: `RemoteException`, with the class that Hadoop clients throw for it.

use crate::error::Error;
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use quarry_common::wire::error::FsError;
use serde_json::json;

/// The answer to a request that failed.
pub(crate) fn exception(error: &Error) -> Response {
    let (status, class) = class(error);
    let name = class.rsplit('.').next().unwrap_or(class);
    let body = json!({ "RemoteException": { "exception": name, "javaClassName": class, "message": error.to_string() } });
    (status, Json(body)).into_response()
}

fn class(error: &Error) -> (StatusCode, &'static str) {
    match error {
        Error::Fs(error) => fs_class(*error),
        Error::Bad(_) | Error::Range(_) => (StatusCode::BAD_REQUEST, "java.lang.IllegalArgumentException"),
        Error::Unauthenticated | Error::WrongCredentials => {
            (StatusCode::UNAUTHORIZED, "java.lang.SecurityException")
        }
        Error::Forbidden(_) => (StatusCode::FORBIDDEN, "org.apache.hadoop.security.AccessControlException"),
        Error::Conflict(_) | Error::Body(_) => (StatusCode::FORBIDDEN, "java.io.IOException"),
        Error::Busy(_) => (StatusCode::FORBIDDEN, "org.apache.hadoop.ipc.RetriableException"),
    }
}

fn fs_class(error: FsError) -> (StatusCode, &'static str) {
    const IO: (StatusCode, &str) = (StatusCode::FORBIDDEN, "java.io.IOException");
    match error {
        FsError::NotFound | FsError::Stale => (StatusCode::NOT_FOUND, "java.io.FileNotFoundException"),
        FsError::Exists => (StatusCode::FORBIDDEN, "org.apache.hadoop.fs.FileAlreadyExistsException"),
        FsError::NotDir => (StatusCode::FORBIDDEN, "org.apache.hadoop.fs.ParentNotDirectoryException"),
        FsError::IsDir => (StatusCode::FORBIDDEN, "java.io.FileNotFoundException"),
        FsError::NotEmpty => (StatusCode::FORBIDDEN, "org.apache.hadoop.fs.PathIsNotEmptyDirectoryException"),
        FsError::Access | FsError::NotPermitted | FsError::ReadOnly => {
            (StatusCode::FORBIDDEN, "org.apache.hadoop.security.AccessControlException")
        }
        FsError::Invalid | FsError::NameTooLong | FsError::Range | FsError::NoSuchOffset => {
            (StatusCode::BAD_REQUEST, "java.lang.IllegalArgumentException")
        }
        FsError::NotSupported => (StatusCode::BAD_REQUEST, "java.lang.UnsupportedOperationException"),
        FsError::NoSpace => {
            (StatusCode::FORBIDDEN, "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException")
        }
        FsError::TimedOut | FsError::Interrupted => {
            (StatusCode::FORBIDDEN, "org.apache.hadoop.ipc.RetriableException")
        }
        FsError::NoAttribute
        | FsError::AttributeTooLarge
        | FsError::TooManyLinks
        | FsError::FileTooLarge
        | FsError::WouldBlock
        | FsError::Deadlock
        | FsError::NoLocks
        | FsError::BadHandle
        | FsError::Io => IO,
    }
}
