//! A directory with all that a test makes: a place for a shim, bundles, an OCI runtime's state.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth::shim::control::Client;
use berth::shim::place::Place;
use berth::sys::process::Handle;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::bundle::Bundle;
use crate::support;
use crate::wire::Wire;

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-berth-v1");

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Ground {
    dir: TempDir,
    pub place: Place,
    /// Unique on this host: containerd's namespace, and the cgroup above all containers.
    pub name: String,
    made: AtomicUsize,
}

impl Ground {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let dir = tempfile::Builder::new().prefix("berth-faults-").tempdir().unwrap();
        support::busybox(&dir.path().join("busybox"));
        Self {
            place: Place::new(dir.path().join("shims/0")).unwrap(),
            name: format!(
                "berth-faults-{}-{}",
                std::process::id(),
                COUNT.fetch_add(1, Ordering::Relaxed)
            ),
            made: AtomicUsize::new(0),
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The state directory of the OCI runtime.
    pub fn state(&self) -> PathBuf {
        self.path("state").join(&self.name)
    }

    /// A container to be that runs the words `args`.
    pub fn bundle(&self, args: &[&str]) -> Bundle<'_> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        Bundle::new(self, format!("c{number}-{}", self.name), args)
    }

    /// One that sleeps.
    pub fn sleeper(&self) -> Bundle<'_> {
        self.bundle(&["sleep", "1000"])
    }

    pub fn shell(&self, script: &str) -> Bundle<'_> {
        self.bundle(&["sh", "-c", script])
    }

    /// An OCI runtime that is a shell script. It has `$verb`, `$id`, `$pid_file`, `$root` and `$bundle`.
    pub fn fake_runtime(&self, script: &str) -> PathBuf {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&format!("runtime-{number}"));
        let parse = r#"
            for arg; do
                case "$last" in --pid-file) pid_file=$arg;; --root) root=$arg;; --bundle) bundle=$arg;; esac
                case "$arg" in create|delete|exec|update|pause|resume|start|--version) verb=$arg;; esac
                last=$arg
            done
            id=$last"#;
        fs::write(&path, format!("#!/bin/sh\n{parse}\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    // ---- the shim

    /// A command of the shim's program as containerd executes it.
    pub fn command(&self, command: &str, id: &str, directory: &Path) -> Command {
        let mut program = Command::new(SHIM);
        program
            .args(["-namespace", &self.name, "-address"])
            .arg(self.path("containerd.sock"));
        program.args(["-publish-binary", "/bin/true", "-id", id]);
        if command == "delete" {
            program.arg("-bundle").arg(directory);
        }
        program.arg(command).current_dir(directory).stdin(Stdio::null());
        program
    }

    /// Has a shim, as berth does.
    pub fn ensure(&self) {
        let output = self.ensuring().output().unwrap();
        assert!(output.status.success(), "{}", words(&output));
    }

    pub fn ensuring(&self) -> Command {
        let mut program = Command::new(SHIM);
        program
            .args(["-namespace", &self.name, "-address"])
            .arg(self.path("containerd.sock"));
        program.arg("-place").arg(self.place.directory()).arg("ensure");
        program.stdin(Stdio::null());
        program
    }

    pub fn connect(&self) -> Wire {
        Wire::connect(&self.place.task_socket())
    }

    pub fn control(&self) -> Client {
        Client::connect(&self.place.control_socket()).unwrap()
    }

    /// The pid of the shim that answers.
    pub fn shim(&self) -> u32 {
        self.control().hello().unwrap().pid
    }

    /// All processes of this ground's shim.
    pub fn shims(&self) -> Vec<u32> {
        let directory = format!("{} serve", self.place.directory().display());
        let all = support::processes().into_iter();
        all.filter(|(_, line)| line.contains(&directory))
            .map(|(pid, _)| pid)
            .collect()
    }

    /// Kills the shim as a crash would.
    pub fn kill_shim(&self) {
        let shim = Handle::open(self.shim()).unwrap();
        shim.signal(9).unwrap();
        shim.wait().unwrap();
    }

    pub fn messages(&self) -> String {
        fs::read_to_string(self.place.messages()).unwrap_or_default()
    }

    /// What the shim holds resident, in KiB.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.shim())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    // ---- the end

    /// Looks that another container can be run, which also says that the shim lives.
    pub fn serves(&self) {
        let bundle = self.shell("exit 7");
        bundle.run();
        assert_eq!(bundle.wait().unwrap().exit_status, 7);
        bundle.delete().unwrap();
    }

    /// Has the shim leave, and looks that nothing is left.
    pub fn end(self) {
        self.leave();
        until("nothing is left", || {
            let left = self.leftovers();
            left.is_empty().then_some(()).ok_or(left)
        });
    }

    pub fn leave(&self) {
        until("the shim may leave", || {
            // None, or it leaves by itself meanwhile: each time another look.
            let Ok(mut control) = Client::connect(&self.place.control_socket()) else {
                return Ok(());
            };
            control.leave().map_err(|error| vec![error.to_string()])?;
            control.until_end();
            Ok(())
        });
    }

    pub fn leftovers(&self) -> Vec<String> {
        let mut left: Vec<_> = self.shims().iter().map(|pid| format!("shim {pid}")).collect();
        let place = Some(self.place.directory()).filter(|place| place.exists());
        left.extend(place.map(|place| format!("{} with {:?}", place.display(), entries(&place.join("containers")))));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let rootfs = self.path("bundles").display().to_string();
        left.extend(mounts.lines().filter(|line| line.contains(&rootfs)).map(str::to_owned));
        left.extend(self.cgroups().iter().flat_map(|cgroup| directories(cgroup)));
        left.extend(entries(&self.state()));
        left
    }

    /// The cgroup above the containers', in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mount = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(mount).unwrap().flatten().map(|entry| entry.path());
        let ours = hierarchies.chain([mount.to_owned()]).map(|it| it.join(&self.name));
        ours.filter(|path| path.is_dir()).collect()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the shim's messages:\n{}", self.messages());
        }
        // The shim, and what an OCI runtime that hangs has left.
        let ours = self.dir.path().display().to_string();
        for (pid, _) in support::processes()
            .into_iter()
            .filter(|(_, line)| line.contains(&ours))
        {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        self.cgroups().iter().for_each(|cgroup| support::kill_cgroup(cgroup));
        support::unmount_below(self.dir.path());
    }
}

/// Waits for something, which says what is in its way.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, Vec<String>>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(left) => assert!(begin.elapsed() < PATIENCE, "{what}: {left:#?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until it is so.
pub fn becomes(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()).ok_or_else(Vec::new));
}

/// What a command complained of.
pub fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !berth::sys::process::is_zombie(pid)
}

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Changes a file of JSON.
pub fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().display().to_string()).collect()
}

fn directories(directory: &Path) -> Vec<String> {
    let mut found = entries(directory);
    found.retain(|path| Path::new(path).is_dir());
    found
}
