//! Looking into an image's root file system without attaching it anywhere.
//!
//! [`open`] makes of a snapshot's mounts a descriptor of a root that no mount namespace of the host shows, so that a
//! killed berth leaves no mount behind. [`read_in`] reads a file below it, and a hostile image's symbolic links,
//! devices and pipes lead nowhere.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open as open_path, openat2};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use super::namespace::on_a_thread;

/// A mount as containerd's snapshotters describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub fs_type: String,
    pub source: String,
    pub options: Vec<String>,
}

/// The root directory that `mounts` describe, to be read only. They are one overlay or one bind mount.
pub fn open(mounts: &[Mount]) -> io::Result<OwnedFd> {
    match layers(mounts)?.as_slice() {
        [only] => open_directory(only),
        layers => match overlay(layers) {
            // Linux before 6.7 knows no `lowerdir+`, before 5.2 no fsopen.
            Err(Errno::EINVAL | Errno::ENOSYS) => overlay_in_passing(layers),
            result => Ok(result?),
        },
    }
}

/// At most `limit` bytes of the regular file `path` below `root`, taken as that tree's `/`. None: there is none.
/// Another kind of file, or a longer one, is an error.
pub fn read_in(root: impl AsFd, path: impl AsRef<Path>, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let found = match resolve(root.as_fd(), path.as_ref()) {
        Ok(found) => File::from(found),
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Opening a device or a pipe may block or have effects, so look (O_PATH) before opening.
    if !found.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
    }
    let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(Some(bytes))
}

/// The layers of `mounts`, uppermost first.
fn layers(mounts: &[Mount]) -> io::Result<Vec<String>> {
    let unreadable = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let [mount] = mounts else {
        return Err(unreadable(format!(
            "a snapshot of {} mounts, where one is expected",
            mounts.len()
        )));
    };
    let option = |key: &str| mount.options.iter().find_map(|option| option.strip_prefix(key));
    match mount.fs_type.as_str() {
        "bind" => Ok(vec![mount.source.clone()]),
        "overlay" => {
            let lower = option("lowerdir=").ok_or_else(|| unreadable("an overlay without lowerdir".into()))?;
            let upper = option("upperdir=").into_iter();
            Ok(upper.chain(lower.split(':')).map(str::to_owned).collect())
        }
        other => Err(unreadable(format!(
            "a snapshot mounted as {other:?}, which is neither overlay nor bind"
        ))),
    }
}

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(open_path(path, flags, Mode::empty())?)
}

