//! File data against arrays of bytes: whatever is written, cut, punched, merged and copied, the layout shows the bytes
//! that the model has, and references, sizes and allocation add up.

use crate::command::Body;
use crate::testing::Bench;
use proptest::prelude::*;
use quarry_common::ids::{ChunkId, Ino, WindowIndex};
use quarry_common::limits::CHUNK_SIZE;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{FallocateMode, Mutation, MutationReply, SetAttr};

/// Positions are multiples of this, so that a model byte stands for many and three windows are 96 of them.
const UNIT: u64 = CHUNK_SIZE / 32;
/// Units that a test file may have.
const UNITS: u64 = 96;

#[derive(Clone, Debug)]
enum Op {
    Write(usize, u64, u64),
    Merge(usize, u64),
    Truncate(usize, u64),
    Fallocate(usize, u64, u64, FallocateMode),
    Copy(usize, u64, usize, u64, u64),
    Unlink(usize),
    Checkpoint,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (file, at, length) = (0usize..2, 0u64..UNITS, 1u64..40);
    let mode = prop_oneof![
        Just(FallocateMode::Allocate),
        Just(FallocateMode::PunchHole),
        Just(FallocateMode::PunchHole),
        Just(FallocateMode::ZeroRange),
        Just(FallocateMode::ZeroRangeKeepSize),
    ];
    let op = prop_oneof![
        8 => (file.clone(), at.clone(), length.clone()).prop_map(|(f, a, l)| Op::Write(f, a, l)),
        1 => (file.clone(), 0u64..3).prop_map(|(f, w)| Op::Merge(f, w)),
        2 => (file.clone(), at.clone()).prop_map(|(f, a)| Op::Truncate(f, a)),
        4 => (file.clone(), at.clone(), length.clone(), mode).prop_map(|(f, a, l, m)| Op::Fallocate(f, a, l, m)),
        4 => (file.clone(), at.clone(), file.clone(), at, length).prop_map(|(f, a, t, b, l)| Op::Copy(f, a, t, b, l)),
        1 => file.prop_map(Op::Unlink),
        1 => Just(Op::Checkpoint),
    ];
    prop::collection::vec(op, 1..60)
}

/// A unit of data: its chunk and where in the chunk; `None` is a hole.
type Unit = Option<(ChunkId, u64)>;

/// What the layout shows, one entry per unit up to the end of the file.
fn shown(bench: &Bench, ino: Ino) -> Vec<Unit> {
    let mut units = vec![None; (bench.attr(ino).size / UNIT) as usize];
    for window in bench.windows(ino) {
        for slice in window.slices {
            let start = (window.index.0 * CHUNK_SIZE + u64::from(slice.position)) / UNIT;
            for i in 0..u64::from(slice.length) / UNIT {
                let unit = slice.chunk.map(|id| (id, u64::from(slice.chunk_offset) / UNIT + i));
                match units.get_mut((start + i) as usize) {
                    Some(place) => *place = unit,
                    None => assert_eq!(unit, None, "data past the end"),
                }
            }
        }
    }
    units
}

fn fill(units: &mut Vec<Unit>, at: u64, new: impl IntoIterator<Item = Unit>) {
    for (i, unit) in new.into_iter().enumerate() {
        let place = at as usize + i;
        if units.len() <= place {
            units.resize(place + 1, None);
        }
        units[place] = unit;
    }
}

