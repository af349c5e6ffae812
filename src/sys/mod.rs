//! Safe wrappers over the kernel. The only place with `unsafe` code, and nothing here knows a pod or tokio.
//!
//! The calls block, but none waits for another process: only [`cgroup::Version::remove`], [`process::end`] and the
//! waits that say so by their name may take longer than a moment.

pub mod caps;
pub mod cgroup;
pub mod children;
pub mod connection;
pub mod exec;
pub mod fds;
pub mod fork;
pub mod link;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod pipe;
pub mod process;
pub mod rootfs;
pub mod sealed;
pub mod seqpacket;
pub mod shared;
pub mod spawn;
pub mod terminal;

use std::{fs, io};

/// The kernel's id of this boot (random(4)).
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_boot_id_is_a_uuid_and_stays() {
        let id = super::boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id, super::boot_id().unwrap());
    }
}
