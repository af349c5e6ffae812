//! A containerd of the test's own, the shim that it runs, and the search for what tasks left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use berth::shim::place::Place;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{
    DeleteContainerRequest, DeleteTaskRequest, KillRequest, ListContainersRequest, ListTasksRequest, WaitRequest,
};
use containerd_client::tonic::Request;
use containerd_client::types::v1::Process as Listed;
use tonic::transport::Channel;

use crate::container::Container;
use crate::support::{self, Containerd, containerd, shims};

/// The containerd namespace of the tests. OCI runtimes keep state of all containerds in one directory, by namespace.
pub const NAMESPACE: &str = "berth-shim-test";

/// The state directory of OCI runtimes, unless an option names another.
const RUNC_STATE: &str = "/run/containerd/runc";

/// How long anything may take here.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a container is run by, as containerd's `runtime.name` has it.
pub fn runtime() -> String {
    match is_stock() {
        true => "io.containerd.runc.v2".to_owned(),
        false => env!("CARGO_BIN_EXE_containerd-shim-berth-v1").to_owned(),
    }
}

/// Whether the shim is containerd's, of which a few things are not asked.
pub fn is_stock() -> bool {
    match std::env::var("BERTH_TEST_SHIM").as_deref() {
        Ok("stock") => true,
        Ok("berth") | Err(_) => false,
        Ok(other) => panic!("BERTH_TEST_SHIM is {other:?}, neither stock nor berth"),
    }
}

pub struct Node {
    pub containerd: Containerd,
    channel: Channel,
    /// Unique on this host: part of ids and name of the cgroup above all containers.
    name: String,
    made: AtomicUsize,
    /// The ids of all containers that were ever made.
    pub ids: Mutex<Vec<String>>,
}

