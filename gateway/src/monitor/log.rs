//! The log of events: what happened to the cluster, kept across restarts within a bound.
//!
//! One JSON object a line in `events.jsonl`; when the file has twice as many lines as are kept, it is written anew.

use anyhow::Context;
use quarry_host::crashsafe;
use quarry_host::disk::RealDisk;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Events that are kept: weeks of an ordinary cluster, 200 kB.
pub(crate) const EVENTS_MAX: usize = 1000;

/// What an event is about, for its mark on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Expected, or good news.
    Info,
    /// Reduced redundancy or room.
    Warning,
    /// Data or service at risk.
    Error,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// Milliseconds since 1970-01-01 UTC.
    pub(crate) at_ms: u64,
    pub(crate) severity: Severity,
    pub(crate) text: String,
}

/// The last events, and their file.
pub(crate) struct EventLog {
    state: Mutex<State>,
    path: Option<PathBuf>,
}

struct State {
    events: VecDeque<Event>,
    /// Grows with each event: tells pages that there is something new.
    count: u64,
    lines_in_file: usize,
    file: Option<File>,
}

impl EventLog {
    /// Reads what an earlier gateway kept in the directory. Lines that are damaged are skipped.
    pub(crate) fn open(dir: Option<&Path>) -> anyhow::Result<Self> {
        let mut state = State { events: VecDeque::new(), count: 0, lines_in_file: 0, file: None };
        let Some(dir) = dir else { return Ok(Self { state: Mutex::new(state), path: None }) };
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("events.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        for line in text.lines() {
            state.lines_in_file += 1;
            if let Ok(event) = serde_json::from_str(line) {
                state.keep(event);
            }
        }
        let file = File::options().create(true).append(true).open(&path);
        state.file = Some(file.with_context(|| format!("cannot write {}", path.display()))?);
        Ok(Self { state: Mutex::new(state), path: Some(path) })
    }

    /// Adds an event. A disk that takes none costs only the memory of it after a restart.
    pub(crate) fn add(&self, event: Event) {
        let mut state = self.lock();
        state.keep(event.clone());
        let Some(path) = &self.path else { return };
        if let Err(error) = state.store(&event, path) {
            tracing::warn!(%error, path = %path.display(), "an event is not kept across restarts");
        }
    }

    /// The newest events, the newest first, and how many there have been.
    pub(crate) fn latest(&self, max: usize) -> (Vec<Event>, u64) {
        let state = self.lock();
        (state.events.iter().rev().take(max).cloned().collect(), state.count)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn keep(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
        self.count += 1;
    }

    fn store(&mut self, event: &Event, path: &Path) -> std::io::Result<()> {
        if self.lines_in_file >= 2 * EVENTS_MAX {
            let lines: Vec<String> =
                self.events.iter().filter_map(|e| serde_json::to_string(e).ok()).collect();
            crashsafe::write_file(&RealDisk, path, (lines.join("\n") + "\n").as_bytes())?;
            self.file = Some(File::options().append(true).open(path)?);
            self.lines_in_file = lines.len();
            return Ok(());
        }
        if let Some(file) = &mut self.file {
            file.write_all((serde_json::to_string(event)? + "\n").as_bytes())?;
            self.lines_in_file += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: usize) -> Event {
        Event { at_ms: n as u64, severity: Severity::Info, text: format!("event {n}\nof <two> lines") }
    }

    #[test]
    fn the_last_events_survive_a_restart_and_the_file_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(Some(dir.path())).unwrap();
        for n in 0..3 * EVENTS_MAX {
            log.add(event(n));
        }
        drop(log);
        let path = dir.path().join("events.jsonl");
        assert!(std::fs::read_to_string(&path).unwrap().lines().count() <= 2 * EVENTS_MAX);
        File::options().append(true).open(&path).unwrap().write_all(b"{\"half").unwrap();
        let log = EventLog::open(Some(dir.path())).unwrap();
        let (latest, _) = log.latest(usize::MAX);
        assert_eq!(latest.len(), EVENTS_MAX);
        assert_eq!(latest[0], event(3 * EVENTS_MAX - 1));
    }
}
