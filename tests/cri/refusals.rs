//! Bad input: each gives a clear error with the right code, and nothing half-made stays.

use std::sync::Arc;

use berth::proto::runtime as pb;
use pb::NamespaceMode::Pod as Shared;
use tonic::{Code, Status};

use crate::client::{ContainerParts, House, Parts, container_config, pod_config, shell};
use crate::support::berth::{BUSYBOX, Berth};

/// One refused thing: what it is, the code, and what the message must name.
type Case<C> = (&'static str, Code, &'static str, fn(&mut C));

async fn run(house: &House, config: Option<pb::PodSandboxConfig>, handler: &str) -> Result<String, Status> {
    let request = pb::RunPodSandboxRequest {
        config,
        runtime_handler: handler.to_owned(),
    };
    Ok(house
        .cri
        .clone()
        .run_pod_sandbox(request)
        .await?
        .into_inner()
        .pod_sandbox_id)
}

async fn create(house: &House, pod: &str, config: Option<pb::ContainerConfig>) -> Result<String, Status> {
    let request = pb::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config,
        sandbox_config: None,
    };
    Ok(house
        .cri
        .clone()
        .create_container(request)
        .await?
        .into_inner()
        .container_id)
}

fn check<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, code: Code, names: &str) {
    let refused = answer.expect_err(what);
    assert_eq!(refused.code(), code, "{what}: {refused}");
    assert!(
        refused.message().contains(names),
        "{what}: {names} is not named: {refused}"
    );
    assert!(refused.message().len() < 2000, "{what}: {:.300}", refused.message());
}

const SANDBOXES: [Case<pb::PodSandboxConfig>; 15] = [
    ("no metadata", Code::InvalidArgument, "metadata", |config| {
        config.metadata = None
    }),
    ("no name", Code::InvalidArgument, "metadata.name", |config| {
        name(config).name.clear()
    }),
    ("no namespace", Code::InvalidArgument, "metadata.namespace", |config| {
        name(config).namespace.clear()
    }),
    ("no uid", Code::InvalidArgument, "metadata.uid", |config| {
        name(config).uid.clear()
    }),
    ("a long name", Code::InvalidArgument, "metadata.name", |config| {
        name(config).name = "x".repeat(100_000)
    }),
    (
        "a target",
        Code::InvalidArgument,
        "namespace_options.target_id",
        |config| {
            config.namespaces().set_pid(pb::NamespaceMode::Target);
        },
    ),
    (
        "a network of a container",
        Code::InvalidArgument,
        "namespace_options.network",
        |config| {
            config.namespaces().set_network(pb::NamespaceMode::Container);
        },
    ),
    (
        "no such mode",
        Code::InvalidArgument,
        "namespace_options.ipc",
        |config| config.namespaces().ipc = 77,
    ),
    ("a user namespace", Code::Unimplemented, "userns_options", |config| {
        let mut options = pb::UserNamespace::default();
        options.set_mode(Shared);
        config.namespaces().userns_options = Some(options);
    }),
    ("a node's sysctl", Code::InvalidArgument, "vm.swappiness", |config| {
        let linux = config.linux.get_or_insert_default();
        linux.sysctls.insert("vm.swappiness".to_owned(), "1".to_owned());
    }),
    (
        "a sysctl that is not there",
        Code::Internal,
        "net.ipv4.no_such_thing",
        |config| {
            let linux = config.linux.get_or_insert_default();
            linux
                .sysctls
                .insert("net.ipv4.no_such_thing".to_owned(), "1".to_owned());
        },
    ),
    (
        "a host port",
        Code::Unimplemented,
        "port_mappings[0].host_port",
        |config| {
            config.port_mappings.push(pb::PortMapping {
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            });
        },
    ),
    (
        "a port that is none",
        Code::InvalidArgument,
        "port_mappings[0].container_port",
        |config| {
            config.port_mappings.push(pb::PortMapping {
                container_port: -80,
                ..Default::default()
            });
        },
    ),
    (
        "a parent that leads out",
        Code::InvalidArgument,
        "cgroup_parent",
        |config| {
            config.linux.get_or_insert_default().cgroup_parent = "/a/../../b".to_owned();
        },
    ),
    ("a 3 MiB annotation", Code::InvalidArgument, "config", |config| {
        config.annotations.insert("large".to_owned(), "x".repeat(3 << 20));
    }),
];

fn name(config: &mut pb::PodSandboxConfig) -> &mut pb::PodSandboxMetadata {
    config.metadata.as_mut().unwrap()
}

