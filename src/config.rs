//! The configuration: defaults, overlaid by a TOML file, overlaid by the command line.
//!
//! Every key is described in docs/configuration.md, which a test holds against this file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Targets;

/// Where the file is looked for when the command line names none.
pub const DEFAULT_FILE: &str = "/etc/berth/config.toml";
/// The `runtime_type` of berth's own shim.
pub const OWN_SHIM: &str = "berth";
/// The socket of a daemon with the default configuration.
pub const DEFAULT_SOCKET: &str = "/run/berth/berth.sock";

/// What the daemon is told. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The unix socket that berth serves.
    pub socket: PathBuf,
    /// What must survive a reboot: leases, manifests, berth's own containerd.
    pub root: PathBuf,
    /// What need not: pins, the files of pods, pipes.
    pub state: PathBuf,
    /// Directories of `<registry host>/hosts.toml`, the first that has a host wins.
    pub certs_dirs: Vec<PathBuf>,
    /// The runtime handler of pods that name none.
    pub default_handler: String,
    pub log: Log,
    pub containerd: Containerd,
    pub shim: Shim,
    pub network: Network,
    pub probes: Probes,
    pub metrics: Metrics,
    pub manifest: Manifest,
    /// Runtime handlers (Kubernetes' RuntimeClass `handler`) by name.
    pub handlers: BTreeMap<String, Handler>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    /// What is logged, by level and module, such as `info` or `warn,berth::pod=debug`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Containerd {
    /// The socket of a running containerd. None: berth starts and owns one.
    pub address: Option<PathBuf>,
    /// None: `k8s.io` in berth's own containerd, `berth` in another.
    pub namespace: Option<String>,
    /// The binary of berth's own containerd, a path or a name in PATH.
    pub binary: PathBuf,
    /// Allows the namespace `k8s.io` in a containerd whose CRI plugin is loaded and would react to berth's images.
    pub share_k8s_namespace: bool,
}

/// berth's own shim, the processes that hold containers and write their logs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shim {
    /// Its program, an absolute path. None: `containerd-shim-berth-v1` beside berth's own.
    pub binary: Option<PathBuf>,
    /// How many pods share a process: `"all"`, or a number, for smaller domains of failure.
    pub pods_per_process: PodsPerProcess,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Many", into = "Many")]
pub enum PodsPerProcess {
    #[default]
    All,
    AtMost(std::num::NonZeroUsize),
}

/// As it is written: a word or a number.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Many {
    Word(String),
    Number(usize),
}

impl TryFrom<Many> for PodsPerProcess {
    type Error = String;

    fn try_from(many: Many) -> Result<Self, String> {
        let number = match many {
            Many::Word(word) if word == "all" => return Ok(Self::All),
            Many::Word(_) => None,
            Many::Number(number) => std::num::NonZeroUsize::new(number),
        };
        number
            .map(Self::AtMost)
            .ok_or_else(|| "neither \"all\" nor a number of 1 or more".to_owned())
    }
}

impl From<PodsPerProcess> for Many {
    fn from(pods: PodsPerProcess) -> Self {
        match pods {
            PodsPerProcess::All => Self::Word("all".to_owned()),
            PodsPerProcess::AtMost(number) => Self::Number(number.get()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    pub mode: NetworkMode,
    /// IPv4 range of the built-in bridge, such as `10.210.0.0/16`. None: the first free of 10.210 to 10.219.
    pub subnet: Option<String>,
    pub cni_conf_dir: PathBuf,
    pub cni_bin_dir: PathBuf,
    /// Where network namespaces are pinned.
    pub netns_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// The built-in bridge (CNI, once berth has it, where a CNI configuration is present).
    #[default]
    Auto,
    /// The built-in bridge
    Builtin,
    /// CNI plugins (not supported yet)
    Cni,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Probes {
    /// Whether berth itself answers commands named `berth-probe` in containers.
    pub virtual_commands: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where `GET /metrics` is served, an address and a port. None: nowhere.
    pub address: Option<SocketAddr>,
}

/// Pods of manifests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// The resolv.conf that pods get, as a kubelet's `--resolv-conf`; read anew for each. None: the node's.
    pub resolv_conf: Option<PathBuf>,
}

/// Which OCI runtime runs a pod, and where its root file systems are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handler {
    /// containerd's name for the shim that holds the pod's containers, or its path; `berth` is berth's own.
    pub runtime_type: String,
    /// The OCI runtime's binary, a path or a name in containerd's PATH.
    pub binary: String,
    /// The OCI runtime's own state directory; empty: containerd's default.
    pub runtime_root: String,
    pub snapshotter: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            socket: DEFAULT_SOCKET.into(),
            root: "/var/lib/berth".into(),
            state: "/run/berth".into(),
            certs_dirs: vec!["/etc/berth/certs.d".into(), "/etc/containerd/certs.d".into()],
            default_handler: "runc".to_owned(),
            log: Log::default(),
            containerd: Containerd::default(),
            shim: Shim::default(),
            network: Network::default(),
            probes: Probes::default(),
            metrics: Metrics::default(),
            manifest: Manifest::default(),
            handlers: BTreeMap::from([("runc".to_owned(), Handler::default())]),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Human,
            level: "info".to_owned(),
        }
    }
}

