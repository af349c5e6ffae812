//! One of the examples, running.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::berth::Berth;

/// Where the stand-in images are, up to date.
fn images() -> &'static Path {
    static IMAGES: OnceLock<PathBuf> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let images = root.join("target/images");
        let build = root.join("integration/images/build.sh");
        let built = Command::new(build).arg(&images).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        images
    })
}

/// The manifest of an example.
pub fn manifest(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}.yaml"))
}

/// A pod that a berth of the test's own runs.
pub struct Demo {
    pub berth: Berth,
    pub name: &'static str,
}

impl Demo {
    /// Runs an example and waits until it runs.
    pub async fn run(name: &'static str) -> Self {
        Self::run_by(Berth::start().await, name, &["demoapp"]).await
    }

    /// The same by a berth that is there, with these images.
    pub async fn run_by(berth: Berth, name: &'static str, needed: &[&str]) -> Self {
        for image in needed {
            let archive = images().join(format!("{image}.tar"));
            berth.run(&["image", "import", archive.to_str().unwrap()]);
        }
        let demo = Self { berth, name };
        let manifest = manifest(name);
        demo.berth.run(&["run", "-f", manifest.to_str().unwrap(), "--detach"]);
        demo.until(20, "it runs", || demo.pod()["phase"] == "Running").await;
        demo
    }

    /// Looks until something is so, for so many seconds at the most.
    pub async fn until(&self, seconds: u64, what: &str, is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            assert!(
                begin.elapsed() < Duration::from_secs(seconds),
                "not within {seconds} s: {what}\n{}\n{}",
                self.describe(),
                self.berth.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As `berth get pods -o json` has it.
    pub fn pod(&self) -> Value {
        let text = self.berth.run(&["get", "pods", self.name, "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["pods"][0].take()
    }

    /// The container called demo.
    pub fn container(&self) -> Value {
        let mut pod = self.pod();
        let containers = pod["containers"].as_array_mut().unwrap().iter_mut();
        let demo = containers.into_iter().find(|container| container["name"] == "demo");
        demo.unwrap().take()
    }

    /// Cells of `berth get pods`: READY, STATUS, RESTARTS.
    pub fn row(&self) -> [String; 3] {
        let table = self.berth.run(&["get", "pods", self.name]);
        let row: Vec<_> = table.lines().nth(1).unwrap().split("   ").collect();
        let cells: Vec<_> = row.into_iter().map(str::trim).filter(|cell| !cell.is_empty()).collect();
        [2, 3, 4].map(|column| cells[column].to_owned())
    }

    pub fn ip(&self) -> IpAddr {
        self.pod()["ips"][0].as_str().unwrap().parse().unwrap()
    }

    pub fn describe(&self) -> String {
        self.berth.run(&["describe", "pod", self.name])
    }

    /// How often `berth describe` counts an event with this reason whose message contains `text`: of several lines the
    /// sum, 0 without any.
    pub fn count(&self, reason: &str, text: &str) -> u32 {
        let page = self.describe();
        let (_, events) = page.split_once("\nEvents:\n").unwrap();
        let lines = events
            .lines()
            .filter(|line| line.split_whitespace().nth(1) == Some(reason) && line.contains(text));
        let count = |line: &str| match line.split_once(" (x") {
            Some((_, rest)) => rest.split(' ').next().unwrap().parse().unwrap(),
            None => 1,
        };
        lines.map(count).sum()
    }

    /// Runs a shell command in the container and gives what it printed; it must succeed.
    pub fn sh(&self, command: &str) -> String {
        self.berth
            .run(&["exec", self.name, "-c", "demo", "--", "sh", "-c", command])
    }

    /// Deletes the pod and everything else, and looks that nothing is left. How long the deletion took.
    pub async fn end(self) -> Duration {
        let begin = Instant::now();
        self.berth.run(&["delete", "pod", self.name]);
        let took = begin.elapsed();
        self.berth.assert_nothing_left("after the pod").await;
        self.berth.down().await;
        took
    }

    /// What the pod answers on a port to somebody outside of it.
    pub fn get(&self, port: u16, path: &str) -> Result<String, std::io::Error> {
        talk(
            (self.ip(), port).into(),
            &format!("GET {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n"),
        )
    }

    /// Switches what the demo application says of itself: `livez=fail`.
    pub fn post(&self, name: &str, value: &str) {
        let form = format!("{name}={value}");
        let length = form.len();
        let request = format!(
            "POST /{name} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {length}\r\n\r\n{form}"
        );
        let answer = talk((self.ip(), 80).into(), &request).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

fn talk(to: SocketAddr, request: &str) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Whether an answer is the demo application's greeting.
pub fn greets(answer: &Result<String, std::io::Error>) -> bool {
    answer
        .as_ref()
        .is_ok_and(|answer| answer.contains("iKubernetes demoapp v1.0"))
}
