//! Random operations on two files through several handles and two mounts, against plain byte vectors.

use super::cluster::{Cluster, Faults, Mount, pattern, read, small};
use crate::file::FilesConfig;
use crate::file::open_file::OpenFile;
use proptest::prelude::*;
use quarry_common::ids::Ino;
use quarry_common::wire::error::FsError;
use quarry_common::wire::fs::{FallocateMode, SetAttr};
use std::sync::Arc;

const HANDLES: usize = 3;
const SIZE_MAX: u64 = 7 << 20;

#[derive(Clone, Debug)]
enum Op {
    Write { at: u64, length: usize },
    Append { length: usize },
    Scatter { at: u64, count: u64, step: u64 },
    Read { at: u64, length: usize },
    Truncate { size: u64 },
    Fallocate { mode: FallocateMode, at: u64, length: u64 },
    Copy { from: u64, to: u64, length: u64, within: bool },
    Flush,
    Fsync,
    Seek { at: u64 },
    Reopen,
    ReadElsewhere,
    WriteElsewhere { at: u64, length: usize },
}

/// Mostly near the borders of windows and blocks.
fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0u64..20_000,
        3 => (0u64..3, -5000i64..5000).prop_map(|(w, d)| ((w * (2 << 20)) as i64 + d).max(0) as u64),
        1 => (0u64..40, -5i64..5).prop_map(|(b, d)| ((b * 65536) as i64 + d).max(0) as u64),
        1 => 0u64..(5 << 20),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..5000, 3 => 1usize..100_000, 1 => (1usize << 20)..(2 << 20)]
}