/// `path` below `root`, opened as a place only.
fn resolve(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(root.as_fd(), path, how) {
            // A rename elsewhere in the system raced with a `..` (openat2(2)).
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// A detached overlay of `layers`. With lower layers only it is read-only and needs no work directory.
fn overlay(layers: &[String]) -> Result<OwnedFd, Errno> {
    let context = fsopen(c"overlay")?;
    for layer in layers {
        let layer = CString::new(layer.as_str()).map_err(|_| Errno::EINVAL)?;
        fsconfig(
            &context,
            libc::FSCONFIG_SET_STRING,
            c"lowerdir+".as_ptr(),
            layer.as_ptr(),
        )?;
    }
    fsconfig(&context, libc::FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    let attributes =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    // SAFETY: fsmount(2) reads no memory of ours; `context` is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    };
    own(result)
}

/// Mounts at `path` an overlay whose options are longer than mount(2) takes: its layers are told one by one, which
/// takes Linux 6.7.
pub(super) fn mount_overlay(data: &str, flags: MsFlags, path: &Path) -> Result<(), Errno> {
    let string = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
    let context = fsopen(c"overlay")?;
    for option in data.split(',') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let layers: Vec<_> = if key == "lowerdir" {
            value.split(':').collect()
        } else {
            vec![value]
        };
        let key = string(if key == "lowerdir" { "lowerdir+" } else { key })?;
        let command = if value.is_empty() {
            libc::FSCONFIG_SET_FLAG
        } else {
            libc::FSCONFIG_SET_STRING
        };
        for value in layers {
            let value = string(value)?;
            let value = if command == libc::FSCONFIG_SET_FLAG {
                ptr::null()
            } else {
                value.as_ptr()
            };
            fsconfig(&context, command, key.as_ptr(), value)?;
        }
    }
    fsconfig(&context, libc::FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
    let attributes = [
        (MsFlags::MS_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MsFlags::MS_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MsFlags::MS_NODEV, libc::MOUNT_ATTR_NODEV),
        (MsFlags::MS_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ];
    let wanted = attributes.iter().filter(|(flag, _)| flags.contains(*flag));
    let attributes = wanted.fold(0, |all, (_, attribute)| all | attribute);
    // SAFETY: fsmount(2) reads no memory of ours; `context` is open.
    let mounted = own(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes,
        )
    })?;
    let path = CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: move_mount(2) reads two strings that end in NUL and outlive the call.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mounted.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(moved).map(drop)
}

fn fsopen(fs_type: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    // SAFETY: fsopen(2) reads a string that ends in NUL and outlives the call.
    own(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// fsconfig(2) with an optional key and value, which must be NULL or strings that end in NUL.
fn fsconfig(
    context: &OwnedFd,
    command: libc::c_uint,
    key: *const libc::c_char,
    value: *const libc::c_char,
) -> Result<(), Errno> {
    // SAFETY: the callers above pass NULL or C strings that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, key, value, 0) };
    Errno::result(result).map(drop)
}

fn own(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)? as RawFd;
    // SAFETY: the kernel has just made `fd` for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same overlay for older kernels: mounted by a thread in a mount namespace of its own, which ends with the
/// thread; the descriptor keeps the mount alive.
fn overlay_in_passing(layers: &[String]) -> io::Result<OwnedFd> {
    let options = format!("lowerdir={}", layers.join(":"));
    let work = || -> io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        // Nothing done here may show outside.
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let place = layers[0].as_str();
        mount(Some("overlay"), place, Some("overlay"), flags, Some(options.as_str()))?;
        open_directory(place)
    };
    on_a_thread(work)?
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// An overlay of two layers, with a file in each, one of the lower one hidden.
    fn overlaid(dir: &Path) -> Vec<Mount> {
        let (lower, upper) = (dir.join("lower"), dir.join("upper"));
        for path in [lower.join("etc"), upper.join("etc"), dir.join("base")] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(lower.join("etc/passwd"), "lower").unwrap();
        fs::write(upper.join("etc/passwd"), "upper").unwrap();
        fs::write(lower.join("etc/group"), "group").unwrap();
        vec![Mount {
            fs_type: "overlay".into(),
            source: "overlay".into(),
            options: vec![
                "index=off".into(),
                format!("workdir={}", dir.join("work").display()),
                format!("upperdir={}", upper.display()),
                format!("lowerdir={}:{}", lower.display(), dir.join("base").display()),
            ],
        }]
    }

    fn bound(dir: &Path) -> OwnedFd {
        let mount = Mount {
            fs_type: "bind".into(),
            source: dir.display().to_string(),
            options: vec!["rbind".into(), "ro".into()],
        };
        open(&[mount]).unwrap()
    }

    fn text(root: &OwnedFd, path: &str) -> Option<String> {
        read_in(root, path, 4096)
            .unwrap()
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_overlay_is_read_through_without_being_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let root = open(&overlaid(dir.path())).unwrap();
        assert!(
            !fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(dir.path().to_str().unwrap())
        );
        assert_eq!(text(&root, "etc/passwd").as_deref(), Some("upper"));
        assert_eq!(text(&root, "/etc/group").as_deref(), Some("group"));
        assert_eq!(text(&root, "etc/shadow"), None);
    }

    #[test]
    fn an_older_kernel_gets_the_same_by_another_way() {
        let dir = tempfile::tempdir().unwrap();
        let root = overlay_in_passing(&layers(&overlaid(dir.path())).unwrap()).unwrap();
        assert_eq!(text(&root, "etc/passwd").as_deref(), Some("upper"));
        assert_eq!(text(&root, "etc/group").as_deref(), Some("group"));
        assert!(
            !fs::read_to_string("/proc/self/mountinfo")
                .unwrap()
                .contains(dir.path().to_str().unwrap())
        );
    }

    #[test]
    fn many_layers_with_long_names_are_no_trouble() {
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..100).map(|n| dir.path().join(format!("{n:0>30}"))).collect();
        for (n, layer) in layers.iter().enumerate() {
            fs::create_dir(layer).unwrap();
            fs::write(layer.join(format!("file{n}")), n.to_string()).unwrap();
        }
        let lower: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
        let mount = Mount {
            fs_type: "overlay".into(),
            source: "overlay".into(),
            options: vec![format!("lowerdir={}", lower.join(":"))],
        };
        let root = open(&[mount]).unwrap();
        assert_eq!(text(&root, "file0").as_deref(), Some("0"));
        assert_eq!(text(&root, "file99").as_deref(), Some("99"));
    }

    #[test]
    fn links_never_leave_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        fs::write(root.join("inside"), "inside").unwrap();
        symlink("../../../../secret", root.join("etc/up")).unwrap();
        symlink(dir.path().join("secret"), root.join("etc/absolute")).unwrap();
        symlink("/inside", root.join("etc/rooted")).unwrap();
        symlink("loop", root.join("etc/loop")).unwrap();
        let root = bound(&root);
        assert_eq!(text(&root, "etc/up"), None);
        assert_eq!(text(&root, "etc/absolute"), None);
        assert_eq!(text(&root, "../secret"), None);
        assert_eq!(text(&root, "etc/rooted").as_deref(), Some("inside"));
        assert!(read_in(&root, "etc/loop", 10).is_err());
    }

    #[test]
    fn pipes_devices_and_directories_are_refused_without_being_opened() {
        let dir = tempfile::tempdir().unwrap();
        mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
        fs::create_dir(dir.path().join("directory")).unwrap();
        let root = bound(dir.path());
        for name in ["pipe", "directory"] {
            let error = read_in(&root, name, 10).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}");
        }
        let error = read_in(bound(Path::new("/dev")), "zero", 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "0123456789").unwrap();
        let root = bound(dir.path());
        assert_eq!(read_in(&root, "file", 10).unwrap().unwrap().len(), 10);
        assert_eq!(
            read_in(&root, "file", 9).unwrap_err().kind(),
            io::ErrorKind::FileTooLarge
        );
    }

    #[test]
    fn other_mounts_are_refused() {
        let mount = |fs_type: &str| Mount {
            fs_type: fs_type.into(),
            source: "x".into(),
            options: vec![],
        };
        assert!(open(&[]).is_err());
        assert!(open(&[mount("bind"), mount("bind")]).is_err());
        assert!(open(&[mount("ext4")]).is_err());
        assert!(open(&[mount("overlay")]).is_err());
    }
}
