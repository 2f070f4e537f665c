//! The change feed: what happened to the namespace, for those who watch.
//!
//! ```text
//!   applied ── record ──> ring of the last events ── page ──> watchers, at once or when something happens
//!                              │ full
//!                              └──> the oldest go; who is not yet behind them is told that it missed some
//! ```
//!
//! In memory only, and no part of the state. Positions are places in the log, so they are the same after a restart. The
//! ring then holds what the log was replayed from, the last checkpoint: a watcher that waits is told its position when a
//! checkpoint is made, and so is never behind that.

mod places;

use super::{Fatal, Owner, refusal, respond};
use crate::entry::COMMANDS_MAX;
use crate::handle::ClientReplier;
use places::{Located, Places};
use quarry_common::ids::Ino;
use quarry_common::wire::changes::{CHANGES_MAX, CHANGES_WAIT_MAX_MS, ChangeEvent, ChangeKind};
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Mutation, MutationReply, Query, QueryReply, RenameMode};
use quarry_common::wire::session::Reply;
use quarry_namenode_core::{Body, Outcome, State, StateError};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Events that are kept: minutes of a cluster that is busy with small files.
const EVENTS_MAX: usize = 65_536;
/// Bytes of the events that are kept: a few hundred for each, as long as paths are of a usual length.
const BYTES_MAX: usize = 32 << 20;
/// Bytes of paths in one answer, so that it fits a frame.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Requests that wait for events: each looks at each new event.
const WAITING_MAX: usize = 256;
/// Positions of one entry of the log: one for each of its commands.
const PLACES: u64 = COMMANDS_MAX as u64;

/// An answer holds one event whatever its length: two directories' paths, each with a name.
const _: () = assert!(ANSWER_BYTES_MAX + 4 * places::PATH_BYTES_MAX < quarry_common::limits::FRAME_MAX);

/// The position of a command's event.
fn position(index: u64, place: usize) -> u64 {
    index.saturating_mul(PLACES).saturating_add((place as u64).min(PLACES - 1))
}

/// The position behind everything of the entry.
fn end_of(index: u64) -> u64 {
    position(index, usize::MAX)
}

/// An event, and what it takes to find who it is for.
struct Entry {
    event: ChangeEvent,
    /// The directories above its paths.
    within: Box<[Ino]>,
}

impl Entry {
    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.within) + path_bytes(&self.event)
    }

    fn is_below(&self, below: Ino) -> bool {
        below == Ino::ROOT || self.event.ino == below || self.within.contains(&below)
    }
}

fn path_bytes(event: &ChangeEvent) -> usize {
    event.path.len() + event.to.as_ref().map_or(0, |to| to.len())
}

/// What a command did, to which inode, and where; for a rename, also the new name.
type Happened = (ChangeKind, Ino, Located, Option<Located>);

/// What a watcher wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) after: u64,
    pub(super) below: Ino,
    pub(super) max: u32,
}

/// A watcher's request that waits for events.
struct Waiting {
    connection: u64,
    wanted: Wanted,
    /// Up to here there is nothing for it.
    seen: u64,
    deadline: Instant,
    reply: ClientReplier,
}

/// The last events, who waits for more, and what it takes to tell paths.
pub(crate) struct Feed {
    ring: VecDeque<Entry>,
    bytes: usize,
    /// Nothing behind this position is missing.
    oldest: u64,
    /// The end of the last entry.
    newest: u64,
    /// The end of the last entry that is in a checkpoint: where the feed may begin after a restart.
    checkpointed: u64,
    places: Places,
    waiting: Vec<Waiting>,
    /// Some who wait may have an answer now.
    stirred: bool,
}

impl Feed {
    /// A feed that begins behind the entry that the state has applied last.
    pub(super) fn new(applied: u64) -> Self {
        // Nothing at all came before the first entry.
        let begin = if applied == 0 { 0 } else { end_of(applied) };
        Self {
            ring: VecDeque::new(),
            bytes: 0,
            oldest: begin,
            newest: begin,
            checkpointed: begin,
            places: Places::new(),
            waiting: Vec::new(),
            stirred: false,
        }
    }

