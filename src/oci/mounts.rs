//! What is mounted into a container: the standard file systems, the pod's files, and what the request asks for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, MountBuilder};

use super::{Host, Plan};
use crate::model::Refusal;
use crate::model::container::{Mount as Request, Propagation};

/// The pod's own files and its shared memory, by their paths on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFiles {
    pub hosts: PathBuf,
    pub hostname: PathBuf,
    pub resolv_conf: PathBuf,
    /// The pod's /dev/shm, or the node's for a pod in the node's IPC namespace.
    pub shm: PathBuf,
}

/// A mount of the request, and what the caller found at its host path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMount<'a> {
    pub request: &'a Request,
    /// The host path with all symbolic links followed. It exists.
    pub source: &'a Path,
    /// How the node's mount that the source lies on propagates.
    pub propagates: HostPropagation,
}

/// The propagation of a mount of the node, as /proc/self/mountinfo shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostPropagation {
    #[default]
    Private,
    /// `master:` and no `shared:`
    Slave,
    /// `shared:`
    Shared,
}

/// The mounts of a spec, and what they demand of its root.
#[derive(Debug, PartialEq)]
pub(super) struct Mounts {
    pub list: Vec<Mount>,
    pub rootfs_propagation: Option<&'static str>,
}

/// The mounts of the container that `plan` describes, parents before what is inside them.
pub(super) fn mounts(plan: &Plan<'_>) -> Result<Mounts, Refusal> {
    let asked = requested(plan.mounts)?;
    let taken: HashSet<_> = asked.iter().map(|bind| bind.destination.clone()).collect();
    let mut binds: Vec<_> = of_pod(plan)
        .into_iter()
        .filter(|bind| !taken.contains(&bind.destination))
        .chain(asked)
        .collect();
    binds.sort_by_key(|bind| depth(&bind.destination));

    let privileged = plan.container.security.privileged;
    let list = standard(privileged, plan.host)
        .into_iter()
        .filter(|mount| !is_covered(mount.destination(), &taken))
        .chain(binds.into_iter().map(Bind::into_mount))
        .collect();
    Ok(Mounts {
        list,
        rootfs_propagation: rootfs_propagation(plan.mounts),
    })
}

/// A bind mount; the destination is clean.
struct Bind {
    source: PathBuf,
    destination: String,
    options: [&'static str; 3],
}

impl Bind {
    fn into_mount(self) -> Mount {
        mount(&self.destination, "bind", &self.source, &self.options)
    }
}

fn requested(mounts: &[HostMount<'_>]) -> Result<Vec<Bind>, Refusal> {
    let mut binds: Vec<Bind> = Vec::with_capacity(mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let field = |name: &str| format!("mounts[{index}].{name}");
        let path = &mount.request.container_path;
        let destination = clean(path).ok_or_else(|| {
            Refusal::invalid(
                field("container_path"),
                format!("{path:?} is no absolute path below the root"),
            )
        })?;
        if binds.iter().any(|other| other.destination == destination) {
            return Err(Refusal::invalid(
                field("container_path"),
                format!("{destination} is mounted twice"),
            ));
        }
        binds.push(Bind {
            source: mount.source.to_owned(),
            options: ["rbind", propagation(mount, field)?, access(mount.request, field)?],
            destination,
        });
    }
    Ok(binds)
}

/// The mount option for the propagation asked for. The node's mount has to take part in it (mount_namespaces(7)).
fn propagation(mount: &HostMount<'_>, field: impl Fn(&str) -> String) -> Result<&'static str, Refusal> {
    let refuse = |reason| {
        let source = mount.source.display();
        Err(Refusal::invalid(
            field("propagation"),
            format!("{source} is not on a {reason} mount of the node"),
        ))
    };
    match (mount.request.propagation, mount.propagates) {
        (Propagation::Private, _) => Ok("rprivate"),
        (Propagation::HostToContainer, HostPropagation::Private) => refuse("shared or slave"),
        (Propagation::HostToContainer, _) => Ok("rslave"),
        (Propagation::Bidirectional, HostPropagation::Shared) => Ok("rshared"),
        (Propagation::Bidirectional, _) => refuse("shared"),
    }
}

/// CRI: a recursive read-only mount has to be read-only, and private.
fn access(mount: &Request, field: impl Fn(&str) -> String) -> Result<&'static str, Refusal> {
    let refuse = |reason| Err(Refusal::invalid(field("recursive_read_only"), reason));
    match (mount.recursive_read_only, mount.readonly) {
        (true, false) => refuse("needs readonly"),
        (true, true) if mount.propagation != Propagation::Private => refuse("needs PROPAGATION_PRIVATE"),
        (true, true) => Ok("rro"),
        (false, true) => Ok("ro"),
        (false, false) => Ok("rw"),
    }
}

/// A mount that propagates needs a root that does; the stronger demand counts.
fn rootfs_propagation(mounts: &[HostMount<'_>]) -> Option<&'static str> {
    let any = |wanted| mounts.iter().any(|mount| mount.request.propagation == wanted);
    if any(Propagation::Bidirectional) {
        Some("rshared")
    } else if any(Propagation::HostToContainer) {
        Some("rslave")
    } else {
        None
    }
}

fn of_pod(plan: &Plan<'_>) -> [Bind; 4] {
    let files = plan.files;
    let access = match plan.container.security.readonly_rootfs {
        true => "ro",
        false => "rw",
    };
    let bind = |source: &Path, destination: &str, access| Bind {
        source: source.to_owned(),
        destination: destination.to_owned(),
        options: ["rbind", "rprivate", access],
    };
    [
        bind(&files.hosts, "/etc/hosts", access),
        bind(&files.hostname, "/etc/hostname", access),
        bind(&files.resolv_conf, "/etc/resolv.conf", access),
        bind(&files.shm, "/dev/shm", "rw"),
    ]
}

/// The file systems that every container finds (/dev/shm is the pod's).
fn standard(privileged: bool, host: &Host) -> [Mount; 6] {
    let access = if privileged { "rw" } else { "ro" };
    let closed = ["nosuid", "noexec", "nodev"];
    let mut cgroup = vec!["nosuid", "noexec", "nodev", "relatime", access];
    if host.cgroup_v2 && privileged {
        // Without a cgroup namespace this mounts the node's one cgroup2 superblock again: its options would be lost
        // for the whole node.
        let global = ["nsdelegate", "memory_recursiveprot"];
        cgroup.extend(
            global
                .iter()
                .filter(|one| host.cgroup_mount_options.iter().any(|has| has == *one)),
        );
    }
    [
        mount("/proc", "proc", "proc", &closed),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &closed),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &cgroup),
    ]
}

/// Whether a mount of the request lies at `destination` or above it.
fn is_covered(destination: &Path, taken: &HashSet<String>) -> bool {
    destination
        .ancestors()
        .any(|above| above.to_str().is_some_and(|path| taken.contains(path)))
}

pub(super) fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(ToString::to_string).collect::<Vec<_>>())
        .build()
        .expect("a mount without id mappings is valid")
}

