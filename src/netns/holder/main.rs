//! The holder: process 1 of a PID namespace that the containers of a pod share.
//!
//! It ignores SIGCHLD, so that the kernel reaps every orphan of the pod (sigaction(2), `SA_NOCLDWAIT`), and
//! sleeps. As process 1 it gets no signal that it does not handle, so it ends by SIGKILL only.

#![no_std]
#![no_main]
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod arch {
    pub const RT_SIGACTION: usize = 13;
    pub const PPOLL: usize = 271;
}
#[cfg(target_arch = "aarch64")]
mod arch {
    pub const RT_SIGACTION: usize = 134;
    pub const PPOLL: usize = 73;
}

const SIGCHLD: usize = 17;
const SIG_IGN: usize = 1;

/// The kernel's `struct sigaction`: handler, flags, restorer (x86 only), mask.
#[repr(C)]
struct Sigaction([usize; 4]);

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start: and rsp, -16", "call {main}", main = sym hold);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start: bl {main}", main = sym hold);

extern "C" fn hold() -> ! {
    let ignore = Sigaction([SIG_IGN, 0, 0, 0]);
    syscall(arch::RT_SIGACTION, [SIGCHLD, (&raw const ignore) as usize, 0, 8, 0]);
    loop {
        // No descriptors, no timeout: sleeps until a signal, and only SIGKILL can come.
        syscall(arch::PPOLL, [0, 0, 0, 0, 0]);
    }
}

#[cfg(target_arch = "x86_64")]
fn syscall(number: usize, a: [usize; 5]) -> usize {
    let result;
    // SAFETY: the two calls made here read only the `Sigaction` on the caller's stack, which outlives the call.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
             in("r10") a[3], in("r8") a[4], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn syscall(number: usize, a: [usize; 5]) -> usize {
    let result;
    // SAFETY: the two calls made here read only the `Sigaction` on the caller's stack, which outlives the call.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a[0] => result, in("x1") a[1], in("x2") a[2],
             in("x3") a[3], in("x4") a[4], options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