    /// A command that changed something was applied, the one at this place of the entry.
    pub(super) fn record(
        &mut self,
        state: &State,
        (index, place): (u64, usize),
        body: &Body,
        outcome: &Outcome,
    ) -> Result<(), StateError> {
        let (Body::Mutate { mutation, .. }, Outcome::Mutation(Ok(reply))) = (body, outcome) else {
            return Ok(());
        };
        let Some((kind, ino, located, to)) = self.happened(state, mutation, reply)? else { return Ok(()) };
        let mut within = located.within;
        let to = to.map(|to| {
            within.extend(to.within);
            to.path.into()
        });
        within.sort_unstable();
        within.dedup();
        let event =
            ChangeEvent { position: position(index, place), kind, ino, path: located.path.into(), to };
        self.push(Entry { event, within: within.into() });
        Ok(())
    }

    /// All commands of the entry are applied.
    pub(super) fn advance(&mut self, index: u64) {
        self.newest = end_of(index);
        self.stirred = true;
    }

    /// What a mutation that was applied did. `None`: nothing that can be seen.
    fn happened(
        &mut self,
        state: &State,
        mutation: &Mutation,
        reply: &MutationReply,
    ) -> Result<Option<Happened>, StateError> {
        let (kind, attr) = match (mutation, reply) {
            (
                Mutation::Create { parent, name, .. } | Mutation::Link { parent, name, .. },
                MutationReply::Attr(attr),
            ) => {
                self.places.learn(attr.ino, *parent, name);
                let located = self.places.of_name(state, *parent, name)?;
                return Ok(Some((ChangeKind::Create, attr.ino, located, None)));
            }
            (
                Mutation::Unlink { parent, name } | Mutation::Rmdir { parent, name },
                MutationReply::Removed(attr),
            ) => {
                self.places.forget(attr.ino, *parent, name);
                let located = self.places.of_name(state, *parent, name)?;
                return Ok(Some((ChangeKind::Delete, attr.ino, located, None)));
            }
            (
                Mutation::Rename { from, from_name, to, to_name, mode },
                MutationReply::Renamed { moved, other },
            ) => {
                let mut kind = ChangeKind::Rename;
                match other {
                    Some(other) if *mode == RenameMode::Exchange => {
                        kind = ChangeKind::Exchange;
                        self.places.learn(other.ino, *from, from_name);
                    }
                    Some(other) => self.places.forget(other.ino, *to, to_name),
                    None => {}
                }
                self.places.learn(moved.ino, *to, to_name);
                let old = self.places.of_name(state, *from, from_name)?;
                let new = self.places.of_name(state, *to, to_name)?;
                return Ok(Some((kind, moved.ino, old, Some(new))));
            }
            (Mutation::SetAttr { set, .. }, MutationReply::Attr(attr)) => {
                (if set.size.is_some() { ChangeKind::Change } else { ChangeKind::Attributes }, attr)
            }
            (Mutation::SetXattr { .. } | Mutation::RemoveXattr { .. }, MutationReply::Attr(attr)) => {
                (ChangeKind::Attributes, attr)
            }
            (Mutation::Commit(_), MutationReply::Committed { attr, .. })
            | (Mutation::Fallocate { .. }, MutationReply::Attr(attr))
            | (Mutation::CopyRange { .. }, MutationReply::Copied { attr, .. }) => (ChangeKind::Change, attr),
            // Each mutation has its own kind of answer.
            _ => return Ok(None),
        };
        // Without a name it is below no directory.
        if attr.nlink == 0 {
            return Ok(None);
        }
        Ok(Some((kind, attr.ino, self.places.of_inode(state, attr.ino)?, None)))
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.ring.push_back(entry);
        while self.ring.len() > EVENTS_MAX || self.bytes > BYTES_MAX {
            let Some(gone) = self.ring.pop_front() else { break };
            self.bytes -= gone.bytes();
            self.oldest = gone.event.position;
        }
    }

    /// Whether the feed has all that is behind the position.
    fn has(&self, after: u64) -> bool {
        (self.oldest..=self.newest).contains(&after)
    }

