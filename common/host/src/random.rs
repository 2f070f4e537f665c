//! Random numbers, for choices and for ids. Not for secrets: in a simulation they come from its seed.

use crate::world;
use rand::RngCore;

/// A source of random numbers, to be used at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

/// The source for the running task.
pub fn rng() -> Random {
    Random
}

impl RngCore for Random {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        world::ask(|world| world.random()).unwrap_or_else(|| rand::rng().next_u64())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for piece in bytes.chunks_mut(size_of::<u64>()) {
            piece.copy_from_slice(&self.next_u64().to_le_bytes()[..piece.len()]);
        }
    }
}
