//! Probes and hooks in annotations: of a container `berth.dev/liveness-probe` and so on, of its sandbox, which is where
//! a kubelet passes a pod's annotations on, `liveness-probe.berth.dev/<container>`. A container's own go before its
//! sandbox's. Nothing is read of what a kubelet runs itself, such as `io.kubernetes.container.preStopHandler`.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use crate::model::Refusal;
use crate::model::probe::{self, Hook, Hooks, Probe, ProbeKind, Probes};

/// Where a kubelet tells a container its ports, a JSON list.
const PORTS: &str = "io.kubernetes.container.ports";
const DOMAIN: &str = "berth.dev";
const NAMES: [&str; 5] = [
    "liveness-probe",
    "readiness-probe",
    "startup-probe",
    "post-start",
    "pre-stop",
];

/// The annotations that a container's probes and hooks may be in.
pub struct Annotations<'a> {
    pub container: &'a HashMap<String, String>,
    pub sandbox: &'a BTreeMap<String, String>,
    /// The container's name.
    pub name: &'a str,
}

/// A value, and what a refusal calls it.
struct Found<'a> {
    field: String,
    json: &'a str,
}

/// Reads a container's probes and hooks. `$(NAME)` in the commands of probes stands for its variables.
pub fn probes_and_hooks(of: &Annotations<'_>, envs: &[(String, String)]) -> Result<(Probes, Hooks), Refusal> {
    of.check_names()?;
    if NAMES.iter().all(|name| of.find(name).is_none()) {
        return Ok(Default::default());
    }
    let ports = of.ports()?;
    let port = |name: &str| ports.get(name).copied();
    let probe = |kind: ProbeKind| -> Result<Option<Probe>, Refusal> {
        let found = of.find(&format!("{}-probe", kind.name()));
        let parsed = found.map(|found| probe::parse_probe(found.json, kind, &port).map_err(refusal(found.field)));
        parsed.transpose()
    };
    let hook = |name: &str| -> Result<Option<Hook>, Refusal> {
        let parsed = of
            .find(name)
            .map(|found| probe::parse_hook(found.json, &port).map_err(refusal(found.field)));
        parsed.transpose()
    };
    let mut probes = Probes {
        liveness: probe(ProbeKind::Liveness)?,
        readiness: probe(ProbeKind::Readiness)?,
        startup: probe(ProbeKind::Startup)?,
    };
    // Of a variable that is there twice the last one holds.
    probes.expand(|name| {
        let mut named = envs.iter().rev().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.clone())
    });
    let hooks = Hooks {
        post_start: hook("post-start")?,
        pre_stop: hook("pre-stop")?,
    };
    Ok((probes, hooks))
}

impl<'a> Annotations<'a> {
    fn find(&self, name: &str) -> Option<Found<'a>> {
        let own = format!("{DOMAIN}/{name}");
        if let Some(json) = self.container.get(&own) {
            let field = format!("annotations[{own:?}]");
            return Some(Found { field, json });
        }
        let pods = format!("{name}.{DOMAIN}/{}", self.name);
        let json = self.sandbox.get(&pods)?;
        let field = format!("sandbox_config.annotations[{pods:?}]");
        Some(Found { field, json })
    }

    /// A name that is misspelt would leave a container without its probe, and nobody would know.
    fn check_names(&self) -> Result<(), Refusal> {
        let unknown = |name: &str| !NAMES.contains(&name);
        let known = || format!("not known; there are {}", NAMES.join(", "));
        let own = format!("{DOMAIN}/");
        let mut keys = self.container.keys();
        if let Some(key) = keys.find(|key| key.strip_prefix(&own).is_some_and(unknown)) {
            return Err(Refusal::invalid(format!("annotations[{key:?}]"), known()));
        }
        let pods = format!(".{DOMAIN}/{}", self.name);
        let mut keys = self.sandbox.keys();
        match keys.find(|key| key.strip_suffix(&pods).is_some_and(unknown)) {
            Some(key) => Err(Refusal::invalid(
                format!("sandbox_config.annotations[{key:?}]"),
                known(),
            )),
            None => Ok(()),
        }
    }

    /// The container's named ports.
    fn ports(&self) -> Result<HashMap<String, u16>, Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Port {
            #[serde(default)]
            name: String,
            container_port: u16,
        }

        let Some(json) = self.container.get(PORTS) else {
            return Ok(HashMap::new());
        };
        let ports: Option<Vec<Port>> = serde_json::from_str(json)
            .map_err(|error| Refusal::invalid(format!("annotations[{PORTS:?}]"), error.to_string()))?;
        let ports = ports.unwrap_or_default().into_iter();
        Ok(ports.map(|port| (port.name, port.container_port)).collect())
    }
}

