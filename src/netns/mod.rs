//! A pod's namespaces: made by a thread that lives for a moment, pinned by bind mounts, entered by other threads.
//!
//! No process holds them. A pin is a file with a namespace bound over it; the record of a pod keeps the boot id and
//! the namespace's device and inode, by which [`alive`] tells a pin from the plain file that a reboot leaves.
//!
//! All functions block, for about a millisecond; [`enter`] as long as what it runs.

pub mod holder;
mod sysctl;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;

use crate::model::Refusal;
use crate::model::sandbox::{Pin, Pins};
use crate::sys;

pub use sysctl::check_sysctls;

/// Where other tools (`ip netns`, CNI daemons) look for network namespaces.
pub const NET_DIR: &str = "/run/netns";

/// The namespaces to make, each with the path to pin it at, and what is to be set in them.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub net: Option<PathBuf>,
    pub ipc: Option<PathBuf>,
    /// With the host name.
    pub uts: Option<(PathBuf, String)>,
    pub sysctls: BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("cannot {what}")]
    Failed { what: String, source: io::Error },
    #[error("{} is not a pinned network namespace (did the node reboot?)", path.display())]
    NotANamespace { path: PathBuf, source: io::Error },
}

/// Turns the error of doing `what` into ours.
fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
    move |source| Error::Failed {
        what: what.into(),
        source: source.into(),
    }
}

/// Makes the directory of the network namespaces and lets its mounts be seen by other mount namespaces, as
/// ip-netns(8) does. To be called once, before the first [`make`]: `ip netns add` binds the directory over itself
/// when it finds it private, and pins made before that would stay below, out of everybody's reach.
pub fn prepare_dir(dir: &Path) -> Result<(), Error> {
    let what = || format!("prepare {}", dir.display());
    fs::create_dir_all(dir).map_err(failed(what()))?;
    // ip-netns(8) takes the same lock, so that only one of us finds the directory private.
    let file = File::open(dir).map_err(failed(what()))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(what())(errno))?;
    sys::mount::share(dir).map_err(failed(what()))
}

/// Makes and pins what is asked for. After an error nothing of it is left.
pub fn make(request: &Request) -> Result<Pins, Error> {
    let owned = sysctl::Owned {
        net: request.net.is_some(),
        ipc: request.ipc.is_some(),
        uts: request.uts.is_some(),
    };
    let sysctls = sysctl::parse(&request.sysctls, owned)?;
    let mut files = Vec::new();
    let made = sys::namespace::on_a_thread(|| make_here(request, &sysctls, &mut files))
        .map_err(failed("start a thread"))
        .flatten();
    if made.is_err() {
        for path in files {
            // The first error tells more than one of this.
            let _ = release(&path);
        }
    }
    made
}

/// [`make`], in a thread that ends right after: it cannot go back to the namespaces it came from. `files` tells which
/// files it has made.
fn make_here(request: &Request, sysctls: &[sysctl::Setting], files: &mut Vec<PathBuf>) -> Result<Pins, Error> {
    let flag = |wanted: bool, flag| if wanted { flag } else { CloneFlags::empty() };
    let flags = flag(request.net.is_some(), CloneFlags::CLONE_NEWNET)
        | flag(request.ipc.is_some(), CloneFlags::CLONE_NEWIPC)
        | flag(request.uts.is_some(), CloneFlags::CLONE_NEWUTS);
    unshare(flags).map_err(failed("make the pod's namespaces (is CAP_SYS_ADMIN missing?)"))?;
    if request.net.is_some() {
        sys::link::loopback_up().map_err(failed("bring up the pod's loopback interface"))?;
    }
    if let Some((_, hostname)) = &request.uts {
        sethostname(hostname).map_err(failed(format!("set the host name {hostname:?}")))?;
    }
    for setting in sysctls {
        setting.apply().map_err(failed(format!(
            "set the sysctl {} to {:?}",
            setting.name, setting.value
        )))?;
    }
    let mut pin = |path: Option<&PathBuf>, kind| path.map(|path| pin(path, kind, files)).transpose();
    Ok(Pins {
        boot_id: sys::boot_id().map_err(failed("read the boot id"))?,
        net: pin(request.net.as_ref(), "net")?,
        ipc: pin(request.ipc.as_ref(), "ipc")?,
        uts: pin(request.uts.as_ref().map(|(path, _)| path), "uts")?,
    })
}

