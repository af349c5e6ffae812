//! YAML to [`Pod`]: everything is checked, and everything that is wrong is told at once.
//!
//! Three looks at the text: which fields are there ([`Tree`] against [`fields`]), their types ([`wire`]), and their
//! values ([`check`](super::check), by Kubernetes' rules of validation and with its defaults).

use serde_saphyr::Options;

use super::check::Check;
use super::pod::Pod;
use super::problem::{Problem, Problems, What};
use super::tree::Tree;
use super::{fields, wire};

/// The most text that is looked at, in bytes: what an API server stores of one object.
pub const MAX_TEXT: usize = 1 << 20;

/// The pod that `text` describes, with a new uid. `now`: nanoseconds since the Unix epoch.
pub fn parse(text: &str, now: i64) -> Result<Pod, Problems> {
    if text.len() > MAX_TEXT {
        return Err(whole(None, format!("larger than {MAX_TEXT} bytes")));
    }
    let tree: Tree = serde_saphyr::from_str_with_options(text, options()).map_err(|error| unreadable(&error))?;
    let unknown = tree.check(&fields::POD);
    if !unknown.is_empty() {
        return Err(Problems(unknown));
    }
    let wire: wire::Pod = serde_saphyr::from_str_with_options(text, options()).map_err(|error| unreadable(&error))?;
    let mut check = Check::default();
    let pod = check.pod(wire, now);
    if check.wrong.is_empty() {
        return Ok(pod);
    }
    let located = |(path, reason): (String, String)| {
        let line = Some(tree.line(&path));
        Problem {
            line,
            path,
            what: What::Invalid(reason),
        }
    };
    Err(Problems(check.wrong.into_iter().map(located).collect()))
}

fn options() -> Options {
    serde_saphyr::options! {
        // As Kubernetes' parser reads YAML: 0644 is a number, and a number is no string.
        legacy_octal_numbers: true,
        no_schema: true,
        with_snippet: false,
    }
}

fn unreadable(error: &serde_saphyr::Error) -> Problems {
    let line = error.location().map(|location| location.line());
    if let serde_saphyr::Error::MultipleDocuments { .. } = error {
        return whole(line, "a second document begins here; give one Pod at a time".to_owned());
    }
    whole(line, error.to_string())
}

