//! Routes, and what every request passes before its handler: host, origin, user.

use crate::api;
use crate::auth::{Authenticator, Denied, Hosts, Identity, is_cross_site};
use crate::config::{BODY_BYTES_MAX, HEAVY_MAX, LISTENERS_MAX};
use crate::error::{Error, Result};
use crate::files::UserFs;
use crate::monitor::Monitor;
use crate::webhdfs;
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use quarry_client::FileSystem;
use quarry_host::clock;
use quarry_host::metrics::table::{GATEWAY_LISTENERS, GATEWAY_REQUEST};
use quarry_host::trace::{self, Scope};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The page loads nothing from elsewhere, runs no inline script, and is shown in no frame.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Where a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) ip: IpAddr,
    /// The user that a verified client certificate names.
    pub(crate) certificate: Option<String>,
}

/// What handlers share.
pub(crate) struct Gateway {
    pub(crate) fs: FileSystem,
    pub(crate) auth: Authenticator,
    pub(crate) hosts: Hosts,
    pub(crate) monitor: Monitor,
    pub(crate) tls: bool,
    pub(crate) checksums: webhdfs::Checksums,
    listeners: Arc<Semaphore>,
    heavy: Arc<Semaphore>,
}

/// The state of handlers.
pub(crate) type Shared = Arc<Gateway>;

impl Gateway {
    pub(crate) fn new(
        fs: FileSystem,
        auth: Authenticator,
        hosts: Hosts,
        monitor: Monitor,
        tls: bool,
    ) -> Self {
        Self {
            fs,
            auth,
            hosts,
            monitor,
            tls,
            checksums: webhdfs::Checksums::default(),
            listeners: Arc::new(Semaphore::new(LISTENERS_MAX)),
            heavy: Arc::new(Semaphore::new(HEAVY_MAX)),
        }
    }

    /// A place among the listeners of the live status.
    pub(crate) fn listener(&self) -> Result<OwnedSemaphorePermit> {
        let permit = self.listeners.clone().try_acquire_owned();
        GATEWAY_LISTENERS.set(&[], (LISTENERS_MAX - self.listeners.available_permits()) as f64);
        permit.map_err(|_| Error::Busy(format!("{LISTENERS_MAX} listeners are connected already")))
    }

    /// A place among the requests that read much.
    pub(crate) async fn heavy(&self) -> OwnedSemaphorePermit {
        self.heavy.clone().acquire_owned().await.expect("the semaphore is never closed")
    }
}

/// All routes.
pub(crate) fn router(gateway: Shared) -> Router {
    Router::new()
        .merge(api::pages())
        .nest("/api/v1", api::router())
        .merge(webhdfs::router())
        .fallback(async || (StatusCode::NOT_FOUND, "there is nothing here\n"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(gateway.clone(), admit))
        .with_state(gateway)
}

/// The user of a request, whose files the handler sees.
pub(crate) struct User(pub(crate) UserFs);

impl User {
    /// # Errors
    /// `Forbidden` for everybody but administrators.
    pub(crate) fn demand_admin(&self) -> Result<()> {
        match self.0.who().role {
            crate::auth::Role::Admin => Ok(()),
            crate::auth::Role::User => Err(Error::Forbidden("this needs the role `admin`".to_owned())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        parts.extensions.get::<UserFs>().cloned().map(User).ok_or(Error::Unauthenticated)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(peer(&parts.extensions))
    }
}

fn peer(extensions: &axum::http::Extensions) -> Peer {
    let unknown = Peer { ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED), certificate: None };
    extensions.get::<Peer>().cloned().unwrap_or(unknown)
}

/// Lets a request pass to its handler, with its user.
async fn admit(State(gateway): State<Shared>, request: Request, next: Next) -> Response {
    let (begun, operation, method) = (clock::now(), trace::begin(), method_name(request.method()));
    let path_shown = request.uri().path().to_owned();
    // An answer that is streamed ends later: what counts here is the time to its head.
    let response = Scope::new(operation, Box::pin(pass(gateway, request, next))).await;
    let (took, status) = (clock::since(begun), response.status().as_u16());
    GATEWAY_REQUEST.observe(&[method, response.status().as_str()], took);
    let ms = took.as_secs_f64() * 1e3;
    if trace::is_slow("gateway", took) {
        tracing::warn!(%operation, method, path = path_shown, status, ms, "slow operation");
    } else {
        tracing::debug!(%operation, method, path = path_shown, status, ms, "answered");
    }
    response
}

/// Methods that clients invent must not each become a series of metrics.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

async fn pass(gateway: Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_hdfs = path.starts_with("/webhdfs/");
    let is_api = path.starts_with("/api/") || is_hdfs;
    let (mut parts, body) = request.into_parts();
    let mut response = match check(&gateway, &mut parts, is_api, is_hdfs).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) if is_hdfs => webhdfs::exception(&error),
        Err(error) => error.into_response(),
    };
    secure(&mut response, is_api);
    response
}

async fn check(gateway: &Gateway, parts: &mut Parts, is_api: bool, is_hdfs: bool) -> Result<()> {
    let host = parts.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("");
    if !gateway.hosts.allow(host) {
        let text = format!("this gateway does not answer for the host `{host}`; see --host");
        return Err(Error::Forbidden(text));
    }
    if !is_api {
        return Ok(());
    }
    if is_cross_site(&parts.headers, host) {
        return Err(Error::Forbidden("requests of pages of other origins are refused".to_owned()));
    }
    let is_public = matches!(parts.uri.path(), "/api/v1/login" | "/api/v1/session");
    let identity = match identify(gateway, parts, is_hdfs).await {
        Ok(identity) => identity,
        Err(_) if is_public => return Ok(()),
        Err(denied) => return Err(denied.into()),
    };
    parts.extensions.insert(UserFs::new(gateway.fs.clone(), identity));
    Ok(())
}

async fn identify(
    gateway: &Gateway,
    parts: &Parts,
    is_hdfs: bool,
) -> std::result::Result<Arc<Identity>, Denied> {
    let peer = peer(&parts.extensions);
    if is_hdfs && let Some(found) = webhdfs::identify(gateway, parts.uri.query().unwrap_or("")) {
        return Ok(found);
    }
    gateway.auth.authenticate(&parts.headers, peer.certificate.as_deref(), peer.ip).await
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Missing => Self::Unauthenticated,
            Denied::Wrong => Self::WrongCredentials,
            Denied::TooMany => Self::Busy("too many failed attempts from this address; wait a minute".into()),
        }
    }
}

/// Headers that keep a browser from misunderstanding an answer.
fn secure(response: &mut Response, is_api: bool) {
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(HeaderName::from_static("cross-origin-resource-policy"), "same-origin");
    // Data of files may be HTML: shown directly it must not act in the name of this page.
    set(
        header::CONTENT_SECURITY_POLICY,
        if is_api { "sandbox; default-src 'none'; frame-ancestors 'none'" } else { PAGE_POLICY },
    );
    if is_api {
        set(header::CACHE_CONTROL, "no-store");
    }
}
