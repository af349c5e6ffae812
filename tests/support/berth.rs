//! A berth of the test's own: its own directories, containerd, bridge and cgroups, and the search for what it left.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ::berth::proto::runtime as cri;
use cri::image_service_client::ImageServiceClient;
use cri::runtime_service_client::RuntimeServiceClient;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tonic::transport::Channel;

/// The image that every test can use: busybox, its applets at /bin.
pub const BUSYBOX: &str = "docker.io/library/busybox:latest";

/// The program under test: cargo's, or the one that `BERTH_TEST_BINARY` names, a release build say.
pub fn binary() -> PathBuf {
    let named = std::env::var_os("BERTH_TEST_BINARY");
    named.map_or_else(|| env!("CARGO_BIN_EXE_berth").into(), PathBuf::from)
}

/// What a test's config.toml says. `BERTH_TEST_HANDLER=stock` takes containerd's stock shim; see also
/// [`super::containerd::binary`].
fn configuration(dir: &Path) -> String {
    let netns = dir.join("netns");
    let containerd = super::containerd::binary();
    let handler = match handler_is_stock() {
        true => "[handlers.runc]\nruntime_type = \"io.containerd.runc.v2\"\n",
        false => "",
    };
    format!("[network]\nnetns_dir = {netns:?}\n[containerd]\nbinary = {containerd:?}\n{handler}")
}

/// Whether the pods of this test run are held by containerd's stock shim.
pub fn handler_is_stock() -> bool {
    match std::env::var("BERTH_TEST_HANDLER").as_deref() {
        Ok("stock") => true,
        Ok("berth") | Err(_) => false,
        Ok(other) => panic!("BERTH_TEST_HANDLER is {other:?}, neither stock nor berth"),
    }
}

/// A running daemon, or one that was killed and can be started again.
pub struct Berth {
    pub dir: TempDir,
    child: Option<Child>,
    arguments: Vec<String>,
}