fn step(bench: &mut Bench, files: &mut [(Ino, Vec<Unit>); 2], op: &Op, names: &mut u32) {
    match *op {
        Op::Write(f, at, length) => {
            let within = length.min(32 - at % 32);
            let commit = bench.write_commit(files[f].0, at * UNIT, (within * UNIT) as u32);
            let id = commit.chunks[0].info.id;
            bench.mutate(Mutation::Commit(commit)).expect("written");
            fill(&mut files[f].1, at, (0..within).map(|i| Some((id, i))));
        }
        Op::Merge(f, window) => merge(bench, &mut files[f], window),
        Op::Truncate(f, size) => {
            let set = SetAttr { size: Some(size * UNIT), ..SetAttr::default() };
            bench.attr_of(Mutation::SetAttr { ino: files[f].0, set, keep_sgid: false }).expect("truncated");
            files[f].1.resize(size as usize, None);
        }
        Op::Fallocate(f, at, length, mode) => {
            let (offset, bytes) = (at * UNIT, length * UNIT);
            let call =
                Mutation::Fallocate { ino: files[f].0, mode, offset, length: bytes, kill_suidgid: false };
            bench.attr_of(call).expect("done");
            let units = &mut files[f].1;
            let end = (at + length) as usize;
            if matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange) && units.len() < end {
                units.resize(end, None);
            }
            if mode != FallocateMode::Allocate {
                let end = end.min(units.len());
                units[end.min(at as usize)..end].fill(None);
            }
        }
        Op::Copy(f, from, t, to, length) => copy(bench, files, (f, from), (t, to), length),
        Op::Unlink(f) => {
            bench.unlink(Ino::ROOT, &name(f, *names)).expect("unlinked");
            bench.apply(Body::Reap { inos: vec![files[f].0] });
            *names += 1;
            // Both files get new names, so that a name tells its file.
            files[f] = (bench.file(Ino::ROOT, &name(f, *names)), Vec::new());
            let other = 1 - f;
            let (from_name, to_name) = (name(other, *names - 1), name(other, *names));
            let (from_name, to_name) = (from_name.as_bytes().into(), to_name.as_bytes().into());
            let mode = quarry_common::wire::fs::RenameMode::NoReplace;
            bench
                .mutate(Mutation::Rename { from: Ino::ROOT, from_name, to: Ino::ROOT, to_name, mode })
                .expect("renamed");
        }
        Op::Checkpoint => bench.checkpoint(),
    }
}

fn name(file: usize, round: u32) -> String {
    format!("{file}-{round}")
}

/// A client reads a window, holes as zeros, and writes it again as one chunk.
fn merge(bench: &mut Bench, (ino, units): &mut (Ino, Vec<Unit>), window: u64) {
    let size = units.len() as u64;
    let Some(old) = bench.windows(*ino).into_iter().find(|w| w.index == WindowIndex(window)) else { return };
    let length = (size - window * 32).min(32);
    let mut commit = bench.write_commit(*ino, window * CHUNK_SIZE, (length * UNIT) as u32);
    commit.windows[0].replaces = Some(old.version);
    commit.size_at_least = 0;
    let id = commit.chunks[0].info.id;
    bench.mutate(Mutation::Commit(commit)).expect("merged");
    fill(units, window * 32, (0..length).map(|i| Some((id, i))));
}

fn copy(
    bench: &mut Bench,
    files: &mut [(Ino, Vec<Unit>); 2],
    (f, from): (usize, u64),
    (t, to): (usize, u64),
    length: u64,
) {
    let call = Mutation::CopyRange {
        from: files[f].0,
        from_offset: from * UNIT,
        to: files[t].0,
        to_offset: to * UNIT,
        length: length * UNIT,
        kill_suidgid: false,
    };
    let size = files[f].1.len() as u64;
    let expected = length.min(size.saturating_sub(from));
    match bench.mutate(call) {
        Ok(MutationReply::Copied { bytes, .. }) => {
            assert_eq!(bytes, expected * UNIT);
            let copied: Vec<Unit> = (from..from + expected).map(|i| files[f].1[i as usize]).collect();
            fill(&mut files[t].1, to, copied);
        }
        Err(ServiceError::Fs(FsError::Invalid)) => assert!(f == t && from.abs_diff(to) < expected),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn layouts_show_what_was_written(ops in ops()) {
        let mut bench = Bench::new();
        let mut files = [0, 1].map(|f| (bench.file(Ino::ROOT, &name(f, 0)), Vec::new()));
        let mut names = 0;
        for op in &ops {
            step(&mut bench, &mut files, op, &mut names);
            for (ino, units) in &files {
                prop_assert_eq!(&shown(&bench, *ino), units);
                let data = units.iter().flatten().count() as u64;
                prop_assert_eq!(bench.attr(*ino).allocated, data * UNIT);
            }
        }
        bench.check();
    }
}
