//! What a container runs, as whom, and how it ends.

use std::time::{Duration, Instant};

use berth::proto::runtime as pb;
use tonic::Code;

use crate::client::{ContainerParts, container_config, house, shell};

#[tokio::test]
async fn a_container_is_created_then_runs_then_has_ended() {
    let house = house().await;
    let pod = house.pod("container-life").await;
    let mut config = shell("c", "echo out; echo err >&2; exit 3");
    config.labels = [("a".to_owned(), "b".to_owned())].into();
    config.annotations = [("c".to_owned(), " \n\"".to_owned())].into();
    config.image.as_mut().unwrap().user_specified_image = "busybox".to_owned();
    let container = pod.create(config.clone()).await;
    let created = container.status().await;
    assert_eq!(created.state(), pb::ContainerState::ContainerCreated);
    assert_eq!((created.started_at, created.finished_at), (0, 0));
    assert_eq!(created.metadata, config.metadata);
    assert_eq!(
        (&created.labels, &created.annotations),
        (&config.labels, &config.annotations)
    );
    assert_eq!(created.image, config.image);
    assert_eq!(created.log_path, container.log.display().to_string());
    assert!(created.image_id.starts_with("sha256:"), "{created:?}");
    assert!(!created.image_ref.is_empty());

    container.start().await.unwrap();
    let ended = container.ended().await;
    assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), (3, "out\n", "err\n"));
    let status = ended.status;
    assert_eq!(status.reason, "Error");
    assert!(created.created_at < status.started_at, "{status:?}");
    assert!(status.started_at <= status.finished_at, "{status:?}");
    let again = container.start().await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition, "{again}");
    pod.remove().await;
}

#[tokio::test]
async fn the_exit_code_is_the_processs_or_128_and_its_signal() {
    let house = house().await;
    let pod = house.pod("codes").await;
    for (name, line, code, reason) in [
        ("good", "exit 0", 0, "Completed"),
        ("bad", "exit 255", 255, "Error"),
        ("term", "sh -c 'kill -TERM $$' & wait $!", 143, "Error"),
        (
            "segv",
            "exec sh -c 'ulimit -c 0; kill -SEGV $PPID; exit 11'",
            11,
            "Error",
        ),
    ] {
        let ended = pod.run(shell(name, line)).await;
        assert_eq!((ended.code, &*ended.status.reason), (code, reason), "{name}");
    }
    let killed = pod.idle("killed").await;
    let pid = nix::unistd::Pid::from_raw(killed.pid().await.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let ended = killed.ended().await;
    assert_eq!((ended.code, &*ended.status.reason), (137, "Error"));
    pod.remove().await;
}

#[tokio::test]
async fn command_arguments_environment_and_directory_are_those_asked_for() {
    let house = house().await;
    let pod = house.pod("process").await;
    let mut config = container_config("c", &["sh", "-c", "pwd; env; for x; do echo \"<$x>\"; done"]);
    config.args = ["zero", "a b", "", "$HOME", "é"].map(str::to_owned).to_vec();
    config.working_dir = "/var".to_owned();
    for (key, value) in [("A", "1"), ("B", "x=y z"), ("A", "2"), ("EMPTY", "")] {
        let (key, value) = (key.to_owned(), value.into());
        config.envs.push(pb::KeyValue { key, value });
    }
    let text = pod.succeed(config).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "/var");
    for wanted in ["A=2", "B=x=y z", "EMPTY=", "PATH=/bin", "HOSTNAME=process"] {
        assert!(lines.contains(&wanted), "{wanted}: {text}");
    }
    assert_eq!(lines.iter().filter(|line| line.starts_with("A=")).count(), 1, "{text}");
    assert!(text.ends_with("<a b>\n<>\n<$HOME>\n<é>\n"), "{text}");
    // What the image says counts where the request is silent: it runs a shell, which ends at the end of its input.
    let ended = pod.run(container_config("image", &[])).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    pod.remove().await;
}

