//! WebHDFS: the REST API of HDFS, below `/webhdfs/v1`, for clients that know nothing of Quarry.
//!
//! `docs/gateway.md` lists the operations. Data is transferred in the two steps of HDFS: the first request is answered with a
//! redirection to this same gateway, the second, marked with `data=true`, carries the data.

mod acl;
mod checksum;
mod exception;
mod listing;
mod locations;
mod params;
mod query;
mod status;
mod token;
mod update;
mod xattr;

pub(crate) use checksum::Checksums;
pub(crate) use exception::exception;

use crate::app::{Gateway, Shared, User};
use crate::auth::Identity;
use crate::error::{Error, Result};
use crate::files::{FsPath, UserFs};
use axum::Router;
use axum::body::Body;
use axum::extract::{OriginalUri, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use params::Params;
use std::sync::Arc;

/// The block size that clients are told: HDFS's own default, so that checksums and splits agree with it. Quarry's chunks are
/// smaller and start at multiples of 2 MiB.
pub(crate) const BLOCK_SIZE: u64 = 128 << 20;

/// All routes. They are not nested: a nested router does not have the root with its slash at the end.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/webhdfs/v1", any(serve))
        .route("/webhdfs/v1/", any(serve))
        .route("/webhdfs/v1/{*path}", any(serve))
}

/// One request, with everything that operations look at.
struct Call {
    gateway: Shared,
    fs: UserFs,
    path: FsPath,
    params: Params,
    /// `scheme://host` of this gateway, as the client names it.
    base: String,
    uri: String,
}

async fn serve(
    State(gateway): State<Shared>,
    user: User,
    OriginalUri(uri): OriginalUri,
    method: Method,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let answer = async {
        let path = FsPath::parse_encoded(uri.path().strip_prefix("/webhdfs/v1").unwrap_or(""))?;
        let params = Params::parse(uri.query().unwrap_or(""));
        let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
        let scheme = if gateway.tls { "https" } else { "http" };
        let base = format!("{scheme}://{host}");
        let call = Call { gateway, fs: user.0, path, params, base, uri: uri.to_string() };
        call.run(&method, request.into_body()).await
    };
    answer.await.unwrap_or_else(|error: Error| exception(&error))
}

impl Call {
    async fn run(&self, method: &Method, body: Body) -> Result<Response> {
        let op = self.params.text("op").unwrap_or("").to_ascii_uppercase();
        if self.params.text("doas").is_some() {
            return Err(Error::Forbidden("doas: users act for nobody else".to_owned()));
        }
        match (method.as_str(), op.as_str()) {
            ("GET", "OPEN") if !self.is_data() => Ok(self.redirect()),
            ("GET", "OPEN") => self.open().await,
            ("GET", "GETFILESTATUS") => self.file_status().await,
            ("GET", "GETFILELINKSTATUS") => self.link_status().await,
            ("GET", "GETLINKTARGET") => self.link_target().await,
            ("GET", "LISTSTATUS") => self.list().await,
            ("GET", "LISTSTATUS_BATCH") => self.list_batch().await,
            ("GET", "GETCONTENTSUMMARY") => self.content_summary().await,
            ("GET", "GETQUOTAUSAGE") => self.quota_usage().await,
            ("GET", "GETFILECHECKSUM") if !self.is_data() => Ok(self.redirect()),
            ("GET", "GETFILECHECKSUM") => self.checksum().await,
            ("GET", "GETFILEBLOCKLOCATIONS") => self.block_locations().await,
            ("GET", "CHECKACCESS") => self.check_access().await,
            ("GET", "GETHOMEDIRECTORY") => Ok(self.home()),
            ("GET", "GETTRASHROOT") => Ok(self.trash_root()),
            ("GET", "GETSTATUS") => self.fs_status().await,
            ("GET", "GETSERVERDEFAULTS") => Ok(query::server_defaults()),
            ("GET", "GETACLSTATUS") => self.acl_status().await,
            ("GET", "GETXATTRS") => self.xattrs().await,
            ("GET", "LISTXATTRS") => self.xattr_names().await,
            ("GET", "GETDELEGATIONTOKEN") => self.new_token(),
            ("PUT", "CREATE") if !self.is_data() => Ok(self.redirect()),
            ("PUT", "CREATE") => self.create(body).await,
            ("PUT", "MKDIRS") => self.mkdirs().await,
            ("PUT", "CREATESYMLINK") => self.create_symlink().await,
            ("PUT", "RENAME") => self.rename().await,
            ("PUT", "SETPERMISSION") => self.set_permission().await,
            ("PUT", "SETOWNER") => self.set_owner().await,
            ("PUT", "SETTIMES") => self.set_times().await,
            ("PUT", "SETREPLICATION") => self.set_replication().await,
            ("PUT", "SETACL") => self.set_acl().await,
            ("PUT", "MODIFYACLENTRIES") => self.modify_acl().await,
            ("PUT", "REMOVEACLENTRIES") => self.remove_acl_entries().await,
            ("PUT", "REMOVEDEFAULTACL") => self.remove_default_acl().await,
            ("PUT", "REMOVEACL") => self.remove_acl().await,
            ("PUT", "SETXATTR") => self.set_xattr().await,
            ("PUT", "REMOVEXATTR") => self.remove_xattr().await,
            ("PUT", "RENEWDELEGATIONTOKEN") => self.renew_token(),
            ("PUT", "CANCELDELEGATIONTOKEN") => self.cancel_token(),
            ("POST", "APPEND") if !self.is_data() => Ok(self.redirect()),
            ("POST", "APPEND") => self.append(body).await,
            ("POST", "CONCAT") => self.concat().await,
            ("POST", "TRUNCATE") => self.truncate().await,
            ("DELETE", "DELETE") => self.delete().await,
            (method, op) => Err(Error::Bad(format!("{method} has no operation `{op}` here"))),
        }
    }

    /// The second of the two steps.
    fn is_data(&self) -> bool {
        self.params.text("data") == Some("true")
    }

    /// The first step: where the data goes or comes from.
    fn redirect(&self) -> Response {
        let location = format!("{}{}&data=true", self.base, self.uri);
        if self.params.flag("noredirect").unwrap_or(false) {
            return json(serde_json::json!({ "Location": location }));
        }
        // What a client sent too early is not read: the connection ends with the answer.
        let headers = [(header::LOCATION, location), (header::CONTENT_LENGTH, "0".to_owned())];
        (StatusCode::TEMPORARY_REDIRECT, headers).into_response()
    }
}

fn json(value: serde_json::Value) -> Response {
    axum::Json(value).into_response()
}

fn boolean(value: bool) -> Response {
    json(serde_json::json!({ "boolean": value }))
}

/// The user of a request by what WebHDFS clients put into the query: a delegation token, or, where nobody has to log in, a
/// name. A name is only a wish: it is granted for accounts of this machine, and only where the gateway could become any.
pub(crate) fn identify(gateway: &Gateway, query: &str) -> Option<Arc<Identity>> {
    let params = Params::parse(query);
    if let Some(token) = params.text("delegation") {
        return gateway.auth.by_session(&token::secret_of(token)?);
    }
    let open = gateway.auth.open_identity()?;
    let name = params.text("user.name")?;
    (open.is_superuser() && name != open.name).then(|| Identity::of_account(name)).flatten().map(Arc::new)
}
