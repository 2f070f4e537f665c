//! Simulated machines: one process each, with a disk and clocks of its own.

use quarry_common::wire::fs::Timestamp;
use quarry_host::disk::Disk;
use quarry_host::disk::faulty::FaultyDisk;
use quarry_host::task;
use quarry_host::world::{self, Permission, World};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The wall clock of all machines at the start: some day in 2026.
const EPOCH_NS: i128 = 1_780_000_000_000_000_000;

/// Instants of the running time are so far from those of the monotonic clock.
const BOOT_ANCHOR: Duration = Duration::from_secs(10_000_000);

/// A piece of blocking work takes less than this many microseconds.
const BLOCKING_US: u64 = 2_000;

/// A machine's number, unique in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MachineId(pub u32);

/// One life of a machine's process: from its start to its end or crash.
pub(crate) struct Life {
    name: String,
    disk: FaultyDisk,
    clocks: Arc<Clocks>,
    random: Mutex<StdRng>,
    state: Mutex<State>,
}

/// The clocks of a machine, and how slow its disk is. They go on from one life to the next.
struct Clocks {
    began: Instant,
    /// How far the wall clock is wrong, in nanoseconds.
    wall_error_ns: AtomicI64,
    /// How much too fast the clock of the running time is, in millionths.
    boot_error_ppm: AtomicI64,
    /// Blocking work waits until then, in milliseconds since the machines began.
    hangs_until_ms: AtomicU64,
}

impl Clocks {
    fn boot(&self) -> Duration {
        let elapsed = self.began.elapsed().as_nanos() as i128;
        let error = elapsed * i128::from(self.boot_error_ppm.load(Ordering::Relaxed)) / 1_000_000;
        Duration::from_nanos((elapsed + error).max(0) as u64)
    }

    fn hangs_for(&self) -> Duration {
        let until = Duration::from_millis(self.hangs_until_ms.load(Ordering::Relaxed));
        until.saturating_sub(self.began.elapsed())
    }
}

struct State {
    permission: Permission,
    next_task: u64,
    /// Tasks that live, with the waker of those that were polled.
    tasks: BTreeMap<u64, Option<Waker>>,
}

impl Life {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, permission: Permission) {
        let mut state = self.state();
        state.permission = permission;
        let wakers: Vec<Waker> = state.tasks.values().flatten().cloned().collect();
        drop(state);
        wakers.iter().for_each(Waker::wake_by_ref);
    }

    /// Whether its tasks run at this moment.
    pub(crate) fn is_running(&self) -> bool {
        self.state().permission == Permission::Run
    }

    /// Whether it ended.
    pub(crate) fn is_gone(&self) -> bool {
        self.state().permission == Permission::Gone
    }

    /// SIGSTOP.
    pub(crate) fn pause(&self) {
        self.set(Permission::Wait);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.set(Permission::Run);
    }
}

impl World for Life {
    fn host_name(&self) -> String {
        self.name.clone()
    }

    fn wall(&self) -> Timestamp {
        let error = i128::from(self.clocks.wall_error_ns.load(Ordering::Relaxed));
        Timestamp(EPOCH_NS + error + self.clocks.began.elapsed().as_nanos() as i128)
    }

    fn boot(&self) -> Duration {
        self.clocks.boot()
    }

    fn boot_anchor(&self) -> std::time::Instant {
        // Far from the instants of tokio's clock: whoever mixes the two shows.
        self.clocks.began.into_std() + BOOT_ANCHOR
    }

