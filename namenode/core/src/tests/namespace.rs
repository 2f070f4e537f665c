//! The namespace against a simple model in memory: the same operations, the same results, the same tree.

use crate::command::{Body, Effect};
use crate::testing::{Bench, CALLER};
use proptest::prelude::*;
use quarry_common::ids::Ino;
use quarry_common::wire::error::{FsError, ServiceError};
use quarry_common::wire::fs::{Attr, FileKind, Mutation, MutationReply, Name, NewNode, RenameMode};
use std::collections::{BTreeMap, BTreeSet};

/// An operation on small sets of directories and names, so that they meet often. Directories are named by the order in
/// which inodes were made.
#[derive(Clone, Debug)]
enum Op {
    Create(usize, u8, bool),
    Link(usize, usize, u8),
    Unlink(usize, u8),
    Rmdir(usize, u8),
    Rename(usize, u8, usize, u8, RenameMode),
    Reap,
    Checkpoint,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let (ino, name) = (0usize..12, 0u8..4);
    let mode = prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange)
    ];
    let op = prop_oneof![
        6 => (ino.clone(), name.clone(), any::<bool>()).prop_map(|(d, n, dir)| Op::Create(d, n, dir)),
        2 => (ino.clone(), ino.clone(), name.clone()).prop_map(|(i, d, n)| Op::Link(i, d, n)),
        2 => (ino.clone(), name.clone()).prop_map(|(d, n)| Op::Unlink(d, n)),
        2 => (ino.clone(), name.clone()).prop_map(|(d, n)| Op::Rmdir(d, n)),
        6 => (ino.clone(), name.clone(), ino, name, mode).prop_map(|(a, b, c, d, m)| Op::Rename(a, b, c, d, m)),
        1 => Just(Op::Reap),
        1 => Just(Op::Checkpoint),
    ];
    prop::collection::vec(op, 1..120)
}

/// What a file system is, in as few words as possible.
#[derive(Default)]
struct Model {
    /// Entries of each directory, files have none.
    dirs: BTreeMap<Ino, BTreeMap<u8, Ino>>,
    files: BTreeSet<Ino>,
}

impl Model {
    fn names_of(&self, ino: Ino) -> u32 {
        self.dirs.values().flat_map(|d| d.values()).filter(|i| **i == ino).count() as u32
    }

    fn is_live_dir(&self, ino: Ino) -> Result<(), FsError> {
        if self.files.contains(&ino) {
            return Err(FsError::NotDir);
        }
        if !self.dirs.contains_key(&ino) {
            return Err(FsError::Stale);
        }
        if ino != Ino::ROOT && self.names_of(ino) == 0 { Err(FsError::NotFound) } else { Ok(()) }
    }

    fn entry(&self, dir: Ino, name: u8) -> Option<Ino> {
        self.dirs.get(&dir).and_then(|d| d.get(&name)).copied()
    }

    fn is_below(&self, ino: Ino, above: Ino) -> bool {
        ino == above
            || self.dirs.get(&above).is_some_and(|d| d.values().any(|child| self.is_below(ino, *child)))
    }

    fn link_count(&self, ino: Ino) -> u32 {
        match self.dirs.get(&ino) {
            None => self.names_of(ino),
            Some(_) if ino != Ino::ROOT && self.names_of(ino) == 0 => 0,
            Some(entries) => 2 + entries.values().filter(|i| self.dirs.contains_key(i)).count() as u32,
        }
    }

    fn create(&mut self, dir: Ino, name: u8, is_dir: bool, ino: Ino) -> Result<(), FsError> {
        self.is_live_dir(dir)?;
        if self.entry(dir, name).is_some() {
            return Err(FsError::Exists);
        }
        self.dirs.get_mut(&dir).expect("checked").insert(name, ino);
        if is_dir {
            self.dirs.insert(ino, BTreeMap::new());
        } else {
            self.files.insert(ino);
        }
        Ok(())
    }

