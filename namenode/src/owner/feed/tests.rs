use super::*;
use quarry_common::ids::NamespaceId;
use quarry_common::ids::SessionId;
use quarry_common::wire::cluster::Replication;
use quarry_common::wire::fs::{Attr, Caller, FallocateMode, NewNode, SetAttr, SetXattrMode, Timestamp};
use quarry_common::wire::session::ClientInfo;
use quarry_namenode_core::{Command, Effect, LogicalTime, MemoryBase};
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
        bench.apply(Body::Format {
            cluster: "c".into(),
            namespace: NamespaceId(1),
            generation: 1,
            default_replication: Replication::Factor(1),
        });
        let open = Body::OpenSession {
            owner: "o".into(),
            info: ClientInfo::default(),
            fenced_below: Default::default(),
        };
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
        let (outcome, effects) = self
            .state
            .apply(self.index, &Command { now, clock: LogicalTime(self.index), body: body.clone() })
            .unwrap();
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
    let Body::Mutate { session, slot, sequence, .. } = b.body(create(Ino::ROOT, "f", NewNode::Dir)) else {
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
