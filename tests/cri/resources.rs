//! Limits, as the host's cgroups show them.

use std::fs;
use std::path::{Path, PathBuf};

use berth::proto::runtime as pb;
use tonic::{Code, Status};

use crate::client::{Container, ContainerParts, container_config, house, pod_config, shell};
use crate::support::kill_cgroup;

/// The file of a running container's cgroup: of `v1` in the hierarchy of that controller, or of `v2`.
async fn cgroup_file(container: &Container, (controller, v1): (&str, &str), v2: &str) -> String {
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", container.pid().await)).unwrap();
    let path = file(&membership, controller).map(|directory| directory.join(v1));
    let path = path.unwrap_or_else(|| unified(&membership).join(v2));
    fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

/// A process's directory in the hierarchy of a v1 controller.
fn file(membership: &str, controller: &str) -> Option<PathBuf> {
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let controllers = parts.nth(1)?;
        controllers
            .split(',')
            .any(|one| one == controller)
            .then(|| parts.next())?
            .map(str::to_owned)
    };
    let path = membership.lines().find_map(of)?;
    Some(
        Path::new("/sys/fs/cgroup")
            .join(controller)
            .join(path.trim_start_matches('/')),
    )
}

fn unified(membership: &str) -> PathBuf {
    let path = membership.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    Path::new("/sys/fs/cgroup").join(path)
}

async fn update(container: &Container, linux: pb::LinuxContainerResources) -> Result<(), Status> {
    let request = pb::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(linux),
        ..pb::UpdateContainerResourcesRequest::default()
    };
    container
        .cri
        .clone()
        .update_container_resources(request)
        .await
        .map(drop)
}

const MIB: i64 = 1 << 20;

#[tokio::test]
async fn limits_are_set_and_changed_while_the_container_runs() {
    let house = house().await;
    let pod = house.pod("limits").await;
    let mut config = container_config("c", &["sleep", "1000000"]);
    let limits = config.resources();
    limits.cpu_shares = 512;
    limits.cpu_period = 100_000;
    limits.cpu_quota = 50_000;
    limits.memory_limit_in_bytes = 64 * MIB;
    let container = pod.start(config.clone()).await;
    let memory = async || cgroup_file(&container, ("memory", "memory.limit_in_bytes"), "memory.max").await;
    assert_eq!(memory().await, (64 * MIB).to_string());
    let v1 = Path::new("/sys/fs/cgroup/cpu/cpu.shares").exists();
    if v1 {
        assert_eq!(cgroup_file(&container, ("cpu", "cpu.shares"), "").await, "512");
        assert_eq!(cgroup_file(&container, ("cpu", "cpu.cfs_quota_us"), "").await, "50000");
    } else {
        assert_eq!(cgroup_file(&container, ("", ""), "cpu.max").await, "50000 100000");
    }
    let told = container.status().await.resources.unwrap().linux.unwrap();
    assert_eq!(Some(told), config.linux.unwrap().resources);

    let change = pb::LinuxContainerResources {
        cpu_shares: 1024,
        memory_limit_in_bytes: 96 * MIB,
        ..pb::LinuxContainerResources::default()
    };
    update(&container, change).await.unwrap();
    assert_eq!(memory().await, (96 * MIB).to_string());
    if v1 {
        assert_eq!(cgroup_file(&container, ("cpu", "cpu.shares"), "").await, "1024");
        assert_eq!(
            cgroup_file(&container, ("cpu", "cpu.cfs_quota_us"), "").await,
            "50000",
            "what was not named"
        );
    }
    let told = container.status().await.resources.unwrap().linux.unwrap();
    let figures = (told.cpu_shares, told.cpu_quota, told.memory_limit_in_bytes);
    assert_eq!(figures, (1024, 50_000, 96 * MIB));

    // All or nothing: a limit that cannot be leaves the others as they were.
    let impossible = pb::LinuxContainerResources {
        cpu_shares: 2048,
        cpuset_cpus: "4000".to_owned(),
        ..pb::LinuxContainerResources::default()
    };
    assert!(update(&container, impossible).await.is_err());
    assert_eq!(container.status().await.resources.unwrap().linux.unwrap(), told);
    if v1 {
        assert_eq!(cgroup_file(&container, ("cpu", "cpu.shares"), "").await, "1024");
    }
    pod.remove().await;
}

#[tokio::test]
async fn limits_of_a_created_container_change_before_its_start_and_of_an_ended_one_never() {
    let house = house().await;
    let pod = house.pod("limits-early").await;
    let container = pod.create(container_config("c", &["sleep", "1000000"])).await;
    let limit = pb::LinuxContainerResources {
        memory_limit_in_bytes: 48 * MIB,
        ..pb::LinuxContainerResources::default()
    };
    update(&container, limit.clone()).await.unwrap();
    container.start().await.unwrap();
    let memory = cgroup_file(&container, ("memory", "memory.limit_in_bytes"), "memory.max").await;
    assert_eq!(memory, (48 * MIB).to_string());
    container.stop(0).await;
    let late = update(&container, limit).await.unwrap_err();
    assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
    pod.remove().await;
}

