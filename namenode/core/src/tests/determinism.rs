//! The same commands give the same bytes, wherever checkpoints fall, and an error changes nothing.

use crate::base::MemoryBase;
use crate::command::{Body, Command, LogicalTime, Outcome};
use crate::state::State;
use crate::testing::{CALLER, PG, group_change, register};
use proptest::prelude::*;
use quarry_common::ids::{ChunkId, Ino, NamespaceId, NodeId, SessionId, WindowIndex};
use quarry_common::wire::cluster::{MemberState, Replication};
use quarry_common::wire::fs::{
    ChunkInfo, Commit, Mutation, Name, NewChunk, NewNode, RenameMode, SetAttr, SetXattrMode, Slice,
    Timestamp, WindowCommit,
};
use quarry_common::wire::session::ClientInfo;
use std::sync::Arc;

fn ino() -> impl Strategy<Value = Ino> {
    (1u64..10).prop_map(Ino)
}

fn name() -> impl Strategy<Value = Name> {
    (0u8..5).prop_map(|n| vec![b'a' + n].into())
}

fn new_node() -> impl Strategy<Value = NewNode> {
    prop_oneof![
        Just(NewNode::Dir),
        Just(NewNode::File { open: true }),
        Just(NewNode::Symlink(b"target"[..].into()))
    ]
}

fn commit() -> impl Strategy<Value = Commit> {
    (ino(), 0u64..40, 0u64..3, 0u32..50, prop::option::of(0u64..4)).prop_map(
        |(ino, sequence, window, position, replaces)| {
            let info = ChunkInfo { id: ChunkId::new(PG, sequence), length: 10, sha256: [sequence as u8; 32] };
            let slice = Slice { position, length: 10, chunk: Some(info.id), chunk_offset: 0 };
            Commit {
                ino,
                chunks: vec![NewChunk { info, holders: vec![NodeId(1), NodeId(2)] }],
                windows: vec![WindowCommit { index: WindowIndex(window), replaces, slices: vec![slice] }],
                size_at_least: 8 << 20,
                mtime: None,
                kill_suidgid: true,
                lease: None,
            }
        },
    )
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let create = (ino(), name(), new_node()).prop_map(|(parent, name, node)| Mutation::Create {
        parent,
        name,
        node,
        mode: 0o644,
        umask: 0o022,
        caller: CALLER,
    });
    let rename = (ino(), name(), ino(), name()).prop_map(|(from, from_name, to, to_name)| Mutation::Rename {
        from,
        from_name,
        to,
        to_name,
        mode: RenameMode::Replace,
    });
    let truncate = (ino(), 0u64..(8 << 20)).prop_map(|(ino, size)| Mutation::SetAttr {
        ino,
        set: SetAttr { size: Some(size), ..SetAttr::default() },
        keep_sgid: false,
    });
    let xattr = (ino(), any::<bool>()).prop_map(|(ino, set)| {
        let name = Name::from(&b"user.x"[..]);
        if set {
            Mutation::SetXattr { ino, name, value: b"v"[..].into(), mode: SetXattrMode::Create }
        } else {
            Mutation::RemoveXattr { ino, name }
        }
    });
    let copy = (ino(), ino(), 0u64..100).prop_map(|(from, to, offset)| Mutation::CopyRange {
        from,
        from_offset: offset,
        to,
        to_offset: 3 << 20,
        length: 1 << 20,
        kill_suidgid: false,
    });
    prop_oneof![
        4 => create,
        2 => (ino(), name()).prop_map(|(parent, name)| Mutation::Unlink { parent, name }),
        1 => (ino(), name()).prop_map(|(parent, name)| Mutation::Rmdir { parent, name }),
        2 => rename,
        6 => commit().prop_map(Mutation::Commit),
        2 => truncate,
        2 => xattr,
        2 => copy,
    ]
}

/// Sequences are made up when the commands are applied: most are right.
fn body() -> impl Strategy<Value = Body> {
    let mutate = (1u64..3, 0u16..3, mutation(), prop::bool::weighted(0.1)).prop_map(
        |(session, slot, mutation, retry)| Body::Mutate {
            session: SessionId(session),
            slot,
            sequence: u64::from(!retry),
            mutation,
        },
    );
    prop_oneof![
        20 => mutate,
        1 => Just(Body::OpenSession { owner: "c".to_owned(), info: ClientInfo::default(), fenced_below: Default::default() }),
        1 => (1u64..3).prop_map(|s| Body::EndSession { session: SessionId(s), expired: false }),
        1 => prop::collection::vec(ino(), 1..5).prop_map(|inos| Body::Reap { inos }),
        1 => (1u32..4, 0u128..2).prop_map(|(node, store)| register(node, store)),
        1 => (1u64..3).prop_map(|e| Body::ChangeGroups(vec![group_change(e, &[(1, MemberState::Serving)])])),
        1 => (0u64..60).prop_map(|next| Body::SkipChunks(vec![(PG, next)])),
        1 => (0u64..40).prop_map(|sequence| Body::RaiseFloor { pg: PG, sequence }),
    ]
}

