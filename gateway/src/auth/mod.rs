//! Who sends a request.

mod guard;
mod identity;
mod sessions;
mod users;

pub use guard::{Hosts, is_cross_site};
pub use identity::{Identity, Role};
pub use users::{PASSWORD_MAX, User, Users, UsersError, hex};

use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
pub use sessions::SESSION_LIFE;
use sessions::Sessions;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Semaphore;

/// Name of the session cookie.
pub const COOKIE: &str = "quarry_session";
/// The file of users is looked at this often at most.
const RELOAD_EVERY: Duration = Duration::from_secs(1);
/// Passwords hashed at the same time: each takes 19 MiB and a core.
const HASHES_AT_ONCE: usize = 2;
/// A right password of `Authorization: Basic` is not hashed again for this long.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
/// Passwords that are remembered.
const REMEMBERED_MAX: usize = 1024;
/// Wrong passwords and tokens from one address before it has to wait.
const FAILURES_MAX: u32 = 20;
/// For how long failures count.
const FAILURES_FOR: Duration = Duration::from_secs(60);
/// Addresses whose failures are counted.
const SOURCES_MAX: usize = 4096;

/// Why a request has no user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It shows no credentials.
    Missing,
    /// They are wrong.
    Wrong,
    /// Too many wrong ones came from this address.
    TooMany,
}

/// How users are told apart.
pub enum Policy {
    /// Everybody who reaches the address acts as this user.
    Open(Arc<Identity>),
    /// By the file of users.
    Users(PathBuf),
}

/// Finds the user of a request.
pub struct Authenticator {
    policy: Policy,
    sessions: Sessions,
    state: Mutex<State>,
    hashing: Semaphore,
}

#[derive(Default)]
struct State {
    users: Arc<Users>,
    looked: Option<Instant>,
    modified: Option<SystemTime>,
    /// SHA-256 of name and password that were right, and when.
    remembered: HashMap<[u8; 32], Instant>,
    failures: HashMap<IpAddr, (u32, Instant)>,
}

impl Authenticator {
    /// # Errors
    /// When the file of users cannot be used.
    pub fn new(policy: Policy) -> Result<Self, UsersError> {
        let auth = Self {
            policy,
            sessions: Sessions::default(),
            state: Mutex::default(),
            hashing: Semaphore::new(HASHES_AT_ONCE),
        };
        if let Policy::Users(path) = &auth.policy {
            let users = Arc::new(Users::load(path)?);
            auth.state().users = users;
        }
        Ok(auth)
    }

    /// Whether users must log in.
    pub fn is_required(&self) -> bool {
        matches!(self.policy, Policy::Users(_))
    }

    /// The user that everybody acts as where nobody has to log in.
    pub fn open_identity(&self) -> Option<&Arc<Identity>> {
        match &self.policy {
            Policy::Open(identity) => Some(identity),
            Policy::Users(_) => None,
        }
    }

    /// Begins a session for a user that was authenticated otherwise. Returns its secret.
    pub fn session_for(&self, who: &Identity) -> String {
        self.sessions.begin(&who.name)
    }

    /// The user of a session.
    pub fn by_session(&self, secret: &str) -> Option<Arc<Identity>> {
        let name = self.sessions.user_of(secret)?;
        match self.open_identity() {
            Some(open) if open.name == name => Some(open.clone()),
            Some(_) => Identity::of_account(&name).map(Arc::new),
            // A user that was removed has no session.
            None => self.users().find(&name).map(|u| Arc::new(u.identity())),
        }
    }

    /// Ends a session.
    pub fn end_session(&self, secret: &str) {
        self.sessions.end(secret);
    }

    /// All users; none without authentication.
    pub fn users(&self) -> Arc<Users> {
        let Policy::Users(path) = &self.policy else { return Arc::default() };
        let mut state = self.state();
        if state.looked.is_none_or(|at| at.elapsed() >= RELOAD_EVERY) {
            state.looked = Some(Instant::now());
            let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok();
            if modified != state.modified {
                match Users::load(path) {
                    Ok(users) => {
                        state.users = Arc::new(users);
                        state.modified = modified;
                        // A changed password must not be remembered.
                        state.remembered.clear();
                    }
                    Err(error) => {
                        tracing::error!(%error, "the file of users cannot be read; the old users stay")
                    }
                }
            }
        }
        state.users.clone()
    }

