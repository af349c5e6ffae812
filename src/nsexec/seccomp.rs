//! A seccomp filter from OCI's description, the same that runc makes: libseccomp's, and before it the answer ENOSYS to
//! system calls that are newer than any that the description names, so that programs fall back to older ones.
//!
//! Making a filter takes libseccomp up to 12 ms, and all containers of a node mostly share one description: it is made
//! once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::Unsuited;
use crate::sys::sealed;

/// The bytes of an instruction of the kernel's packet filter language (`struct sock_filter`).
pub const INSTRUCTION: usize = 8;

/// A filter, ready for the kernel.
#[derive(Debug)]
pub struct Filter {
    /// Its instructions, sealed.
    pub file: File,
    /// What it is set with (seccomp(2)).
    pub flags: u32,
}

/// The filter for a description; the same one for whoever still has it.
pub fn shared(seccomp: &LinuxSeccomp) -> Result<Arc<Filter>, Unsuited> {
    static MADE: Mutex<Option<HashMap<Vec<u8>, Weak<Filter>>>> = Mutex::new(None);
    let key = serde_json::to_vec(seccomp).map_err(unsuited("a seccomp profile"))?;
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let made = made.get_or_insert_default();
    if let Some(filter) = made.get(&key).and_then(Weak::upgrade) {
        return Ok(filter);
    }
    let filter = Arc::new(Filter {
        file: sealed::bytes(c"seccomp", &compile(seccomp)?).map_err(unsuited("a seccomp filter"))?,
        flags: flags(seccomp)?,
    });
    made.retain(|_, filter| filter.strong_count() > 0);
    made.insert(key, Arc::downgrade(&filter));
    Ok(filter)
}

fn flags(seccomp: &LinuxSeccomp) -> Result<u32, Unsuited> {
    let flags = seccomp.flags().iter().flatten().map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => Ok(libc::SECCOMP_FILTER_FLAG_LOG),
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Ok(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW),
        // There is one thread.
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(0),
        other => Err(Unsuited(format!("the seccomp flag {other:?}"))),
    });
    let flags = flags.collect::<Result<Vec<_>, _>>()?;
    Ok(flags.into_iter().fold(0, |all, flag| all | flag as u32))
}

fn unsuited<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Unsuited + use<'_, E> {
    move |error| Unsuited(format!("{what} ({error})"))
}

/// The instructions, as bytes.
fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<u8>, Unsuited> {
    if seccomp.listener_path().is_some() {
        return Err(Unsuited("a seccomp agent (listenerPath)".to_owned()));
    }
    let default = action(seccomp.default_action(), seccomp.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(unsuited("a seccomp filter"))?;
    for arch in seccomp.architectures().iter().flatten() {
        filter
            .add_arch(architecture(*arch)?)
            .map_err(unsuited("a seccomp filter"))?;
    }
    for rule in seccomp.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            continue;
        }
        for name in rule.names() {
            // One that this libseccomp does not know is one that the kernel has not, or that the default answers.
            let Ok(call) = ScmpSyscall::from_name(name) else {
                continue;
            };
            let args = rule.args().as_deref().unwrap_or_default();
            add(&mut filter, action, call, args).map_err(unsuited("a seccomp filter"))?;
        }
    }
    let file = memfd_create(c"seccomp", MFdFlags::MFD_CLOEXEC).map_err(unsuited("a seccomp filter"))?;
    filter.export_bpf(&file).map_err(unsuited("a seccomp filter"))?;
    let (mut file, mut exported) = (File::from(file), Vec::new());
    file.rewind()
        .and_then(|()| file.read_to_end(&mut exported))
        .map_err(unsuited("a seccomp filter"))?;
    let mut whole = newer(seccomp)?;
    whole.extend(exported);
    Ok(whole)
}

/// Conditions on the same argument mean that any of them may hold, others that all must; so runc reads them.
fn add(
    filter: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    args: &[LinuxSeccompArg],
) -> Result<(), libseccomp::error::SeccompError> {
    let compare: Vec<_> = args.iter().map(comparison).collect();
    let repeated = (0..6).any(|index| args.iter().filter(|arg| arg.index() == index).count() > 1);
    if args.is_empty() {
        filter.add_rule(action, call)?;
    } else if repeated {
        for one in compare {
            filter.add_rule_conditional(action, call, &[one])?;
        }
    } else {
        filter.add_rule_conditional(action, call, &compare)?;
    }
    Ok(())
}

