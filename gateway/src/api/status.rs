//! The state of the cluster: once, live, and what happened to it.

use crate::app::{Shared, User};
use crate::error::Result;
use crate::monitor::CheckState;
use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;

/// Events that one answer lists.
const EVENTS_MAX: usize = 1000;

/// `GET /status`
pub(super) async fn show(State(gateway): State<Shared>, _: User) -> Result<Response> {
    let mut watch = gateway.monitor.watch();
    // The first snapshot is made right after the start.
    let _ = watch.wait_for(|snapshot| snapshot.len() > 2).await;
    let snapshot = watch.borrow().clone();
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(snapshot)).into_response())
}

/// `GET /live`: server-sent events: `history` once, then `status` once a second.
pub(super) async fn live(
    State(gateway): State<Shared>,
    _: User,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    let permit = gateway.listener()?;
    let mut watch = gateway.monitor.watch();
    watch.mark_changed();
    let history = Event::default().event("history").data(gateway.monitor.history().to_string());
    let stream =
        futures::stream::unfold((Some(history), watch, permit), |(first, mut watch, permit)| async move {
            if let Some(first) = first {
                return Some((Ok(first), (None, watch, permit)));
            }
            loop {
                watch.changed().await.ok()?;
                let snapshot = watch.borrow_and_update().clone();
                // Before the first look there is nothing to tell.
                if snapshot.len() > 2 {
                    let event = Event::default().event("status").data(String::from_utf8_lossy(&snapshot));
                    return Some((Ok(event), (None, watch, permit)));
                }
            }
        });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()))
}

#[derive(Deserialize)]
pub(super) struct Page {
    limit: Option<usize>,
}

/// `GET /events`: the log, the newest first.
pub(super) async fn events(State(gateway): State<Shared>, _: User, Query(page): Query<Page>) -> Json<Value> {
    let events = gateway.monitor.events(page.limit.unwrap_or(EVENTS_MAX).min(EVENTS_MAX));
    Json(json!({ "events": events }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    #[serde(default)]
    deep: bool,
}

/// `GET /check`: the check of the cluster that runs, or the last one.
pub(super) async fn check(State(gateway): State<Shared>, _: User) -> Json<Value> {
    Json(json!({ "check": gateway.monitor.check().as_ref().map(CheckState::to_json) }))
}

/// `POST /check`: starts one.
pub(super) async fn start_check(
    State(gateway): State<Shared>,
    user: User,
    Json(check): Json<Check>,
) -> Result<Json<Value>> {
    user.demand_admin()?;
    let state = gateway.monitor.start_check(check.deep, &user.0.who().name).await?;
    Ok(Json(json!({ "check": state.to_json() })))
}