impl Berth {
    /// Starts a berth with a containerd of its own, and gives it the busybox image.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with further arguments of `berth serve`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::start_as(arguments, "").await
    }

    /// The same with further sections in its configuration.
    pub async fn start_configured(sections: &str) -> Self {
        Self::start_as(&[], sections).await
    }

    async fn start_as(arguments: &[&str], sections: &str) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("berth-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let config = configuration(dir.path()) + sections;
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let arguments = arguments.iter().map(|word| (*word).to_owned()).collect();
        let mut berth = Self {
            dir,
            child: None,
            arguments,
        };
        berth.restart(&[]).await;
        berth.import_busybox();
        berth
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("state/berth.sock")
    }

    pub fn containerd_socket(&self) -> PathBuf {
        self.path("state/containerd/containerd.sock")
    }

    /// Starts the daemon (again) and waits until it answers, or is gone.
    pub async fn restart(&mut self, environment: &[(&str, &str)]) {
        self.launch(environment);
        let begin = Instant::now();
        while self.version().await.is_none() {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "berth does not answer:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the daemon (again), and waits for nothing.
    pub fn launch(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it still runs");
        let log = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("berth.log"))
            .unwrap();
        let mut command = Command::new(binary());
        command
            .arg("serve")
            .arg("--config")
            .arg(self.path("config.toml"))
            .arg("--root")
            .arg(self.path("root"))
            .arg("--state")
            .arg(self.path("state"))
            .args(&self.arguments)
            .env("BERTH_LOG", "info,berth=debug")
            .env("PATH", super::containerd::path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    async fn version(&self) -> Option<String> {
        let answer = self.runtime().await.ok()?.version(cri::VersionRequest::default()).await;
        answer.ok().map(|answer| answer.into_inner().runtime_version)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Kills the daemon as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks the daemon to stop, and expects that it does, with success.
    pub fn terminate(&mut self) {
        let mut child = self.child.take().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let status = wait(&mut child, Duration::from_secs(20)).expect("berth stops within 20 s of SIGTERM");
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Waits for the daemon to be gone by itself; whether SIGKILL ended it.
    pub fn wait_killed(&mut self, patience: Duration) -> bool {
        let child = self.child.as_mut().expect("it runs");
        let Some(status) = wait(child, patience) else {
            return false;
        };
        self.child = None;
        assert_eq!(
            status.signal(),
            Some(9),
            "berth ended, but not of its failpoint: {status}\n{}",
            self.log()
        );
        true
    }

    /// The daemon's containerd, while it lives.
    pub fn containerd_pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.path("state/containerd/pid")).ok()?;
        let pid = text.split(' ').next()?.parse().ok()?;
        super::processes()
            .into_iter()
            .any(|(it, line)| it == pid && line.contains("containerd"))
            .then_some(pid)
    }

    pub fn shim_pid(&self) -> Option<u32> {
        let own = self.dir.path().display().to_string();
        let mut processes = super::processes().into_iter();
        let is_shim = |line: &str| line.contains("containerd-shim-berth-v1") && line.trim_end().ends_with(" serve");
        let shim = processes.find(|(_, line)| is_shim(line) && line.contains(&own));
        shim.map(|(pid, _)| pid)
    }

    /// The process that runs commands, once the first one was.
    pub fn exec_helper_pid(&self) -> Option<u32> {
        let own = self.dir.path().display().to_string();
        let mut processes = super::processes().into_iter();
        let is_helper = |line: &str| line.contains("containerd-shim-berth-v1") && line.trim_end().ends_with(" exec");
        let helper = processes.find(|(_, line)| is_helper(line) && line.contains(&own));
        helper.map(|(pid, _)| pid)
    }

    /// The end of the daemon's log, without the calls that only looked.
    pub fn log(&self) -> String {
        let text = fs::read_to_string(self.path("berth.log")).unwrap_or_default();
        let looks = [
            "ListPodSandbox",
            "PodSandboxStatus",
            "ListContainers",
            "ContainerStatus",
            "Version",
        ];
        let looked = |line: &str| looks.iter().any(|method| line.contains(&format!("{method}\"}}: done")));
        let lines: Vec<_> = text.lines().filter(|line| !looked(line)).collect();
        let own = fs::read_to_string(self.path("state/shims/0/shim.log")).unwrap_or_default();
        let own: Vec<_> = own.lines().collect();
        let daemon = lines[lines.len().saturating_sub(60)..].join("\n");
        format!(
            "{daemon}\nthe shim's:\n{}",
            own[own.len().saturating_sub(30)..].join("\n")
        )
    }

    pub async fn channel(&self) -> Result<Channel, berth::cli::Error> {
        channel(&self.socket()).await
    }

    pub async fn runtime(&self) -> Result<RuntimeServiceClient<Channel>, berth::cli::Error> {
        Ok(RuntimeServiceClient::new(self.channel().await?).max_decoding_message_size(16 << 20))
    }

    pub async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await.unwrap())
    }

    /// Runs `berth` as a client of this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Runs `berth` as a client and gives what it printed; it must succeed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "berth {arguments:?}: {}\n{stdout}{stderr}\n{}",
            output.status,
            self.log()
        );
        stdout.into_owned()
    }

    fn import_busybox(&self) {
        self.import(&super::image::busybox(), BUSYBOX);
    }

    /// Gives the daemon an image.
    pub fn import(&self, image: &super::image::Image, reference: &str) {
        let archive = self.path("image.tar");
        fs::write(&archive, super::image::docker_archive(image, &[reference])).unwrap();
        self.run(&["image", "import", archive.to_str().unwrap()]);
    }

    /// Six digits that name this berth's bridge, table and cgroups: the rule of docs/configuration.md.
    pub fn instance(&self) -> String {
        let root = self.path("root").canonicalize().unwrap();
        let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
        digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Everything that sandboxes and containers are made of and that is there now. Empty when there are none.
    pub async fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let own = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        // The directory of pins is a mount of its own, so that its pins are seen everywhere.
        let netns = self.path("netns").display().to_string();
        found.extend(
            points
                .filter(|point| point.starts_with(&own) && **point != netns)
                .map(|point| format!("mount {point}")),
        );
        for directory in ["netns", "state/sandboxes", "state/containers", "state/lifecycle"] {
            found.extend(
                names(&self.path(directory))
                    .into_iter()
                    .map(|name| format!("{directory}/{name}")),
            );
        }
        let leases = walk(&self.path("root/network"));
        found.extend(
            leases
                .into_iter()
                .filter(|name| looks_like_address(name))
                .map(|name| format!("address {name}")),
        );
        let bridge = format!("/sys/class/net/berth-{}/brif", self.instance());
        found.extend(names(Path::new(&bridge)).into_iter().map(|port| format!("link {port}")));
        found.extend(
            self.cgroups()
                .into_iter()
                .map(|path| format!("cgroup {}", path.display())),
        );
        // One of ours may stay for the next pod; it must not keep anything of the last one.
        let stock = self.shims().into_iter().filter(|(_, line)| !is_ours(line));
        found.extend(stock.map(|(pid, line)| format!("shim {pid} {line}")));
        for group in names(&self.path("state/shims")) {
            let place = self.path("state/shims").join(group);
            let kept = walk(&place.join("containers"))
                .into_iter()
                .chain(walk(&place.join("logs")));
            found.extend(
                kept.filter(|name| name.ends_with(".json"))
                    .map(|name| format!("the shim's {name}")),
            );
        }
        let kept = super::shims::containers(&self.containerd_socket());
        found.extend(kept.into_iter().map(|path| format!("shim's {}", path.display())));
        found.extend(super::containerd::contents(&self.containerd_socket()).await);
        found
    }

    /// What should be nothing, given a moment: the kernel removes links of a dead namespace in its own time.
    pub async fn assert_nothing_left(&self, when: &str) {
        let begin = Instant::now();
        loop {
            let left = self.leftovers().await;
            if left.is_empty() {
                return;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "left {when}: {left:#?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The cgroups of this berth's pods.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let roots = self.cgroup_roots().into_iter();
        let pods = roots.flat_map(|root| names(&root).into_iter().map(move |name| root.join(name)));
        pods.filter(|path| path.is_dir()).collect()
    }

    /// The cgroup above those, in each hierarchy.
    fn cgroup_roots(&self) -> Vec<PathBuf> {
        let mount = Path::new("/sys/fs/cgroup");
        let hierarchies = names(mount).into_iter().map(|name| mount.join(name));
        let all = hierarchies.chain([mount.to_owned()]);
        let ours = all.map(|hierarchy| hierarchy.join(format!("berth-{}", self.instance())));
        ours.filter(|path| path.is_dir()).collect()
    }

    /// The shims of this berth's containerd: pid and command line.
    pub fn shims(&self) -> BTreeMap<u32, String> {
        let mut shims = super::shims::processes(&self.containerd_socket());
        // Not the commands by which containerd starts and deletes, which pass.
        shims.retain(|(_, line)| !is_ours(line) || line.trim_end().ends_with(" serve"));
        shims.into_iter().collect()
    }

    /// Ends everything and looks that nothing at all is left, outside the directory itself.
    pub async fn down(mut self) {
        self.run(&["down"]);
        let mut child = self.child.take().unwrap();
        let status = wait(&mut child, Duration::from_secs(30)).expect("berth ends after down");
        assert!(status.success(), "{status}\n{}", self.log());
        let own = self.dir.path().display().to_string();
        let begin = Instant::now();
        loop {
            let processes: Vec<_> = super::processes()
                .into_iter()
                .filter(|(_, line)| line.contains(&own))
                .collect();
            let bridge = Path::new(&format!("/sys/class/net/berth-{}", self.instance())).exists();
            let tables = Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
            let table = String::from_utf8_lossy(&tables).contains(&format!("berth_{}", self.instance()));
            let places = super::shims::directories(&self.containerd_socket());
            if processes.is_empty() && places.is_empty() && !bridge && !table && self.cgroups().is_empty() {
                break;
            }
            let state = format!("processes {processes:?}, {places:?}, bridge {bridge}, table {table}");
            assert!(begin.elapsed() < Duration::from_secs(10), "left after down: {state}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        super::unmount_below(self.dir.path());
    }
}

impl Drop for Berth {
    /// A test that failed half-way must not leave its daemon, containerd, shims or mounts to the next one.
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        if std::thread::panicking() {
            eprintln!("the daemon's log ends:\n{}", self.log());
        }
        let own = self.dir.path().display().to_string();
        super::shims::sweep(&self.containerd_socket());
        for (pid, line) in super::processes() {
            if line.contains(&own) {
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid.cast_signed()),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .ok();
            }
        }
        if self.path("root").exists() {
            self.cgroup_roots().iter().for_each(|root| super::kill_cgroup(root));
        }
        std::thread::sleep(Duration::from_millis(50));
        super::unmount_below(self.dir.path());
        if self.path("root").exists() {
            let instance = self.instance();
            Command::new("ip")
                .args(["link", "del", &format!("berth-{instance}")])
                .stderr(Stdio::null())
                .status()
                .ok();
            let table = format!("berth_{instance}");
            Command::new("nft")
                .args(["delete", "table", "ip", &table])
                .stderr(Stdio::null())
                .status()
                .ok();
        }
    }
}

/// Whether a shim is of the kind that holds many pods, by its command line.
pub fn is_ours(line: &str) -> bool {
    line.contains("containerd-shim-berth-v1 ")
}

fn wait(child: &mut Child, patience: Duration) -> Option<std::process::ExitStatus> {
    let begin = Instant::now();
    while begin.elapsed() < patience {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn walk(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for name in names(directory) {
        let path = directory.join(&name);
        if path.is_dir() {
            found.extend(walk(&path))
        } else {
            found.push(name)
        }
    }
    found
}

fn looks_like_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

/// A gRPC channel to a unix socket.
pub async fn channel(socket: &Path) -> Result<Channel, berth::cli::Error> {
    berth::cli::connect(socket).await
}