fn mode() -> impl Strategy<Value = FallocateMode> {
    prop_oneof![
        1 => Just(FallocateMode::Allocate),
        1 => Just(FallocateMode::KeepSize),
        3 => Just(FallocateMode::PunchHole),
        1 => Just(FallocateMode::ZeroRange),
        1 => Just(FallocateMode::ZeroRangeKeepSize),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let long = prop_oneof![1u64..(3 << 20), 1u64..50_000];
    prop_oneof![
        8 => (offset(), length()).prop_map(|(at, length)| Op::Write { at, length }),
        2 => length().prop_map(|length| Op::Append { length }),
        2 => (offset(), 1u64..40, 1u64..30_000).prop_map(|(at, count, step)| Op::Scatter { at, count, step }),
        8 => (offset(), length()).prop_map(|(at, length)| Op::Read { at, length }),
        2 => offset().prop_map(|size| Op::Truncate { size }),
        2 => (mode(), offset(), long).prop_map(|(mode, at, length)| Op::Fallocate { mode, at, length }),
        2 => (offset(), offset(), length(), any::<bool>())
            .prop_map(|(from, to, length, within)| Op::Copy { from, to, length: length as u64, within }),
        2 => Just(Op::Flush),
        1 => Just(Op::Fsync),
        2 => offset().prop_map(|at| Op::Seek { at }),
        1 => Just(Op::Reopen),
        1 => Just(Op::ReadElsewhere),
        1 => (offset(), 1usize..20_000).prop_map(|(at, length)| Op::WriteElsewhere { at, length }),
    ]
}

struct World {
    here: Mount,
    there: Mount,
    inos: [Ino; 2],
    handles: Vec<[Arc<OpenFile>; 2]>,
    models: [Vec<u8>; 2],
    writes: u64,
}

impl World {
    fn new(seed: u64, faults: Faults, config: FilesConfig) -> Self {
        let cluster = Cluster::new(seed, faults);
        let here = Mount::new(&cluster, config);
        let there = Mount::new(&cluster, small());
        let inos = [cluster.create("a").ino, cluster.create("b").ino];
        let handles = (0..HANDLES).map(|_| inos.map(|ino| here.open(ino))).collect();
        Self { here, there, inos, handles, models: [Vec::new(), Vec::new()], writes: 0 }
    }

    fn data(&mut self, length: usize) -> bytes::Bytes {
        self.writes += 1;
        pattern(self.writes, length)
    }

    fn model_write(&mut self, which: usize, at: u64, data: &[u8]) {
        let model = &mut self.models[which];
        let end = at as usize + data.len();
        if model.len() < end {
            model.resize(end, 0);
        }
        model[at as usize..end].copy_from_slice(data);
    }

    async fn run(&mut self, handle: usize, which: usize, op: &Op) {
        let file = Arc::clone(&self.handles[handle][which]);
        let ino = self.inos[which];
        match *op {
            Op::Write { at, length } => {
                let data = self.data(length);
                self.model_write(which, at, &data);
                assert_eq!(file.write(at, data, false).await, Ok(length as u32));
            }
            Op::Append { length } => {
                let at = self.models[which].len() as u64;
                if at + length as u64 > SIZE_MAX {
                    return;
                }
                let data = self.data(length);
                self.model_write(which, at, &data);
                assert_eq!(file.append(data, false).await, Ok(at));
            }
            Op::Scatter { at, count, step } => {
                for i in 0..count {
                    let at = at + i * step;
                    let data = self.data(1 + (i as usize * 13) % 300);
                    self.model_write(which, at, &data);
                    file.write(at, data, false).await.unwrap();
                }
            }
            Op::Read { at, length } => {
                let model = &self.models[which];
                let end = (at as usize + length).min(model.len());
                let expected = model.get(at as usize..end).unwrap_or_default();
                assert!(read(&file, at, length).await.unwrap() == expected);
            }
            Op::Truncate { size } => {
                self.models[which].resize(size as usize, 0);
                let set = SetAttr { size: Some(size), ..SetAttr::default() };
                assert_eq!(self.here.files.setattr(ino, set, true).await.unwrap().size, size);
            }
            Op::Fallocate { mode, at, length } => self.fallocate(&file, which, mode, at, length).await,
            Op::Copy { from, to, length, within } => {
                let source = if within { which } else { 1 - which };
                self.copy(handle, source, which, from, to, length).await;
            }
            Op::Flush => {
                file.flush().await.unwrap();
                assert_eq!(self.here.cluster.attr(ino).size, self.models[which].len() as u64);
            }
            Op::Fsync => {
                file.fsync().await.unwrap();
                assert_eq!(self.here.cluster.volatile_chunks(ino), 0);
            }
            Op::Seek { at } => self.seek(&file, which, at).await,
            Op::Reopen => {
                drop(file);
                self.handles[handle][which] = self.here.open(ino);
            }
            Op::ReadElsewhere => {
                file.flush().await.unwrap();
                let other = self.there.open(ino);
                assert!(read(&other, 0, 8 << 20).await.unwrap() == self.models[which]);
            }
            Op::WriteElsewhere { at, length } => {
                file.flush().await.unwrap();
                let data = self.data(length);
                self.model_write(which, at, &data);
                let other = self.there.open(ino);
                other.write(at, data, false).await.unwrap();
                other.fsync().await.unwrap();
                self.handles[handle][which] = self.here.open(ino);
            }
        }
        let size = self.models[which].len() as u64;
        assert_eq!(self.here.stat(ino).size, size, "after {op:?}");
    }

    async fn fallocate(&mut self, file: &OpenFile, which: usize, mode: FallocateMode, at: u64, length: u64) {
        let end = (at + length) as usize;
        let model = &mut self.models[which];
        if matches!(mode, FallocateMode::Allocate | FallocateMode::ZeroRange) && model.len() < end {
            model.resize(end, 0);
        }
        if !matches!(mode, FallocateMode::Allocate | FallocateMode::KeepSize) {
            let end = end.min(model.len());
            if let Some(zeros) = model.get_mut(at as usize..end) {
                zeros.fill(0);
            }
        }
        file.fallocate(mode, at, length, false).await.unwrap();
    }

    async fn copy(&mut self, handle: usize, source: usize, target: usize, from: u64, to: u64, length: u64) {
        let available = (self.models[source].len() as u64).saturating_sub(from).min(length);
        let (source_file, target_file) = (&self.handles[handle][source], &self.handles[handle][target]);
        let copied = target_file.copy_from(source_file, from, to, length, false).await;
        if source == target && from.abs_diff(to) < available {
            assert_eq!(copied, Err(FsError::Invalid));
            return;
        }
        if copied == Err(FsError::NotSupported) {
            return;
        }
        let copied = copied.unwrap();
        assert!(copied <= available && (copied > 0 || available == 0));
        let data =
            self.models[source].get(from as usize..(from + copied) as usize).unwrap_or_default().to_vec();
        if copied > 0 {
            self.model_write(target, to, &data);
        }
    }

    /// Holes may be reported as data, data never as a hole.
    async fn seek(&self, file: &OpenFile, which: usize, at: u64) {
        let model = &self.models[which];
        let (data, hole) = (file.seek_data(at).await, file.seek_hole(at).await);
        if at >= model.len() as u64 {
            assert_eq!((data, hole), (Err(FsError::NoSuchOffset), Err(FsError::NoSuchOffset)));
            return;
        }
        let start = match data {
            Ok(data) => data as usize,
            Err(error) => {
                assert_eq!(error, FsError::NoSuchOffset);
                model.len()
            }
        };
        assert!(start >= at as usize && model[at as usize..start].iter().all(|b| *b == 0));
        let hole = hole.unwrap();
        assert!(hole >= at && hole <= model.len() as u64);
        assert_eq!(start == at as usize, hole > at);
    }

    async fn finish(self) {
        self.here.files.shutdown().await.unwrap();
        for which in 0..2 {
            let ino = self.inos[which];
            self.here.cluster.check(ino);
            assert_eq!(self.here.cluster.volatile_chunks(ino), 0);
            let other = self.there.open(ino);
            assert!(read(&other, 0, 8 << 20).await.unwrap() == self.models[which]);
        }
        assert_eq!(self.here.files.shared.budget.used(), 0);
        drop(self.handles);
        assert!(self.here.files.inos().is_empty());
        let closed = self.here.closed.lock().unwrap();
        assert!(self.inos.iter().all(|ino| closed[ino] >= HANDLES));
    }
}

fn run(seed: u64, faults: Faults, config: FilesConfig, ops: &[(usize, usize, Op)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(seed, faults, config);
        for (handle, which, op) in ops {
            world.run(*handle, *which, op).await;
        }
        world.finish().await;
    });
}

fn ops() -> impl Strategy<Value = Vec<(usize, usize, Op)>> {
    prop::collection::vec((0..HANDLES, 0usize..2, op()), 1..60)
}

/// A few seconds' worth, or what `PROPTEST_CASES` asks for.
fn config() -> ProptestConfig {
    let given = ProptestConfig::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { given.cases } else { 40 };
    ProptestConfig { cases, max_shrink_iters: 2000, ..given }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_operations_do_what_they_do_to_a_byte_vector(seed: u64, ops in ops()) {
        run(seed, Faults::default(), FilesConfig::default(), &ops);
    }

    #[test]
    fn also_with_small_buffers_and_faults(seed: u64, ops in ops()) {
        let faults = Faults { rewrite: 15, window_changed: 20, gone: 5 };
        let config = FilesConfig { write_buffer_bytes: 100_000, ..small() };
        run(seed, faults, config, &ops);
    }
}
