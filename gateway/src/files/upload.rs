//! Uploads that survive a broken connection: the data goes to a file beside the target and takes its name when it is
//! complete, so that readers see the old content or the new one, whole.
//!
//! The state of an upload is that file, `.quarry-upload-<id>`; the gateway remembers nothing and may restart.

use super::content::WRITING;
use super::{Created, FsPath, Replace, Target, UserFs, WRITE};
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{Attr, FileKind, RenameMode};
use rand::Rng;
use std::fmt;
use std::str::FromStr;

/// Begins the name of a part.
const PREFIX: &str = ".quarry-upload-";
/// Hexadecimal digits of an id: 128 bits, so that ids of two clients differ.
const ID_DIGITS: usize = 32;

/// Names an upload; chosen by the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadId(String);

impl UploadId {
    /// One that no other upload has.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::rng().random::<u128>()))
    }

    fn part_name(&self) -> Vec<u8> {
        format!("{PREFIX}{}", self.0).into_bytes()
    }
}

impl FromStr for UploadId {
    type Err = FsError;

    fn from_str(s: &str) -> Result<Self, FsError> {
        let valid =
            s.len() == ID_DIGITS && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if valid { Ok(Self(s.to_owned())) } else { Err(FsError::Invalid) }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an upload goes.
pub struct UploadTarget {
    target: Target,
    part_name: Vec<u8>,
    part: Option<Attr>,
}

impl UploadTarget {
    /// Whether a file of this name exists already.
    pub fn replaces(&self) -> bool {
        self.target.attr.is_some()
    }

    /// Bytes that have arrived.
    pub fn received(&self) -> u64 {
        self.part.as_ref().map_or(0, |part| part.size)
    }
}

impl UserFs {
    /// Looks at an upload, begun or not.
    ///
    /// # Errors
    /// `Exists` for a target that must not be replaced, `IsDir` for one that cannot be, `Access`.
    pub async fn upload(
        &self,
        path: &FsPath,
        id: &UploadId,
        replace: Replace,
    ) -> Result<UploadTarget, FsError> {
        let target = self.target(path).await?;
        if let Some(old) = &target.attr {
            if replace == Replace::No {
                return Err(FsError::Exists);
            }
            match old.kind {
                FileKind::Dir => return Err(FsError::IsDir),
                FileKind::File => self.demand(old, WRITE).await?,
                _ => {}
            }
            self.demand_removal(&target.parent, old).await?;
        }
        let part_name = id.part_name();
        let part = match self.fs.lookup(target.parent.ino, &part_name).await {
            // The part of another user is none of this upload.
            Ok(attr) if attr.kind != FileKind::File || attr.uid != self.who.uid => {
                return Err(FsError::Access);
            }
            Ok(attr) => Some(attr),
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        };
        Ok(UploadTarget { target, part_name, part })
    }

    /// Opens the part, making it if the upload is new. Its mode is that of the file that it will replace.
    ///
    /// # Errors
    /// `Access`, `Exists` when another request begins the same upload.
    pub async fn open_part(&self, upload: &UploadTarget, mode: u16, umask: u16) -> Result<Created, FsError> {
        let old = upload.target.attr.as_ref().filter(|a| a.kind == FileKind::File && a.uid == self.who.uid);
        let (mode, umask) = old.map_or((mode, umask), |old| (old.mode & 0o777, 0));
        match &upload.part {
            Some(part) => {
                let file = self.fs.open(part.ino, WRITING).await?;
                Ok(Created { attr: file.attr(), file })
            }
            None => self.create_in(&upload.target.parent, &upload.part_name, mode, umask).await,
        }
    }

    /// Gives the part the name of its target.
    ///
    /// # Errors
    /// `NotFound` without a part, `Exists` when the target must not be replaced and appeared meanwhile.
    pub async fn finish_upload(&self, upload: &UploadTarget, replace: Replace) -> Result<Attr, FsError> {
        let mode = match replace {
            Replace::Yes => RenameMode::Replace,
            Replace::No => RenameMode::NoReplace,
        };
        let (dir, to) = (upload.target.parent.ino, &upload.target.name);
        let (attr, _) = self.fs.rename(dir, &upload.part_name, dir, to, mode).await?;
        Ok(attr)
    }

    /// Removes the part.
    ///
    /// # Errors
    /// Those of the NameNode; an upload that is not there is fine.
    pub async fn abandon_upload(&self, upload: &UploadTarget) -> Result<(), FsError> {
        match self.fs.unlink(upload.target.parent.ino, &upload.part_name).await {
            Ok(_) | Err(FsError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a name is that of an unfinished upload, which listings for people leave out.
pub fn is_part(name: &[u8]) -> bool {
    name.strip_prefix(PREFIX.as_bytes())
        .and_then(|id| std::str::from_utf8(id).ok())
        .is_some_and(|id| id.parse::<UploadId>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_hexadecimal_and_cannot_leave_the_directory() {
        let id = UploadId::random();
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert!(is_part(&id.part_name()));
        for bad in ["", "abc", "../../../../../../../etc/passwd00", &"A".repeat(32), &"g".repeat(32)] {
            assert_eq!(bad.parse::<UploadId>(), Err(FsError::Invalid));
        }
        assert!(!is_part(b".quarry-upload-mine"));
    }
}
