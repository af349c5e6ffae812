//! Which containerd the tests run on, and what a containerd holds, asked of it directly.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{Kind, ListSnapshotsRequest};
use containerd_client::services::v1::tasks_client::TasksClient;
use containerd_client::services::v1::{ListContainersRequest, ListRequest, ListTasksRequest};
use containerd_client::tonic::Request;

/// The program: the one in PATH, or the one that `BERTH_TEST_CONTAINERD` names.
pub fn binary() -> PathBuf {
    named().unwrap_or_else(|| "containerd".into())
}

fn named() -> Option<PathBuf> {
    std::env::var_os("BERTH_TEST_CONTAINERD").map(PathBuf::from)
}

/// The PATH that it needs: it looks there for stock shims, and those of its own version are beside it.
pub fn path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside = named().and_then(|binary| Some(binary.parent()?.to_owned()));
    std::env::join_paths(beside.into_iter().chain(std::env::split_paths(&path))).unwrap()
}

/// Its own `ctr`.
pub fn ctr(socket: &Path, namespace: &str) -> Command {
    let beside = named().map(|binary| binary.with_file_name("ctr"));
    let mut command = Command::new(beside.unwrap_or_else(|| "ctr".into()));
    command.env("PATH", path()).arg("--address").arg(socket);
    command.args(["--namespace", namespace]);
    command
}

/// Everything in the namespace `k8s.io` that belongs to pods: records, tasks, writable snapshots, leases.
pub async fn contents(socket: &Path) -> Vec<String> {
    let channel = super::berth::channel(socket).await.expect("containerd answers");
    let mut found = Vec::new();
    let containers = ContainersClient::new(channel.clone())
        .list(request(ListContainersRequest::default()))
        .await
        .unwrap();
    found.extend(
        containers
            .into_inner()
            .containers
            .into_iter()
            .map(|container| format!("record {}", container.id)),
    );
    let tasks = TasksClient::new(channel.clone())
        .list(request(ListTasksRequest::default()))
        .await
        .unwrap();
    found.extend(
        tasks
            .into_inner()
            .tasks
            .into_iter()
            .map(|task| format!("task {} {:?}", task.id, task.status())),
    );
    let leases = LeasesClient::new(channel.clone())
        .list(request(ListRequest::default()))
        .await
        .unwrap();
    found.extend(
        leases
            .into_inner()
            .leases
            .into_iter()
            .map(|lease| format!("lease {}", lease.id)),
    );
    let list = ListSnapshotsRequest {
        snapshotter: "overlayfs".to_owned(),
        filters: Vec::new(),
    };
    let mut snapshots = SnapshotsClient::new(channel)
        .list(request(list))
        .await
        .unwrap()
        .into_inner();
    while let Some(page) = snapshots.message().await.unwrap() {
        let active = page.info.into_iter().filter(|info| info.kind() == Kind::Active);
        found.extend(active.map(|info| format!("snapshot {}", info.name)));
    }
    found
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("containerd-namespace", "k8s.io".parse().unwrap());
    request
}
