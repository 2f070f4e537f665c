//! Search by name below a directory, answered line by line as it finds something.

use super::PathOf;
use super::entries::attr_json;
use crate::app::{Shared, User};
use crate::error::{Error, Result};
use crate::files::{Found, Walk};
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use quarry_common::wire::error::FsError;
use serde::Deserialize;
use serde_json::json;

/// Matches of one search.
const MATCHES_MAX: u64 = 1000;
/// Names between two lines that tell how far it is; they also notice a client that went away.
const PROGRESS_EVERY: u64 = 2000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// Part of a name; upper and lower case of ASCII are the same.
    name: String,
}

struct Search {
    walk: Walk,
    wanted: Vec<u8>,
    seen: u64,
    matches: u64,
    done: bool,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// `GET /search/PATH?name=TEXT`: JSON lines: `match` for each, `seen` from time to time, `done` at the end.
pub(super) async fn get(
    State(gateway): State<Shared>,
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<Options>,
) -> Result<Response> {
    if options.name.is_empty() {
        return Err(Error::Bad("name must not be empty".to_owned()));
    }
    let top = fs.stat(&path).await?;
    let search = Search {
        walk: Walk::new(fs, path, top),
        wanted: options.name.to_ascii_lowercase().into_bytes(),
        seen: 0,
        matches: 0,
        done: false,
        _place: gateway.heavy().await,
    };
    let lines = futures::stream::unfold(search, |mut search| async move {
        if search.done {
            return None;
        }
        let line = search.next_line().await.unwrap_or_else(|error| {
            search.done = true;
            json!({ "error": error.to_string() })
        });
        let line = Bytes::from(format!("{line}\n"));
        Some((Ok::<_, std::convert::Infallible>(line), search))
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(lines)).into_response())
}

impl Search {
    async fn next_line(&mut self) -> std::result::Result<serde_json::Value, FsError> {
        loop {
            if self.matches >= MATCHES_MAX {
                self.done = true;
                return Ok(json!({ "done": true, "seen": self.seen, "more": true }));
            }
            let Some(Found { path, attr }) = self.walk.next().await? else {
                self.done = true;
                return Ok(
                    json!({ "done": true, "seen": self.seen, "more": false, "refused": self.walk.refused }),
                );
            };
            self.seen += 1;
            let name = path.name().unwrap_or_default().to_ascii_lowercase();
            if name.windows(self.wanted.len()).any(|part| part == self.wanted) {
                self.matches += 1;
                return Ok(json!({ "match": attr_json(&path, &attr) }));
            }
            if self.seen.is_multiple_of(PROGRESS_EVERY) {
                return Ok(json!({ "seen": self.seen }));
            }
        }
    }
}
