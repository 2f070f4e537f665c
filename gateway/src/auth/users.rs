//! The file of users: who may log in, and as whom they act in the file system.
//!
//! ```toml
//! [[user]]
//! name = "alice"
//! uid = 1000
//! gids = [1000, 27]                  # the first is the group of what she creates
//! role = "admin"                     # or "user"
//! password = "$argon2id$v=19$..."    # one of both, or both
//! token_sha256 = "9f86d081..."
//! ```
//!
//! Passwords are guessable and get Argon2id. Tokens are 256 random bits, which no guess finds, so a plain SHA-256 keeps the
//! check of every request cheap (docs/decisions/0070).

use super::{Identity, Role};
use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use quarry_host::config::{self, ConfigError};
use quarry_host::crashsafe;
use quarry_host::disk::RealDisk;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Begins every token, so that one that leaked into a log or a repository is recognised.
const TOKEN_PREFIX: &str = "quarry_";
/// Shorter passwords are refused when they are set.
const PASSWORD_MIN: usize = 8;
/// Longer ones are refused everywhere: hashing takes time in proportion.
pub const PASSWORD_MAX: usize = 1024;
/// Users in one file.
const USERS_MAX: usize = 10_000;
/// Groups of one user, as Linux has it.
const GROUPS_MAX: usize = 65_536;

/// Why the users cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file is unreadable or no valid TOML.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A rule is broken; the text says which.
    #[error("{0}")]
    Invalid(String),
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id in the file system.
    pub uid: u32,
    /// Group ids, the primary one first.
    pub gids: Vec<u32>,
    /// Rights over the cluster.
    pub role: Role,
    /// PHC string of Argon2id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Hexadecimal SHA-256 of the bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
}

impl User {
    /// The user as operations see it.
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            uid: self.uid,
            gid: self.gids[0],
            gids: self.gids.clone(),
            role: self.role,
        }
    }

    /// Whether the password is right. Takes tens of milliseconds and 19 MiB of memory by design.
    pub fn has_password(&self, password: &[u8]) -> bool {
        let Some(hash) = self.password.as_deref().and_then(|p| PasswordHash::new(p).ok()) else {
            return false;
        };
        password.len() <= PASSWORD_MAX && Argon2::default().verify_password(password, &hash).is_ok()
    }

    /// Sets the password.
    ///
    /// # Errors
    /// For one that is too short or too long.
    pub fn set_password(&mut self, password: &[u8]) -> Result<(), UsersError> {
        if !(PASSWORD_MIN..=PASSWORD_MAX).contains(&password.len()) {
            let text = format!("a password must have {PASSWORD_MIN} to {PASSWORD_MAX} bytes");
            return Err(UsersError::Invalid(text));
        }
        let salt: [u8; 16] = rand::rng().random();
        let hash: PasswordHash = Argon2::default()
            .hash_password_with_salt(password, &salt)
            .map_err(|e| UsersError::Invalid(format!("cannot hash the password: {e}")))?;
        self.password = Some(hash.to_string());
        Ok(())
    }

    /// Makes a new token, which replaces the old one, and returns it: only its hash is kept.
    pub fn new_token(&mut self) -> String {
        let secret: [u8; 32] = rand::rng().random();
        let token = format!("{TOKEN_PREFIX}{}", hex(&secret));
        self.token_sha256 = Some(token_hash(&token));
        token
    }

    fn check(&self) -> Result<(), UsersError> {
        let name_ok = (1..=64).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !name_ok {
            let text = format!("`{}`: a name has 1 to 64 letters, digits, `.`, `_` and `-`", self.name);
            return Err(UsersError::Invalid(text));
        }
        if self.gids.is_empty() || self.gids.len() > GROUPS_MAX {
            return Err(UsersError::Invalid(format!("{}: gids must not be empty", self.name)));
        }
        Ok(())
    }
}

/// All users, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Users {
    #[serde(default, rename = "user")]
    users: Vec<User>,
}