    fn random(&self) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.disk.clone())
    }

    fn blocking_time(&self) -> Duration {
        Duration::from_micros(self.random() % BLOCKING_US) + self.clocks.hangs_for()
    }

    fn task_began(&self) -> u64 {
        let mut state = self.state();
        state.next_task += 1;
        let task = state.next_task;
        state.tasks.insert(task, None);
        task
    }

    fn task_ended(&self, task: u64) {
        self.state().tasks.remove(&task);
    }

    fn may_run(&self, task: u64, waker: &Waker) -> Permission {
        let mut state = self.state();
        if let Some(kept) = state.tasks.get_mut(&task)
            && !kept.as_ref().is_some_and(|kept| kept.will_wake(waker))
        {
            *kept = Some(waker.clone());
        }
        state.permission
    }
}

/// A machine.
pub(crate) struct Machine {
    /// Its number.
    pub(crate) id: MachineId,
    name: String,
    disk: FaultyDisk,
    /// Numbers for each life, from the simulation's seed.
    random: Mutex<StdRng>,
    clocks: Arc<Clocks>,
    life: Mutex<Option<Arc<Life>>>,
}

impl Machine {
    /// A machine that is switched on now and runs nothing yet.
    pub(crate) fn new(id: MachineId, name: &str, seed: u64) -> Arc<Self> {
        let random = Mutex::new(StdRng::seed_from_u64(seed ^ u64::from(id.0).wrapping_mul(0x9e37_79b9)));
        Arc::new(Self {
            id,
            name: name.to_owned(),
            disk: FaultyDisk::default(),
            random,
            clocks: Arc::new(Clocks {
                began: Instant::now(),
                wall_error_ns: AtomicI64::new(0),
                boot_error_ppm: AtomicI64::new(0),
                hangs_until_ms: AtomicU64::new(0),
            }),
            life: Mutex::default(),
        })
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How much too fast the clock of its running time is, in millionths. To be set before it runs.
    pub(crate) fn set_boot_error(&self, ppm: i64) {
        self.clocks.boot_error_ppm.store(ppm, Ordering::Relaxed);
    }

    /// The wall clock jumps, and is wrong by so much from then on.
    pub(crate) fn set_wall_error(&self, ms: i64) {
        self.clocks.wall_error_ns.store(ms * 1_000_000, Ordering::Relaxed);
    }

    /// Its disk does not answer for some time.
    pub(crate) fn hang(&self, time: Duration) {
        let until = self.clocks.began.elapsed() + time;
        self.clocks.hangs_until_ms.store(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Its disk.
    pub(crate) fn disk(&self) -> &FaultyDisk {
        &self.disk
    }

    /// The life of its process, if one was started and did not crash.
    pub(crate) fn life(&self) -> Option<Arc<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Starts its process; the one before must have ended. Its tasks are what `main` spawns.
    pub(crate) fn start<T>(&self, main: impl FnOnce(&Arc<Life>) -> T) -> T {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let life = Arc::new(Life {
            name: self.name.clone(),
            disk: self.disk.clone(),
            clocks: self.clocks.clone(),
            random: Mutex::new(StdRng::seed_from_u64(random.random())),
            state: Mutex::new(State { permission: Permission::Run, next_task: 0, tasks: BTreeMap::new() }),
        });
        drop(random);
        self.disk.restart();
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(life.clone());
        let world: Arc<dyn World> = life.clone();
        world::within(&world, || main(&life))
    }

    /// SIGKILL: no task of the process runs again, and nothing of it reaches disk or network any more. Returns when all that the
    /// process owned is gone.
    pub(crate) async fn kill(&self) {
        self.disk.kill();
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(life) = life {
            life.set(Permission::Gone);
            // Each task drops what it owns at its next poll; what they own may own tasks in turn.
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
    }

    /// The power fails: a kill, and what was not synced is lost in part.
    pub(crate) async fn lose_power(&self) {
        self.kill().await;
        let seed = self.random.lock().unwrap_or_else(PoisonError::into_inner).random();
        self.disk.lose_power(seed);
    }
}

/// Runs a future as a task of a process.
pub(crate) fn spawn_in<F>(life: &Arc<Life>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let world: Arc<dyn World> = life.clone();
    world::within(&world, || task::spawn(future))
}