fn comparison(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    let (operator, datum) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or(0))
        }
    };
    ScmpArgCompare::new(u32::try_from(arg.index()).unwrap_or(u32::MAX), operator, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Unsuited> {
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(errno.cast_signed()),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(errno).unwrap_or(u16::MAX)),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => return Err(Unsuited("a seccomp agent".to_owned())),
    })
}

fn architecture(arch: Arch) -> Result<ScmpArch, Unsuited> {
    let name = match arch {
        Arch::ScmpArchNative => "SCMP_ARCH_NATIVE",
        Arch::ScmpArchX86 => "SCMP_ARCH_X86",
        Arch::ScmpArchX86_64 => "SCMP_ARCH_X86_64",
        Arch::ScmpArchX32 => "SCMP_ARCH_X32",
        Arch::ScmpArchArm => "SCMP_ARCH_ARM",
        Arch::ScmpArchAarch64 => "SCMP_ARCH_AARCH64",
        Arch::ScmpArchPpc64le => "SCMP_ARCH_PPC64LE",
        Arch::ScmpArchRiscv64 => "SCMP_ARCH_RISCV64",
        other => return Err(Unsuited(format!("the architecture {other:?} of a seccomp profile"))),
    };
    name.parse().map_err(unsuited("an architecture of a seccomp profile"))
}

// ---- system calls that are too new

/// `SCMP_ARCH_X32` calls by x86-64's means, with this bit in the number (syscall(2)).
const X32: u32 = 1 << 30;

// The packet filter language, as linux/bpf_common.h has it.
const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
// Where `struct seccomp_data` has them.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS.cast_unsigned();

/// Instructions that answer ENOSYS for calls beyond the last one that the description names, by architecture. All
/// others go on behind them.
fn newer(seccomp: &LinuxSeccomp) -> Result<Vec<u8>, Unsuited> {
    let permissive = matches!(
        seccomp.default_action(),
        LinuxSeccompAction::ScmpActAllow | LinuxSeccompAction::ScmpActLog
    );
    if permissive || seccomp.default_errno_ret() == Some(libc::ENOSYS.cast_unsigned()) {
        return Ok(Vec::new());
    }
    let mut blocks = Vec::new();
    for arch in seccomp.architectures().iter().flatten() {
        let scmp = architecture(*arch)?;
        let names = seccomp.syscalls().iter().flatten().flat_map(|rule| rule.names());
        let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, scmp).ok());
        let last = numbers.map(i32::from).filter(|number| *number > 0).max();
        let Some(last) = last.map(i32::cast_unsigned) else {
            continue;
        };
        // OCI's numbers are the kernel's (AUDIT_ARCH_…), but for x32, which it tells by the bit in the number alone.
        let (audit, x32) = match arch {
            Arch::ScmpArchX32 => (Arch::ScmpArchX86_64 as u32, Some(true)),
            Arch::ScmpArchX86_64 => (*arch as u32, Some(false)),
            Arch::ScmpArchNative => match std::env::consts::ARCH {
                "x86_64" => (Arch::ScmpArchX86_64 as u32, Some(false)),
                "aarch64" => (Arch::ScmpArchAarch64 as u32, None),
                _ => continue,
            },
            other => (*other as u32, None),
        };
        blocks.push(block(audit, x32, last));
    }
    let mut code = vec![(LOAD, 0, 0, ARCHITECTURE)];
    code.extend(blocks.concat());
    match code.len() {
        1 => Ok(Vec::new()),
        _ => Ok(code.into_iter().flat_map(bytes).collect()),
    }
}

type Instruction = (u16, u8, u8, u32);

/// One architecture's. It begins and ends with the architecture loaded.
fn block(audit: u32, x32: Option<bool>, last: u32) -> Vec<Instruction> {
    // The last two: the answer, and what is loaded for the next block.
    let mut tail = vec![(RETURN, 0, 0, ENOSYS), (LOAD, 0, 0, ARCHITECTURE)];
    tail.insert(0, (JUMP_GREATER, 0, 1, last));
    match x32 {
        // To the next block if the bit is, or is not, there.
        Some(false) => tail.insert(0, (JUMP_ANY_BIT, 2, 0, X32)),
        Some(true) => tail.insert(0, (JUMP_ANY_BIT, 0, 2, X32)),
        None => {}
    }
    let skip = u8::try_from(tail.len() + 1).expect("a block is short");
    let mut block = vec![(JUMP_EQUAL, 0, skip, audit), (LOAD, 0, 0, NUMBER)];
    block.append(&mut tail);
    block
}