    /// The events behind a position, as many as are wanted and fit, and where to go on.
    fn page(&self, seen: u64, wanted: Wanted) -> (Vec<ChangeEvent>, u64) {
        let max = wanted.max.clamp(1, CHANGES_MAX) as usize;
        let (mut events, mut bytes) = (Vec::<ChangeEvent>::new(), 0);
        let first = self.ring.partition_point(|entry| entry.event.position <= seen);
        for entry in self.ring.range(first..).filter(|entry| entry.is_below(wanted.below)) {
            bytes += path_bytes(&entry.event);
            if let Some(last) = events.last()
                && (events.len() >= max || bytes > ANSWER_BYTES_MAX)
            {
                let next = last.position;
                return (events, next);
            }
            events.push(entry.event.clone());
        }
        (events, self.newest)
    }

    /// What to answer now; `None`, and the request's progress, if it should wait.
    fn answer(&self, wanted: Wanted, seen: &mut u64, is_late: bool) -> Option<Reply> {
        if !self.has(*seen) {
            return Some(Reply::ChangesGone { oldest: self.oldest, newest: self.newest });
        }
        let (events, next) = self.page(*seen, wanted);
        if events.is_empty() && !is_late && wanted.after >= self.checkpointed {
            *seen = next;
            return None;
        }
        Some(Reply::Changes { events, next })
    }

    /// Everything up to now is in a checkpoint that is about to be made.
    pub(super) fn checkpointing(&mut self) {
        self.checkpointed = self.newest;
        self.stirred = true;
    }

    /// Nobody will read the answers to requests of this connection.
    pub(super) fn disconnected(&mut self, connection: u64) {
        self.waiting.retain(|waiting| waiting.connection != connection);
    }

    /// Learns names from the answer to a query.
    pub(super) fn passed(&mut self, query: &Query, result: &Result<QueryReply, FsError>) {
        if let Ok(answer) = result {
            self.places.passed(query, answer);
        }
    }
}

impl Owner {
    /// A client watches. `after` is `None` for one that begins now.
    pub(super) fn changes(
        &mut self,
        connection: u64,
        (after, below, max): (Option<u64>, Ino, u32),
        reply: ClientReplier,
    ) {
        let Some(after) = after else {
            return respond(reply, Ok(Reply::Changes { events: Vec::new(), next: self.feed.newest }));
        };
        let wanted = Wanted { after, below, max };
        let deadline = self.now + Duration::from_millis(CHANGES_WAIT_MAX_MS);
        self.answer_or_wait(Waiting { connection, wanted, seen: after, deadline, reply });
    }

    fn answer_or_wait(&mut self, mut waiting: Waiting) {
        let is_late = waiting.deadline <= self.now;
        match self.feed.answer(waiting.wanted, &mut waiting.seen, is_late) {
            Some(answer) => respond(waiting.reply, Ok(answer)),
            None if self.feed.waiting.len() < WAITING_MAX => self.feed.waiting.push(waiting),
            None => {
                let why = format!("{WAITING_MAX} clients watch already");
                waiting.reply.send(refusal(ServiceError::Unavailable(why)));
            }
        }
    }

    /// Answers those for whom there is something now.
    pub(super) fn answer_watchers(&mut self) {
        if std::mem::take(&mut self.feed.stirred) {
            for waiting in std::mem::take(&mut self.feed.waiting) {
                self.answer_or_wait(waiting);
            }
        }
    }

    /// Those who have waited for as long as they may are answered in this turn.
    pub(super) fn time_out_watchers(&mut self) {
        self.feed.stirred |= self.feed.waiting.iter().any(|waiting| waiting.deadline <= self.now);
    }

    /// The process ends, and everything will be in a checkpoint: who waits is told from where to go on afterwards.
    /// Tells whether there is anybody.
    pub(crate) fn dismiss_watchers(&mut self) -> bool {
        let waiting = self.feed.waiting.len();
        self.feed.checkpointing();
        self.answer_watchers();
        self.feed.waiting.len() < waiting
    }

