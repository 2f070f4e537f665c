//! The file API and the live status, below `/api/v1`. `docs/gateway.md` describes each route with an example.

mod archive;
mod download;
mod entries;
mod location;
mod pages;
mod search;
mod session;
mod status;
mod upload;
mod zip;

pub(crate) use pages::router as pages;
pub(crate) use upload::{body_stream, write_whole};

use crate::app::Shared;
use crate::error::{Error, Result};
use crate::files::FsPath;
use axum::Router;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::routing::{get, post};

/// All routes.
pub(crate) fn router() -> Router<Shared> {
    let files = get(download::get).put(upload::put).delete(entries::remove);
    let entries = get(entries::list).post(entries::mkdir);
    let attributes = get(entries::attributes).patch(entries::change);
    let uploads = get(upload::offset).put(upload::piece).post(upload::finish).delete(upload::abandon);
    let mut router = Router::new()
        .route("/session", get(session::show))
        .route("/login", post(session::login))
        .route("/logout", post(session::logout))
        .route("/status", get(status::show))
        .route("/live", get(status::live))
        .route("/events", get(status::events))
        .route("/check", get(status::check).post(status::start_check))
        .route("/rename", post(entries::rename));
    for (name, methods) in [
        ("files", files),
        ("entries", entries),
        ("attributes", attributes),
        ("uploads", uploads),
        ("archive", get(archive::get)),
        ("search", get(search::get)),
        ("chunks", get(location::chunks)),
        ("verify", post(location::verify)),
    ] {
        router = router.route(&format!("/{name}"), methods.clone());
        router = router.route(&format!("/{name}/"), methods.clone());
        router = router.route(&format!("/{name}/{{*path}}"), methods);
    }
    router
}

/// The path in the file system that a URL names behind `/api/v1/<route>`, as raw bytes: names need not be UTF-8.
pub(crate) struct PathOf(pub(crate) FsPath);

impl<S: Send + Sync> FromRequestParts<S> for PathOf {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let uri = parts.extensions.get::<axum::extract::OriginalUri>().map_or(&parts.uri, |o| &o.0);
        let path = uri.path().strip_prefix("/api/v1/").unwrap_or("");
        let rest = path.split_once('/').map_or("", |(_, rest)| rest);
        Ok(Self(FsPath::parse_encoded(rest)?))
    }
}
