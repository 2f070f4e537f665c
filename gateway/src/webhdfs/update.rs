//! Operations that change files and names.

use super::status::Names;
use super::{Call, boolean, json};
use crate::api::body_stream;
use crate::error::{Error, Result};
use crate::files::{FsPath, NewAttributes, Place, Replace, UploadId};
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FileKind, Timestamp};
use serde_json::json;

/// Permission of new files and directories where the client says nothing, as HDFS has it.
const FILE_PERMISSION: u16 = 0o644;
const DIR_PERMISSION: u16 = 0o755;

impl Call {
    /// The body becomes the file. Its name appears when all of it is on the disks.
    pub(super) async fn create(&self, body: Body) -> Result<Response> {
        let replace = if self.params.flag("overwrite").unwrap_or(false) { Replace::Yes } else { Replace::No };
        let mode = self.params.permission("permission")?.unwrap_or(FILE_PERMISSION);
        if self.params.flag("createparent").unwrap_or(true)
            && let Some((parent, _)) = self.path.split()
        {
            self.fs.mkdirs(&parent, DIR_PERMISSION, 0).await?;
        }
        crate::api::write_whole(&self.fs, &self.path, &UploadId::random(), replace, (mode, 0), body).await?;
        let location = format!(
            "webhdfs{}{}",
            self.base.trim_start_matches("https").trim_start_matches("http"),
            self.path.encoded()
        );
        Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
    }

    pub(super) async fn append(&self, body: Body) -> Result<Response> {
        let opened = self.fs.open_for_writing(&self.path).await?;
        self.fs.write_stream(&opened.file, Place::End, body_stream(body)).await?;
        opened.file.fsync().await?;
        Ok(().into_response())
    }

    pub(super) async fn mkdirs(&self) -> Result<Response> {
        let mode = self.params.permission("permission")?.unwrap_or(DIR_PERMISSION);
        self.fs.mkdirs(&self.path, mode, 0).await?;
        Ok(boolean(true))
    }

    pub(super) async fn create_symlink(&self) -> Result<Response> {
        let target = self.params.required("destination")?;
        if self.params.flag("createparent").unwrap_or(false)
            && let Some((parent, _)) = self.path.split()
        {
            self.fs.mkdirs(&parent, DIR_PERMISSION, 0).await?;
        }
        self.fs.symlink(&self.path, target.as_bytes()).await?;
        Ok(().into_response())
    }

    pub(super) async fn rename(&self) -> Result<Response> {
        let to = self.params.path("destination")?;
        let Some(options) = self.params.text("renameoptions") else {
            return Ok(boolean(self.rename_as_before_options(&to).await?));
        };
        let options: Vec<String> = options.split(',').map(|o| o.trim().to_ascii_uppercase()).collect();
        if let Some(unknown) =
            options.iter().find(|o| !["NONE", "OVERWRITE", "TO_TRASH"].contains(&o.as_str()))
        {
            return Err(Error::Bad(format!(
                "renameoptions knows NONE, OVERWRITE and TO_TRASH, not {unknown}"
            )));
        }
        let replace = if options.iter().any(|o| o == "OVERWRITE") { Replace::Yes } else { Replace::No };
        self.fs.rename(&self.path, &to, replace).await?;
        Ok(().into_response())
    }

    /// The rename of HDFS without options: into a target that is a directory, and `false` for what cannot be.
    async fn rename_as_before_options(&self, to: &FsPath) -> Result<bool> {
        let Some(name) = self.path.name() else { return Ok(false) };
        let target = match self.fs.stat(to).await {
            Ok(attr) if attr.kind == FileKind::Dir && *to != self.path => to.join(name),
            Ok(_) => return Ok(*to == self.path),
            Err(FsError::NotFound) => to.clone(),
            Err(error) => return Err(error.into()),
        };
        match self.fs.rename(&self.path, &target, Replace::No).await {
            Ok(_) => Ok(true),
            Err(FsError::NotFound | FsError::Exists | FsError::NotDir | FsError::Invalid) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn delete(&self) -> Result<Response> {
        let recursive = self.params.flag("recursive").unwrap_or(false);
        match self.fs.remove(&self.path, recursive).await {
            Ok(()) => Ok(boolean(true)),
            Err(FsError::NotFound) => Ok(boolean(false)),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn concat(&self) -> Result<Response> {
        let sources = self.params.required("sources")?;
        let sources: Result<Vec<FsPath>> =
            sources.split(',').map(|s| Ok(FsPath::parse(s.trim().as_bytes())?)).collect();
        self.fs.concat(&self.path, &sources?).await?;
        Ok(().into_response())
    }

    pub(super) async fn truncate(&self) -> Result<Response> {
        self.params.required("newlength")?;
        let size = self.params.number::<u64>("newlength")?.unwrap_or(0);
        let attr = self.fs.stat(&self.path).await?;
        if size > attr.size {
            return Err(Error::Bad(format!("newlength is {size}, more than the file's {}", attr.size)));
        }
        self.fs.truncate(&self.path, size).await?;
        Ok(boolean(true))
    }

    pub(super) async fn set_permission(&self) -> Result<Response> {
        let mode = self.params.permission("permission")?.unwrap_or(DIR_PERMISSION);
        self.fs
            .set_attributes(&self.path, &NewAttributes { mode: Some(mode), ..NewAttributes::default() })
            .await?;
        Ok(().into_response())
    }

    pub(super) async fn set_owner(&self) -> Result<Response> {
        let names = Names::new(self.gateway.auth.users());
        let unknown = |name: &str| Error::Bad(format!("there is no user or group `{name}`"));
        let uid = self.params.text("owner").map(|n| names.uid(n).ok_or_else(|| unknown(n))).transpose()?;
        let gid = self.params.text("group").map(|n| names.gid(n).ok_or_else(|| unknown(n))).transpose()?;
        if uid.is_none() && gid.is_none() {
            return Err(Error::Bad("owner or group must be given".to_owned()));
        }
        self.fs.set_attributes(&self.path, &NewAttributes { uid, gid, ..NewAttributes::default() }).await?;
        Ok(().into_response())
    }

    pub(super) async fn set_times(&self) -> Result<Response> {
        let time = |name: &str| -> Result<Option<Timestamp>> {
            let ms = self.params.number::<i64>(name)?.filter(|ms| *ms >= 0);
            Ok(ms.map(|ms| Timestamp(i128::from(ms) * 1_000_000)))
        };
        let new = NewAttributes {
            mtime: time("modificationtime")?,
            atime: time("accesstime")?,
            ..NewAttributes::default()
        };
        self.fs.set_attributes(&self.path, &new).await?;
        Ok(().into_response())
    }

    /// The policy of a directory. Data of a file keeps its replicas, so for a file only what it has already can be set.
    pub(super) async fn set_replication(&self) -> Result<Response> {
        let wanted = self.params.number::<u16>("replication")?.unwrap_or(3);
        let attr = self.fs.stat(&self.path).await?;
        if attr.kind == FileKind::Dir {
            self.fs.set_replication(&attr, &wanted.to_string()).await?;
            return Ok(boolean(true));
        }
        Ok(json(json!({ "boolean": self.fs.replication(&attr).await? == Some(wanted) })))
    }
}