fn bytes((code, yes, no, k): Instruction) -> [u8; INSTRUCTION] {
    let (code, k) = (code.to_ne_bytes(), k.to_ne_bytes());
    [code[0], code[1], yes, no, k[0], k[1], k[2], k[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = 0x7fff_0000;
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;

    fn seccomp(text: &str) -> LinuxSeccomp {
        serde_json::from_str(text).unwrap()
    }

    /// What the filter answers for a call with these arguments: the part of the language that filters use.
    fn answer(filter: &[u8], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        let mut data = [number.to_ne_bytes(), arch.to_ne_bytes(), [0; 4], [0; 4]].concat();
        args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
        let (mut at, mut loaded) = (0, 0_u32);
        loop {
            let code = &filter[at * INSTRUCTION..][..INSTRUCTION];
            let (operation, yes, no) = (u16::from_ne_bytes([code[0], code[1]]), code[2], code[3]);
            let k = u32::from_ne_bytes(code[4..].try_into().unwrap());
            let jump = |taken: bool| usize::from(if taken { yes } else { no });
            at += 1 + match operation {
                LOAD => {
                    loaded = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap());
                    0
                }
                RETURN => return k,
                0x05 => k as usize,
                JUMP_EQUAL => jump(loaded == k),
                JUMP_GREATER => jump(loaded > k),
                0x35 => jump(loaded >= k),
                JUMP_ANY_BIT => jump(loaded & k != 0),
                0x54 => {
                    loaded &= k;
                    0
                }
                other => panic!("instruction {other:#x}"),
            };
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_filter_answers_as_its_description_says() {
        let filter = compile(&seccomp(
            r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "syscalls": [
                {"names": ["read", "write", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
                {"names": ["personality"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
                {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#,
        ));
        let filter = filter.unwrap();
        let call = |number: libc::c_long, first| answer(&filter, X86_64, number as u32, [first, 0, 0, 0, 0, 0]);
        let errno = |errno: i32| 0x0005_0000 | errno as u32;
        assert_eq!((call(libc::SYS_read, 0), call(libc::SYS_write, 9)), (ALLOW, ALLOW));
        assert_eq!(
            (call(libc::SYS_open, 0), call(libc::SYS_mount, 0)),
            (errno(libc::EPERM), errno(libc::ENOSYS))
        );
        let personality = [0, 8, 1].map(|value| call(libc::SYS_personality, value));
        assert_eq!(personality, [ALLOW, ALLOW, errno(libc::EPERM)]);
        let clone = [0x11, 0x1000_0000].map(|flags| call(libc::SYS_clone, flags));
        assert_eq!(clone, [ALLOW, errno(libc::EPERM)]);
        // Newer than all that is named: mount is the last, 165 there and 21 on i386, where personality is, 136.
        assert_eq!(call(libc::SYS_swapon, 0), errno(libc::ENOSYS));
        assert_eq!(answer(&filter, I386, 3, [0; 6]), ALLOW);
        assert_eq!(answer(&filter, I386, 137, [0; 6]), errno(libc::ENOSYS));
        // x32 is not among the architectures.
        assert_ne!(answer(&filter, X86_64, X32, [0; 6]), ALLOW);
        assert_ne!(answer(&filter, 0x4000_0028, 3, [0; 6]), ALLOW);
    }

    #[test]
    fn a_permissive_filter_lets_new_calls_through() {
        let filter = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#;
        assert!(newer(&seccomp(filter)).unwrap().is_empty());
    }

    #[test]
    fn one_description_is_one_filter_for_as_long_as_somebody_has_it() {
        let description = seccomp(r#"{"defaultAction": "SCMP_ACT_LOG", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#);
        let one = shared(&description).unwrap();
        assert!(Arc::ptr_eq(&one, &shared(&description).unwrap()));
        assert_eq!(one.flags, libc::SECCOMP_FILTER_FLAG_LOG as u32);
    }
}