impl Default for Containerd {
    fn default() -> Self {
        Self {
            address: None,
            namespace: None,
            binary: "containerd".into(),
            share_k8s_namespace: false,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mode: NetworkMode::Auto,
            subnet: None,
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            netns_dir: "/run/netns".into(),
        }
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self { virtual_commands: true }
    }
}

impl Default for Handler {
    fn default() -> Self {
        Self {
            runtime_type: OWN_SHIM.to_owned(),
            binary: "runc".to_owned(),
            runtime_root: String::new(),
            snapshotter: "overlayfs".to_owned(),
        }
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read the configuration {}: {source}", file.display())]
    Read { file: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {message}", file.display())]
    Syntax {
        file: PathBuf,
        line: usize,
        message: String,
    },
    #[error("{key}: {reason}")]
    Value { key: String, reason: String },
}

impl Config {
    /// Reads `file`; without one the default file, if it is there.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(path, &text),
            Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(Error::Read {
                file: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let parsed: Result<Self, _> = toml::from_str(text);
        let mut config = parsed.map_err(|error: toml::de::Error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            Error::Syntax {
                file: file.to_owned(),
                line,
                message: error.message().to_owned(),
            }
        })?;
        // A file that adds a handler does not take the default one away.
        config.handlers.entry("runc".to_owned()).or_default();
        Ok(config)
    }

    /// Checks what single values cannot show.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key: &str, reason: String| {
            Err(Error::Value {
                key: key.to_owned(),
                reason,
            })
        };
        for (key, path) in [("socket", &self.socket), ("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                return refuse(key, format!("{} is not an absolute path", path.display()));
            }
        }
        if let Some(binary) = self.shim.binary.as_deref().filter(|binary| !binary.is_absolute()) {
            return refuse("shim.binary", format!("{} is not an absolute path", binary.display()));
        }
        if let Some(path) = self.manifest.resolv_conf.as_deref().filter(|path| !path.is_absolute()) {
            return refuse(
                "manifest.resolv_conf",
                format!("{} is not an absolute path", path.display()),
            );
        }
        if !self.handlers.contains_key(&self.default_handler) {
            return refuse(
                "default_handler",
                format!("there is no [handlers.{}]", self.default_handler),
            );
        }
        if let Err(error) = self.log.level.parse::<Targets>() {
            return refuse("log.level", error.to_string());
        }
        if self.network.mode == NetworkMode::Cni {
            return refuse(
                "network.mode",
                "cni is not supported yet; use auto or builtin".to_owned(),
            );
        }
        if let Some(namespace) = &self.containerd.namespace
            && !is_namespace(namespace)
        {
            return refuse(
                "containerd.namespace",
                format!("{namespace:?} is no containerd namespace"),
            );
        }
        Ok(())
    }
}

/// containerd's rule for identifiers: letters and digits, with single `.`, `_` or `-` between.
fn is_namespace(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 76 && text.split(['.', '_', '-']).all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Error> {
        Config::parse(Path::new("berth.toml"), text)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse("").unwrap(), Config::default());
        Config::default().check().unwrap();
    }

    #[test]
    fn the_default_survives_being_written_and_read() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(parse(&text).unwrap(), Config::default());
    }

    #[test]
    fn a_typo_is_refused_with_file_and_line() {
        let error = parse("root = \"/x\"\n\n[network]\nsubnett = \"10.0.0.0/8\"\n")
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("berth.toml:4: unknown field `subnett`"), "{error}");
    }

    #[test]
    fn a_wrong_type_is_refused_with_file_and_line() {
        let error = parse("\nsocket = 5\n").unwrap_err().to_string();
        assert!(error.starts_with("berth.toml:2: "), "{error}");
    }

    #[test]
    fn a_handler_is_added_to_the_default_one() {
        let config = parse("[handlers.crun]\nbinary = 'crun'\n").unwrap();
        config.check().unwrap();
        assert_eq!(config.handlers.keys().collect::<Vec<_>>(), ["crun", "runc"]);
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_key() {
        let refusal = |text: &str| parse(text).unwrap().check().unwrap_err().to_string();
        assert!(refusal("root = 'x'").starts_with("root: "));
        assert!(refusal("[shim]\nbinary = 'shim'").starts_with("shim.binary: "));
        assert!(refusal("[manifest]\nresolv_conf = 'x'").starts_with("manifest.resolv_conf: "));
        assert!(refusal("default_handler = 'kata'").starts_with("default_handler: "));
        assert!(refusal("[log]\nlevel = 'berth=loud'").starts_with("log.level: "));
        assert!(refusal("[network]\nmode = 'cni'").starts_with("network.mode: "));
        assert!(refusal("[containerd]\nnamespace = 'a/b'").starts_with("containerd.namespace: "));
    }
}