#[tokio::test]
async fn a_command_that_is_missing_is_a_start_error_with_the_runtimes_words() {
    let house = house().await;
    let pod = house.pod("missing").await;
    let container = pod.create(container_config("c", &["/no/such/program"])).await;
    let error = container.start().await.unwrap_err();
    assert!(error.message().contains("/no/such/program"), "{error}");
    let status = container.status().await;
    assert_eq!(status.state(), pb::ContainerState::ContainerExited);
    assert_eq!((&*status.reason, status.exit_code), ("StartError", 128));
    assert!(status.message.contains("/no/such/program"), "{status:?}");
    assert!(status.finished_at > 0);
    container.stop(1).await;
    container.remove().await;
    // The pod is none the worse.
    assert_eq!(pod.sh("other", "echo fine").await, "fine\n");
    pod.remove().await;
}

#[tokio::test]
async fn a_stop_sends_the_signal_waits_out_the_grace_and_then_kills() {
    let house = house().await;
    let pod = house.pod("stops").await;
    // busybox' sh handles a trap when its child has ended or `wait` returns.
    let trap = |signal: &str| format!("trap 'echo got {signal}; exit 7' {signal}; echo ready; sleep 1000 & wait");
    let polite = pod.start(shell("polite", &trap("TERM"))).await;
    let mut usr1 = shell("own-signal", &trap("USR1"));
    usr1.set_stop_signal(pb::Signal::Sigusr1);
    let own = pod.start(usr1).await;
    let deaf = pod
        .start(shell("deaf", "trap '' TERM; echo ready; while true; do sleep 1; done"))
        .await;
    for container in [&polite, &own, &deaf] {
        container.says("ready").await;
    }
    assert_eq!(own.status().await.stop_signal(), pb::Signal::Sigusr1);
    assert_eq!(polite.status().await.stop_signal(), pb::Signal::Sigterm);

    for (container, said) in [(&polite, "got TERM"), (&own, "got USR1")] {
        container.stop(20).await;
        let ended = container.ended().await;
        assert_eq!(ended.code, 7, "{ended:?}");
        assert!(ended.stdout.contains(said), "{ended:?}");
    }
    let begin = Instant::now();
    deaf.stop(1).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    let ended = deaf.ended().await;
    assert_eq!((ended.code, &*ended.status.reason), (137, "Error"));

    let at_once = pod.start(shell("at-once", &trap("TERM"))).await;
    at_once.says("ready").await;
    at_once.stop(0).await;
    let ended = at_once.ended().await;
    assert_eq!((ended.code, ended.stdout.contains("got")), (137, false));
    pod.remove().await;
}

