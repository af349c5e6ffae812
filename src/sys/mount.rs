//! Mounts that berth makes in the host's mount namespace.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::rootfs::Mount;

/// Mounts a tmpfs of at most `size` bytes at the directory `path`; its root has the permissions `mode`.
pub fn tmpfs(path: &Path, size: u64, mode: u32) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = format!("size={size},mode={mode:o}");
    Ok(mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )?)
}

/// Makes `path` show what `source` is. Both must exist, and be both directories or both not.
pub fn bind(source: &Path, path: &Path) -> io::Result<()> {
    Ok(mount(Some(source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Options that are flags of the mount (mount(8)), and whether each sets its flag or clears it.
const FLAGS: [(&str, MsFlags, bool); 24] = [
    ("async", MsFlags::MS_SYNCHRONOUS, false),
    ("atime", MsFlags::MS_NOATIME, false),
    ("bind", MsFlags::MS_BIND, true),
    ("defaults", MsFlags::empty(), true),
    ("dev", MsFlags::MS_NODEV, false),
    ("diratime", MsFlags::MS_NODIRATIME, false),
    ("dirsync", MsFlags::MS_DIRSYNC, true),
    ("exec", MsFlags::MS_NOEXEC, false),
    ("mand", MsFlags::MS_MANDLOCK, true),
    ("noatime", MsFlags::MS_NOATIME, true),
    ("nodev", MsFlags::MS_NODEV, true),
    ("nodiratime", MsFlags::MS_NODIRATIME, true),
    ("noexec", MsFlags::MS_NOEXEC, true),
    ("nomand", MsFlags::MS_MANDLOCK, false),
    ("norelatime", MsFlags::MS_RELATIME, false),
    ("nostrictatime", MsFlags::MS_STRICTATIME, false),
    ("nosuid", MsFlags::MS_NOSUID, true),
    ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), true),
    ("relatime", MsFlags::MS_RELATIME, true),
    ("ro", MsFlags::MS_RDONLY, true),
    ("rw", MsFlags::MS_RDONLY, false),
    ("strictatime", MsFlags::MS_STRICTATIME, true),
    ("suid", MsFlags::MS_NOSUID, false),
    ("sync", MsFlags::MS_SYNCHRONOUS, true),
];

/// Mounts what a snapshotter of containerd's describes at the directory `path`.
pub fn filesystem(wanted: &Mount, path: &Path) -> io::Result<()> {
    let (flags, data) = options(&wanted.options);
    if flags.contains(MsFlags::MS_BIND) || wanted.fs_type == "bind" {
        let bind = (flags & MsFlags::MS_REC) | MsFlags::MS_BIND;
        mount(Some(wanted.source.as_str()), path, None::<&str>, bind, None::<&str>)?;
        let others = flags - MsFlags::MS_BIND - MsFlags::MS_REC;
        if !others.is_empty() {
            // A bind mount takes its flags at a second step only (mount(2)).
            let again = others | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
            mount(None::<&str>, path, None::<&str>, again, None::<&str>)?;
        }
        return Ok(());
    }
    if wanted.fs_type == "overlay" && data.len() >= MAX_DATA {
        return Ok(super::rootfs::mount_overlay(&data, flags, path)?);
    }
    let fs_type = Some(wanted.fs_type.as_str());
    Ok(mount(
        Some(wanted.source.as_str()),
        path,
        fs_type,
        flags,
        Some(data.as_str()),
    )?)
}

/// The data of mount(2) is a page at most.
const MAX_DATA: usize = 4096;

fn options(options: &[String]) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options {
        match FLAGS.iter().find(|(name, ..)| name == option) {
            Some((_, flag, true)) => flags |= *flag,
            Some((_, flag, false)) => flags -= *flag,
            None => data.push(option.as_str()),
        }
    }
    (flags, data.join(","))
}

/// Makes the directory `path` a mount point of its own that shares its mounts with other mount namespaces.
pub fn share(path: &Path) -> io::Result<()> {
    let share = || {
        mount(
            None::<&str>,
            path,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        // Not a mount point yet (mount(2)).
        Err(Errno::EINVAL) => {
            mount(
                Some(path),
                path,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        result => Ok(result?),
    }
}

/// Detaches whatever is mounted at `path`, once for each mount stacked there. Fine when nothing is, or when `path`
/// does not exist.
pub fn unmount(path: &Path) -> io::Result<()> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether something is mounted at `path` itself (which must be absolute and free of symbolic links).
pub fn is_mounted(path: &Path) -> io::Result<bool> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(parse_mountinfo(&String::from_utf8_lossy(&table)).any(|mount| Path::new(&mount.point) == path))
}

/// The mount that `path` (absolute, free of symbolic links) lies on.
pub fn of(path: &Path) -> io::Result<MountLine> {
    let table = fs::read("/proc/self/mountinfo")?;
    let table = String::from_utf8_lossy(&table);
    // Later lines lie on top of earlier ones.
    let found = parse_mountinfo(&table).filter(|mount| path.starts_with(&mount.point));
    let found = found
        .enumerate()
        .max_by_key(|(index, mount)| (mount.point.len(), *index));
    found
        .map(|(_, mount)| mount)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no mount holds it"))
}

/// One line of /proc/self/mountinfo (proc(5)).
#[derive(Debug, PartialEq, Eq)]
pub struct MountLine {
    pub point: String,
    /// Of the mount itself: `rw`, `noexec`, …
    pub options: String,
    /// How it propagates: `shared:N`, `master:N`, …
    pub propagation: Vec<String>,
    pub fs_type: String,
    pub super_options: String,
}

/// The lines of `table` that are well formed.
pub(super) fn parse_mountinfo(table: &str) -> impl Iterator<Item = MountLine> {
    table.lines().filter_map(parse_mount_line)
}

fn parse_mount_line(line: &str) -> Option<MountLine> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut file_system = file_system.split(' ');
    Some(MountLine {
        point: unescape(mount.split(' ').nth(4)?),
        options: mount.split(' ').nth(5)?.to_owned(),
        propagation: mount.split(' ').skip(6).map(str::to_owned).collect(),
        fs_type: file_system.next()?.to_owned(),
        super_options: file_system.nth(1)?.to_owned(),
    })
}

/// Undoes the kernel's octal escapes of blanks and backslashes (`\040`).
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Detaches on drop what a failed test leaves mounted.
    struct Mounted<'a>(&'a Path);

    impl Drop for Mounted<'_> {
        fn drop(&mut self) {
            unmount(self.0).unwrap();
        }
    }

    #[test]
    fn a_mount_line_with_and_without_optional_fields_is_read() {
        let table = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n\
                     1 2 0:3 / /a\\134b rw - cgroup cgroup rw,cpu,cpuacct\nnonsense\n1 2 0:3 / /a rw - x\n";
        let lines: Vec<_> = parse_mountinfo(table).collect();
        let line = |point: &str, propagation: &[&str], fs_type: &str, super_options: &str| MountLine {
            point: point.into(),
            options: if point == "/mnt 2" { "rw,noatime" } else { "rw" }.into(),
            propagation: propagation.iter().map(|word| (*word).to_owned()).collect(),
            fs_type: fs_type.into(),
            super_options: super_options.into(),
        };
        assert_eq!(
            lines,
            [
                line("/mnt 2", &["master:1", "shared:2"], "ext3", "rw,errors=continue"),
                line("/a\\b", &[], "cgroup", "rw,cpu,cpuacct"),
            ]
        );
    }

    #[test]
    fn a_tmpfs_is_mounted_with_its_mode_and_unmounted_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shm");
        fs::create_dir(&path).unwrap();
        let _mounted = Mounted(&path);
        assert!(!is_mounted(&path).unwrap());
        tmpfs(&path, 65536, 0o1777).unwrap();
        tmpfs(&path, 65536, 0o1777).unwrap();
        assert!(is_mounted(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1777);
        assert!(fs::write(path.join("big"), vec![1; 200_000]).is_err());
        unmount(&path).unwrap();
        assert!(!is_mounted(&path).unwrap());
        unmount(&path).unwrap();
        unmount(&dir.path().join("absent")).unwrap();
    }

    #[test]
    fn a_file_is_bound_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("source"), dir.path().join("path"));
        fs::write(&source, "seen").unwrap();
        fs::write(&path, "hidden").unwrap();
        let _mounted = Mounted(&path);
        bind(&source, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "seen");
        unmount(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "hidden");
    }

    fn snapshot(fs_type: &str, source: &Path, options: &[String]) -> Mount {
        Mount {
            fs_type: fs_type.to_owned(),
            source: source.display().to_string(),
            options: options.to_vec(),
        }
    }

    #[test]
    fn a_bind_mount_of_a_snapshotter_has_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("source"), dir.path().join("path"));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(source.join("file"), "seen").unwrap();
        let _mounted = Mounted(&path);
        filesystem(
            &snapshot("bind", &source, &["rbind".to_owned(), "ro".to_owned()]),
            &path,
        )
        .unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "seen");
        assert!(fs::write(path.join("file"), "").is_err());
        assert!(fs::write(source.join("file"), "").is_ok());
    }

    #[test]
    fn an_overlay_is_mounted_whether_its_options_fit_a_page_or_not() {
        for (layers, length) in [(3, 10), (100, 60)] {
            let dir = tempfile::tempdir().unwrap();
            let names: Vec<_> = (0..layers).map(|n| dir.path().join(format!("{n:0>length$}"))).collect();
            for (n, layer) in names.iter().enumerate() {
                fs::create_dir(layer).unwrap();
                fs::write(layer.join("top"), n.to_string()).unwrap();
                fs::write(layer.join(format!("file{n}")), "").unwrap();
            }
            let [upper, work, path] = ["upper", "work", "path"].map(|name| dir.path().join(name));
            for made in [&upper, &work, &path] {
                fs::create_dir(made).unwrap();
            }
            let lower: Vec<_> = names.iter().map(|name| name.display().to_string()).collect();
            let options = [
                "index=off".to_owned(),
                format!("workdir={}", work.display()),
                format!("upperdir={}", upper.display()),
                format!("lowerdir={}", lower.join(":")),
                "nosuid".to_owned(),
            ];
            let _mounted = Mounted(&path);
            filesystem(&snapshot("overlay", Path::new("overlay"), &options), &path).unwrap();
            assert_eq!(
                fs::read_to_string(path.join("top")).unwrap(),
                "0",
                "the first is the uppermost"
            );
            assert!(path.join(format!("file{}", layers - 1)).exists());
            fs::write(path.join("new"), "").unwrap();
            assert!(upper.join("new").exists());
            assert!(of(&path).unwrap().options.contains("nosuid"));
        }
    }

    #[test]
    fn sharing_a_directory_twice_mounts_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let _mounted = Mounted(dir.path());
        share(dir.path()).unwrap();
        share(dir.path()).unwrap();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let lines: Vec<_> = table
            .lines()
            .filter(|line| line.contains(dir.path().to_str().unwrap()))
            .collect();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains(" shared:"));
    }
}