    /// The user of a request: by the certificate of its connection, its token, its password, or its session cookie.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&str>,
        from: IpAddr,
    ) -> Result<Arc<Identity>, Denied> {
        if let Policy::Open(identity) = &self.policy {
            return Ok(identity.clone());
        }
        let users = self.users();
        if let Some(user) = certificate.and_then(|name| users.find(name)) {
            return Ok(Arc::new(user.identity()));
        }
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            self.demand_patience(from)?;
            let found = self.by_authorization(&users, value.to_str().unwrap_or("")).await;
            return found.ok_or_else(|| self.failed(from));
        }
        cookie(headers).and_then(|secret| self.by_session(secret)).ok_or(Denied::Missing)
    }

    /// Begins a session. Returns the value of its cookie.
    ///
    /// # Errors
    /// See [`Denied`].
    pub async fn login(&self, name: &str, password: &str, from: IpAddr) -> Result<String, Denied> {
        self.demand_patience(from)?;
        let users = self.users();
        match self.by_password(&users, name, password).await {
            Some(identity) => Ok(self.sessions.begin(&identity.name)),
            None => Err(self.failed(from)),
        }
    }

    /// Ends the session of a request.
    pub fn logout(&self, headers: &HeaderMap) {
        if let Some(cookie) = cookie(headers) {
            self.sessions.end(cookie);
        }
    }

    async fn by_authorization(&self, users: &Users, value: &str) -> Option<Arc<Identity>> {
        let (scheme, secret) = value.split_once(' ')?;
        if scheme.eq_ignore_ascii_case("bearer") {
            return users.find_token(secret.trim()).map(|u| Arc::new(u.identity()));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let pair = String::from_utf8(STANDARD.decode(secret.trim()).ok()?).ok()?;
            let (name, password) = pair.split_once(':')?;
            return self.by_password(users, name, password).await;
        }
        None
    }

    async fn by_password(&self, users: &Users, name: &str, password: &str) -> Option<Arc<Identity>> {
        if password.len() > PASSWORD_MAX {
            return None;
        }
        let user = users.find(name)?.clone();
        let key: [u8; 32] = Sha256::digest(format!("{name}\0{password}").as_bytes()).into();
        if self.state().remembered.get(&key).is_some_and(|at| at.elapsed() < REMEMBERED_FOR) {
            return Some(Arc::new(user.identity()));
        }
        let _permit = self.hashing.acquire().await.ok()?;
        let (identity, password) = (user.identity(), password.to_owned());
        let right = tokio::task::spawn_blocking(move || user.has_password(password.as_bytes())).await;
        if !right.unwrap_or(false) {
            return None;
        }
        let mut state = self.state();
        if state.remembered.len() >= REMEMBERED_MAX {
            state.remembered.clear();
        }
        state.remembered.insert(key, Instant::now());
        Some(Arc::new(identity))
    }

    /// # Errors
    /// `TooMany` after too many failures.
    fn demand_patience(&self, from: IpAddr) -> Result<(), Denied> {
        match self.state().failures.get(&from) {
            Some((count, since)) if *count >= FAILURES_MAX && since.elapsed() < FAILURES_FOR => {
                Err(Denied::TooMany)
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, from: IpAddr) -> Denied {
        let mut state = self.state();
        state.failures.retain(|_, (_, since)| since.elapsed() < FAILURES_FOR);
        if state.failures.len() >= SOURCES_MAX {
            state.failures.clear();
        }
        let (count, _) = state.failures.entry(from).or_insert((0, Instant::now()));
        *count += 1;
        tracing::warn!(%from, failures = *count, "a request shows wrong credentials");
        Denied::Wrong
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(';')).find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

#[cfg(test)]
mod tests;