impl Node {
    pub async fn start() -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let containerd = Containerd::start();
        // A remapped root must reach its root file system.
        fs::set_permissions(containerd.scratch(), fs::Permissions::from_mode(0o711)).unwrap();
        support::busybox(&containerd.scratch().join("busybox"));
        let channel = berth::containerd::Client::new(&containerd.socket(), NAMESPACE).channel();
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let this = Self {
            containerd,
            channel,
            name: format!("berth-shim-test-{}-{number}", std::process::id()),
            made: AtomicUsize::new(0),
            ids: Mutex::default(),
        };
        this.answers().await;
        this
    }

    /// Waits until containerd serves.
    async fn answers(&self) {
        let begin = Instant::now();
        while let Err(status) = self.try_list().await {
            assert!(begin.elapsed() < PATIENCE, "containerd does not answer: {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts containerd again after its [`Containerd::kill`], and waits until it serves.
    pub async fn start_again(&mut self) {
        self.containerd.start_again();
        self.answers().await;
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel())
    }

    pub fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel())
    }

    /// `message` as a request in the tests' namespace that must be answered soon.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let namespace = NAMESPACE.parse().unwrap();
        request.metadata_mut().insert("containerd-namespace", namespace);
        request.set_timeout(PATIENCE);
        request
    }

    /// A container that will run the words `args`.
    pub fn container(&self, args: &[&str]) -> Container<'_> {
        let id = format!("c{}-{}", self.made.fetch_add(1, Ordering::Relaxed), self.name);
        self.ids.lock().unwrap().push(id.clone());
        Container::new(self, id, args)
    }

    /// A container that runs `script` in a shell.
    pub fn shell(&self, script: &str) -> Container<'_> {
        self.container(&["sh", "-c", script])
    }

    /// The place of our shim.
    pub fn place(&self) -> Place {
        Place::common(&self.containerd.socket(), NAMESPACE)
    }

    /// The command that starts our shim before containerd does.
    pub fn ensure(&self) -> std::process::Command {
        let mut ensure = std::process::Command::new(runtime());
        ensure
            .args(["-namespace", NAMESPACE, "-address"])
            .arg(self.containerd.socket());
        ensure.args(["-ttrpc", "/nonexistent/ttrpc", "ensure"]);
        ensure
    }

    /// The root file system of all containers: busybox.
    pub fn rootfs(&self) -> PathBuf {
        self.containerd.scratch().join("busybox")
    }

    /// The cgroup above the containers', as a spec names it.
    pub fn cgroup(&self) -> String {
        format!("/{}", self.name)
    }

    /// The value of a container's cgroup file, of cgroup v1 (`memory`, `memory.limit_in_bytes`).
    pub fn cgroup_file(&self, controller: &str, id: &str, file: &str) -> String {
        let path = Path::new("/sys/fs/cgroup").join(controller).join(&self.name);
        let path = path.join(id).join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().to_owned()
    }

    pub async fn list(&self) -> Vec<Listed> {
        self.try_list().await.unwrap()
    }

    async fn try_list(&self) -> Result<Vec<Listed>, tonic::Status> {
        let request = self.request(ListTasksRequest::default());
        Ok(self.tasks().list(request).await?.into_inner().tasks)
    }

    /// Removes what there is of a container whose making was given up.
    pub async fn settle(&self, id: &str) {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let container_id = id.to_owned();
        let kill = KillRequest {
            container_id: container_id.clone(),
            signal: 9,
            ..Default::default()
        };
        if self.tasks().kill(self.request(kill)).await.is_ok() {
            let wait = WaitRequest {
                container_id: container_id.clone(),
                ..Default::default()
            };
            self.tasks().wait(self.request(wait)).await.unwrap();
            let delete = DeleteTaskRequest { container_id };
            self.tasks().delete(self.request(delete)).await.unwrap();
        }
        let record = DeleteContainerRequest { id: id.to_owned() };
        // It may not have been made.
        let _ = self.containers().delete(self.request(record)).await;
    }

    /// Looks that tasks, containers and everything that they were made of is gone, and ends containerd.
    pub async fn end(self) {
        let begin = Instant::now();
        loop {
            let left = self.leftovers().await;
            if left.is_empty() {
                return;
            }
            let log = self.containerd.log();
            assert!(begin.elapsed() < Duration::from_secs(10), "left: {left:#?}\n{log}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The same without its end.
    async fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        left.extend(self.list().await.into_iter().map(|task| format!("task {}", task.id)));
        let records = self.request(ListContainersRequest::default());
        let records = self.containers().list(records).await.unwrap().into_inner().containers;
        left.extend(records.into_iter().map(|record| format!("record {}", record.id)));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let scratch = self.containerd.scratch().display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&scratch));
        left.extend(mounts.map(|line| format!("mount {line}")));
        let address = self.containerd.socket();
        left.extend(shims::processes(&address).into_iter().map(|it| format!("shim {it:?}")));
        left.extend(shims::directories(&address).iter().map(|it| it.display().to_string()));
        let ids = self.ids.lock().unwrap().clone();
        let socket = |id: &String| shims::stock_socket(&address, NAMESPACE, id);
        left.extend(ids.iter().filter_map(socket).map(|it| it.display().to_string()));
        left.extend(self.cgroups().into_iter().flat_map(|root| below(&root)));
        let state = PathBuf::from(RUNC_STATE).join(NAMESPACE);
        let kept = ids.iter().map(|id| state.join(id)).filter(|path| path.exists());
        left.extend(kept.map(|path| path.display().to_string()));
        left.extend(below(
            &self
                .containerd
                .scratch()
                .join("state/io.containerd.runtime.v2.task")
                .join(NAMESPACE),
        ));
        left
    }

    /// The cgroup above the containers', in every hierarchy.
    fn cgroups(&self) -> Vec<PathBuf> {
        let mount = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(mount).unwrap().flatten().map(|entry| entry.path());
        let ours = hierarchies.chain([mount.to_owned()]).map(|it| it.join(&self.name));
        ours.filter(|path| path.is_dir()).collect()
    }

    /// `ctr` in the tests' namespace.
    pub fn ctr(&self, args: &[&str]) -> std::process::Output {
        let mut ctr = containerd::ctr(&self.containerd.socket(), NAMESPACE);
        ctr.args(args).stdin(std::process::Stdio::null()).output().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("containerd's log ends:\n{}", self.containerd.log());
        }
        self.cgroups().iter().for_each(|cgroup| support::kill_cgroup(cgroup));
        let state = PathBuf::from(RUNC_STATE).join(NAMESPACE);
        let address = self.containerd.socket();
        for id in self.ids.lock().unwrap().iter() {
            let _ = fs::remove_dir_all(state.join(id));
            let _ = shims::stock_socket(&address, NAMESPACE, id).map(fs::remove_file);
        }
    }
}

/// The directories and files in a directory.
fn below(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.path().is_dir());
    directories.map(|entry| entry.path().display().to_string()).collect()
}