/// Binds the calling thread's namespace of this kind over a new file.
fn pin(path: &Path, kind: &str, files: &mut Vec<PathBuf>) -> Result<Pin, Error> {
    let what = || format!("pin the {kind} namespace at {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed(what()))?;
    }
    File::create_new(path).map_err(failed(what()))?;
    files.push(path.to_owned());
    let namespace = PathBuf::from(format!("/proc/thread-self/ns/{kind}"));
    sys::mount::bind(&namespace, path).map_err(failed(what()))?;
    let is = fs::metadata(path).map_err(failed(what()))?;
    Ok(Pin {
        path: path.to_owned(),
        device: is.dev(),
        inode: is.ino(),
    })
}

/// Whether `pin`, made in the boot `boot_id`, still holds its namespace.
pub fn alive(pin: &Pin, boot_id: &str) -> bool {
    let same_boot = sys::boot_id().is_ok_and(|now| now == boot_id);
    same_boot && fs::metadata(&pin.path).is_ok_and(|is| (is.dev(), is.ino()) == (pin.device, pin.inode))
}

/// Lets go of the namespace pinned at `path`; with its last process it ends. Fine when nothing is there.
pub fn release(path: &Path) -> Result<(), Error> {
    let what = || format!("release the namespace pinned at {}", path.display());
    sys::mount::unmount(path).map_err(failed(what()))?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(what())(error)),
        _ => Ok(()),
    }
}