impl Users {
    /// Reads the file; one that does not exist has no users.
    ///
    /// # Errors
    /// See [`UsersError`]. A file that other accounts of the machine may read is refused.
    pub fn load(path: &Path) -> Result<Self, UsersError> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
                let text = format!("{} must be readable by its owner only: chmod 600", path.display());
                return Err(UsersError::Invalid(text));
            }
            _ => {}
        }
        let (users, _): (Self, _) = config::load(path)?;
        if users.users.len() > USERS_MAX {
            return Err(UsersError::Invalid(format!("more than {USERS_MAX} users")));
        }
        for (i, user) in users.users.iter().enumerate() {
            user.check()?;
            if users.users[..i].iter().any(|u| u.name == user.name) {
                return Err(UsersError::Invalid(format!("user `{}` is there twice", user.name)));
            }
        }
        Ok(users)
    }

    /// Replaces the file as a whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), UsersError> {
        let error = |source| UsersError::Write { path: path.to_owned(), source };
        let text = toml::to_string(self).map_err(|e| UsersError::Invalid(e.to_string()))?;
        // Private from its first byte on.
        let temporary = path.with_extension("new");
        let _ = std::fs::remove_file(&temporary);
        let mut file = std::fs::File::options();
        let written = file.write(true).create_new(true).mode(0o600).open(&temporary).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            crashsafe::rename_durable(&RealDisk, &temporary, path)
        });
        written.map_err(error)
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.users.iter()
    }

    /// By name.
    pub fn find(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|u| u.name == name)
    }

    /// By user id.
    pub fn find_uid(&self, uid: u32) -> Option<&User> {
        self.users.iter().find(|u| u.uid == uid)
    }

    /// The owner of a bearer token.
    pub fn find_token(&self, token: &str) -> Option<&User> {
        let hash = token_hash(token);
        self.users.iter().find(|u| u.token_sha256.as_deref() == Some(hash.as_str()))
    }

    /// Adds a user, or replaces the one of this name.
    ///
    /// # Errors
    /// For a name or groups that cannot be.
    pub fn put(&mut self, user: User) -> Result<(), UsersError> {
        user.check()?;
        if let Some(old) = self.users.iter_mut().find(|u| u.name == user.name) {
            *old = user;
        } else if self.users.len() < USERS_MAX {
            self.users.push(user);
        } else {
            return Err(UsersError::Invalid(format!("more than {USERS_MAX} users")));
        }
        Ok(())
    }

    /// Removes a user, and says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.users.len();
        self.users.retain(|u| u.name != name);
        self.users.len() < before
    }
}

fn token_hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alice() -> User {
        User {
            name: "alice".into(),
            uid: 1000,
            gids: vec![1000, 27],
            role: Role::Admin,
            password: None,
            token_sha256: None,
        }
    }

    #[test]
    fn secrets_are_checked_and_never_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        let mut user = alice();
        user.set_password(b"correct horse").unwrap();
        let token = user.new_token();
        let mut users = Users::load(&path).unwrap();
        users.put(user).unwrap();
        users.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(!text.contains("correct horse") && !text.contains(&token));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let users = Users::load(&path).unwrap();
        let user = users.find_token(&token).expect("the token is known");
        assert!(user.has_password(b"correct horse") && !user.has_password(b"correct hors"));
        assert!(users.find_token("quarry_0").is_none());
        assert_eq!(user.identity().gid, 1000);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.toml");
        Users::default().save(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Users::load(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn users_that_cannot_be_are_refused() {
        let mut users = Users::default();
        assert!(users.put(User { name: "a b".into(), ..alice() }).is_err());
        assert!(users.put(User { gids: vec![], ..alice() }).is_err());
        assert!(alice().set_password(b"short").is_err());
        users.put(alice()).unwrap();
        users.put(User { uid: 7, ..alice() }).unwrap();
        assert_eq!(users.iter().count(), 1, "a second one of this name replaces the first");
        assert!(users.remove("alice") && !users.remove("alice"));
    }
}
