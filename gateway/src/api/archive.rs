//! A directory as one tar or zip stream: nothing is stored on the way, whatever its size.

use super::PathOf;
use super::download::disposition;
use crate::app::{Shared, User};
use crate::error::Result;
use crate::files::{FsPath, UserFs, Walk, is_part, stream};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind};
use serde::Deserialize;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use tokio::io::AsyncWrite;
use tokio_tar::{Builder, EntryType, Header};
use tokio_util::io::{ReaderStream, StreamReader};

/// Bytes of the archive between the walk and the network.
const BUFFER: usize = 1 << 20;

/// What may be asked of an archive.
#[derive(Deserialize)]
pub(super) struct Wanted {
    format: Option<Format>,
}

/// How the files are put together.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Tar,
    Zip,
}

impl Format {
    fn extension(self) -> &'static [u8] {
        match self {
            Self::Tar => b".tar",
            Self::Zip => b".zip",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Tar => "application/x-tar",
            Self::Zip => "application/zip",
        }
    }
}

/// `GET /archive/PATH`: everything below the directory that the user may read. An error on the way ends the stream early, so
/// that the archive is recognised as incomplete.
pub(super) async fn get(
    State(gateway): State<Shared>,
    User(fs): User,
    PathOf(path): PathOf,
    Query(wanted): Query<Wanted>,
) -> Result<Response> {
    let format = wanted.format.unwrap_or_default();
    let top = fs.stat(&path).await?;
    // Refused here, while there is a status to say so with.
    fs.list(&top, 0, 1).await?;
    let place = gateway.heavy().await;
    let (reader, writer) = tokio::io::duplex(BUFFER);
    let file_name = FsPath::default().join(&[path.name().unwrap_or(b"root"), format.extension()].concat());
    tokio::spawn(async move {
        let _place = place;
        let written = match format {
            Format::Tar => write(fs, path.clone(), top, writer).await,
            Format::Zip => super::zip::write(fs, path.clone(), top, writer).await,
        };
        if let Err(error) = written {
            tracing::info!(%path, %error, "an archive broke off");
        }
    });
    let headers = [
        (header::CONTENT_TYPE, format.media_type().to_owned()),
        (header::CONTENT_DISPOSITION, disposition(&file_name, true)),
    ];
    Ok((headers, Body::from_stream(ReaderStream::with_capacity(reader, 64 << 10))).into_response())
}

async fn write(
    fs: UserFs,
    top_path: FsPath,
    top: Attr,
    writer: impl AsyncWrite + Unpin + Send + 'static,
) -> io::Result<()> {
    let depth = top_path.names().len();
    let root = top_path.name().unwrap_or(b"root").to_vec();
    let mut archive = Builder::new(writer);
    let mut walk = Walk::new(fs.clone(), top_path, top);
    while let Some(found) = walk.next().await.map_err(io::Error::other)? {
        if found.path.name().is_some_and(is_part) {
            continue;
        }
        let mut name = PathBuf::from(OsStr::from_bytes(&root));
        name.extend(found.path.names()[depth..].iter().map(|n| OsStr::from_bytes(n)));
        append(&fs, &mut archive, &found.path, &found.attr, name).await?;
    }
    archive.finish().await
}

async fn append<W: AsyncWrite + Unpin + Send + 'static>(
    fs: &UserFs,
    archive: &mut Builder<W>,
    path: &FsPath,
    attr: &Attr,
    name: PathBuf,
) -> io::Result<()> {
    let mut header = header(attr);
    match attr.kind {
        FileKind::Dir => {
            header.set_entry_type(EntryType::Directory);
            archive.append_data(&mut header, name, tokio::io::empty()).await
        }
        FileKind::Symlink => {
            let target = fs.readlink(path).await.map_err(io::Error::other)?;
            header.set_entry_type(EntryType::Symlink);
            if header.set_link_name(OsStr::from_bytes(&target)).is_err() {
                append_long_link(archive, &target).await?;
            }
            archive.append_data(&mut header, name, tokio::io::empty()).await
        }
        FileKind::File => {
            let file = match fs.open_inode(attr).await {
                Ok(file) => file,
                // Not for this user, or removed meanwhile.
                Err(FsError::Access | FsError::Stale | FsError::NotFound) => return Ok(()),
                Err(error) => return Err(io::Error::other(error)),
            };
            let size = file.attr().size;
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            let data = stream(file, 0..size).map(|piece| piece.map_err(io::Error::other));
            archive.append_data(&mut header, name, StreamReader::new(Box::pin(data))).await
        }
        // tar(1) archives pipes and devices too; a download has no use for them.
        FileKind::Fifo | FileKind::Socket | FileKind::CharDevice | FileKind::BlockDevice => Ok(()),
    }
}

/// The target of the symbolic link that follows, too long for a header: a record of GNU tar of its own.
async fn append_long_link<W: AsyncWrite + Unpin + Send + 'static>(
    archive: &mut Builder<W>,
    target: &[u8],
) -> io::Result<()> {
    let data = [target, b"\0"].concat();
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink")?;
    header.set_entry_type(EntryType::GNULongLink);
    header.set_size(data.len() as u64);
    header.set_cksum();
    archive.append(&header, &data[..]).await
}

fn header(attr: &Attr) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(u32::from(attr.mode));
    header.set_uid(attr.uid.into());
    header.set_gid(attr.gid.into());
    header.set_mtime(u64::try_from(attr.mtime.0 / 1_000_000_000).unwrap_or(0));
    header.set_size(0);
    header
}
