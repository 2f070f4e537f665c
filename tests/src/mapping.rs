//! Shared mappings of files. The one place of these tests with raw memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};

/// A mapping of a file's first bytes, for reading and writing. The file must not be cut below its length meanwhile, and its
/// cluster must stay: the kernel answers an access that it cannot serve with SIGBUS.
pub struct Mapping {
    at: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: it is memory that no thread owns; each access copies, as with a file.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of a file that is open for reading and writing.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new(file: &File, len: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses touches no other memory.
        let at =
            unsafe { libc::mmap(ptr::null_mut(), len, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: NonNull::new(at).expect("a mapping is not at 0"), len })
    }

    /// A copy of some bytes, as they are now.
    ///
    /// # Panics
    /// When they are not all within the mapping.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len, "{offset}+{len} is outside of the mapping");
        let from = self.at.cast::<u8>();
        // SAFETY: within the mapping. Volatile, since the bytes change without the compiler's knowledge.
        (offset..offset + len).map(|i| unsafe { from.add(i).read_volatile() }).collect()
    }

    /// Changes some bytes.
    ///
    /// # Panics
    /// When they are not all within the mapping.
    pub fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.len, "{offset}+{} is outside of the mapping", data.len());
        let to = self.at.cast::<u8>();
        for (i, byte) in data.iter().enumerate() {
            // SAFETY: within the mapping, which is writable.
            unsafe { to.add(offset + i).write_volatile(*byte) };
        }
    }

    /// Brings the changes to the file: msync(2) with MS_SYNC.
    ///
    /// # Errors
    /// As msync(2).
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: exactly the mapping.
        match unsafe { libc::msync(self.at.as_ptr(), self.len, libc::MS_SYNC) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping, to which no reference exists.
        unsafe { libc::munmap(self.at.as_ptr(), self.len) };
    }
}
