//! Operations that only read.

use super::status::{Names, permission, replicas, single};
use super::{BLOCK_SIZE, Call, json};
use crate::error::{Error, Result};
use crate::files::{EXECUTE, READ, WRITE, Walk, stream};
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind};
use serde_json::{Value, json};

/// What is below a path.
#[derive(Default)]
struct Summary {
    directories: u64,
    files: u64,
    length: u64,
    space: u64,
}

impl Call {
    fn names(&self) -> Names {
        Names::new(self.gateway.auth.users())
    }

    pub(super) async fn file_status(&self) -> Result<Response> {
        let attr = self.fs.stat(&self.path).await?;
        Ok(json(json!({ "FileStatus": single(&self.fs, &mut self.names(), &attr, None).await? })))
    }

    pub(super) async fn link_status(&self) -> Result<Response> {
        let attr = self.fs.lstat(&self.path).await?;
        let target = match attr.kind {
            FileKind::Symlink => Some(self.fs.readlink(&self.path).await?),
            _ => None,
        };
        Ok(json(
            json!({ "FileStatus": single(&self.fs, &mut self.names(), &attr, target.as_deref()).await? }),
        ))
    }

    pub(super) async fn link_target(&self) -> Result<Response> {
        let target = self.fs.readlink(&self.path).await?;
        Ok(json(json!({ "Path": String::from_utf8_lossy(&target) })))
    }

    /// The data of a file from `offset` on, `length` bytes of it.
    pub(super) async fn open(&self) -> Result<Response> {
        let (attr, file) = self.fs.open(&self.path).await?;
        let offset = self.params.number::<u64>("offset")?.unwrap_or(0);
        if offset > attr.size {
            return Err(Error::Bad(format!("offset {offset} lies behind the end, {}", attr.size)));
        }
        let length = self.params.number::<u64>("length")?.unwrap_or(u64::MAX);
        let end = offset.saturating_add(length).min(attr.size);
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, (end - offset).to_string()),
        ];
        Ok((headers, Body::from_stream(stream(file, offset..end))).into_response())
    }

    async fn summary(&self) -> Result<Summary> {
        let top = self.fs.stat(&self.path).await?;
        let replicas = u64::from(replicas(&self.fs, &top).await?);
        let mut sum = Summary::default();
        let mut count = |attr: &Attr| match attr.kind {
            FileKind::Dir => sum.directories += 1,
            FileKind::File => {
                sum.files += 1;
                sum.length += attr.size;
                sum.space = sum.space.saturating_add(attr.size.saturating_mul(replicas));
            }
            _ => sum.files += 1,
        };
        count(&top);
        if top.kind == FileKind::Dir {
            let _place = self.gateway.heavy().await;
            let mut walk = Walk::new(self.fs.clone(), self.path.clone(), top);
            while let Some(found) = walk.next().await? {
                count(&found.attr);
            }
            if walk.refused > 0 {
                return Err(FsError::Access.into());
            }
        }
        Ok(sum)
    }

    pub(super) async fn content_summary(&self) -> Result<Response> {
        let sum = self.summary().await?;
        Ok(json(json!({ "ContentSummary": {
            "directoryCount": sum.directories,
            "fileCount": sum.files,
            "length": sum.length,
            "quota": -1,
            "spaceConsumed": sum.space,
            "spaceQuota": -1,
            "typeQuota": {},
        } })))
    }

    pub(super) async fn quota_usage(&self) -> Result<Response> {
        let sum = self.summary().await?;
        Ok(json(json!({ "QuotaUsage": {
            "fileAndDirectoryCount": sum.directories + sum.files,
            "quota": -1,
            "spaceConsumed": sum.space,
            "spaceQuota": -1,
            "typeQuota": {},
        } })))
    }

    pub(super) async fn check_access(&self) -> Result<Response> {
        let action = self.params.required("fsaction")?;
        let wanted = action.chars().try_fold(0, |wanted, c| match c {
            'r' => Ok(wanted | READ),
            'w' => Ok(wanted | WRITE),
            'x' => Ok(wanted | EXECUTE),
            '-' => Ok(wanted),
            _ => Err(Error::Bad(format!("fsaction is made of r, w, x and -, not {action}"))),
        })?;
        let attr = self.fs.stat(&self.path).await?;
        if !self.fs.may(&attr, wanted).await? {
            let text =
                format!("{} lacks {action} on {} ({})", self.fs.who().name, self.path, permission(attr.mode));
            return Err(Error::Forbidden(text));
        }
        Ok(().into_response())
    }

    pub(super) fn home(&self) -> Response {
        json(json!({ "Path": format!("/user/{}", self.fs.who().name) }))
    }

    pub(super) fn trash_root(&self) -> Response {
        json(json!({ "Path": format!("/user/{}/.Trash", self.fs.who().name) }))
    }

    pub(super) async fn fs_status(&self) -> Result<Response> {
        let stat = self.gateway.fs.statfs().await?;
        Ok(json(json!({ "FsStatus": {
            "capacity": stat.capacity,
            "used": stat.capacity.saturating_sub(stat.free),
            "remaining": stat.free,
        } })))
    }
}

/// What clients assume of files that they create.
pub(super) fn server_defaults() -> Response {
    let defaults: Value = json!({ "FsServerDefaults": {
        "blockSize": BLOCK_SIZE,
        "bytesPerChecksum": super::checksum::BYTES_PER_CRC,
        // CRC32C in org.apache.hadoop.util.DataChecksum.
        "checksumType": 2,
        "writePacketSize": 65536,
        "replication": 3,
        "fileBufferSize": 65536,
        "encryptDataTransfer": false,
        "trashInterval": 0,
        "defaultStoragePolicyId": 0,
        "keyProviderUri": "",
    } });
    json(defaults)
}