/// An absolute path without `.`, `..` and doubled slashes; None for the root, and for what is not absolute.
fn clean(path: &str) -> Option<String> {
    if !path.starts_with('/') || path.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    (!parts.is_empty()).then(|| format!("/{}", parts.join("/")))
}

/// How many names a clean path has.
fn depth(path: &str) -> usize {
    path.matches('/').count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::tests::Fixture;

    fn request(container_path: &str) -> Request {
        Request {
            container_path: container_path.into(),
            host_path: "/host".into(),
            ..Request::default()
        }
    }

    fn built(requests: &[Request], propagates: HostPropagation) -> Result<Mounts, String> {
        let fixture = Fixture::default();
        let mounts: Vec<_> = requests
            .iter()
            .map(|request| HostMount {
                request,
                source: &request.host_path,
                propagates,
            })
            .collect();
        let mut plan = fixture.plan();
        plan.mounts = &mounts;
        super::mounts(&plan).map_err(|refusal| refusal.to_string())
    }

    fn destinations(mounts: &Mounts) -> Vec<&str> {
        mounts
            .list
            .iter()
            .map(|mount| mount.destination().to_str().unwrap())
            .collect()
    }

    fn options(mounts: &Mounts, destination: &str) -> String {
        let mut found = mounts
            .list
            .iter()
            .filter(|mount| mount.destination() == Path::new(destination));
        let mount = found.next().expect("the mount is there");
        assert_eq!(found.next(), None, "{destination} is there once");
        mount.options().clone().unwrap_or_default().join(",")
    }

    #[test]
    fn a_container_finds_the_standard_file_systems_and_its_pods_files() {
        let mounts = built(&[], HostPropagation::Private).unwrap();
        assert_eq!(
            destinations(&mounts),
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/dev/mqueue",
                "/sys",
                "/sys/fs/cgroup",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/dev/shm"
            ]
        );
        assert_eq!(options(&mounts, "/sys"), "nosuid,noexec,nodev,ro");
        assert_eq!(options(&mounts, "/etc/hosts"), "rbind,rprivate,rw");
    }

    #[test]
    fn the_request_replaces_what_berth_would_mount() {
        let requests = ["/etc/hosts", "/etc", "/dev/", "/sys"].map(request);
        let mounts = built(&requests, HostPropagation::Private).unwrap();
        assert_eq!(
            destinations(&mounts),
            [
                "/proc",
                "/etc",
                "/dev",
                "/sys",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/dev/shm",
                "/etc/hosts"
            ]
        );
    }

    #[test]
    fn a_read_only_root_makes_the_pods_files_read_only() {
        let mut fixture = Fixture::default();
        fixture.container.security.readonly_rootfs = true;
        let mounts = mounts(&fixture.plan()).unwrap();
        assert_eq!(options(&mounts, "/etc/resolv.conf"), "rbind,rprivate,ro");
        assert_eq!(options(&mounts, "/dev/shm"), "rbind,rprivate,rw");
    }

    #[test]
    fn a_privileged_container_may_write_to_sys_and_cgroups() {
        let mut fixture = Fixture::default();
        fixture.container.security.privileged = true;
        fixture.host.cgroup_v2 = true;
        fixture.host.cgroup_mount_options = vec!["rw".into(), "nsdelegate".into()];
        let mounts = mounts(&fixture.plan()).unwrap();
        assert_eq!(options(&mounts, "/sys"), "nosuid,noexec,nodev,rw");
        assert_eq!(
            options(&mounts, "/sys/fs/cgroup"),
            "nosuid,noexec,nodev,relatime,rw,nsdelegate"
        );
    }

    #[test]
    fn propagation_reaches_the_root_and_needs_a_node_that_takes_part() {
        use HostPropagation::{Private, Shared, Slave};
        use Propagation::{Bidirectional, HostToContainer};
        let cases = [
            (Propagation::Private, Private, Some(("rprivate", None))),
            (HostToContainer, Private, None),
            (HostToContainer, Slave, Some(("rslave", Some("rslave")))),
            (HostToContainer, Shared, Some(("rslave", Some("rslave")))),
            (Bidirectional, Private, None),
            (Bidirectional, Slave, None),
            (Bidirectional, Shared, Some(("rshared", Some("rshared")))),
        ];
        for (asked, node, expected) in cases {
            let mut request = request("/data");
            request.propagation = asked;
            let got = built(&[request], node);
            match expected {
                None => assert!(
                    got.unwrap_err()
                        .starts_with("mounts[0].propagation: /host is not on a ")
                ),
                Some((option, root)) => {
                    let mounts = got.unwrap();
                    assert_eq!(options(&mounts, "/data"), format!("rbind,{option},rw"));
                    assert_eq!(mounts.rootfs_propagation, root);
                }
            }
        }
    }

    #[test]
    fn a_recursive_read_only_mount_has_to_be_read_only_and_private() {
        use Propagation::{Bidirectional, HostToContainer, Private};
        let cases = [
            (true, Private, Ok("rbind,rprivate,rro")),
            (false, Private, Err("needs readonly")),
            (true, HostToContainer, Err("needs PROPAGATION_PRIVATE")),
            (true, Bidirectional, Err("needs PROPAGATION_PRIVATE")),
        ];
        for (readonly, propagation, expected) in cases {
            let request = Request {
                readonly,
                propagation,
                recursive_read_only: true,
                ..request("/data")
            };
            let got = built(&[request], HostPropagation::Shared).map(|mounts| options(&mounts, "/data"));
            let expected = expected
                .map(String::from)
                .map_err(|reason| format!("mounts[0].recursive_read_only: {reason}"));
            assert_eq!(got, expected);
        }
    }

    #[test]
    fn a_bad_or_repeated_container_path_is_refused() {
        for path in ["", "data", "/", "/..", "/a/..", "/a\0b"] {
            let refusal = built(&[request(path)], HostPropagation::Private).unwrap_err();
            assert!(refusal.starts_with("mounts[0].container_path: "), "{refusal}");
        }
        let refusal = built(&["/a/b", "/a//./b/"].map(request), HostPropagation::Private).unwrap_err();
        assert_eq!(refusal, "mounts[1].container_path: /a/b is mounted twice");
    }

    proptest! {
        #[test]
        fn a_parent_always_comes_before_what_is_inside_it(
            paths in prop::collection::hash_set("(/(etc|dev|proc|a|hosts|shm)){1,4}", 0..8),
        ) {
            let requests: Vec<_> = paths.iter().map(|path| request(path)).collect();
            let mounts = built(&requests, HostPropagation::Private).unwrap();
            let list = destinations(&mounts);
            for (index, path) in list.iter().enumerate() {
                for later in &list[index + 1..] {
                    prop_assert!(!Path::new(path).starts_with(later), "{later} would hide {path}");
                }
            }
            for path in &paths {
                prop_assert!(list.contains(&path.as_str()));
            }
        }
    }
}
