//! Capabilities: those this process holds, those the kernel knows, and how a thread gives them up.
#![allow(unsafe_code)]

use std::{fs, io};

/// The names of capabilities 0 to 40, in the kernel's order (include/uapi/linux/capability.h).
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// What a process may do, and could at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub effective: Vec<&'static str>,
    pub bounding: Vec<&'static str>,
}

impl Held {
    /// Whether `cap` (`CAP_…`) is in the effective set.
    pub fn has(&self, cap: &str) -> bool {
        self.effective.contains(&cap)
    }
}

/// The capabilities of this process.
pub fn held() -> io::Result<Held> {
    parse_status(&fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status names no capability sets"))
}

/// Every capability that the running kernel has and berth knows by name, in the kernel's order.
pub fn known() -> io::Result<Vec<&'static str>> {
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap")?;
    let last: usize = last.trim().parse().map_err(io::Error::other)?;
    Ok(NAMES.iter().take(last + 1).copied().collect())
}

/// The bit of a capability (`CAP_…`) in the kernel's sets. None: none that is known here.
pub fn bit(name: &str) -> Option<u64> {
    let number = NAMES.iter().position(|known| *known == name)?;
    Some(1 << number)
}

/// Leaves this thread, and no other of the process, with those of `keep` that it has: effective and permitted, and so
/// for good. What it might inherit or pass on to a program is dropped whole (capabilities(7)).
pub fn keep_on_this_thread(keep: &[&str]) -> io::Result<()> {
    let mut header = Header::of_this_thread();
    let mut sets = [Sets::default(), Sets::default()];
    // SAFETY: the kernel reads the header and writes two sets, which is what the version stands for.
    nix::errno::Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    let keep = keep.iter().filter_map(|name| bit(name)).fold(0, |bits, bit| bits | bit);
    let [low, high] = sets.map(|sets| sets.permitted);
    let kept = (u64::from(high) << 32 | u64::from(low)) & keep;
    set(kept, kept, 0)
}

/// Sets three of this thread's sets, a bit for each capability in the kernel's order (capset(2)).
pub fn set(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    let half = |shift: u32| {
        let word = |set: u64| (set >> shift) as u32;
        Sets {
            effective: word(effective),
            permitted: word(permitted),
            inheritable: word(inheritable),
        }
    };
    let (mut header, sets) = (Header::of_this_thread(), [half(0), half(32)]);
    // SAFETY: the kernel reads the header and two sets, which is what the version stands for.
    nix::errno::Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })?;
    Ok(())
}

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// Of two words of 32 for each set, one.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Header {
    fn of_this_thread() -> Self {
        /// `_LINUX_CAPABILITY_VERSION_3` (capget(2)).
        const VERSION: u32 = 0x2008_0522;
        Self {
            version: VERSION,
            pid: 0,
        }
    }
}

fn parse_status(status: &str) -> Option<Held> {
    let set = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(names(u64::from_str_radix(line.trim(), 16).ok()?))
    };
    Some(Held {
        effective: set("CapEff:")?,
        bounding: set("CapBnd:")?,
    })
}

fn names(bits: u64) -> Vec<&'static str> {
    let held = |(number, _): &(usize, &&str)| bits & (1 << number) != 0;
    NAMES.iter().enumerate().filter(held).map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_read_bit_by_bit() {
        let held =
            parse_status("Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000000000001001\nCapBnd:\t000001ffffffffff\n");
        let held = held.unwrap();
        assert_eq!(held.effective, ["CAP_CHOWN", "CAP_NET_ADMIN"]);
        assert_eq!(held.bounding.len(), NAMES.len());
        assert!(held.has("CAP_NET_ADMIN") && !held.has("CAP_KILL"));
    }

    #[test]
    fn a_thread_gives_up_what_it_does_not_keep_and_no_other_thread_does() {
        let of_thread = || parse_status(&fs::read_to_string("/proc/thread-self/status").unwrap()).unwrap();
        let before = of_thread();
        let inside = std::thread::spawn(move || {
            keep_on_this_thread(&["CAP_DAC_OVERRIDE", "CAP_BPF"]).unwrap();
            let refused = nix::unistd::chroot("/").unwrap_err();
            (of_thread(), refused)
        });
        let (kept, refused) = inside.join().unwrap();
        assert!(before.has("CAP_SYS_CHROOT"), "the tests run as root");
        assert_eq!(kept.effective, ["CAP_DAC_OVERRIDE", "CAP_BPF"]);
        assert_eq!(refused, nix::errno::Errno::EPERM);
        assert_eq!(of_thread(), before);
    }

    #[test]
    fn a_status_without_sets_is_refused() {
        assert_eq!(parse_status("CapEff:\tzz\nCapBnd:\t0\n"), None);
        assert_eq!(parse_status(""), None);
    }

    #[test]
    fn this_process_holds_no_capability_that_the_kernel_does_not_know() {
        let known = known().unwrap();
        let held = held().unwrap();
        assert!(known.len() >= 38);
        assert!(
            held.effective
                .iter()
                .chain(&held.bounding)
                .all(|cap| known.contains(cap))
        );
    }
}
