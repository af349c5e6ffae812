//! The real crictl, a client that nobody here wrote, against the real daemon. Wants root, docker-registry and crictl
//! (`BERTH_CRICTL`, or target/tools/crictl, as integration/tools/build.sh makes it).

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use support::berth::{BUSYBOX, Berth};
use support::{Registry, image, wait_for};

/// None, said aloud, without crictl; that is an error in CI.
fn crictl() -> Option<PathBuf> {
    let named = std::env::var_os("BERTH_CRICTL").map(PathBuf::from);
    let path = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/crictl"));
    if path.exists() {
        return Some(path);
    }
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_ci, "there is no crictl at {}", path.display());
    eprintln!("SKIPPED: there is no crictl at {}", path.display());
    None
}

/// crictl, pointed at a berth.
struct Crictl<'a> {
    path: PathBuf,
    berth: &'a Berth,
}

impl Crictl<'_> {
    fn output(&self, words: &[&str]) -> Output {
        Command::new(&self.path)
            .arg("--config")
            .arg(self.berth.path("crictl.yaml"))
            .args(words)
            .output()
            .unwrap()
    }

    /// What it prints; it must succeed.
    fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        let (stdout, stderr) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "crictl {words:?}: {stdout}{stderr}\n{}",
            self.berth.log()
        );
        stdout.into_owned()
    }

    /// The one word that it prints.
    fn word(&self, words: &[&str]) -> String {
        self.run(words).trim().to_owned()
    }

    fn json(&self, words: &[&str]) -> Value {
        let text = self.run(words);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("crictl {words:?}: {error}: {text}"))
    }

    /// Writes a config and gives its path.
    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.berth.path(name);
        fs::write(&path, content.to_string()).unwrap();
        path.display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crictl_does_all_that_people_do_with_it() {
    let Some(path) = crictl() else { return };
    let registry = Registry::start();
    registry.push("tools/busybox", "1", &image::busybox()).await;
    let name = format!("{}/tools/busybox:1", registry.host());
    let berth = Berth::start().await;
    let endpoint = format!("unix://{}", berth.socket().display());
    let config = format!("runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 20\n");
    fs::write(berth.path("crictl.yaml"), config).unwrap();
    let crictl = Crictl { path, berth: &berth };

    about(&crictl);
    images(&crictl, &name);
    let (pod, container) = start(&crictl, &name);
    watch(&crictl, &pod, &container);
    end(&crictl, &pod, &container, &name);
    berth.assert_nothing_left("after crictl").await;
}

fn about(crictl: &Crictl<'_>) {
    let version = crictl.run(&["version"]);
    assert!(
        version.contains("RuntimeName:  berth") && version.contains("RuntimeApiVersion:  v1"),
        "{version}"
    );
    let info = crictl.json(&["info"]);
    let conditions = info["status"]["conditions"].as_array().unwrap();
    for wanted in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition["type"] == wanted);
        assert_eq!(condition.unwrap()["status"], true, "{info:#}");
    }
    assert_eq!(info["config"]["root"], crictl.berth.path("root").display().to_string());
}

fn images(crictl: &Crictl<'_>, name: &str) {
    let pulled = crictl.run(&["pull", name]);
    assert!(pulled.contains("Image is up to date"), "{pulled}");
    let list = crictl.run(&["images"]);
    let (repository, _) = name.rsplit_once(':').unwrap();
    assert!(list.lines().any(|line| line.starts_with(repository)), "{list}");
    let inspected = crictl.json(&["inspecti", name]);
    let id = inspected["status"]["id"].as_str().unwrap();
    assert!(pulled.contains(id), "{pulled}: {id}");
    // The image that every berth of a test is given is the same.
    assert_eq!(inspected["status"]["repoTags"], json!([name, BUSYBOX]));
    let digest = inspected["status"]["repoDigests"][0].as_str().unwrap();
    assert!(digest.starts_with(&format!("{repository}@sha256:")), "{digest}");
    let absent = crictl.output(&["inspecti", "docker.io/library/absent:1"]);
    assert!(!absent.status.success(), "{absent:?}");
}