fn setup() -> Vec<Body> {
    let members = [(1, MemberState::Serving), (2, MemberState::Serving)];
    vec![
        Body::Format {
            cluster: "c".to_owned(),
            namespace: NamespaceId(1),
            generation: 1,
            default_replication: Replication::Factor(2),
        },
        register(1, 0),
        register(2, 0),
        Body::ChangeGroups(vec![group_change(0, &members)]),
        Body::ReserveChunks { pg: PG, count: 40 },
        Body::OpenSession {
            owner: "a".to_owned(),
            info: ClientInfo::default(),
            fenced_below: Default::default(),
        },
        Body::OpenSession {
            owner: "b".to_owned(),
            info: ClientInfo::default(),
            fenced_below: Default::default(),
        },
    ]
}

/// Gives mutations the sequence that comes next in their slot, or the last one again.
fn number(bodies: Vec<Body>) -> Vec<Command> {
    let mut slots = std::collections::BTreeMap::new();
    let mut commands = Vec::new();
    for (i, mut body) in bodies.into_iter().enumerate() {
        if let Body::Mutate { session, slot, sequence, .. } = &mut body {
            let last: &mut u64 = slots.entry((*session, *slot)).or_default();
            *last += *sequence;
            *sequence = *last;
        }
        commands.push(Command { now: Timestamp(i as i128 * 10), clock: LogicalTime(i as u64), body });
    }
    commands
}

/// Runs commands, with a freeze before and a thaw after the ones that `freezes` and `thaws` name.
fn run(commands: &[Command], freezes: &[usize], thaws: &[usize]) -> (Vec<Outcome>, MemoryBase) {
    let mut base = MemoryBase::default();
    let mut state = State::open(Arc::new(base.clone())).expect("opens");
    let mut frozen = None;
    let mut outcomes = Vec::new();
    for (i, command) in commands.iter().enumerate() {
        if freezes.contains(&i) {
            frozen = Some(state.freeze());
        }
        outcomes.push(state.apply(i as u64 + 1, command).expect("sound").0);
        if let Some(overlay) = frozen.take_if(|_| thaws.contains(&i)) {
            base.checkpoint(&overlay);
            state.thaw(Arc::new(base.clone()));
        }
    }
    // The first takes in what may be frozen, the second the rest.
    for _ in 0..2 {
        base.checkpoint(&state.freeze());
        state.thaw(Arc::new(base.clone()));
    }
    assert_eq!(crate::invariants::violations(&state).expect("readable"), Vec::<String>::new());
    (outcomes, base)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn checkpoints_change_nothing(
        bodies in prop::collection::vec(body(), 1..150),
        freezes in prop::collection::vec(0usize..160, 0..8),
        thaws in prop::collection::vec(0usize..160, 0..8),
    ) {
        let mut all = setup();
        all.extend(bodies);
        let commands = number(all);
        let (outcomes, base) = run(&commands, &[], &[]);
        let (again, other) = run(&commands, &freezes, &thaws);
        prop_assert_eq!(outcomes, again);
        prop_assert!(base == other, "the bytes differ");
    }

    #[test]
    fn an_error_changes_nothing_but_the_slot(bodies in prop::collection::vec(body(), 1..100), last in mutation()) {
        let mut all = setup();
        all.extend(bodies);
        let fresh = Body::OpenSession { owner: "z".to_owned(), info: ClientInfo::default(), fenced_below: Default::default() };
        all.push(fresh);
        let session = 2 + all.iter().filter(|b| matches!(b, Body::OpenSession { .. })).count() as u64 - 2;
        let commands = number(all.clone());
        let (_, before) = run(&commands, &[], &[]);
        all.push(Body::Mutate { session: SessionId(session), slot: 0, sequence: 1, mutation: last });
        let commands = number(all);
        let (outcomes, after) = run(&commands, &[], &[]);
        if let Some(Outcome::Mutation(Err(_))) = outcomes.last() {
            let strip = |base: &MemoryBase| -> Vec<(Vec<u8>, Vec<u8>)> {
                let kept = base.pairs().filter(|(key, _)| !matches!(key[0], 0x01 | 0x21));
                kept.map(|(k, v)| (k.to_vec(), v.to_vec())).collect()
            };
            prop_assert_eq!(strip(&before), strip(&after));
        }
    }

    #[test]
    fn commands_survive_their_encoding(body in body()) {
        let command = Command { now: Timestamp(5), clock: LogicalTime(5), body };
        let bytes = postcard::to_stdvec(&command).expect("encodes");
        prop_assert_eq!(postcard::from_bytes::<Command>(&bytes), Ok(command));
    }
}