const CONTAINERS: [Case<pb::ContainerConfig>; 17] = [
    ("no metadata", Code::InvalidArgument, "metadata", |config| {
        config.metadata = None
    }),
    ("no name", Code::InvalidArgument, "metadata.name", |config| {
        config.metadata = Some(Default::default())
    }),
    ("no image", Code::InvalidArgument, "image", |config| config.image = None),
    ("an empty image", Code::InvalidArgument, "image.image", |config| {
        image(config, "")
    }),
    ("a bad reference", Code::InvalidArgument, "image", |config| {
        image(config, "UPPER//case:???")
    }),
    (
        "an absent image",
        Code::NotFound,
        "docker.io/library/absent:1",
        |config| {
            image(config, "docker.io/library/absent:1");
        },
    ),
    ("an absent image id", Code::NotFound, "sha256:", |config| {
        image(config, &format!("sha256:{}", "0".repeat(64)));
    }),
    (
        "an unknown capability",
        Code::InvalidArgument,
        "add_capabilities",
        |config| {
            let capabilities = config.security().capabilities.get_or_insert_default();
            capabilities.add_capabilities.push("FLY".to_owned());
        },
    ),
    ("an unknown user", Code::InvalidArgument, "run_as_username", |config| {
        config.security().run_as_username = "nobody-here".to_owned();
    }),
    ("an image volume", Code::Unimplemented, "mounts[0].image", |config| {
        let image = Some(pb::ImageSpec {
            image: BUSYBOX.to_owned(),
            ..Default::default()
        });
        let container_path = "/x".to_owned();
        config.mounts.push(pb::Mount {
            image,
            container_path,
            ..Default::default()
        });
    }),
    ("a CDI device", Code::Unimplemented, "CDI_devices", |config| {
        config.cdi_devices.push(pb::CdiDevice {
            name: "vendor.com/gpu=0".to_owned(),
        });
    }),
    (
        "an environment variable without a name",
        Code::InvalidArgument,
        "envs[0].key",
        |config| {
            config.envs.push(pb::KeyValue {
                key: String::new(),
                value: b"x".to_vec(),
            });
        },
    ),
    (
        "a value that is not UTF-8",
        Code::InvalidArgument,
        "envs[0].value",
        |config| {
            config.envs.push(pb::KeyValue {
                key: "A".to_owned(),
                value: b"\xff".to_vec(),
            });
        },
    ),
    ("a zero byte", Code::InvalidArgument, "command[3]", |config| {
        config.command.push("a\0b".to_owned())
    }),
    ("an empty program", Code::InvalidArgument, "command", |config| {
        config.command = vec![String::new()]
    }),
    (
        "a stop signal that is none",
        Code::InvalidArgument,
        "stop_signal",
        |config| config.stop_signal = 99,
    ),
    ("a 3 MiB annotation", Code::InvalidArgument, "config", |config| {
        config.annotations.insert("large".to_owned(), "x".repeat(3 << 20));
    }),
];

fn image(config: &mut pb::ContainerConfig, name: &str) {
    name.clone_into(&mut config.image.as_mut().unwrap().image);
}

#[tokio::test]
async fn a_refused_sandbox_leaves_nothing() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    check(
        "no config",
        run(&house, None, "").await,
        Code::InvalidArgument,
        "config",
    );
    for handler in ["kata", "RUNC", "../runc"] {
        let answer = run(&house, Some(pod_config("refused")), handler).await;
        check(handler, answer, Code::InvalidArgument, "runtime_handler");
    }
    for (what, code, names, spoil) in SANDBOXES {
        let mut config = pod_config("refused");
        spoil(&mut config);
        check(what, run(&house, Some(config), "").await, code, names);
        house.berth.assert_nothing_left(what).await;
    }
    let listed = house
        .cri
        .clone()
        .list_pod_sandbox(pb::ListPodSandboxRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().items, []);
    // The name was not taken by any of them.
    let pod = house.pod("refused").await;
    pod.remove().await;
    house.berth.assert_nothing_left("at the end").await;
}

#[tokio::test]
async fn a_refused_container_leaves_nothing() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let pod = house.pod("refused-containers").await;
    let before = house.berth.leftovers().await;
    check(
        "no config",
        create(&house, &pod.id, None).await,
        Code::InvalidArgument,
        "config",
    );
    for (what, code, names, spoil) in CONTAINERS {
        let mut config = shell("refused", "true");
        spoil(&mut config);
        check(what, create(&house, &pod.id, Some(config)).await, code, names);
        assert_eq!(house.berth.leftovers().await, before, "after {what}");
    }
    let listed = house
        .cri
        .clone()
        .list_containers(pb::ListContainersRequest::default())
        .await
        .unwrap();
    assert_eq!(listed.into_inner().containers, []);
    let container = pod.create(container_config("refused", &["true"])).await;
    container.remove().await;
    pod.stop().await;
    let answer = create(&house, &pod.id, Some(shell("late", "true"))).await;
    check("a stopped sandbox", answer, Code::FailedPrecondition, "stopped");
    pod.remove().await;
    house.berth.assert_nothing_left("at the end").await;
}

#[tokio::test]
async fn a_message_larger_than_kubelets_send_is_refused_and_the_next_one_served() {
    let house = House::of(Arc::new(Berth::start().await)).await;
    let mut config = pod_config("huge");
    config.annotations.insert("huge".to_owned(), "x".repeat(17 << 20));
    let refused = run(&house, Some(config), "").await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    house.pod("after-huge").await.remove().await;
    house.berth.assert_nothing_left("after a huge message").await;
}
