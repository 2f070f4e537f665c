//! Where the data of a file lies, and whether every replica of it is good.

use super::PathOf;
use crate::app::{Shared, User};
use crate::auth::hex;
use crate::error::{Error, Result};
use crate::files::{ChunkPlace, READ, UserFs};
use axum::Json;
use axum::extract::{Query, State};
use quarry_common::wire::fs::{Attr, FileKind};
use serde::Deserialize;
use serde_json::{Value, json};

/// Windows of one page: 256 MiB of file.
const WINDOWS: u32 = 128;

/// Windows that one request verifies: 32 MiB of file, so that the page can tell how far it is.
const VERIFY_WINDOWS: u32 = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// First window.
    after: Option<u64>,
}

/// `GET /chunks/PATH`: the chunks of a page of the file, with SHA-256 and the nodes that hold them.
pub(super) async fn chunks(
    User(fs): User,
    PathOf(path): PathOf,
    Query(page): Query<Page>,
) -> Result<Json<Value>> {
    let attr = fs.stat(&path).await?;
    demand_readable(&fs, &attr).await?;
    let first = page.after.unwrap_or(0);
    let places = fs.chunks(&attr, first, WINDOWS).await?;
    let next = first + u64::from(WINDOWS);
    let next = (next < UserFs::windows(&attr)).then(|| next.to_string());
    Ok(Json(json!({ "chunks": places.iter().map(place_json).collect::<Vec<_>>(), "next": next })))
}

async fn demand_readable(fs: &UserFs, attr: &Attr) -> Result<()> {
    if attr.kind != FileKind::File {
        return Err(Error::Bad("not a regular file, so it has no chunks".to_owned()));
    }
    if fs.may(attr, READ).await? { Ok(()) } else { Err(quarry_common::wire::error::FsError::Access.into()) }
}

fn place_json(place: &ChunkPlace) -> Value {
    json!({
        "id": place.info.id.to_string(),
        "offsets": place.offsets,
        "length": place.info.length,
        "sha256": hex(&place.info.sha256),
        "group": place.info.id.pg(),
        "nodes": place.members.iter().map(|m| json!({ "node": m.node, "state": m.state.word() })).collect::<Vec<_>>(),
    })
}

/// `POST /verify/PATH`: reads every replica of a page of the file and compares its SHA-256 with the NameNode's.
pub(super) async fn verify(
    State(gateway): State<Shared>,
    User(fs): User,
    PathOf(path): PathOf,
    Query(page): Query<Page>,
) -> Result<Json<Value>> {
    let attr = fs.stat(&path).await?;
    demand_readable(&fs, &attr).await?;
    let _place = gateway.heavy().await;
    let first = page.after.unwrap_or(0);
    let places = fs.chunks(&attr, first, VERIFY_WINDOWS).await?;
    let mut chunks = Vec::with_capacity(places.len());
    for place in &places {
        let reports = fs.verify(place).await;
        chunks.push(json!({
            "id": place.info.id.to_string(),
            "replicas": reports.iter().map(|r| json!({ "node": r.node, "fault": r.fault })).collect::<Vec<_>>(),
        }));
    }
    let next = first + u64::from(VERIFY_WINDOWS);
    let next = (next < UserFs::windows(&attr)).then(|| next.to_string());
    Ok(Json(json!({ "chunks": chunks, "next": next })))
}