fn whole(line: Option<u64>, reason: String) -> Problems {
    Problems(vec![Problem {
        line,
        path: String::new(),
        what: What::Invalid(reason),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::pod::{PodName, PullPolicy, RestartPolicy, Source};
    use crate::model::probe::{Hook, ProbeFrom, ProbeKind};

    /// A pod with one container, to whose fields (indented by four) and to whose spec (by two) more can be added.
    fn manifest(container: &str, spec: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n  - name: c\n    image: i\n{container}{spec}"
        )
    }

    fn problems(text: &str) -> String {
        parse(text, 0).map(|pod| format!("{pod:?}")).unwrap_err().to_string()
    }

    #[test]
    fn the_init_container_demo_is_covered() {
        let pod = parse(include_str!("../../examples/init-container-demo.yaml"), 7).unwrap();
        assert_eq!(
            pod.name,
            PodName {
                namespace: "default".into(),
                name: "init-container-demo".into()
            }
        );
        assert_eq!(
            (pod.created_at, pod.grace_s, pod.restart),
            (7, 30, RestartPolicy::Always)
        );
        let [init] = pod.init.as_slice() else {
            panic!("one init container")
        };
        assert_eq!(init.security.add, ["CAP_NET_ADMIN"]);
        assert_eq!(
            (init.command.join(" "), init.pull),
            ("/bin/sh -c".to_owned(), PullPolicy::IfNotPresent)
        );
        let [demo] = pod.containers.as_slice() else {
            panic!("one container")
        };
        assert!(demo.security.add.is_empty());
        assert_eq!(demo.ports[0].number, 80);
    }

    #[test]
    fn the_examples_are_all_covered() {
        for (name, text) in [
            (
                "init-container-demo",
                include_str!("../../examples/init-container-demo.yaml"),
            ),
            ("lifecycle-demo", include_str!("../../examples/lifecycle-demo.yaml")),
            (
                "liveness-exec-demo",
                include_str!("../../examples/liveness-exec-demo.yaml"),
            ),
            (
                "liveness-httpget-demo",
                include_str!("../../examples/liveness-httpget-demo.yaml"),
            ),
            (
                "liveness-tcpsocket-demo",
                include_str!("../../examples/liveness-tcpsocket-demo.yaml"),
            ),
            (
                "readiness-httpget-demo",
                include_str!("../../examples/readiness-httpget-demo.yaml"),
            ),
            (
                "sidecar-container-demo",
                include_str!("../../examples/sidecar-container-demo.yaml"),
            ),
        ] {
            let pod = parse(text, 0).unwrap_or_else(|problems| panic!("{name}: {problems}"));
            assert_eq!(pod.name.name, name);
        }
    }

    #[test]
    fn probes_and_hooks_are_read_with_named_ports_and_variables() {
        let text = manifest(
            "    env: [{name: A, value: a}]\n    ports: [{name: http, containerPort: 8080}]\n    \
             livenessProbe: {exec: {command: [sh, $(A), $(B)]}, periodSeconds: 5}\n    \
             readinessProbe: {tcpSocket: {port: http}, initialDelaySeconds: 3, probeFrom: host}\n    \
             startupProbe: {httpGet: {port: 80}, periodMilliseconds: 100}\n    \
             lifecycle: {postStart: {exec: {command: [$(A)]}}, preStop: {sleep: {seconds: 3}}}\n",
            "",
        );
        let container = parse(&text, 0).unwrap().containers.remove(0);
        let probe = |kind| container.probes.get(kind).unwrap().to_string();
        assert_eq!(
            probe(ProbeKind::Liveness),
            "exec [sh a $(B)] delay=0s timeout=1s period=5s #success=1 #failure=3"
        );
        assert_eq!(
            probe(ProbeKind::Readiness),
            "tcp-socket :8080 delay=3s timeout=1s period=10s #success=1 #failure=3"
        );
        assert_eq!(
            probe(ProbeKind::Startup),
            "http-get http://:80/ delay=0s timeout=1s period=100ms #success=1 #failure=3"
        );
        assert_eq!(container.probes.readiness.unwrap().from, ProbeFrom::Host);
        // A kubelet expands no commands of hooks.
        let command = vec!["$(A)".to_owned()];
        assert_eq!(container.hooks.post_start, Some(Hook::Exec { command }));
        assert_eq!(container.hooks.pre_stop, Some(Hook::Sleep { seconds: 3 }));
    }

    #[test]
    fn what_is_wrong_with_probes_and_hooks_is_told_by_field_and_line() {
        for (container, expected) in [
            (
                "    livenessProbe: {}\n",
                "line 9: spec.containers[0].livenessProbe: needs a handler",
            ),
            (
                "    livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 1}}\n",
                "spec.containers[0].livenessProbe: may have only one handler",
            ),
            (
                "    livenessProbe:\n      httpGet:\n        port: 70000\n",
                "line 11: spec.containers[0].livenessProbe.httpGet.port: 70000 is not between 1 and 65535",
            ),
            (
                "    readinessProbe: {httpGet: {port: web}}\n",
                "readinessProbe.httpGet.port: the container has no port named \"web\"",
            ),
            (
                "    startupProbe: {tcpSocket: {port: 1}, successThreshold: 2}\n",
                "startupProbe.successThreshold: must be 1",
            ),
            (
                "    readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 2}\n",
                "readinessProbe.terminationGracePeriodSeconds: must not be set",
            ),
            (
                "    livenessProbe: {tcpSocket: {port: 1, hots: a}}\n",
                "livenessProbe.tcpSocket.hots: no such field (a typo?)",
            ),
            (
                "    livenessProbe: {tcpSocket: {port: 1}, periodSeconds: x}\n",
                "line 9",
            ),
            (
                "    lifecycle: {postStart: {}}\n",
                "lifecycle.postStart: needs a handler",
            ),
            (
                "    lifecycle: {stopSignal: SIGUSR1}\n",
                "lifecycle.stopSignal: not supported yet",
            ),
            (
                "    restartPolicy: Always\n",
                "spec.containers[0].restartPolicy: not supported yet",
            ),
        ] {
            let problems = problems(&manifest(container, ""));
            assert!(problems.contains(expected), "{expected}\n{problems}");
        }
    }

    #[test]
    fn init_containers_have_no_probes_nor_hooks() {
        for field in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            let handler = match field {
                "lifecycle" => "{preStop: {sleep: {seconds: 1}}}",
                _ => "{tcpSocket: {port: 1}}",
            };
            let spec = format!("  initContainers: [{{name: i, image: i, {field}: {handler}}}]\n");
            let expected = format!("spec.initContainers[0].{field}: may not be set for init containers without");
            let problems = problems(&manifest("", &spec));
            assert!(problems.contains(&expected), "{problems}");
        }
    }

    #[test]
    fn a_typo_is_told_from_what_is_not_covered_and_all_are_told() {
        let text = manifest(
            "    imagePullpolicy: Always\n    tty: true\n",
            "  nodeName: x\nextra: 1\n",
        );
        assert_eq!(
            problems(&text),
            "line 9: spec.containers[0].imagePullpolicy: no such field (a typo?)\n\
             line 10: spec.containers[0].tty: not supported yet\n\
             line 11: spec.nodeName: not supported yet\n\
             line 12: extra: no such field (a typo?)"
        );
        assert!(!parse(&text, 0).unwrap_err().only_unsupported());
        assert!(
            parse(&manifest("    tty: true\n", ""), 0)
                .unwrap_err()
                .only_unsupported()
        );
    }

    #[test]
    fn nulls_and_an_empty_status_are_as_if_absent() {
        let text = manifest(
            "    livenessProbe: null\n    args:\n    resources: {}\n",
            "  affinity: ~\nstatus: {}\n",
        );
        parse(&text, 0).unwrap();
        assert!(problems(&manifest("", "status: {phase: Running}\n")).contains("status: not supported yet"));
    }

    #[test]
    fn values_are_checked_and_named_with_their_lines() {
        for (container, spec, expected) in [
            (
                "    imagePullPolicy: Sometimes\n",
                "",
                "line 9: spec.containers[0].imagePullPolicy: \"Sometimes\" is none of",
            ),
            (
                "    ports: [{containerPort: 0}]\n",
                "",
                "ports[0].containerPort: 0 is not between 1 and 65535",
            ),
            (
                "    ports: [{containerPort: 80, hostPort: 80}]\n",
                "",
                "ports[0].hostPort: not supported yet",
            ),
            (
                "    env: [{name: A, valueFrom: {}}]\n",
                "",
                "env[0].valueFrom: not supported yet",
            ),
            ("    env: [{name: A, value: 1}]\n", "", "line 9"),
            ("    resources: {limits: {cpu: lots}}\n", "", "a quantity such as 500m"),
            (
                "    resources: {limits: {gpu: 1}}\n",
                "",
                "resources.limits.gpu: not supported yet",
            ),
            (
                "    resources: {limits: {cpu: 1}, requests: {cpu: 2}}\n",
                "",
                "requests.cpu: is more than the limit",
            ),
            (
                "    volumeMounts: [{name: v, mountPath: /a}]\n",
                "",
                "volumeMounts[0].name: the pod has no volume \"v\"",
            ),
            (
                "    volumeMounts: [{name: v, mountPath: a}, {name: v, mountPath: /b}, {name: v, mountPath: /b/}]\n",
                "  volumes: [{name: v}]\n",
                "volumeMounts[0].mountPath: must be absolute\nline 9: spec.containers[0].volumeMounts[2].mountPath: is there twice",
            ),
            (
                "    securityContext: {capabilities: {add: [NET_ADMIM]}}\n",
                "",
                "add[0]: no such capability: \"NET_ADMIM\"",
            ),
            (
                "    securityContext: {runAsUser: -1}\n",
                "",
                "runAsUser: -1 is not between",
            ),
            (
                "    securityContext: {privileged: true, allowPrivilegeEscalation: false}\n",
                "",
                "contradicts privileged",
            ),
            (
                "",
                "  hostPID: true\n  shareProcessNamespace: true\n",
                "line 10: spec.shareProcessNamespace: contradicts hostPID",
            ),
            ("", "  hostname: A\n", "spec.hostname: must be"),
            (
                "",
                "  volumes: [{name: v, hostPath: {path: a/../b}}]\n",
                "hostPath.path: must not contain '..'",
            ),
            (
                "",
                "  volumes: [{name: v, hostPath: {path: /a, type: Dir}}]\n",
                "hostPath.type: \"Dir\" is none of",
            ),
            (
                "",
                "  volumes: [{name: v, emptyDir: {medium: Memory}}]\n",
                "emptyDir.medium: not supported yet",
            ),
            (
                "",
                "  volumes: [{name: v, configMap: {name: c}}]\n",
                "volumes[0].configMap: not supported yet",
            ),
            (
                "",
                "  initContainers: [{name: c, image: i}]\n",
                "spec.containers[0].name: is there twice",
            ),
            (
                "",
                "  restartPolicy: Sometimes\n",
                "spec.restartPolicy: \"Sometimes\" is none of",
            ),
            (
                "",
                "  terminationGracePeriodSeconds: -1\n",
                "line 9: spec.terminationGracePeriodSeconds: -1",
            ),
            ("", "  dnsPolicy: None\n", "spec.dnsPolicy: \"None\" is none of"),
        ] {
            let problems = problems(&manifest(container, spec));
            assert!(problems.contains(expected), "{expected}\n{problems}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, expected) in [
            ("", "apiVersion: \"\" is none of \"v1\""),
            (
                "apiVersion: v2\nkind: Pod\n",
                "line 1: apiVersion: \"v2\" is none of \"v1\"",
            ),
            (
                "apiVersion: v1\nkind: Service\n",
                "line 2: kind: \"Service\" is none of \"Pod\"",
            ),
            (
                "apiVersion: v1\nkind: Pod\n",
                "metadata.name: required\nline 1: spec.containers: required",
            ),
            ("a: [", "line "),
            ("- a\n", "line 1"),
            ("a: 1\na: 2\n", "line 2"),
        ] {
            let problems = problems(text);
            assert!(problems.contains(expected), "{expected}\n{problems}");
        }
        let two = format!("{}---\n{0}", manifest("", ""));
        assert!(
            problems(&two).contains("a second document begins here"),
            "{}",
            problems(&two)
        );
        assert!(problems(&" ".repeat(MAX_TEXT + 1)).contains("larger than"));
    }

    #[test]
    fn variables_are_expanded_in_order() {
        let pod = parse(
            &manifest(
                "    env:\n    - {name: A, value: a}\n    - {name: B, value: $(A)b$(C)}\n    - {name: C, value: c}\n    \
                 command: [$(B), $$(A), $(HOME)]\n    args: [$(C)]\n",
                "",
            ),
            0,
        );
        let container = pod.unwrap().containers.remove(0);
        assert_eq!(container.env[1].1, "ab$(C)");
        assert_eq!(container.command, ["ab$(C)", "$(A)", "$(HOME)"]);
        assert_eq!(container.args, ["c"]);
    }

    #[test]
    fn defaults_are_kubernetes_own() {
        let policy = |image: &str| {
            parse(&manifest("", "").replace("image: i", &format!("image: {image}")), 0)
                .unwrap()
                .containers[0]
                .pull
        };
        for image in ["i", "i:latest", "host:5000/i", "host:5000/a/i:latest"] {
            assert_eq!(policy(image), PullPolicy::Always, "{image}");
        }
        let digest = format!("i@sha256:{}", "0".repeat(64));
        for image in ["i:1", "host:5000/i:1", digest.as_str()] {
            assert_eq!(policy(image), PullPolicy::IfNotPresent, "{image}");
        }
        let limits = "    resources:\n      limits: {cpu: 500m, memory: 0.5Gi}\n      requests: {memory: 1Mi}\n";
        let pod = parse(
            &manifest(limits, "  volumes: [{name: v}, {name: w, emptyDir: {}}]\n"),
            0,
        )
        .unwrap();
        assert_eq!(
            (pod.containers[0].requests.cpu_milli, pod.containers[0].requests.memory),
            (Some(500), Some(1 << 20))
        );
        assert_eq!(pod.containers[0].limits.memory, Some(1 << 29));
        assert!(pod.volumes.iter().all(|volume| volume.source == Source::EmptyDir));
        assert_eq!(pod.hostname, "p");
    }

    #[test]
    fn the_pods_user_is_that_of_containers_without_one() {
        let text = manifest(
            "    securityContext: {runAsGroup: 7}\n",
            "  securityContext: {runAsUser: 1, runAsGroup: 2, supplementalGroups: [3, 4]}\n",
        );
        let security = parse(&text, 0).unwrap().containers.remove(0).security;
        assert_eq!((security.run_as_user, security.run_as_group), (Some(1), Some(7)));
        assert_eq!(security.supplemental_groups, [3, 4]);
    }

    #[test]
    fn json_and_anchors_are_yaml_too() {
        let json = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "c", "image": "i", "command": ["a"]}]}}"#;
        parse(json, 0).unwrap();
        let anchors = manifest("    command: &c [a, b]\n    args: *c\n", "");
        assert_eq!(parse(&anchors, 0).unwrap().containers[0].args, ["a", "b"]);
    }
}
