//! The real runc (Debian's, with busybox-static), and in [`faults`] runtimes that are shell scripts and do wrong.

mod faults;

use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::shim::console::{ConsoleSocket, Consoles};
use crate::shim::stdio::Terminal;
use crate::sys::process::{self, Handle};

const SOON: Duration = Duration::from_secs(20);

/// A bundle, a runtime's root, and a reaper. Dropping it removes what was made.
struct Place {
    dir: tempfile::TempDir,
    id: String,
    runtime: Runtime,
    children: &'static Children,
    stop: &'static AtomicBool,
    output: File,
}

impl Place {
    /// With the runtime that is the program `binary`.
    fn new(binary: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let options = Options {
            binary: binary.to_owned(),
            root: dir.path().join("state").display().to_string(),
            ..Options::default()
        };
        let (children, stop) = reaper();
        fs::create_dir(dir.path().join("bundle")).unwrap();
        Self {
            id: format!("berth-test-{}-{count}", std::process::id()),
            runtime: Runtime::new(options, "tests"),
            children,
            stop,
            output: tempfile::tempfile().unwrap(),
            dir,
        }
    }

    /// With a runtime that is a shell script. Its arguments are runc's; `$pid_file` and `$log` are taken from them.
    fn fake(script: &str, patience: Duration) -> Self {
        let mut place = Self::new("");
        let path = place.dir.path().join("runtime");
        let parse = r#"
            for arg; do
                case "$last" in --pid-file) pid_file=$arg;; --log) log=$arg;; --root) root=$arg;; esac
                case "$arg" in create|delete|exec|update|pause|start) verb=$arg;; esac
                last=$arg
            done
            id=$last"#;
        fs::write(&path, format!("#!/bin/sh\n{parse}\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        place.runtime.binary = path;
        place.runtime.patience = patience;
        place
    }

    /// With runc, and a bundle in whose container the shell runs `script`.
    fn runc(script: &str) -> Self {
        let place = Self::new("runc");
        let rootfs = place.bundle().join("rootfs");
        for dir in ["bin", "proc", "dev"] {
            fs::create_dir_all(rootfs.join(dir)).unwrap();
        }
        fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static is installed");
        for name in ["sh", "sleep", "stty", "tty"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).unwrap();
        }
        place.write(&place.spec(&["/bin/sh", "-c", script]));
        place
    }

    fn spec(&self, args: &[&str]) -> serde_json::Value {
        let namespaces = ["pid", "mount", "ipc", "uts"].map(|kind| json!({ "type": kind }));
        json!({
            "ociVersion": "1.0.2",
            "process": { "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": args, "env": ["PATH=/bin"] },
            "root": { "path": "rootfs" },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": { "cgroupsPath": format!("/{}/x", self.id), "namespaces": namespaces },
        })
    }

    fn write(&self, spec: &serde_json::Value) {
        fs::write(self.bundle().join("config.json"), spec.to_string()).unwrap();
    }

    fn bundle(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    fn create(&self) -> Result<u32, Error> {
        self.with_make("init.pid", |make| self.runtime.create(self.children, make))
    }

    fn exec(&self, args: &[&str]) -> Result<u32, Error> {
        let process = json!({ "user": { "uid": 0, "gid": 0 }, "cwd": "/", "args": args, "env": ["PATH=/bin"] });
        let process = process.to_string();
        self.with_make("exec.pid", |make| {
            self.runtime.exec(self.children, make, process.as_bytes())
        })
    }

    fn with_make<T>(&self, pid_file: &str, run: impl FnOnce(&Make<'_>) -> T) -> T {
        let null = || File::options().read(true).write(true).open("/dev/null").unwrap();
        let output = || self.output.try_clone().unwrap().into();
        run(&Make {
            id: &self.id,
            bundle: &self.bundle(),
            ends: Ends::Files(&[null().into(), output(), output()]),
            pid_file: &self.bundle().join(pid_file),
        })
    }

    fn output(&self) -> String {
        let mut file = self.output.try_clone().unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    fn delete(&self, force: bool) -> Result<(), Error> {
        self.runtime.delete(self.children, &self.id, &self.bundle(), force)
    }

    /// What runs of the runtime left in the bundle.
    fn leftovers(&self) -> Vec<String> {
        let names = fs::read_dir(self.bundle())
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names
            .filter(|name| name.starts_with("runtime-") || name.starts_with("process"))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.runtime.knows(&self.id) {
            let _ = self.delete(true);
        }
        self.stop.store(true, Ordering::Relaxed);
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let _ = fs::remove_dir(hierarchy.path().join(&self.id));
        }
    }
}

/// A thread that reaps until it is told to stop. Children of other tests are left alone.
fn reaper() -> (&'static Children, &'static AtomicBool) {
    let children: &'static Children = Box::leak(Box::default());
    let stop: &'static AtomicBool = Box::leak(Box::default());
    thread::spawn(|| {
        while !stop.load(Ordering::Relaxed) {
            children.next_dead().unwrap();
            thread::sleep(Duration::from_millis(1));
        }
    });
    (children, stop)
}

fn wait(what: &str, mut until: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !until() {
        assert!(begin.elapsed() < SOON, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_container_is_created_let_go_and_deleted() {
    let place = Place::runc("echo hello; exit 7");
    let pid = place.create().unwrap();
    let init = Handle::open(pid).unwrap();
    assert!(place.runtime.knows(&place.id) && place.output().is_empty());
    assert!(place.runtime.release(place.children, &place.id, &init).unwrap());
    init.wait().unwrap();
    assert_eq!(place.output(), "hello\n");
    place.delete(false).unwrap();
    assert!(!place.runtime.knows(&place.id));
    place.delete(false).unwrap();
    place.delete(true).unwrap();
    assert_eq!(place.leftovers(), [""; 0]);
}

#[test]
fn a_container_is_started_only_once_by_either_way() {
    let place = Place::runc("sleep 600");
    let init = Handle::open(place.create().unwrap()).unwrap();
    place.runtime.start(place.children, &place.id, &place.bundle()).unwrap();
    assert!(!place.runtime.release(place.children, &place.id, &init).unwrap());
    let again = place.runtime.start(place.children, &place.id, &place.bundle());
    let again = again.unwrap_err().to_string();
    assert!(again.contains("cannot start an already running container"), "{again}");
    let delete = place.delete(false).unwrap_err().to_string();
    assert!(delete.contains("is not stopped"), "{delete}");
    place.delete(true).unwrap();
    init.wait().unwrap();
}

#[test]
fn a_container_that_died_before_its_start_is_an_error() {
    let place = Place::runc("true");
    let init = Handle::open(place.create().unwrap()).unwrap();
    init.signal(libc::SIGKILL).unwrap();
    let error = place.runtime.release(place.children, &place.id, &init).unwrap_err();
    assert_eq!(
        error.to_string(),
        "OCI runtime start failed: container process is already dead"
    );
}

#[test]
fn a_process_joins_a_running_container_and_resources_change_while_it_pauses() {
    let place = Place::runc("sleep 600");
    let bundle = place.bundle();
    let init = Handle::open(place.create().unwrap()).unwrap();
    place.runtime.release(place.children, &place.id, &init).unwrap();
    let pid = place.exec(&["/bin/sh", "-c", "echo joined; exec sleep 600"]).unwrap();
    wait("the process speaks", || place.output() == "joined\n");
    assert_eq!(fs::read_link(format!("/proc/{pid}/root")).unwrap(), Path::new("/"));
    let missing = place.exec(&["/bin/nothing"]).unwrap_err().to_string();
    assert!(
        missing.starts_with("OCI runtime exec failed: exec failed: unable to start container process: "),
        "{missing}"
    );

    place.runtime.pause(place.children, &place.id, &bundle).unwrap();
    let resources = json!({ "cpu": { "shares": 77 } }).to_string();
    place
        .runtime
        .update(place.children, &place.id, &bundle, resources.as_bytes())
        .unwrap();
    place.runtime.resume(place.children, &place.id, &bundle).unwrap();
    let shares = format!("/sys/fs/cgroup/cpu/{}/x/cpu.shares", place.id);
    if Path::new("/sys/fs/cgroup/cpu").exists() {
        assert_eq!(fs::read_to_string(shares).unwrap().trim(), "77");
    }
    let refused = place
        .runtime
        .update(place.children, &place.id, &bundle, b"[]")
        .unwrap_err();
    assert!(matches!(refused, Error::Refused { verb: "update", .. }), "{refused}");
    assert_eq!(place.leftovers(), [""; 0]);
}

#[test]
fn a_container_and_a_process_in_it_have_terminals_of_their_own() {
    let place = Place::runc("stty -opost; stty size; tty; exec sleep 600");
    let mut spec = place.spec(&["/bin/sh", "-c", "stty -opost; stty size; tty; exec sleep 600"]);
    spec["process"]["terminal"] = true.into();
    let devpts = json!({
        "destination": "/dev/pts", "type": "devpts", "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
    });
    spec["mounts"].as_array_mut().unwrap().push(devpts);
    place.write(&spec);
    let consoles = Consoles::new().unwrap();
    let attach = |key: &str, socket: ConsoleSocket| {
        let log = place.dir.path().join(key);
        let stdout = Some(File::options().append(true).create(true).open(&log).unwrap());
        let ends = Terminal { stdin: None, stdout };
        consoles.attach(key, socket.receive(SOON).unwrap(), ends).unwrap();
        log
    };
    let bundle = place.bundle();
    let make = |socket: &ConsoleSocket, run: &dyn Fn(&Make<'_>) -> Result<u32, Error>| {
        run(&Make {
            id: &place.id,
            bundle: &bundle,
            ends: Ends::Console(socket.path()),
            pid_file: &bundle.join("tty.pid"),
        })
    };

    let socket = ConsoleSocket::new(place.dir.path()).unwrap();
    let pid = make(&socket, &|make| place.runtime.create(place.children, make)).unwrap();
    let log = attach("init", socket);
    consoles.resize("init", 101, 41).unwrap();
    let init = Handle::open(pid).unwrap();
    assert!(place.runtime.release(place.children, &place.id, &init).unwrap());
    wait("the container's terminal", || {
        fs::read(&log).unwrap() == b"41 101\n/dev/pts/0\n"
    });

    let process = json!({
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/bin"], "terminal": true,
        "args": ["sh", "-c", "stty -opost; tty; exit 3"],
    });
    let process = process.to_string();
    let socket = ConsoleSocket::new(place.dir.path()).unwrap();
    make(&socket, &|make| {
        place.runtime.exec(place.children, make, process.as_bytes())
    })
    .unwrap();
    let log = attach("exec", socket);
    wait("the process's terminal", || fs::read(&log).unwrap() == b"/dev/pts/1\n");
    consoles.finished("exec");
    assert!(consoles.wait_closed("exec", SOON));
}

#[test]
fn what_runc_refuses_reads_as_the_stock_shim_has_it() {
    let place = Place::runc("true");
    place.write(&place.spec(&["/bin/nothing"]));
    let error = place.create().unwrap_err().to_string();
    let stock =
        "OCI runtime create failed: runc create failed: unable to start container process: exec: \"/bin/nothing\"";
    assert!(error.starts_with(stock), "{error}");
    assert!(!place.runtime.knows(&place.id));

    fs::write(place.bundle().join("config.json"), "{").unwrap();
    let error = place.create().unwrap_err().to_string();
    assert!(error.contains("unexpected EOF") || error.contains("JSON"), "{error}");
    assert_eq!(place.leftovers(), [""; 0]);
}

#[test]
fn a_second_container_of_one_id_is_refused_and_the_first_lives() {
    let place = Place::runc("sleep 600");
    let init = Handle::open(place.create().unwrap()).unwrap();
    let error = place.create().unwrap_err().to_string();
    assert!(error.contains("exists"), "{error}");
    assert!(!init.has_ended().unwrap() && place.runtime.knows(&place.id));
}

#[test]
fn a_bundle_that_vanished_is_told_and_its_container_can_be_deleted() {
    let place = Place::runc("sleep 600");
    let init = Handle::open(place.create().unwrap()).unwrap();
    fs::remove_dir_all(place.bundle()).unwrap();
    let error = place.create().unwrap_err();
    assert!(matches!(error, Error::NoBundle { .. }), "{error}");
    place.delete(true).unwrap();
    init.wait().unwrap();
    assert!(!place.runtime.knows(&place.id));
}
