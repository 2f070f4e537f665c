//! What a client's certificate allows beyond its role, and what it takes away.
//!
//! Rights are the query of the certificate's URI, so the authority signs them with the identity:
//! `quarry://prod/client/web1?ro&squash=all:1000:1000`. A certificate without a query may read and write everything as every
//! user, and change nothing of the cluster itself.

use super::IdentityError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Whose files are what a client makes and hands over, when it is not the user that the client names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Squash {
    /// Files of root belong to this user and group instead.
    Root {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// All files belong to this user and group.
    All {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
}

/// The rights of a client's certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rights {
    /// Nothing may be changed.
    pub read_only: bool,
    /// The cluster itself may be changed: its nodes, its policies, its checks.
    pub admin: bool,
    /// Owners of files are replaced.
    pub squash: Option<Squash>,
}

impl Squash {
    /// The user that a file gets instead of the one that the client named.
    pub fn uid(self, named: u32) -> u32 {
        match self {
            Self::Root { uid, .. } if named == 0 => uid,
            Self::Root { .. } => named,
            Self::All { uid, .. } => uid,
        }
    }

    /// The group that a file gets instead of the one that the client named.
    pub fn gid(self, named: u32) -> u32 {
        match self {
            Self::Root { gid, .. } if named == 0 => gid,
            Self::Root { .. } => named,
            Self::All { gid, .. } => gid,
        }
    }
}

impl Rights {
    /// Whether they are those of a certificate that says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Squash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root { uid, gid } => write!(f, "root:{uid}:{gid}"),
            Self::All { uid, gid } => write!(f, "all:{uid}:{gid}"),
        }
    }
}

impl FromStr for Squash {
    type Err = IdentityError;

    fn from_str(s: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Name(format!("`{s}` is no squash: use root:UID:GID or all:UID:GID"));
        let (who, ids) = s.split_once(':').ok_or_else(bad)?;
        let (uid, gid) = ids.split_once(':').ok_or_else(bad)?;
        let (uid, gid) = (uid.parse().map_err(|_| bad())?, gid.parse().map_err(|_| bad())?);
        match who {
            "root" => Ok(Self::Root { uid, gid }),
            "all" => Ok(Self::All { uid, gid }),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let squash = self.squash.map(|squash| format!("squash={squash}"));
        let parts = [self.read_only.then(|| "ro".to_owned()), self.admin.then(|| "admin".to_owned()), squash];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        f.write_str(&parts.join("&"))
    }
}

impl FromStr for Rights {
    type Err = IdentityError;

    /// A right that is unknown is an error: an older program must not take a certificate for more than it is.
    fn from_str(s: &str) -> Result<Self, IdentityError> {
        let mut rights = Self::default();
        for part in s.split('&') {
            match part.split_once('=') {
                None if part == "ro" => rights.read_only = true,
                None if part == "admin" => rights.admin = true,
                Some(("squash", value)) => rights.squash = Some(value.parse()?),
                _ => return Err(IdentityError::Name(format!("`{part}` is no right that is known here"))),
            }
        }
        Ok(rights)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_unknown_right_is_refused() {
        for bad in ["", "rw", "ro&", "path=/x", "squash=some:1:1", "squash=all:1", "ro=1"] {
            assert!(bad.parse::<Rights>().is_err(), "{bad}");
        }
    }

    #[test]
    fn owners_are_replaced() {
        let (root, all) = (Squash::Root { uid: 7, gid: 8 }, Squash::All { uid: 7, gid: 8 });
        assert_eq!((root.uid(0), root.gid(0), root.uid(5), root.gid(5)), (7, 8, 5, 5));
        assert_eq!((all.uid(0), all.gid(0), all.uid(5), all.gid(5)), (7, 8, 7, 8));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(read_only: bool, admin: bool, ids: Option<(bool, u32, u32)>) {
            let squash = ids.map(|(all, uid, gid)| if all { Squash::All { uid, gid } } else { Squash::Root { uid, gid } });
            let rights = Rights { read_only, admin, squash };
            if !rights.is_default() {
                prop_assert_eq!(rights.to_string().parse::<Rights>().unwrap(), rights);
            }
        }

        #[test]
        fn strange_rights_never_panic(text in ".{0,60}") {
            let _ = text.parse::<Rights>();
        }
    }
}
