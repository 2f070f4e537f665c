//! `LISTSTATUS` and `LISTSTATUS_BATCH`.

use super::status::{Names, file_status, replicas, single};
use super::{Call, json};
use crate::error::{Error, Result};
use crate::files::{FsPath, UserFs, is_part};
use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, DirEntry, FileKind};
use serde_json::{Value, json};

/// Entries of a batch, and of what is fetched at once for a whole listing.
const BATCH: u32 = 1000;

/// A directory that is listed page by page.
struct Listing {
    fs: UserFs,
    path: FsPath,
    dir: Attr,
    names: Names,
    replicas: u16,
    after: u64,
    end: bool,
}

impl Listing {
    async fn new(call: &Call, dir: Attr) -> Result<Self> {
        let replicas = replicas(&call.fs, &dir).await?;
        let names = Names::new(call.gateway.auth.users());
        Ok(Self { fs: call.fs.clone(), path: call.path.clone(), dir, names, replicas, after: 0, end: false })
    }

    /// The next page as `FileStatus` objects.
    async fn page(&mut self) -> Result<Vec<Value>> {
        let (entries, end) = self.fs.list(&self.dir, self.after, BATCH).await?;
        self.after = entries.last().map_or(self.after, |e| e.cookie);
        self.end = end || entries.is_empty();
        let mut page = Vec::with_capacity(entries.len());
        for entry in entries.iter().filter(|e| !is_part(&e.name)) {
            page.extend(self.status(entry).await?);
        }
        Ok(page)
    }

    async fn status(&mut self, entry: &DirEntry) -> Result<Option<Value>> {
        let Some(attr) = &entry.attr else { return Ok(None) };
        let target = match attr.kind {
            FileKind::Symlink => Some(self.fs.readlink(&self.path.join(&entry.name)).await?),
            _ => None,
        };
        let name = String::from_utf8_lossy(&entry.name);
        Ok(Some(file_status(&mut self.names, attr, &name, self.replicas, target.as_deref())))
    }
}

impl Call {
    /// The whole directory, streamed: it may have any number of entries.
    pub(super) async fn list(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        if attr.kind != FileKind::Dir {
            let status = single(&self.fs, &mut Names::new(self.gateway.auth.users()), &attr, None).await?;
            return Ok(json(json!({ "FileStatuses": { "FileStatus": [status] } })));
        }
        let mut listing = Listing::new(self, attr).await?;
        // Errors of the first page still have a status of their own.
        let first = listing.page().await?;
        let begin = format!("{{\"FileStatuses\":{{\"FileStatus\":[{}", joined(&first));
        let state = (Some(begin), !first.is_empty(), Some(listing));
        let body = futures::stream::unfold(state, |(text, comma, listing)| async move {
            if let Some(text) = text {
                return Some((Ok(Bytes::from(text)), (None, comma, listing)));
            }
            let mut listing = listing?;
            if listing.end {
                return Some((Ok(Bytes::from_static(b"]}}")), (None, comma, None)));
            }
            match listing.page().await {
                Ok(page) => {
                    let separator = if comma && !page.is_empty() { "," } else { "" };
                    let comma = comma || !page.is_empty();
                    Some((
                        Ok(Bytes::from(format!("{separator}{}", joined(&page)))),
                        (None, comma, Some(listing)),
                    ))
                }
                // The answer ends in the middle, so that no client takes it for complete.
                Err(error) => Some((Err(error), (None, comma, None))),
            }
        });
        Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
    }

    /// A batch behind the name `startafter`.
    pub(super) async fn list_batch(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        if attr.kind != FileKind::Dir {
            return Err(FsError::NotDir.into());
        }
        let mut listing = Listing::new(self, attr).await?;
        if let Some(name) = self.params.text("startafter") {
            listing.after = self.cookie_of(&listing, name.as_bytes()).await?;
        }
        let page = listing.page().await?;
        let remaining = u32::from(!listing.end);
        Ok(json(json!({ "DirectoryListing": {
            "partialListing": { "FileStatuses": { "FileStatus": page } },
            "remainingEntries": remaining,
        } })))
    }

    /// The position of a name: HDFS continues by name, Quarry by a position that stays when names go.
    async fn cookie_of(&self, listing: &Listing, name: &[u8]) -> Result<u64> {
        let mut after = 0;
        loop {
            let (entries, end) = self.fs.list(&listing.dir, after, BATCH).await?;
            if let Some(entry) = entries.iter().find(|e| e.name.0 == name) {
                return Ok(entry.cookie);
            }
            after = entries.last().map_or(after, |e| e.cookie);
            if end || entries.is_empty() {
                let text = "the name to go on from was removed meanwhile; list the directory anew";
                return Err(Error::Conflict(text.to_owned()));
            }
        }
    }
}

fn joined(page: &[Value]) -> String {
    page.iter().map(Value::to_string).collect::<Vec<_>>().join(",")
}