    fn link(&mut self, ino: Ino, dir: Ino, name: u8) -> Result<(), FsError> {
        self.is_live_dir(dir)?;
        if !self.files.contains(&ino) && !self.dirs.contains_key(&ino) {
            return Err(FsError::Stale);
        }
        if self.entry(dir, name).is_some() {
            return Err(FsError::Exists);
        }
        if self.dirs.contains_key(&ino) {
            return Err(FsError::NotPermitted);
        }
        if self.names_of(ino) == 0 {
            return Err(FsError::NotFound);
        }
        self.dirs.get_mut(&dir).expect("checked").insert(name, ino);
        Ok(())
    }

    fn remove(&mut self, dir: Ino, name: u8, want_dir: bool) -> Result<(), FsError> {
        match self.is_live_dir(dir) {
            Ok(()) | Err(FsError::NotFound) => {}
            Err(e) => return Err(e),
        }
        let ino = self.entry(dir, name).ok_or(FsError::NotFound)?;
        match (self.dirs.get(&ino), want_dir) {
            (Some(_), false) => return Err(FsError::IsDir),
            (None, true) => return Err(FsError::NotDir),
            (Some(entries), true) if !entries.is_empty() => return Err(FsError::NotEmpty),
            (Some(_), true) | (None, false) => {}
        }
        self.dirs.get_mut(&dir).expect("checked").remove(&name);
        Ok(())
    }

    fn rename(&mut self, from: (Ino, u8), to: (Ino, u8), mode: RenameMode) -> Result<(), FsError> {
        self.is_live_dir(from.0)?;
        self.is_live_dir(to.0)?;
        let source = self.entry(from.0, from.1).ok_or(FsError::NotFound)?;
        let target = self.entry(to.0, to.1);
        if self.dirs.contains_key(&source) && self.is_below(to.0, source) {
            return Err(FsError::Invalid);
        }
        match (target, mode) {
            (Some(_), RenameMode::NoReplace) => return Err(FsError::Exists),
            (None, RenameMode::Exchange) => return Err(FsError::NotFound),
            (Some(target), _) if target == source => return Ok(()),
            (Some(target), RenameMode::Exchange) => {
                if self.dirs.contains_key(&target) && self.is_below(from.0, target) {
                    return Err(FsError::Invalid);
                }
                self.dirs.get_mut(&from.0).expect("checked").insert(from.1, target);
                self.dirs.get_mut(&to.0).expect("checked").insert(to.1, source);
                return Ok(());
            }
            (Some(target), RenameMode::Replace) => {
                match (self.dirs.get(&target), self.dirs.contains_key(&source)) {
                    (None, true) => return Err(FsError::NotDir),
                    (Some(_), false) => return Err(FsError::IsDir),
                    (Some(entries), true) if !entries.is_empty() => return Err(FsError::NotEmpty),
                    (Some(_), true) | (None, false) => {}
                }
            }
            (None, RenameMode::Replace | RenameMode::NoReplace) => {}
            (_, RenameMode::Whiteout) => unreachable!("the model's changes leave no whiteouts"),
        }
        self.dirs.get_mut(&from.0).expect("checked").remove(&from.1);
        self.dirs.get_mut(&to.0).expect("checked").insert(to.1, source);
        Ok(())
    }

    fn reap(&mut self) -> Vec<Ino> {
        let all: Vec<Ino> = self.files.iter().chain(self.dirs.keys()).copied().collect();
        let mut gone: Vec<Ino> =
            all.into_iter().filter(|i| *i != Ino::ROOT && self.names_of(*i) == 0).collect();
        gone.sort_unstable();
        for ino in &gone {
            self.files.remove(ino);
            self.dirs.remove(ino);
        }
        gone
    }
}

fn name(n: u8) -> Name {
    vec![b'a' + n].into()
}