    /// A command was applied, the one at this place of the entry.
    pub(super) fn feed(
        &mut self,
        at: (u64, usize),
        body: &Body,
        outcome: &Outcome,
        changed: &[Ino],
    ) -> Result<(), Fatal> {
        // A repeated request gets its first answer again, and changes nothing.
        if !changed.is_empty() {
            self.feed.record(&self.state, at, body, outcome)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::SessionId;
    use quarry_common::wire::cluster::Replication;
    use quarry_common::wire::fs::{Attr, Caller, FallocateMode, NewNode, SetAttr, SetXattrMode, Timestamp};
    use quarry_common::wire::session::ClientInfo;
    use quarry_namenode_core::{Command, Effect, MemoryBase};
    use std::sync::Arc;

    /// A state with a session, and the feed of what is done to it; each command is an entry.
    struct Bench {
        state: State,
        feed: Feed,
        index: u64,
        session: SessionId,
        sequence: u64,
    }

    impl Bench {
        fn new() -> Self {
            let state = State::open(Arc::new(MemoryBase::default())).unwrap();
            let feed = Feed::new(state.applied());
            let mut bench = Self { state, feed, index: 0, session: SessionId(0), sequence: 0 };
            bench.apply(Body::Format { cluster: "c".into(), default_replication: Replication::Factor(1) });
            let open = Body::OpenSession { owner: "o".into(), info: ClientInfo::default() };
            let Outcome::Session(session) = bench.apply(open) else { panic!("a session") };
            bench.session = session;
            bench
        }

        fn apply(&mut self, body: Body) -> Outcome {
            self.index += 1;
            let outcome = self.place(0, body);
            self.feed.advance(self.index);
            outcome
        }

        fn place(&mut self, place: usize, body: Body) -> Outcome {
            let now = Timestamp(self.index.into());
            let (outcome, effects) =
                self.state.apply(self.index, &Command { now, body: body.clone() }).unwrap();
            if effects.iter().any(|e| matches!(e, Effect::Changed(_))) {
                self.feed.record(&self.state, (self.index, place), &body, &outcome).unwrap();
            }
            outcome
        }

        fn body(&mut self, mutation: Mutation) -> Body {
            self.sequence += 1;
            Body::Mutate { session: self.session, slot: 0, sequence: self.sequence, mutation }
        }

        fn change(&mut self, mutation: Mutation) -> Option<Attr> {
            let body = self.body(mutation);
            match self.apply(body) {
                Outcome::Mutation(Ok(MutationReply::Attr(attr) | MutationReply::Removed(attr))) => Some(attr),
                Outcome::Mutation(Ok(MutationReply::Renamed { moved, .. })) => Some(moved),
                _ => None,
            }
        }

        fn make(&mut self, parent: Ino, name: &str, node: NewNode) -> Ino {
            self.change(create(parent, name, node)).expect("made").ino
        }

        fn dir(&mut self, parent: Ino, name: &str) -> Ino {
            self.make(parent, name, NewNode::Dir)
        }

        fn file(&mut self, parent: Ino, name: &str) -> Ino {
            self.make(parent, name, NewNode::File { open: false })
        }

        fn chmod(&mut self, ino: Ino) {
            self.change(Mutation::SetAttr {
                ino,
                set: SetAttr { mode: Some(0o600), ..SetAttr::default() },
                keep_sgid: false,
            });
        }

        fn rename(&mut self, from: (Ino, &str), to: (Ino, &str), mode: RenameMode) {
            let (from, from_name) = (from.0, from.1.as_bytes().into());
            let (to, to_name) = (to.0, to.1.as_bytes().into());
            self.change(Mutation::Rename { from, from_name, to, to_name, mode }).expect("renamed");
        }

        /// What a watcher of an inode sees: kind, and path or paths.
        fn seen(&self, after: u64, below: Ino) -> Vec<String> {
            let (events, next) = self.feed.page(after, Wanted { after, below, max: CHANGES_MAX });
            assert_eq!(next, self.feed.newest);
            let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
            let to = |e: &ChangeEvent| e.to.as_ref().map_or_else(String::new, |to| format!(" {}", text(to)));
            events.iter().map(|e| format!("{:?} {}{}", e.kind, text(&e.path), to(e))).collect()
        }
    }

    fn create(parent: Ino, name: &str, node: NewNode) -> Mutation {
        let caller = Caller { uid: 1, gid: 1 };
        Mutation::Create { parent, name: name.as_bytes().into(), node, mode: 0o755, umask: 0, caller }
    }

    #[test]
    fn every_kind_of_change_has_its_path() {
        let mut b = Bench::new();
        let (a, d) = (b.dir(Ino::ROOT, "a"), b.dir(Ino::ROOT, "d"));
        let sub = b.dir(a, "sub");
        let f = b.file(sub, "f");
        let length = 10;
        let mode = FallocateMode::Allocate;
        b.change(Mutation::Fallocate { ino: f, mode, offset: 0, length, kill_suidgid: false });
        b.chmod(f);
        let mode = SetXattrMode::Either;
        b.change(Mutation::SetXattr { ino: f, name: b"user.x"[..].into(), value: b"1"[..].into(), mode });
        b.rename((a, "sub"), (d, "moved"), RenameMode::Replace);
        b.change(Mutation::SetAttr {
            ino: f,
            set: SetAttr { size: Some(3), ..SetAttr::default() },
            keep_sgid: false,
        });
        b.change(Mutation::Link { ino: f, parent: a, name: b"link"[..].into() });
        b.rename((a, "link"), (d, "moved"), RenameMode::Exchange);
        b.chmod(f);
        b.chmod(sub);
        b.change(Mutation::Unlink { parent: d, name: b"moved"[..].into() });
        b.change(Mutation::Unlink { parent: sub, name: b"f"[..].into() });
        b.chmod(f);
        b.change(Mutation::Rmdir { parent: a, name: b"link"[..].into() });
        let all = [
            "Create /a",
            "Create /d",
            "Create /a/sub",
            "Create /a/sub/f",
            "Change /a/sub/f",
            "Attributes /a/sub/f",
            "Attributes /a/sub/f",
            "Rename /a/sub /d/moved",
            "Change /d/moved/f",
            "Create /a/link",
            "Exchange /a/link /d/moved",
            "Attributes /d/moved",
            "Attributes /a/link",
            "Delete /d/moved",
            "Delete /a/link/f",
            "Delete /a/link",
        ];
        assert_eq!(b.seen(0, Ino::ROOT), all);
        assert_eq!(b.seen(0, d), [&all[1..2], &all[7..9], &all[10..12], &all[13..14]].concat());
        assert_eq!(b.seen(0, f)[..3], all[3..6], "a file is watched alone");
        assert_eq!(b.seen(end_of(b.index - 1), Ino::ROOT), all[15..]);
    }

    #[test]
    fn what_changes_nothing_is_no_event() {
        let mut b = Bench::new();
        let f = b.file(Ino::ROOT, "f");
        let begin = b.feed.newest;
        b.change(create(Ino::ROOT, "f", NewNode::Dir));
        b.change(Mutation::Link { ino: f, parent: Ino::ROOT, name: b"g"[..].into() });
        let Body::Mutate { session, slot, sequence, .. } = b.body(create(Ino::ROOT, "f", NewNode::Dir))
        else {
            panic!("a mutation")
        };
        // The same number again: the first answer, whatever is asked.
        let mutation = Mutation::Unlink { parent: Ino::ROOT, name: b"f"[..].into() };
        b.sequence -= 1;
        b.apply(Body::Mutate { session, slot, sequence: sequence - 1, mutation });
        // Both are names of one inode.
        b.rename((Ino::ROOT, "f"), (Ino::ROOT, "g"), RenameMode::Replace);
        assert_eq!(b.seen(begin, Ino::ROOT), ["Create /g"]);
    }

    #[test]
    fn names_from_before_the_start_are_found_or_learned() {
        let mut b = Bench::new();
        let a = b.dir(Ino::ROOT, "a");
        let sub = b.dir(a, "sub");
        let f = b.file(sub, "f");
        b.feed = Feed::new(b.index);
        let begin = b.feed.newest;
        b.chmod(f);
        b.chmod(sub);
        b.file(sub, "g");
        let known = Query::Lookup { parent: sub, name: b"f"[..].into() };
        let answer = b.state.query(&known).unwrap();
        b.feed.passed(&known, &answer);
        b.chmod(f);
        let all = [
            format!("Attributes inode:{f}"),
            "Attributes /a/sub".into(),
            "Create /a/sub/g".into(),
            "Attributes /a/sub/f".into(),
        ];
        assert_eq!(b.seen(begin, Ino::ROOT), all);
        assert_eq!(b.seen(begin, a), all[1..], "nobody knows whether it is below");
        assert_eq!(b.seen(begin, f), [all[0].clone(), all[3].clone()]);
    }

    #[test]
    fn an_entry_of_many_commands_is_read_in_pieces() {
        let mut b = Bench::new();
        let begin = b.feed.newest;
        b.index += 1;
        for n in 0..10 {
            let body = b.body(create(Ino::ROOT, &n.to_string(), NewNode::Dir));
            b.place(n, body);
        }
        b.feed.advance(b.index);
        let (mut after, mut got) = (begin, Vec::new());
        loop {
            let (events, next) = b.feed.page(after, Wanted { after, below: Ino::ROOT, max: 3 });
            assert!(events.len() <= 3 && next >= after);
            if events.is_empty() {
                break;
            }
            got.extend(events.into_iter().map(|e| e.path.0));
            after = next;
        }
        assert_eq!(got, (0..10).map(|n| format!("/{n}").into_bytes()).collect::<Vec<_>>());
    }

    #[test]
    fn the_ring_is_bounded_and_tells_what_is_missing() {
        let mut b = Bench::new();
        b.dir(Ino::ROOT, "first");
        let wanted = Wanted { after: 0, below: Ino::ROOT, max: 1 };
        assert!(matches!(b.feed.answer(wanted, &mut 0, false), Some(Reply::Changes { .. })));
        let path = vec![b'x'; 4000];
        let rounds = BYTES_MAX / path.len() + 10;
        for n in 0..rounds as u64 {
            let event = ChangeEvent {
                position: end_of(b.index + n),
                kind: ChangeKind::Create,
                ino: Ino(2),
                path: path.clone().into(),
                to: None,
            };
            b.feed.push(Entry { event, within: [Ino::ROOT].into() });
        }
        b.feed.advance(b.index + rounds as u64);
        assert!(b.feed.bytes <= BYTES_MAX && b.feed.ring.len() < rounds);
        assert!(b.feed.oldest > end_of(b.index));
        let gone = Reply::ChangesGone { oldest: b.feed.oldest, newest: b.feed.newest };
        assert_eq!(b.feed.answer(wanted, &mut 0, false), Some(gone.clone()));
        assert_eq!(b.feed.answer(wanted, &mut (b.feed.newest + 1), false), Some(gone));
        let Some(Reply::Changes { events, .. }) =
            b.feed.answer(Wanted { max: 9999, ..wanted }, &mut b.feed.oldest.clone(), false)
        else {
            panic!("what is left")
        };
        assert_eq!(events.len(), ANSWER_BYTES_MAX / path.len(), "an answer fits a frame");
    }

    #[test]
    fn a_watcher_waits_until_something_happens_or_a_checkpoint_is_made() {
        let mut b = Bench::new();
        let (a, d) = (b.dir(Ino::ROOT, "a"), b.dir(Ino::ROOT, "d"));
        let after = b.feed.newest;
        let wanted = Wanted { after, below: a, max: 100 };
        let mut seen = after;
        assert_eq!(b.feed.answer(wanted, &mut seen, false), None);
        b.file(d, "elsewhere");
        assert_eq!(b.feed.answer(wanted, &mut seen, false), None);
        assert_eq!(seen, b.feed.newest);
        let nothing = Reply::Changes { events: Vec::new(), next: b.feed.newest };
        assert_eq!(b.feed.answer(wanted, &mut seen.clone(), true), Some(nothing.clone()));
        b.feed.checkpointing();
        assert_eq!(b.feed.answer(wanted, &mut seen.clone(), false), Some(nothing));
        b.file(a, "here");
        let Some(Reply::Changes { events, next }) = b.feed.answer(wanted, &mut seen, false) else {
            panic!("an event")
        };
        assert_eq!((events.len(), next), (1, b.feed.newest));
    }
}
