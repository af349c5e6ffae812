//! The C library's allocator (mallopt(3), malloc_trim(3)): a daemon that mostly waits should not keep what a burst of
//! work needed.

#![allow(unsafe_code)]

/// Keeps the allocator frugal: at most so many arenas. glibc makes up to eight per core, each of which keeps its own
/// free memory. To be called before the first thread is started.
pub fn be_frugal(arenas: u8) {
    // SAFETY: mallopt only sets a parameter of the allocator.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas.into());
    }
}

/// Gives free memory back to the kernel, after work that needed much.
pub fn give_back() {
    // SAFETY: malloc_trim only releases pages that hold no allocation.
    unsafe {
        libc::malloc_trim(0);
    }
}