#[tokio::test]
async fn a_stop_with_a_shorter_grace_overtakes_one_that_waits() {
    let house = house().await;
    let pod = house.pod("overtaken").await;
    let deaf = pod
        .start(shell("c", "trap '' TERM; echo ready; while true; do sleep 1; done"))
        .await;
    deaf.says("ready").await;
    let patient = tokio::spawn({
        let deaf = deaf.clone();
        async move { deaf.stop(600).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(deaf.status().await.state(), pb::ContainerState::ContainerRunning);
    // Nothing else has to wait for the grace period either.
    assert_eq!(pod.sh("beside", "echo hello").await, "hello\n");
    deaf.stop(0).await;
    patient.await.unwrap();
    assert_eq!(deaf.status().await.exit_code, 137);
    pod.remove().await;
}

#[tokio::test]
async fn users_and_groups_are_numbers_or_the_images_names() {
    let house = house().await;
    let pod = house.pod("users").await;
    type Set<'a> = &'a dyn Fn(&mut pb::LinuxContainerSecurityContext);
    let show = |name: &str, set: Set<'_>| {
        let mut config = shell(name, "id -u; id -g; id -G; cat /proc/self/cgroup > /dev/null");
        set(config.security());
        config
    };
    let number = |value| Some(pb::Int64Value { value });
    let cases: [(&str, Set<'_>, &str); 6] = [
        ("image", &|_| (), "0 0 0"),
        ("number", &|context| context.run_as_user = number(33), "33 33 33"),
        ("unknown", &|context| context.run_as_user = number(4242), "4242 0 0"),
        (
            "name",
            &|context| context.run_as_username = "www-data".into(),
            "33 33 33",
        ),
        (
            "group",
            &|context| {
                context.run_as_user = number(33);
                context.run_as_group = number(77);
            },
            "33 77 77",
        ),
        (
            "supplemental",
            &|context| {
                context.run_as_user = number(33);
                context.supplemental_groups = vec![1234, 5678];
            },
            "33 33 33 1234 5678",
        ),
    ];
    for (name, set, wanted) in cases {
        let text = pod.succeed(show(name, set)).await;
        assert_eq!(text.split_whitespace().collect::<Vec<_>>().join(" "), wanted, "{name}");
    }
    // The image's /etc/group adds to them, unless the policy is strict.
    let member = |policy| {
        move |context: &mut pb::LinuxContainerSecurityContext| {
            context.run_as_user = number(1000);
            context.supplemental_groups = vec![60000];
            context.set_supplemental_groups_policy(policy);
        }
    };
    let merged = pod
        .succeed(show("merge", &member(pb::SupplementalGroupsPolicy::Merge)))
        .await;
    assert_eq!(merged.lines().last(), Some("1000 50000 60000"));
    let strict = pod
        .start(show("strict", &member(pb::SupplementalGroupsPolicy::Strict)))
        .await
        .ended()
        .await;
    assert_eq!(strict.stdout.lines().last(), Some("1000 60000"));
    let user = strict.status.user.unwrap().linux.unwrap();
    assert_eq!(
        (user.uid, user.gid, user.supplemental_groups),
        (1000, 1000, vec![1000, 60000])
    );

    let refusals: [(&str, Set<'_>); 5] = [
        ("run_as_group", &|context| context.run_as_group = number(5)),
        ("run_as_username", &|context| {
            context.run_as_username = "nobody-here".into()
        }),
        ("run_as_user", &|context| context.run_as_user = number(-1)),
        ("run_as_user", &|context| {
            context.run_as_user = number(i64::from(u32::MAX))
        }),
        ("supplemental_groups[1]", &|context| {
            context.supplemental_groups = vec![1, -1]
        }),
    ];
    for (field, set) in refusals {
        let refused = pod.try_create(show("refused", set)).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(field), "{refused}");
    }
    pod.remove().await;
}

#[tokio::test]
async fn containers_are_listed_by_id_sandbox_state_and_labels() {
    let house = house().await;
    let (one, other) = (house.pod("lists-one").await, house.pod("lists-other").await);
    let mut labelled = container_config("a", &["sleep", "1000000"]);
    labelled.labels = [("test".to_owned(), "lists".to_owned())].into();
    let a = one.start(labelled.clone()).await;
    let b = other.create(labelled).await;
    let c = one.idle("c").await;
    let list = async |filter: pb::ContainerFilter| {
        let filter = Some(filter);
        let request = pb::ListContainersRequest { filter };
        let rows = house
            .cri
            .clone()
            .list_containers(request)
            .await
            .unwrap()
            .into_inner()
            .containers;
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let labels = pb::ContainerFilter {
        label_selector: [("test".to_owned(), "lists".to_owned())].into(),
        ..pb::ContainerFilter::default()
    };
    assert_eq!(list(labels.clone()).await, [&*a.id, &*b.id]);
    let of_one = pb::ContainerFilter {
        pod_sandbox_id: one.id.clone(),
        ..pb::ContainerFilter::default()
    };
    assert_eq!(list(of_one).await, [&*a.id, &*c.id]);
    let created = pb::ContainerFilter {
        state: Some(pb::ContainerStateValue {
            state: pb::ContainerState::ContainerCreated.into(),
        }),
        ..labels.clone()
    };
    assert_eq!(list(created).await, [&*b.id]);
    let by_id = pb::ContainerFilter {
        id: a.id[..20].to_owned(),
        ..labels
    };
    assert_eq!(list(by_id).await, [&*a.id]);
    let all = house
        .cri
        .clone()
        .list_containers(pb::ListContainersRequest::default())
        .await
        .unwrap()
        .into_inner();
    let row = all.containers.iter().find(|row| row.id == a.id).unwrap();
    assert_eq!(row.pod_sandbox_id, one.id);
    assert_eq!(row.image_id, a.status().await.image_id);
    assert_eq!(row.state(), pb::ContainerState::ContainerRunning);
    one.remove().await;
    other.remove().await;
}
