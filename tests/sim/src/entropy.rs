//! The operating system's randomness, replaced.
//!
//! The keys of the standard library's hash maps and the random choices of tokio's `select!` come from getrandom(2). This
//! program defines the symbol itself, so that a thread that runs a simulation gets its numbers from the seed; all other
//! threads still ask the kernel.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use std::cell::RefCell;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on this thread gets its randomness from the seed. To be called before anything on the thread used any.
pub(crate) fn seed_thread(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// getrandom(2), as libc declares it.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes.
// SAFETY: the name and the signature are those of libc, whose function this replaces in the whole program.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    // SAFETY: the caller promises that the buffer is valid for writes of its length.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, length) };
    let seeded = SEEDED.try_with(|seeded| match seeded.try_borrow_mut() {
        Ok(mut seeded) => seeded.as_mut().map(|random| random.fill_bytes(bytes)).is_some(),
        Err(_) => false,
    });
    if seeded == Ok(true) {
        return length as isize;
    }
    // SAFETY: the arguments are passed on as they came.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize }
}
