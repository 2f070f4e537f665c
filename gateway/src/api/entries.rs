//! Names and attributes.

use super::PathOf;
use super::upload::parse_mode;
use crate::app::User;
use crate::error::{Error, Result};
use crate::files::{FsPath, NewAttributes, Replace, encode_name, is_part};
use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use quarry_common::limits::READDIR_ENTRIES_MAX;
use quarry_common::wire::fs::{Attr, FileKind, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

/// Entries of a page where nothing else is said.
const PAGE: u32 = 200;
/// Mode of a new directory.
const DIR_MODE: u16 = 0o777;
const UMASK: u16 = 0o022;

/// Milliseconds since 1970.
fn millis(time: Timestamp) -> i64 {
    i64::try_from(time.0.div_euclid(1_000_000)).unwrap_or(i64::MAX)
}

/// An inode as the API shows it. `name` is for people; `path` is percent-encoded and exact.
pub(crate) fn attr_json(path: &FsPath, attr: &Attr) -> Value {
    json!({
        "name": String::from_utf8_lossy(path.name().unwrap_or_default()),
        "path": path.encoded(),
        "kind": attr.kind.word(),
        "inode": attr.ino,
        "size": attr.size,
        "allocated": attr.allocated,
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "links": attr.nlink,
        "atime_ms": millis(attr.atime),
        "mtime_ms": millis(attr.mtime),
        "ctime_ms": millis(attr.ctime),
        "version": attr.version,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// Cookie of the last entry of the page before.
    after: Option<u64>,
    limit: Option<u32>,
    /// Unfinished uploads as well.
    parts: Option<bool>,
}

/// `GET /entries/PATH`: a page of a directory, in a steady order.
pub(super) async fn list(
    User(fs): User,
    PathOf(path): PathOf,
    Query(page): Query<Page>,
) -> Result<Json<Value>> {
    let dir = fs.stat(&path).await?;
    let limit = page.limit.unwrap_or(PAGE).clamp(1, READDIR_ENTRIES_MAX);
    let (entries, end) = fs.list(&dir, page.after.unwrap_or(0), limit).await?;
    let next = if end { None } else { entries.last().map(|e| e.cookie.to_string()) };
    let shown = entries.iter().filter(|e| page.parts == Some(true) || !is_part(&e.name));
    let entries: Vec<Value> = shown
        .filter_map(|e| {
            let mut entry = attr_json(&path.join(&e.name), e.attr.as_ref()?);
            entry["segment"] = encode_name(&e.name).into();
            Some(entry)
        })
        .collect();
    Ok(Json(json!({ "directory": attr_json(&path, &dir), "entries": entries, "next": next })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MkdirOptions {
    parents: Option<bool>,
}

/// `POST /entries/PATH`: a new directory.
pub(super) async fn mkdir(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<MkdirOptions>,
) -> Result<(StatusCode, Json<Value>)> {
    let attr = if options.parents == Some(true) {
        fs.mkdirs(&path, DIR_MODE, UMASK).await?
    } else {
        fs.mkdir(&path, DIR_MODE, UMASK).await?
    };
    Ok((StatusCode::CREATED, Json(attr_json(&path, &attr))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveOptions {
    recursive: Option<bool>,
}

/// `DELETE /files/PATH`
pub(super) async fn remove(
    User(fs): User,
    PathOf(path): PathOf,
    Query(options): Query<RemoveOptions>,
) -> Result<StatusCode> {
    fs.remove(&path, options.recursive == Some(true)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rename {
    /// Percent-encoded paths.
    from: String,
    to: String,
    overwrite: Option<bool>,
}

/// `POST /rename`
pub(super) async fn rename(User(fs): User, Json(rename): Json<Rename>) -> Result<Json<Value>> {
    let (from, to) = (FsPath::parse_encoded(&rename.from)?, FsPath::parse_encoded(&rename.to)?);
    let replace = if rename.overwrite == Some(true) { Replace::Yes } else { Replace::No };
    let attr = fs.rename(&from, &to, replace).await?;
    Ok(Json(attr_json(&to, &attr)))
}

/// `GET /attributes/PATH`: attributes, the target of a symbolic link, extended attributes.
pub(super) async fn attributes(User(fs): User, PathOf(path): PathOf) -> Result<Json<Value>> {
    let attr = if path.names().is_empty() { fs.stat(&path).await? } else { fs.lstat(&path).await? };
    let mut value = attr_json(&path, &attr);
    if attr.kind == FileKind::Symlink {
        value["target"] = String::from_utf8_lossy(&fs.readlink(&path).await?).into();
    } else {
        let xattrs = fs.xattrs(&attr).await?.into_iter().map(|(name, data)| {
            let text =
                String::from_utf8(data).unwrap_or_else(|e| format!("0x{}", crate::auth::hex(e.as_bytes())));
            (String::from_utf8_lossy(&name).into_owned(), Value::from(text))
        });
        value["xattrs"] = Value::Object(xattrs.collect());
        value["replication"] = match fs.replication(&attr).await? {
            None => "all".into(),
            Some(n) => n.into(),
        };
    }
    Ok(Json(value))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    mode: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime_ms: Option<i64>,
    atime_ms: Option<i64>,
}

/// `PATCH /attributes/PATH`
pub(super) async fn change(
    User(fs): User,
    PathOf(path): PathOf,
    Json(change): Json<Change>,
) -> Result<Json<Value>> {
    let time = |ms: Option<i64>| ms.map(|ms| Timestamp(i128::from(ms) * 1_000_000));
    let new = NewAttributes {
        mode: change.mode.as_deref().map(parse_mode).transpose()?,
        uid: change.uid,
        gid: change.gid,
        atime: time(change.atime_ms),
        mtime: time(change.mtime_ms),
    };
    if new == NewAttributes::default() {
        return Err(Error::Bad("there is nothing to change".to_owned()));
    }
    let attr = fs.set_attributes(&path, &new).await?;
    Ok(Json(attr_json(&path, &attr)))
}