#[tokio::test]
async fn a_container_beyond_its_memory_is_oom_killed() {
    let house = house().await;
    let pod = house.pod("oom").await;
    // Without swap to hide in.
    let mut config = shell("c", "tail /dev/zero");
    config.resources().memory_limit_in_bytes = 16 * MIB;
    config.resources().memory_swap_limit_in_bytes = 16 * MIB;
    let mut direct = container_config("direct", &["tail", "/dev/zero"]);
    direct.linux.clone_from(&config.linux);
    let ended = pod.run(direct).await;
    assert_eq!((ended.code, &*ended.status.reason), (137, "OOMKilled"), "{ended:?}");
    let ended = pod.run(config).await;
    assert_eq!((ended.code, &*ended.status.reason), (137, "OOMKilled"), "{ended:?}");
    pod.remove().await;
}

#[tokio::test]
async fn an_oom_score_that_berth_may_not_give_is_clamped() {
    let house = house().await;
    let pod = house.pod("oom-score").await;
    for (name, asked) in [("low", -998), ("zero", 0), ("high", 1000)] {
        let mut config = shell(name, "cat /proc/self/oom_score_adj");
        config.resources().oom_score_adj = asked;
        let got: i64 = pod.succeed(config).await.trim().parse().unwrap();
        assert!(
            got == asked || (asked < 0 && (asked..=0).contains(&got)),
            "{name}: {got}"
        );
    }
    pod.remove().await;
}

#[tokio::test]
async fn a_cgroup_parent_of_the_callers_is_used_and_left_alone() {
    let house = house().await;
    let name = format!("berth-test-caller-{}", std::process::id());
    let parents: Vec<_> = ["memory", "cpu", "pids"]
        .iter()
        .map(|controller| Path::new("/sys/fs/cgroup").join(controller))
        .filter(|hierarchy| hierarchy.is_dir())
        .map(|hierarchy| hierarchy.join(&name).join("pod"))
        .collect();
    let parents = if parents.is_empty() {
        vec![Path::new("/sys/fs/cgroup").join(&name).join("pod")]
    } else {
        parents
    };
    for parent in &parents {
        fs::create_dir_all(parent).unwrap();
    }
    let mut config = pod_config("caller-cgroup");
    config.linux.get_or_insert_default().cgroup_parent = format!("/{name}/pod");
    let pod = house.pod_of(config).await;
    let container = pod.idle("c").await;
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", container.pid().await)).unwrap();
    assert!(
        membership.contains(&format!(":/{name}/pod/{}", container.id)),
        "{membership}"
    );
    pod.remove().await;
    let left: Vec<_> = parents.iter().map(|parent| parent.is_dir()).collect();
    let children: Vec<_> = parents
        .iter()
        .map(|parent| parent.join(&container.id).exists())
        .collect();
    // runc makes the path in every hierarchy; all of it is the caller's.
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let cgroup = hierarchy.path().join(&name);
        if cgroup.is_dir() {
            kill_cgroup(&cgroup);
        }
    }
    kill_cgroup(&Path::new("/sys/fs/cgroup").join(&name));
    assert!(left.iter().all(|left| *left), "{left:?}");
    assert!(!children.iter().any(|there| *there), "{children:?}");
}

#[tokio::test]
async fn limits_that_no_kernel_takes_are_refused_by_their_field() {
    let house = house().await;
    let pod = house.pod("limits-refused").await;
    type Set = fn(&mut pb::LinuxContainerResources);
    let cases: [(&str, Set); 7] = [
        ("cpu_shares", |limits| limits.cpu_shares = -1),
        ("cpu_quota", |limits| limits.cpu_quota = -2),
        ("cpu_period", |limits| limits.cpu_period = -100),
        ("memory_limit_in_bytes", |limits| limits.memory_limit_in_bytes = -5),
        ("memory_swap_limit_in_bytes", |limits| {
            limits.memory_swap_limit_in_bytes = i64::MIN
        }),
        ("oom_score_adj", |limits| limits.oom_score_adj = 1001),
        ("oom_score_adj", |limits| limits.oom_score_adj = -1001),
    ];
    for (field, set) in cases {
        let mut config = shell("c", "true");
        set(config.resources());
        let refused = pod.try_create(config).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    let container = pod.create(shell("c", "true")).await;
    let refused = update(
        &container,
        pb::LinuxContainerResources {
            cpu_shares: -1,
            ..Default::default()
        },
    )
    .await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    pod.remove().await;
}
