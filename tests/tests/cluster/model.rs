//! Random operations on a mount against a reference model, with crashes of the client in between.

use quarry_tests::{Cluster, Mount};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const STEPS: usize = 600;
const CHECK_EVERY: usize = 150;
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const LARGEST: u64 = 5 << 20;

/// What a path must hold.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    Dir,
    File(Vec<u8>),
    Link(String),
}

struct Model {
    rng: StdRng,
    nodes: BTreeMap<PathBuf, Node>,
}

/// Seeds are printed, so that a failure can be run again with `QUARRY_SEED`; `scripts/soak` asks for more of them.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("QUARRY_SEED") {
        Ok(seed) => vec![seed.parse().expect("QUARRY_SEED is a number")],
        Err(_) => {
            let rounds =
                std::env::var("QUARRY_MODEL_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(count);
            (0..rounds).map(|_| rand::random()).collect()
        }
    }
}

impl Model {
    fn new(seed: u64) -> Self {
        eprintln!("QUARRY_SEED={seed}");
        Self { rng: StdRng::seed_from_u64(seed), nodes: BTreeMap::new() }
    }

    /// A path below the root, at most three deep; mostly one whose parent exists.
    fn any_path(&mut self) -> PathBuf {
        let dirs: Vec<PathBuf> = self
            .nodes
            .iter()
            .filter(|(p, n)| **n == Node::Dir && p.components().count() < 3)
            .map(|(p, _)| p.clone())
            .chain([PathBuf::new()])
            .collect();
        let parent = dirs[self.rng.random_range(0..dirs.len())].clone();
        parent.join(NAMES[self.rng.random_range(0..NAMES.len())])
    }

    fn is_empty(&self, dir: &Path) -> bool {
        !self.nodes.keys().any(|p| p.parent() == Some(dir))
    }

    fn step(&mut self, mount: &Mount) {
        let path = self.any_path();
        let real = mount.root().join(&path);
        let taken = self.nodes.contains_key(&path);
        let what = self.rng.random_range(0..100);
        match what {
            0..15 => {
                let made = fs::create_dir(&real);
                if taken {
                    assert_eq!(made.unwrap_err().kind(), ErrorKind::AlreadyExists, "mkdir {path:?}");
                } else {
                    made.unwrap_or_else(|e| panic!("mkdir {path:?}: {e}"));
                    self.nodes.insert(path, Node::Dir);
                }
            }
            15..55 => self.write(&path, &real),
            55..65 => self.truncate(&path, &real),
            65..75 => match self.nodes.get(&path) {
                None => {
                    assert_eq!(fs::remove_file(&real).unwrap_err().kind(), ErrorKind::NotFound, "{path:?}")
                }
                Some(Node::Dir) => {
                    let removed = fs::remove_dir(&real);
                    if self.is_empty(&path) {
                        removed.unwrap_or_else(|e| panic!("rmdir {path:?}: {e}"));
                        self.nodes.remove(&path);
                    } else {
                        assert_eq!(removed.unwrap_err().kind(), ErrorKind::DirectoryNotEmpty, "{path:?}");
                    }
                }
                Some(_) => {
                    fs::remove_file(&real).unwrap_or_else(|e| panic!("unlink {path:?}: {e}"));
                    self.nodes.remove(&path);
                }
            },
            75..90 => self.rename(mount, &path),
            90..95 => {
                if !taken {
                    std::os::unix::fs::symlink("/no/where", &real)
                        .unwrap_or_else(|e| panic!("symlink {path:?}: {e}"));
                    self.nodes.insert(path, Node::Link("/no/where".into()));
                }
            }
            _ => {
                if let Some(Node::File(data)) = self.nodes.get(&path) {
                    assert!(fs::read(&real).unwrap() == *data, "{path:?} differs");
                }
            }
        }
    }

    fn write(&mut self, path: &Path, real: &Path) {
        let Node::File(data) = self.nodes.entry(path.to_path_buf()).or_insert_with(|| Node::File(Vec::new()))
        else {
            return;
        };
        let file = File::options().write(true).create(true).truncate(false).open(real);
        let file = file.unwrap_or_else(|e| panic!("open {path:?}: {e}"));
        for _ in 0..self.rng.random_range(1..4) {
            let offset =
                if self.rng.random_bool(0.5) { data.len() as u64 } else { self.rng.random_range(0..LARGEST) };
            let length = self.rng.random_range(1..300_000).min(LARGEST.saturating_sub(offset)) as usize;
            let piece = vec![self.rng.random::<u8>(); length];
            file.write_all_at(&piece, offset).unwrap_or_else(|e| panic!("write {path:?}: {e}"));
            let end = offset as usize + length;
            if data.len() < end && length > 0 {
                data.resize(end, 0);
            }
            data[offset as usize..][..length].copy_from_slice(&piece);
        }
    }