fn start(crictl: &Crictl<'_>, image: &str) -> (String, String) {
    let logs = crictl.berth.path("crictl-logs");
    let pod = crictl.file(
        "pod.json",
        &json!({
            "metadata": { "name": "by-hand", "namespace": "crictl", "uid": "5f0c", "attempt": 1 },
            "hostname": "by-hand",
            "log_directory": logs,
            "labels": { "app": "demo" },
            "linux": {},
        }),
    );
    let container = crictl.file(
        "container.json",
        &json!({
            "metadata": { "name": "talker" },
            "image": { "image": image },
            "command": ["sh", "-c", "echo to stdout; echo to stderr >&2; trap 'exit 3' TERM; sleep 1000 & wait"],
            "log_path": "talker.log",
            "labels": { "tier": "back", "io.kubernetes.pod.name": "by-hand" },
            "linux": {},
        }),
    );
    let pod_id = crictl.word(&["runp", &pod]);
    assert_eq!(pod_id.len(), 64, "{pod_id}");
    let id = crictl.word(&["create", &pod_id, &container, &pod]);
    assert!(crictl.run(&["ps", "--all"]).contains("Created"));
    assert_eq!(crictl.word(&["start", &id]), id);
    (pod_id, id)
}

fn watch(crictl: &Crictl<'_>, pod: &str, id: &str) {
    let pods = crictl.run(&["pods"]);
    for wanted in [&pod[..13], "Ready", "by-hand", "crictl"] {
        assert!(pods.contains(wanted), "{wanted}: {pods}");
    }
    assert_eq!(
        crictl.word(&["pods", "--quiet", "--label", "app=demo", "--state", "ready"]),
        pod
    );
    assert_eq!(crictl.word(&["pods", "--quiet", "--label", "app=other"]), "");
    let ps = crictl.run(&["ps"]);
    for wanted in [&id[..13], "Running", "talker", "by-hand"] {
        assert!(ps.contains(wanted), "{wanted}: {ps}");
    }
    assert_eq!(
        crictl.word(&["ps", "--quiet", "--pod", pod, "--label", "tier=back"]),
        id
    );

    let inspected = crictl.json(&["inspectp", &pod[..12]]);
    assert_eq!(inspected["status"]["state"], "SANDBOX_READY");
    assert_eq!(inspected["status"]["metadata"]["uid"], "5f0c");
    let ip = inspected["status"]["network"]["ip"].as_str().unwrap();
    assert!(ip.parse::<std::net::IpAddr>().is_ok(), "{ip}");
    assert_eq!(inspected["info"]["record"]["config"]["hostname"], "by-hand");
    let inspected = crictl.json(&["inspect", &id[..12]]);
    assert_eq!(inspected["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(inspected["info"]["runtimeSpec"]["process"]["args"][0], "sh");

    wait_for("the log holds both lines", || {
        let log = crictl.output(&["logs", id]);
        log.stdout == b"to stdout\n" && log.stderr == b"to stderr\n"
    });
    assert_eq!(
        crictl.word(&["exec", "--sync", id, "sh", "-c", "hostname; id -u"]),
        "by-hand\n0"
    );
    let failed = crictl.output(&["exec", "-s", id, "sh", "-c", "echo said >&2; exit 4"]);
    let said = String::from_utf8_lossy(&failed.stderr);
    assert!(
        !failed.status.success() && said.contains("exited with 4: said"),
        "{said}"
    );
}

fn end(crictl: &Crictl<'_>, pod: &str, id: &str, image: &str) {
    assert_eq!(crictl.word(&["stop", "--timeout", "20", id]), id);
    assert_eq!(crictl.json(&["inspect", id])["status"]["exitCode"], 3);
    assert!(crictl.run(&["ps", "--all"]).contains("Exited"));
    assert!(crictl.run(&["rm", id]).contains(id));
    assert_eq!(crictl.word(&["ps", "--all", "--quiet"]), "");
    assert!(crictl.run(&["stopp", pod]).contains(pod));
    assert!(crictl.run(&["pods"]).contains("NotReady"));
    assert!(crictl.run(&["rmp", pod]).contains(pod));
    assert_eq!(crictl.word(&["pods", "--quiet"]), "");
    assert!(!crictl.output(&["inspectp", pod]).status.success());
    assert!(crictl.run(&["rmi", image]).contains("Deleted"));
    // By one of its names an image goes with all of them.
    assert_eq!(crictl.word(&["images", "--quiet"]), "");
}
