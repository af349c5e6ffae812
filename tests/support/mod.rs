//! What integration tests stand on: a containerd and a registry of their own, and images made on the fly.
//!
//! Everything lives in a temporary directory and ends with the value that stands for it, also when a test fails.

// Every test binary uses a part of this.
#![allow(dead_code)]

pub mod berth;
pub mod containerd;
pub mod fake;
pub mod image;
pub mod shims;

use std::fs::File;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A containerd of the test's own.
pub struct Containerd {
    binary: PathBuf,
    child: Child,
    dir: TempDir,
}

impl Containerd {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::without(&["io.containerd.grpc.v1.cri"], containerd::binary())
    }

    /// The distribution's, which has a CRI plugin, as it comes configured.
    pub fn with_cri_plugin() -> Self {
        Self::without(&[], "containerd".into())
    }

    fn without(plugins: &[&str], binary: PathBuf) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-test-").tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = {plugins:?}\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("containerd.sock"),
            at("ttrpc.sock"),
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let child = Self::launch(&binary, dir.path());
        Self { binary, child, dir }
    }

    fn launch(binary: &Path, dir: &Path) -> Child {
        let mut command = Command::new(binary);
        command.arg("--config").arg(dir.join("config.toml"));
        if binary == containerd::binary() {
            command.env("PATH", containerd::path());
        }
        let child = start(command, &dir.join("containerd.log"));
        wait_for("containerd", || {
            UnixStream::connect(dir.join("containerd.sock")).is_ok()
        });
        child
    }

    /// Kills it as a crash would. Its shims stay.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, after [`Self::kill`].
    pub fn start_again(&mut self) {
        self.child = Self::launch(&self.binary, self.dir.path());
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("containerd.sock")
    }

    /// A directory for a test's own files.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// What `ctr`, an independent witness, prints in `namespace`.
    pub fn ctr(&self, namespace: &str, args: &[&str]) -> String {
        let output = containerd::ctr(&self.socket(), namespace).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.path().join("containerd.log")).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        end(&mut self.child);
        shims::sweep(&self.socket());
        unmount_below(self.dir.path());
    }
}

/// A registry on loopback: Debian's docker-registry, without TLS.
pub struct Registry {
    child: Child,
    port: u16,
    dir: TempDir,
}

/// The credentials that a [`Registry::with_password`] wants.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "secret-word";
const HTPASSWD: &str = "tester:$2b$04$pVpA4FTIjw7FKeX1UWPLteVPeZyDm2xhDxJyoY42T.EdgBObk/X2O\n";

impl Registry {
    pub fn start() -> Self {
        Self::with(|_| String::new())
    }

