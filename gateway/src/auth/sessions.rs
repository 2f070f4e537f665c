//! Sessions of browsers: a random cookie stands for a user until it logs out or is idle for long.

use rand::Rng;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A session that nobody uses ends after this long.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// Sessions at the same time; the one that was idle longest makes room.
const SESSIONS_MAX: usize = 4096;

/// All sessions.
#[derive(Default)]
pub(super) struct Sessions(Mutex<HashMap<String, (String, Instant)>>);

impl Sessions {
    /// Begins one. Returns its secret.
    pub(super) fn begin(&self, user: &str) -> String {
        let secret: [u8; 32] = rand::rng().random();
        let secret = super::hex(&secret);
        let mut sessions = self.lock();
        sessions.retain(|_, (_, used)| used.elapsed() < SESSION_LIFE);
        if sessions.len() >= SESSIONS_MAX {
            let oldest = sessions.iter().min_by_key(|(_, (_, used))| *used).map(|(secret, _)| secret.clone());
            if let Some(oldest) = oldest {
                sessions.remove(&oldest);
            }
        }
        sessions.insert(secret.clone(), (user.to_owned(), Instant::now()));
        secret
    }

    /// The user of a session that lives.
    pub(super) fn user_of(&self, secret: &str) -> Option<String> {
        let mut sessions = self.lock();
        let (user, used) = sessions.get_mut(secret)?;
        if used.elapsed() >= SESSION_LIFE {
            return None;
        }
        *used = Instant::now();
        Some(user.clone())
    }

    /// Ends one.
    pub(super) fn end(&self, secret: &str) {
        self.lock().remove(secret);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (String, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lives_until_its_end_and_there_are_only_so_many() {
        let sessions = Sessions::default();
        let first = sessions.begin("a");
        assert_eq!(sessions.user_of(&first).as_deref(), Some("a"));
        assert_eq!(sessions.user_of("x"), None);
        for _ in 0..SESSIONS_MAX {
            sessions.begin("b");
        }
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
        let last = sessions.begin("c");
        sessions.end(&last);
        assert_eq!(sessions.user_of(&last), None);
    }
}
