//! The page and what it loads: from the binary, nothing from elsewhere.

use crate::app::Shared;
use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// Name, content type, content.
const ASSETS: [(&str, &str, &str); 8] = [
    ("/", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("/assets/style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("/assets/app.js", "text/javascript; charset=utf-8", include_str!("../web/app.js")),
    ("/assets/dom.js", "text/javascript; charset=utf-8", include_str!("../web/dom.js")),
    ("/assets/cluster.js", "text/javascript; charset=utf-8", include_str!("../web/cluster.js")),
    ("/assets/files.js", "text/javascript; charset=utf-8", include_str!("../web/files.js")),
    ("/assets/upload.js", "text/javascript; charset=utf-8", include_str!("../web/upload.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("../web/favicon.svg")),
];

/// Routes of the page.
pub(crate) fn router() -> Router<Shared> {
    ASSETS.iter().fold(Router::new(), |router, (path, kind, content)| {
        let tag = format!("\"{}\"", &crate::auth::hex(&Sha256::digest(content))[..16]);
        router.route(path, get(async move |headers: HeaderMap| asset(&headers, kind, content, &tag)))
    })
}

/// Asked for again each time, and sent again only after an upgrade of the gateway.
fn asset(headers: &HeaderMap, kind: &'static str, content: &'static str, tag: &str) -> Response {
    let common = [(header::ETAG, tag.to_owned()), (header::CACHE_CONTROL, "no-cache".to_owned())];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    (common, [(header::CONTENT_TYPE, kind)], content).into_response()
}