/// Runs `work` in the network namespace pinned at `path`, on a thread of its own, and waits for it.
pub fn enter<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let not_one = |source| Error::NotANamespace {
        path: path.to_owned(),
        source,
    };
    sys::namespace::enter_net(path, work).map_err(not_one)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use nix::sched::setns;
    use nix::unistd::gethostname;
    use tempfile::TempDir;

    use super::*;

    const PINS: [&str; 3] = ["deep/net", "ipc", "uts"];

    /// Where a test's pins are; releases them whatever happens.
    struct Place(TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn request(&self) -> Request {
            Request {
                net: Some(self.0.path().join("deep/net")),
                ipc: Some(self.0.path().join("ipc")),
                uts: Some((self.0.path().join("uts"), "a-pod".into())),
                sysctls: BTreeMap::new(),
            }
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            for name in PINS {
                release(&self.0.path().join(name)).unwrap();
            }
        }
    }

    fn inside<T: Send>(pin: &Pin, kind: CloneFlags, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(&pin.path).unwrap();
        sys::namespace::on_a_thread(|| {
            setns(&file, kind).unwrap();
            work()
        })
        .unwrap()
    }

    fn mounts_below(dir: &Path) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.matches(dir.to_str().unwrap()).count()
    }

    #[test]
    fn pins_outlive_the_thread_until_they_are_released() {
        let place = Place::new();
        let pins = make(&place.request()).unwrap();
        let boot = pins.boot_id.clone();
        let all = [pins.net.unwrap(), pins.ipc.unwrap(), pins.uts.unwrap()];
        assert_eq!(mounts_below(place.0.path()), 3);
        for pin in &all {
            assert!(alive(pin, &boot));
            assert!(!alive(pin, "another boot"));
            release(&pin.path).unwrap();
            release(&pin.path).unwrap();
            assert!(!alive(pin, &boot));
            assert!(!pin.path.exists());
        }
        assert_eq!(mounts_below(place.0.path()), 0);
    }

    #[test]
    fn a_pin_over_which_another_namespace_lies_is_not_alive() {
        let (place, other) = (Place::new(), Place::new());
        let pins = make(&place.request()).unwrap();
        let others = make(&other.request()).unwrap();
        let pin = pins.net.unwrap();
        sys::mount::bind(&others.net.unwrap().path, &pin.path).unwrap();
        assert!(!alive(&pin, &pins.boot_id));
        release(&pin.path).unwrap();
        assert!(!pin.path.exists());
    }

    #[test]
    fn only_what_is_asked_for_is_made() {
        let place = Place::new();
        let request = Request {
            ipc: Some(place.0.path().join("ipc")),
            ..Request::default()
        };
        let pins = make(&request).unwrap();
        assert!(pins.net.is_none() && pins.uts.is_none() && pins.ipc.is_some());
        assert_eq!(make(&Request::default()).unwrap().net, None);
    }

    #[test]
    fn the_loopback_of_a_pod_is_up_and_its_own() {
        let place = Place::new();
        let pin = make(&place.request()).unwrap().net.unwrap();
        let port = enter(&pin.path, || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            TcpStream::connect(("127.0.0.1", port)).unwrap();
            TcpStream::connect(("::1", port)).unwrap_err();
            port
        });
        assert!(port.unwrap() > 0);
        let links = enter(&pin.path, || fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
        assert_eq!(
            links
                .lines()
                .filter(|line| line.contains(':'))
                .filter(|line| !line.contains("ifb"))
                .count(),
            1
        );
    }

    #[test]
    fn the_host_name_is_the_pods_alone() {
        let place = Place::new();
        let before = gethostname().unwrap();
        let pin = make(&place.request()).unwrap().uts.unwrap();
        assert_eq!(
            inside(&pin, CloneFlags::CLONE_NEWUTS, || gethostname().unwrap()),
            "a-pod"
        );
        assert_eq!(gethostname().unwrap(), before);
    }

    #[test]
    fn sysctls_are_set_inside_and_not_outside() {
        let place = Place::new();
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/sys/{name}"))
                .unwrap()
                .trim()
                .to_owned()
        };
        let host = (
            read("net/ipv4/ip_unprivileged_port_start"),
            read("kernel/shmmni"),
            read("kernel/domainname"),
        );
        let mut request = place.request();
        request.sysctls = [
            ("net.ipv4.ip_unprivileged_port_start", "7"),
            ("net/ipv4/conf/lo/forwarding", "1"),
            ("kernel.shmmni", "123"),
            ("kernel.sem", "100 200 30 40"),
            ("fs.mqueue.msg_max", "20"),
            ("kernel.domainname", "pods.test"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let pins = make(&request).unwrap();
        let net = enter(&pins.net.unwrap().path, || read("net/ipv4/ip_unprivileged_port_start")).unwrap();
        assert_eq!(net, "7");
        let ipc = pins.ipc.unwrap();
        let in_ipc = |name: &'static str| inside(&ipc, CloneFlags::CLONE_NEWIPC, move || read(name));
        assert_eq!(in_ipc("kernel/shmmni"), "123");
        assert_eq!(
            in_ipc("kernel/sem").split_whitespace().collect::<Vec<_>>(),
            ["100", "200", "30", "40"]
        );
        assert_eq!(in_ipc("fs/mqueue/msg_max"), "20");
        let domain = inside(&pins.uts.unwrap(), CloneFlags::CLONE_NEWUTS, || {
            read("kernel/domainname")
        });
        assert_eq!(domain, "pods.test");
        let after = (
            read("net/ipv4/ip_unprivileged_port_start"),
            read("kernel/shmmni"),
            read("kernel/domainname"),
        );
        assert_eq!(after, host);
    }

    #[test]
    fn an_error_leaves_nothing() {
        let place = Place::new();
        for (name, value) in [("net.no.such", "1"), ("kernel.shmmni", "many"), ("kernel.pid_max", "9")] {
            let mut request = place.request();
            request.sysctls.insert(name.into(), value.into());
            make(&request).unwrap_err();
            assert!(PINS.iter().all(|name| !place.0.path().join(name).exists()));
        }
        let mut request = place.request();
        request.uts = Some((place.0.path().join("uts"), "x".repeat(65)));
        let error = make(&request).unwrap_err();
        assert!(error.to_string().contains("host name"), "{error}");
        request = place.request();
        request.ipc = Some(PathBuf::from("/proc/no/such"));
        make(&request).unwrap_err();
        assert!(!request.net.unwrap().exists());
        assert_eq!(mounts_below(place.0.path()), 0);
    }

    #[test]
    fn a_pin_that_is_there_already_is_left_alone() {
        let place = Place::new();
        let pins = make(&place.request()).unwrap();
        make(&place.request()).unwrap_err();
        assert!(alive(&pins.net.unwrap(), &pins.boot_id));
        assert_eq!(mounts_below(place.0.path()), 3);
    }

    #[test]
    fn entering_what_is_no_namespace_says_so() {
        let place = Place::new();
        let plain = place.0.path().join("plain");
        fs::write(&plain, "").unwrap();
        for path in [plain, place.0.path().join("absent")] {
            let error = enter(&path, || ()).unwrap_err();
            assert!(matches!(error, Error::NotANamespace { .. }), "{error}");
        }
    }

    #[test]
    fn a_prepared_directory_is_shared_once() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("netns");
        prepare_dir(&dir).unwrap();
        prepare_dir(&dir).unwrap();
        let mounts = mounts_below(&dir);
        sys::mount::unmount(&dir).unwrap();
        // The bind mount's line names the directory as root and as mount point.
        assert!((1..=2).contains(&mounts));
    }
}
