//! Probes and hooks of a container: Kubernetes' `Probe` and `LifecycleHandler` (core/v1), checked and with their
//! defaults, and what comes of them.

mod check;
mod commands;
mod describe;
#[cfg(test)]
mod tests;
pub mod wire;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use check::{Ports, Problems, check_hook, check_hooks, check_probe, parse_hook, parse_probe};

/// Kubernetes' three kinds of probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

impl ProbeKind {
    pub const ALL: [Self; 3] = [Self::Liveness, Self::Readiness, Self::Startup];

    /// In lower case, as in Kubernetes' metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Liveness => "liveness",
            Self::Readiness => "readiness",
            Self::Startup => "startup",
        }
    }

    /// As the kubelet's events begin: `Liveness probe failed: …`.
    pub fn title(self) -> &'static str {
        match self {
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
            Self::Startup => "Startup",
        }
    }
}

/// The probes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Probes {
    pub liveness: Option<Probe>,
    pub readiness: Option<Probe>,
    pub startup: Option<Probe>,
}

impl Probes {
    pub fn get(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Startup => self.startup.as_ref(),
        }
    }

    pub fn is_empty(&self) -> bool {
        ProbeKind::ALL.iter().all(|kind| self.get(*kind).is_none())
    }
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub check: Check,
    /// Where its connections come from; of no meaning to an exec.
    pub from: ProbeFrom,
    /// Seconds after the container's start before the first check.
    pub initial_delay_s: u32,
    /// At least 1.
    pub period_ms: u64,
    /// At least 1.
    pub timeout_ms: u64,
    /// At least 1; always 1 of liveness and startup probes.
    pub success_threshold: u32,
    /// At least 1.
    pub failure_threshold: u32,
    /// The grace period of a container that this probe ends; None: the pod's.
    pub grace_s: Option<u32>,
}

impl Probe {
    pub fn period(&self) -> Duration {
        Duration::from_millis(self.period_ms)
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// Where a probe stands (berth's extension field `probeFrom`): traffic that is made inside the pod skips its nat
/// PREROUTING chain and its rules for interfaces, a kubelet's does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeFrom {
    #[default]
    Pod,
    Host,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    Exec {
        command: Vec<String>,
    },
    Http(HttpGet),
    /// Succeeds when it connects.
    Tcp(Endpoint),
    /// `grpc.health.v1.Health/Check`, without TLS.
    Grpc {
        at: Endpoint,
        service: String,
    },
}

/// A port, and the host where it is looked for; None: the pod's IP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    pub host: Option<String>,
    pub port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpGet {
    pub https: bool,
    pub at: Endpoint,
    /// Begins with a slash; may have a query.
    pub path: String,
    /// In order; a name may be there more than once.
    pub headers: Vec<(String, String)>,
}

/// The hooks of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hooks {
    /// Runs right after the start.
    pub post_start: Option<Hook>,
    /// Runs before the signal that ends the container, within its grace period.
    pub pre_stop: Option<Hook>,
}

impl Hooks {
    pub fn is_empty(&self) -> bool {
        self.post_start.is_none() && self.pre_stop.is_none()
    }
}

/// What a hook does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    Exec {
        command: Vec<String>,
    },
    /// Any answer is a success.
    Http(HttpGet),
    /// Succeeds when it connects.
    Tcp(Endpoint),
    Sleep {
        seconds: u32,
    },
}

/// Where a probe's counting has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeResult {
    Unknown,
    Success,
    Failure,
}

/// A container as its probes have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// It runs, and its startup probe, if it has one, has succeeded.
    pub started: bool,
    /// It is started, and its readiness probe, if it has one, succeeds.
    pub ready: bool,
}
