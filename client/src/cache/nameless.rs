//! Inodes that have lost their last name through another client.
//!
//! The kernel keeps what it has looked up until memory is short, and refers to it as long: to the NameNode a file looks as if it
//! were open, so that its space is not freed. So the kernel is asked to drop such inodes. One that a program refers to stays, and is
//! asked for again.

use super::forget::Kernel;
use super::lock;
use quarry_common::ids::Ino;
use quarry_host::task;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;

/// From the first of some to the first attempt: those that follow go with it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Between attempts at most.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The inodes that the kernel is to drop, while it refers to them: no more than there are references.
#[derive(Default)]
pub(super) struct Nameless(Mutex<State>);

#[derive(Default)]
struct State {
    inos: BTreeSet<Ino>,
    /// There are new ones since the last attempt.
    added: bool,
    /// A task sees to them.
    at_work: bool,
}

impl Nameless {
    /// One more.
    pub(super) fn add(self: &Arc<Self>, ino: Ino, kernel: &Arc<Kernel>) {
        let mut state = lock(&self.0);
        state.inos.insert(ino);
        state.added = true;
        if !std::mem::replace(&mut state.at_work, true) {
            task::spawn(Arc::clone(self).work(Arc::clone(kernel)));
        }
    }

    async fn work(self: Arc<Self>, kernel: Arc<Kernel>) {
        let mut pause = FIRST_PAUSE;
        loop {
            sleep(pause).await;
            let (inos, added) = {
                let mut state = lock(&self.0);
                state.inos.retain(|ino| kernel.is_looked_up(*ino));
                if state.inos.is_empty() {
                    state.at_work = false;
                    return;
                }
                (state.inos.iter().copied().collect(), std::mem::take(&mut state.added))
            };
            kernel.prune(inos).await;
            pause = if added { FIRST_PAUSE } else { (pause * 2).min(PAUSE_MAX) };
        }
    }
}
