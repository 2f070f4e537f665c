//! The user on whose behalf an operation runs.

use quarry_common::wire::fs::Caller;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Rights over the cluster as a whole. Rights over files follow from uid and gids alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May change the cluster as a whole: start checks.
    Admin,
    /// Files only; sees the state of the cluster.
    User,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admin => "admin",
            Self::User => "user",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "admin" => Ok(Self::Admin),
            "user" => Ok(Self::User),
            _ => Err(format!("the role must be `admin` or `user`, not `{s}`")),
        }
    }
}

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Login name.
    pub name: String,
    /// User id in the file system; 0 passes every permission check.
    pub uid: u32,
    /// Group of what the user creates.
    pub gid: u32,
    /// All groups, `gid` among them.
    pub gids: Vec<u32>,
    /// Rights over the cluster.
    pub role: Role,
}

impl Identity {
    /// Passes every permission check of files.
    pub fn is_superuser(&self) -> bool {
        self.uid == 0
    }

    /// Owner of what the user creates.
    pub fn caller(&self) -> Caller {
        Caller { uid: self.uid, gid: self.gid }
    }

    /// A local account of this machine, for the mode without authentication.
    pub fn of_account(name: &str) -> Option<Self> {
        let user = uzers::get_user_by_name(name)?;
        let gid = user.primary_group_id();
        let mut gids: Vec<u32> = user.groups().unwrap_or_default().iter().map(uzers::Group::gid).collect();
        if !gids.contains(&gid) {
            gids.push(gid);
        }
        Some(Self { name: name.to_owned(), uid: user.uid(), gid, gids, role: Role::User })
    }

    /// The account that the gateway's own process runs as.
    pub fn of_process() -> Self {
        let uid = uzers::get_effective_uid();
        let gid = uzers::get_effective_gid();
        let account = uzers::get_user_by_uid(uid).and_then(|u| Self::of_account(u.name().to_str()?));
        let base =
            account.unwrap_or(Self { name: uid.to_string(), uid, gid, gids: vec![gid], role: Role::User });
        Self { role: Role::Admin, ..base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_what_they_write() {
        for role in [Role::Admin, Role::User] {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        assert!("root".parse::<Role>().is_err());
    }

    #[test]
    fn the_process_has_an_identity() {
        let me = Identity::of_process();
        assert_eq!(me.uid, uzers::get_effective_uid());
        assert!(me.gids.contains(&me.gid));
    }
}
