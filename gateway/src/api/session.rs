//! Logging in and out.

use crate::app::{Peer, Shared, User};
use crate::auth::COOKIE;
use crate::error::{Error, Result};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Login {
    name: String,
    password: String,
}

/// `GET /session`: who the user is, and whether users are told apart at all.
pub(super) async fn show(State(gateway): State<Shared>, user: Result<User>) -> Json<Value> {
    let who = user.ok().map(|user| {
        let who = user.0.who();
        json!({ "name": who.name, "uid": who.uid, "gids": who.gids, "role": who.role })
    });
    Json(json!({ "user": who, "login_required": gateway.auth.is_required() }))
}

/// `POST /login`: a name and a password for a session cookie.
pub(super) async fn login(
    State(gateway): State<Shared>,
    peer: Peer,
    Json(login): Json<Login>,
) -> Result<Response> {
    if !gateway.auth.is_required() {
        return Err(Error::Bad("this gateway has no users".to_owned()));
    }
    let secret = gateway.auth.login(&login.name, &login.password, peer.ip).await?;
    let secure = if gateway.tls { "; Secure" } else { "" };
    cookie(&format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict{secure}"))
}

/// `POST /logout`: ends the session.
pub(super) async fn logout(State(gateway): State<Shared>, headers: HeaderMap) -> Result<Response> {
    gateway.auth.logout(&headers);
    cookie(&format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"))
}

fn cookie(value: &str) -> Result<Response> {
    let value = HeaderValue::from_str(value).map_err(|e| Error::Bad(e.to_string()))?;
    Ok(([(header::SET_COOKIE, value)], Json(json!({}))).into_response())
}
