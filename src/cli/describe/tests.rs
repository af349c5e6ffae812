use super::*;
use crate::proto::berth::container::{Mount, Port, Variable};
use crate::proto::berth::{Condition, PodName, Volume};

const SECOND: i64 = 1_000_000_000;
/// Tue, 24 Nov 2026 06:30:00 UTC
const START: i64 = 1_795_501_800 * SECOND;

fn map(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn init() -> Container {
    let mut init = Container {
        name: "init".to_owned(),
        id: "aa".to_owned(),
        image: "box:1".to_owned(),
        image_id: "sha256:1".to_owned(),
        command: words(&["/bin/sh", "-c"]),
        args: words(&["true\nfalse"]),
        reason: "Completed".to_owned(),
        started_at: START,
        finished_at: START + SECOND,
        ready: true,
        ..Container::default()
    };
    init.set_state(State::Exited);
    init
}

fn demo() -> Container {
    let mut demo = Container {
        name: "demo".to_owned(),
        id: "bb".to_owned(),
        image: "demo:1".to_owned(),
        image_id: "sha256:2".to_owned(),
        restarts: 1,
        started_at: START + 30 * SECOND,
        started: true,
        ready: true,
        last: Some(Ended {
            reason: "LivenessProbeFailed".to_owned(),
            message: "HTTP probe failed with statuscode: 506".to_owned(),
            exit_code: 137,
            started_at: START + 2 * SECOND,
            finished_at: START + 29 * SECOND,
        }),
        ports: vec![Port {
            number: 80,
            protocol: "TCP".to_owned(),
        }],
        limits: map(&[("memory", "64Mi"), ("cpu", "500m")]),
        liveness: "exec [/bin/sh -c true] delay=5s timeout=1s period=5s #success=1 #failure=3".to_owned(),
        env: vec![Variable {
            name: "HOST".to_owned(),
            value: "127.0.0.1".to_owned(),
        }],
        mounts: vec![Mount {
            path: "/data".to_owned(),
            volume: "data".to_owned(),
            read_only: true,
        }],
        ..Container::default()
    };
    demo.set_state(State::Running);
    demo
}

fn line(severity: &str, reason: &str, message: &str, first: i64, last: i64, count: u32) -> Line {
    Line {
        container: "demo".to_owned(),
        r#type: severity.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        first: START + first * SECOND,
        last: START + last * SECOND,
        count,
    }
}

#[test]
fn a_pod_is_described_as_kubectl_does() {
    let condition = |kind: &str| Condition {
        r#type: kind.to_owned(),
        met: true,
    };
    let pod = Pod {
        name: Some(PodName {
            name: "p".to_owned(),
            namespace: "default".to_owned(),
        }),
        uid: "u".to_owned(),
        created_at: START,
        phase: "Running".to_owned(),
        ips: words(&["10.0.0.2"]),
        init_containers: vec![init()],
        containers: vec![demo()],
        sandbox_id: "cc".to_owned(),
        labels: map(&[("b", "2"), ("a", "1")]),
        conditions: vec![condition("Initialized"), condition("Ready")],
        volumes: vec![Volume {
            name: "data".to_owned(),
            host_path: "/srv".to_owned(),
        }],
        qos_class: "Burstable".to_owned(),
        restart_policy: "Always".to_owned(),
        grace_seconds: 30,
        ..Pod::default()
    };
    let events = [
        line("Normal", "Started", "Started container demo", 2, 30, 2),
        line("Warning", "Unhealthy", "Liveness probe failed: \n", 14, 35, 3),
        line("Normal", "Killing", "Stopping container demo", 35, 35, 1),
    ];
    let expected = "\
Name:                      p
Namespace:                 default
UID:                       u
Start Time:                Tue, 24 Nov 2026 06:30:00 +0000
Labels:                    a=1
                           b=2
Annotations:               <none>
Status:                    Running
Termination Grace Period:  30s
Sandbox ID:                cc
IP:                        10.0.0.2
IPs:
  IP:  10.0.0.2
Init Containers:
  init:
    Container ID:  aa
    Image:         box:1
    Image ID:      sha256:1
    Port:          <none>
    Command:
      /bin/sh
      -c
    Args:
      true
      false
    State:          Terminated
      Reason:       Completed
      Exit Code:    0
      Started:      Tue, 24 Nov 2026 06:30:00 +0000
      Finished:     Tue, 24 Nov 2026 06:30:01 +0000
    Ready:          True
    Restart Count:  0
    Environment:    <none>
    Mounts:         <none>
Containers:
  demo:
    Container ID:   bb
    Image:          demo:1
    Image ID:       sha256:2
    Port:           80/TCP
    State:          Running
      Started:      Tue, 24 Nov 2026 06:30:30 +0000
    Last State:     Terminated
      Reason:       LivenessProbeFailed
      Message:      HTTP probe failed with statuscode: 506
      Exit Code:    137
      Started:      Tue, 24 Nov 2026 06:30:02 +0000
      Finished:     Tue, 24 Nov 2026 06:30:29 +0000
    Ready:          True
    Restart Count:  1
    Limits:
      cpu:     500m
      memory:  64Mi
    Liveness:  exec [/bin/sh -c true] delay=5s timeout=1s period=5s #success=1 #failure=3
    Environment:
      HOST:  127.0.0.1
    Mounts:
      /data from data (ro)
Conditions:
  Type         Status
  Initialized  True
  Ready        True
Volumes:
  data:
    Type:        HostPath (a path of the node)
    Path:        /srv
QoS Class:       Burstable
Restart Policy:  Always
Events:
  Type     Reason     Age                From   Message
  ----     ------     ----               ----   -------
  Normal   Started    10s (x2 over 38s)  berth  Started container demo
  Warning  Unhealthy  5s (x3 over 26s)   berth  Liveness probe failed:
  Normal   Killing    5s                 berth  Stopping container demo
";
    assert_eq!(describe(&pod, &events, START + 40 * SECOND), expected);
}

#[test]
fn what_is_not_there_is_said() {
    let mut waiting = Container {
        name: "c".to_owned(),
        reason: "CrashLoopBackOff".to_owned(),
        message: "back-off 10s".to_owned(),
        ..Container::default()
    };
    waiting.set_state(State::Waiting);
    let pod = Pod {
        containers: vec![waiting],
        ..Pod::default()
    };
    let text = describe(&pod, &[], 0);
    for expected in [
        "IP:                        -\nContainers:\n",
        "    State:          Waiting\n      Reason:       CrashLoopBackOff\n      Message:      back-off 10s\n    Ready:          False\n",
        "\nEvents:  <none>\n",
    ] {
        assert!(text.contains(expected), "{expected}\n{text}");
    }
}