/// Runs one operation on both sides and compares what they say.
fn step(bench: &mut Bench, model: &mut Model, inos: &mut Vec<Ino>, op: &Op) -> Result<(), TestCaseError> {
    let at = |i: &usize| inos[i % inos.len()];
    let (mutation, expected) = match op {
        Op::Create(dir, n, is_dir) => {
            let next = bench.state.meta().next_ino;
            let expected = model.create(at(dir), *n, *is_dir, next);
            let node = if *is_dir { NewNode::Dir } else { NewNode::File { open: false } };
            let (parent, name) = (at(dir), name(*n));
            (Mutation::Create { parent, name, node, mode: 0o755, umask: 0, caller: CALLER }, expected)
        }
        Op::Link(ino, dir, n) => {
            let (ino, parent) = (at(ino), at(dir));
            (Mutation::Link { ino, parent, name: name(*n) }, model.link(ino, parent, *n))
        }
        Op::Unlink(dir, n) => {
            (Mutation::Unlink { parent: at(dir), name: name(*n) }, model.remove(at(dir), *n, false))
        }
        Op::Rmdir(dir, n) => {
            (Mutation::Rmdir { parent: at(dir), name: name(*n) }, model.remove(at(dir), *n, true))
        }
        Op::Rename(from, a, to, b, mode) => {
            let expected = model.rename((at(from), *a), (at(to), *b), *mode);
            let (from_name, to_name) = (name(*a), name(*b));
            (Mutation::Rename { from: at(from), from_name, to: at(to), to_name, mode: *mode }, expected)
        }
        Op::Reap => {
            let expected = model.reap();
            let orphans = bench.state.orphans(Ino(0), 1000).expect("sound");
            prop_assert_eq!(&orphans, &expected);
            bench.apply(Body::Reap { inos: orphans });
            return Ok(());
        }
        Op::Checkpoint => {
            bench.checkpoint();
            return Ok(());
        }
    };
    let footprint = bench.state.footprint(&mutation).expect("sound");
    let result = bench.mutate(mutation);
    for effect in &bench.effects {
        if let Effect::Changed(ino) = effect {
            let new = matches!(op, Op::Create(..));
            prop_assert!(footprint.contains(ino) || new, "{:?} is not in {:?}", ino, footprint);
        }
    }
    if let (Op::Create(..), Ok(MutationReply::Attr(attr))) = (op, &result) {
        inos.push(attr.ino);
    }
    match result {
        Ok(_) => prop_assert_eq!(expected, Ok(())),
        Err(ServiceError::Fs(e)) => prop_assert_eq!(expected, Err(e)),
        Err(other) => prop_assert!(false, "{}", other),
    }
    Ok(())
}

/// Compares every directory and every link count.
fn compare(bench: &Bench, model: &Model) -> Result<(), TestCaseError> {
    for (dir, entries) in &model.dirs {
        let expected: BTreeSet<String> = entries.keys().map(|n| char::from(b'a' + n).to_string()).collect();
        let listed = bench.names(*dir);
        prop_assert_eq!(listed.len(), expected.len());
        prop_assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
        for (n, ino) in entries {
            prop_assert_eq!(bench.lookup(*dir, &char::from(b'a' + n).to_string()), Ok(*ino));
        }
    }
    for ino in model.dirs.keys().chain(&model.files) {
        let Attr { nlink, kind, .. } = bench.attr(*ino);
        prop_assert_eq!(nlink, model.link_count(*ino), "links of {}", ino);
        prop_assert_eq!(kind == FileKind::Dir, model.dirs.contains_key(ino));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn the_namespace_behaves_as_the_model(ops in ops()) {
        let mut bench = Bench::new();
        let mut model = Model::default();
        model.dirs.insert(Ino::ROOT, BTreeMap::new());
        let mut inos = vec![Ino::ROOT];
        for op in &ops {
            step(&mut bench, &mut model, &mut inos, op)?;
        }
        compare(&bench, &model)?;
        bench.check();
    }
}
