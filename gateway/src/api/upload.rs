//! Writing files: in one request, or in pieces that survive a broken connection.

use super::PathOf;
use super::entries::attr_json;
use crate::app::User;
use crate::config::STALL_TIMEOUT;
use crate::error::{Error, Result};
use crate::files::{Created, FsPath, Place, Replace, UploadId, UploadTarget, UserFs};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};

/// Mode and umask of a new file where nothing else is said.
const MODE: u16 = 0o666;
const UMASK: u16 = 0o022;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutOptions {
    overwrite: Option<bool>,
    mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UploadOptions {
    id: String,
    /// Of the first byte of the body.
    offset: Option<u64>,
    /// Of the whole file.
    size: Option<u64>,
    overwrite: Option<bool>,
}

impl UploadOptions {
    fn id(&self) -> Result<UploadId> {
        self.id.parse().map_err(|_| Error::Bad("id must be 32 lower-case hexadecimal digits".to_owned()))
    }

    fn replace(&self) -> Replace {
        replace(self.overwrite)
    }
}

fn replace(overwrite: Option<bool>) -> Replace {
    if overwrite.unwrap_or(true) { Replace::Yes } else { Replace::No }
}

/// Octal permission bits.
pub(super) fn parse_mode(text: &str) -> Result<u16> {
    match u16::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(Error::Bad(format!("a mode is octal, at most 7777, not `{text}`"))),
    }
}

/// The data of a request's body; a client that sends nothing for long ends it with an error.
pub(crate) fn body_stream(body: Body) -> impl Stream<Item = Result<Bytes>> + Send {
    futures::stream::unfold(body.into_data_stream(), |mut data| async move {
        let piece = match tokio::time::timeout(STALL_TIMEOUT, data.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(bytes))) => Ok(bytes),
            Ok(Some(Err(error))) => Err(Error::Body(format!("the body broke off: {error}"))),
            Err(_) => Err(Error::Body(format!("no data for {} s", STALL_TIMEOUT.as_secs()))),
        };
        Some((piece, data))
    })
}

/// `PUT /files/PATH`: the body becomes the file, as a whole or not at all. Answered when it is on the disks.
pub(super) async fn put(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<PutOptions>,
    body: Body,
) -> Result<Response> {
    let replace = replace(options.overwrite);
    let (mode, umask) = match &options.mode {
        Some(text) => (parse_mode(text)?, 0),
        None => (MODE, UMASK),
    };
    let id = UploadId::random();
    let existed = fs.upload(&path, &id, replace).await?.replaces();
    let attr = write_whole(&fs, &path, &id, replace, (mode, umask), body).await?;
    let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(attr_json(&path, &attr))).into_response())
}

/// Writes the body as a whole or not at all; returns when it is on the disks. The part of an upload that fails is removed.
pub(crate) async fn write_whole(
    fs: &UserFs,
    path: &FsPath,
    id: &UploadId,
    replace: Replace,
    (mode, umask): (u16, u16),
    body: Body,
) -> Result<quarry_common::wire::fs::Attr> {
    let upload = fs.upload(path, id, replace).await?;
    let part = fs.open_part(&upload, mode, umask).await?;
    // Dropped with the request when the client goes away, too.
    let cleanup = Cleanup::new(fs, path, id);
    fs.write_stream(&part.file, Place::At(0), body_stream(body)).await?;
    part.file.fsync().await?;
    let attr = fs.finish_upload(&upload, replace).await?;
    cleanup.done();
    Ok(attr)
}

/// Removes the part of an upload whose request was dropped half-way.
struct Cleanup(Option<(UserFs, FsPath, UploadId)>);

impl Cleanup {
    fn new(fs: &UserFs, path: &FsPath, id: &UploadId) -> Self {
        Self(Some((fs.clone(), path.clone(), id.clone())))
    }

    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Some((fs, path, id)) = self.0.take() {
            tokio::spawn(async move { discard(&fs, &path, &id).await });
        }
    }
}

async fn discard(fs: &UserFs, path: &FsPath, id: &UploadId) {
    let removed = match fs.upload(path, id, Replace::Yes).await {
        Ok(upload) => fs.abandon_upload(&upload).await,
        Err(error) => Err(error),
    };
    if let Err(error) = removed {
        tracing::debug!(%path, %error, "the part of a broken upload stays");
    }
}

/// `GET /uploads/PATH?id=ID`: how many bytes have arrived.
pub(super) async fn offset(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<UploadOptions>,
) -> Result<Json<Value>> {
    let upload = fs.upload(&path, &options.id()?, options.replace()).await?;
    Ok(Json(json!({ "offset": upload.received() })))
}

/// `PUT /uploads/PATH?id=ID&offset=N`: the body continues the upload at N, where the data that has arrived ends.
pub(super) async fn piece(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<UploadOptions>,
    body: Body,
) -> Result<Json<Value>> {
    let offset = options.offset.unwrap_or(0);
    let upload = fs.upload(&path, &options.id()?, options.replace()).await?;
    demand_size(&upload, offset)?;
    let part = fs.open_part(&upload, MODE, UMASK).await?;
    let end = write_piece(&fs, &part, offset, body).await?;
    Ok(Json(json!({ "offset": end })))
}

async fn write_piece(fs: &UserFs, part: &Created, offset: u64, body: Body) -> Result<u64> {
    let end = fs.write_stream(&part.file, Place::At(offset), body_stream(body)).await?;
    part.file.flush().await?;
    Ok(end)
}

/// `POST /uploads/PATH?id=ID&size=N`: the data is complete and gets its name. Answered when it is on the disks.
pub(super) async fn finish(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<UploadOptions>,
) -> Result<Json<Value>> {
    let size = options.size.ok_or_else(|| Error::Bad("size is missing".to_owned()))?;
    let upload = fs.upload(&path, &options.id()?, options.replace()).await?;
    demand_size(&upload, size)?;
    // An empty file has no pieces.
    let part = fs.open_part(&upload, MODE, UMASK).await?;
    part.file.fsync().await?;
    let attr = fs.finish_upload(&upload, options.replace()).await?;
    Ok(Json(attr_json(&path, &attr)))
}

/// `DELETE /uploads/PATH?id=ID`: gives the upload up.
pub(super) async fn abandon(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<UploadOptions>,
) -> Result<StatusCode> {
    let upload = fs.upload(&path, &options.id()?, Replace::Yes).await?;
    fs.abandon_upload(&upload).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn demand_size(upload: &UploadTarget, size: u64) -> Result<()> {
    match upload.received() {
        received if received == size => Ok(()),
        received => Err(Error::Conflict(format!("{received} bytes have arrived, not {size}"))),
    }
}