    fn truncate(&mut self, path: &Path, real: &Path) {
        let Some(Node::File(data)) = self.nodes.get_mut(path) else { return };
        let size = self.rng.random_range(0..LARGEST);
        let file = File::options().write(true).open(real).unwrap_or_else(|e| panic!("open {path:?}: {e}"));
        file.set_len(size).unwrap_or_else(|e| panic!("truncate {path:?}: {e}"));
        data.resize(size as usize, 0);
    }

    fn rename(&mut self, mount: &Mount, from: &Path) {
        let to = self.any_path();
        let renamed = fs::rename(mount.root().join(from), mount.root().join(&to));
        let Some(node) = self.nodes.get(from).cloned() else {
            assert_eq!(renamed.unwrap_err().kind(), ErrorKind::NotFound, "{from:?} -> {to:?}");
            return;
        };
        let inside = node == Node::Dir && to.starts_with(from) && to != from;
        let fits = match self.nodes.get(&to) {
            _ if to == from => true,
            None => true,
            Some(Node::Dir) => node == Node::Dir && self.is_empty(&to),
            Some(_) => node != Node::Dir,
        };
        // An ancestor as the target is a directory that is not empty.
        if inside || !fits {
            assert!(renamed.is_err(), "{from:?} -> {to:?} must fail");
            return;
        }
        renamed.unwrap_or_else(|e| panic!("rename {from:?} -> {to:?}: {e}"));
        let moved: Vec<PathBuf> = self.nodes.keys().filter(|p| p.starts_with(from)).cloned().collect();
        let moved: Vec<(PathBuf, Node)> =
            moved.into_iter().map(|p| (p.clone(), self.nodes.remove(&p).expect("just listed"))).collect();
        for (path, node) in moved {
            let rest = path.strip_prefix(from).expect("starts with it");
            let path = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
            self.nodes.insert(path, node);
        }
    }

    fn check(&self, mount: &Mount) {
        let mut found = BTreeMap::new();
        let mut dirs = vec![PathBuf::new()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(mount.root().join(&dir)).unwrap() {
                let entry = entry.unwrap();
                let path = dir.join(entry.file_name());
                let kind = entry.file_type().unwrap();
                let node = if kind.is_dir() {
                    dirs.push(path.clone());
                    Node::Dir
                } else if kind.is_symlink() {
                    Node::Link(fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned())
                } else {
                    Node::File(fs::read(entry.path()).unwrap())
                };
                found.insert(path, node);
            }
        }
        assert_eq!(found.keys().collect::<Vec<_>>(), self.nodes.keys().collect::<Vec<_>>());
        for (path, node) in &self.nodes {
            assert!(found[path] == *node, "{path:?} differs");
        }
    }

    fn sync(&self, mount: &Mount) {
        for (path, _) in self.nodes.iter().filter(|(_, n)| matches!(n, Node::File(_))) {
            File::open(mount.root().join(path))
                .and_then(|f| f.sync_all())
                .unwrap_or_else(|e| panic!("fsync {path:?}: {e}"));
        }
    }
}

/// Goes through the steps and compares at times; `forget` makes the client forget everything in between.
fn run(forget: impl Fn(&Model, &mut Mount)) {
    for seed in seeds(2) {
        let cluster = Cluster::start();
        let mut mount = cluster.mount();
        let mut model = Model::new(seed);
        for step in 1..=STEPS {
            model.step(&mount);
            if step % CHECK_EVERY == 0 {
                model.check(&mount);
                forget(&model, &mut mount);
                model.check(&mount);
            }
        }
        cluster.assert_sound(true);
    }
}

#[test]
fn random_operations_agree_with_a_model() {
    run(|_, mount| mount.remount());
}

#[test]
fn random_operations_with_crashes_of_the_client_agree_with_a_model() {
    run(|model, mount| {
        // A crash loses what was not fsynced.
        model.sync(mount);
        mount.crash_and_remount();
    });
}
