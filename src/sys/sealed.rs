//! Programs and data in files of memory that nobody can change any more (memfd_create(2), F_ADD_SEALS).

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Seek, Write};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// As `linux/memfd.h` has it: the file may be executed, whatever vm.memfd_noexec says (below 2). Since Linux 6.3.
const MFD_EXEC: u32 = 0x10;

/// A copy of the program that this process runs, which neither it nor anybody who meets it can write to.
///
/// # Errors
/// `PermissionDenied` where vm.memfd_noexec (sysctl(8)) is 2: no file of memory may be executed.
pub fn own_program(name: &CStr) -> io::Result<File> {
    let mut program = File::open("/proc/self/exe")?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let made = memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_EXEC));
    let made = match made {
        // An older kernel, where each may be executed.
        Err(Errno::EINVAL) => memfd_create(name, flags),
        made => made,
    };
    let mut copy = File::from(made?);
    io::copy(&mut program, &mut copy)?;
    seal(&copy)?;
    Ok(copy)
}

/// Some bytes, for whoever gets the descriptor to read.
pub fn bytes(name: &CStr, bytes: &[u8]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(bytes)?;
    file.rewind()?;
    seal(&file)?;
    Ok(file)
}

fn seal(file: &File) -> io::Result<()> {
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    #[test]
    fn what_is_sealed_is_whole_and_stays() {
        let mut file = bytes(c"test", b"some bytes").unwrap();
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!(read, "some bytes");
        assert!(file.write_at(b"x", 0).is_err() && file.set_len(0).is_err());
        let program = own_program(c"program").unwrap();
        assert_eq!(
            program.metadata().unwrap().size(),
            std::fs::metadata("/proc/self/exe").unwrap().size()
        );
        assert!(program.write_at(b"x", 0).is_err());
    }
}