/// All that is wrong with one annotation, the first problem's field in front.
fn refusal(annotation: String) -> impl FnOnce(probe::Problems) -> Refusal {
    move |problems| {
        let mut problems = problems.into_iter();
        let (field, mut reason) = problems.next().unwrap_or_default();
        for (field, other) in problems {
            let field = if field.is_empty() {
                String::new()
            } else {
                format!("{field}: ")
            };
            reason += &format!("; {field}{other}");
        }
        let field = if field.is_empty() {
            annotation
        } else {
            format!("{annotation}.{field}")
        };
        Refusal::Invalid { field, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::probe::Check;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn read(container: Pairs<'_>, sandbox: Pairs<'_>) -> Result<(Probes, Hooks), Refusal> {
        let owned = |pairs: Pairs<'_>| {
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect::<Vec<_>>()
        };
        let annotations = Annotations {
            container: &owned(container).into_iter().collect(),
            sandbox: &owned(sandbox).into_iter().collect(),
            name: "web",
        };
        let envs = [
            ("FILE".to_owned(), "old".to_owned()),
            ("FILE".to_owned(), "/ready".to_owned()),
        ];
        probes_and_hooks(&annotations, &envs)
    }

    fn refused(container: Pairs<'_>, sandbox: Pairs<'_>) -> String {
        let refusal = read(container, sandbox).unwrap_err();
        assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal}");
        refusal.to_string()
    }

    #[test]
    fn a_container_without_annotations_has_neither_probes_nor_hooks() {
        let foreign = r#"{"exec": {"command": ["kubelet runs this"]}}"#;
        let (probes, hooks) = read(&[("io.kubernetes.container.preStopHandler", foreign)], &[]).unwrap();
        assert!(probes.is_empty() && hooks.is_empty());
    }

    #[test]
    fn all_five_are_read_from_a_container_and_from_its_sandbox() {
        let (probe, hook) = (r#"{"tcpSocket": {"port": 80}}"#, r#"{"sleep": {"seconds": 1}}"#);
        let own: Vec<_> = NAMES.iter().map(|name| format!("berth.dev/{name}")).collect();
        let pods: Vec<_> = NAMES.iter().map(|name| format!("{name}.berth.dev/web")).collect();
        let values = [probe, probe, probe, hook, hook];
        for (container, sandbox) in [(own, vec![]), (vec![], pods)] {
            let pairs = |keys: &[String]| -> Vec<(String, &str)> { keys.iter().cloned().zip(values).collect() };
            let (container, sandbox) = (pairs(&container), pairs(&sandbox));
            let borrowed = |pairs: &[(String, &'static str)]| -> Vec<(String, &'static str)> { pairs.to_vec() };
            let (container, sandbox) = (borrowed(&container), borrowed(&sandbox));
            let container: Vec<_> = container.iter().map(|(key, value)| (key.as_str(), *value)).collect();
            let sandbox: Vec<_> = sandbox.iter().map(|(key, value)| (key.as_str(), *value)).collect();
            let (probes, hooks) = read(&container, &sandbox).unwrap();
            assert!(ProbeKind::ALL.iter().all(|kind| probes.get(*kind).is_some()));
            assert!(hooks.post_start.is_some() && hooks.pre_stop.is_some());
        }
    }

    #[test]
    fn a_containers_own_annotation_goes_before_its_sandboxs() {
        let (own, pods) = (r#"{"tcpSocket": {"port": 1}}"#, r#"{"tcpSocket": {"port": 2}}"#);
        let (probes, _) = read(
            &[("berth.dev/liveness-probe", own)],
            &[
                ("liveness-probe.berth.dev/web", pods),
                ("readiness-probe.berth.dev/other", "{"),
            ],
        )
        .unwrap();
        let Some(Check::Tcp(at)) = probes.liveness.map(|probe| probe.check) else {
            panic!("it is a TCP probe");
        };
        assert_eq!(at.port, 1);
        assert!(probes.readiness.is_none(), "that is another container's");
    }

    #[test]
    fn ports_have_names_and_commands_of_probes_variables() {
        let ports = r#"[{"name":"http","containerPort":8080,"protocol":"TCP"},{"containerPort":9}]"#;
        let (probes, hooks) = read(
            &[
                ("io.kubernetes.container.ports", ports),
                ("berth.dev/liveness-probe", r#"{"httpGet": {"port": "http"}}"#),
                (
                    "berth.dev/startup-probe",
                    r#"{"exec": {"command": ["test", "-e", "$(FILE)", "$(NO)"]}}"#,
                ),
                ("berth.dev/pre-stop", r#"{"exec": {"command": ["echo", "$(FILE)"]}}"#),
            ],
            &[],
        )
        .unwrap();
        assert!(matches!(probes.liveness.unwrap().check, Check::Http(http) if http.at.port == 8080));
        let Check::Exec { command } = probes.startup.unwrap().check else {
            panic!("it is an exec probe");
        };
        assert_eq!(command, ["test", "-e", "/ready", "$(NO)"]);
        let Some(Hook::Exec { command }) = hooks.pre_stop else {
            panic!("it is an exec hook");
        };
        assert_eq!(command, ["echo", "$(FILE)"], "a kubelet does not expand hooks");
    }

    #[test]
    fn a_refusal_names_the_annotation_and_the_field() {
        let own = refused(&[("berth.dev/liveness-probe", r#"{"httpGet": {"port": 0}}"#)], &[]);
        assert!(
            own.starts_with(r#"annotations["berth.dev/liveness-probe"].httpGet.port: "#),
            "{own}"
        );
        let pods = refused(&[], &[("pre-stop.berth.dev/web", r#"{"sleep": {"seconds": -1}}"#)]);
        let expected = r#"sandbox_config.annotations["pre-stop.berth.dev/web"].sleep.seconds: "#;
        assert!(pods.starts_with(expected), "{pods}");
        let bad = refused(&[("berth.dev/post-start", "{")], &[]);
        assert!(bad.starts_with(r#"annotations["berth.dev/post-start"]: "#), "{bad}");
        let name = refused(&[("berth.dev/livenes-probe", "{}")], &[]);
        assert!(
            name.starts_with(r#"annotations["berth.dev/livenes-probe"]: not known"#),
            "{name}"
        );
        let name = refused(&[], &[("readyness-probe.berth.dev/web", "{}")]);
        assert!(name.contains("readyness-probe.berth.dev/web"), "{name}");
        let ports = refused(
            &[
                ("io.kubernetes.container.ports", "[1]"),
                ("berth.dev/pre-stop", r#"{"sleep": {"seconds": 1}}"#),
            ],
            &[],
        );
        assert!(
            ports.starts_with(r#"annotations["io.kubernetes.container.ports"]: "#),
            "{ports}"
        );
    }
}