    /// One that lets in [`USER`] alone.
    pub fn with_password() -> Self {
        Self::with(|dir| {
            let path = dir.join("htpasswd");
            std::fs::write(&path, HTPASSWD).unwrap();
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path.display())
        })
    }

    /// One that speaks HTTPS with a certificate that nobody vouches for; see [`Registry::certificate`]. Nothing can
    /// be pushed there: it has what `like` has.
    pub fn with_tls(like: &Self) -> Self {
        Self::with(|dir| {
            std::os::unix::fs::symlink(like.dir.path().join("data"), dir.join("data")).unwrap();
            let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
            // Debian's own configuration would make it an authority, which cannot be a server too.
            let config = dir.join("openssl.conf");
            std::fs::write(&config, "[req]\ndistinguished_name = name\n[name]\n").unwrap();
            let made = Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                    "-nodes",
                ])
                .args([
                    "-subj",
                    "/CN=berth test",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                    "-days",
                    "2",
                ])
                .arg("-config")
                .arg(&config)
                .arg("-keyout")
                .arg(&key)
                .arg("-out")
                .arg(&certificate)
                .output()
                .unwrap();
            assert!(
                made.status.success(),
                "openssl: {}",
                String::from_utf8_lossy(&made.stderr)
            );
            format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            )
        })
    }

    /// The certificate of a [`Registry::with_tls`].
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("certificate.pem")
    }

    fn with(extra: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::Builder::new().prefix("berth-registry-").tempdir().unwrap();
        let port = free_port();
        let config = format!(
            "version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  \
             addr: 127.0.0.1:{port}\n{}",
            dir.path().join("data").display(),
            extra(dir.path()),
        );
        let path = dir.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path);
        let child = start(command, &dir.path().join("registry.log"));
        let this = Self { child, port, dir };
        wait_for("docker-registry", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        this
    }

    /// `host:port`, as in references.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Puts content of a repository there and returns its digest.
    pub async fn push_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let client = client();
        let url = format!("http://{}/v2/{repository}/blobs/uploads/", self.host());
        let upload = client.post(url).basic_auth(USER, Some(PASSWORD)).send().await.unwrap();
        let mut url: reqwest::Url = upload.headers()["location"].to_str().unwrap().parse().unwrap();
        let digest = image::digest(bytes);
        url.query_pairs_mut().append_pair("digest", &digest);
        let put = client.put(url).basic_auth(USER, Some(PASSWORD)).body(bytes.to_vec());
        put.send().await.unwrap().error_for_status().unwrap();
        digest
    }

    /// Puts a manifest or an index there under a tag or its digest.
    pub async fn push_manifest(&self, repository: &str, version: &str, media_type: &str, bytes: &[u8]) {
        let url = format!("http://{}/v2/{repository}/manifests/{version}", self.host());
        let put = client().put(url).basic_auth(USER, Some(PASSWORD));
        let put = put.header("content-type", media_type.to_owned()).body(bytes.to_vec());
        put.send().await.unwrap().error_for_status().unwrap();
    }

    /// Puts a whole image there.
    pub async fn push(&self, repository: &str, tag: &str, image: &image::Image) {
        for layer in &image.layers {
            self.push_blob(repository, &layer.bytes).await;
        }
        self.push_blob(repository, &image.config).await;
        self.push_manifest(repository, tag, image.media_type(), &image.manifest())
            .await;
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn client() -> reqwest::Client {
    // Err: installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .build()
        .unwrap()
}

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Waits up to ten seconds for something to become true.
pub fn wait_for(what: &str, mut is_true: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_true() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what}: not within ten seconds"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn start(mut command: Command, log: &Path) -> Child {
    let log = File::create(log).unwrap();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Asks a program to end, and makes it after five seconds.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let _ = kill(pid, Signal::SIGTERM);
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > Duration::from_secs(5) {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Every process of this machine: its pid and its command line, the words parted by spaces.
pub fn processes() -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let line = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    };
    pids.filter_map(line).collect()
}

/// Kills what runs in a cgroup and below it, and removes it, as far as it lets itself be.
pub fn kill_cgroup(path: &Path) {
    for pid in cgroup_pids(path) {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
    let children = std::fs::read_dir(path).into_iter().flatten().flatten();
    for child in children.filter(|child| child.path().is_dir()) {
        kill_cgroup(&child.path());
    }
    let start = Instant::now();
    while std::fs::remove_dir(path).is_err() && path.exists() && start.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The processes in a cgroup itself.
pub fn cgroup_pids(path: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Unmounts whatever is left below a directory, the last mounted first.
pub fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut points: Vec<_> = points.filter(|point| point.starts_with(dir)).collect();
    points.reverse();
    for point in points {
        if let Err(error) = umount2(point, MntFlags::MNT_DETACH) {
            eprintln!("{}: {}", point.display(), io::Error::from(error));
        }
    }
}

/// Makes a root file system of busybox and its applets.
pub fn busybox(root: &Path) {
    for directory in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(root.join(directory)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "cat", "dd", "echo", "head", "id", "kill", "ls", "mount", "pwd", "sleep", "stty", "touch", "true",
        "false", "tty", "wc", "yes", "env", "readlink", "seq",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
}
