//! What a probe does: one attempt, one verdict. The texts are the kubelet's, which people know from events.

mod exec;
mod grpc;
mod http;
mod tcp;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::dial::{Dialer, Net, Target};
use crate::model::Id;
use crate::model::probe::{Check, Probe, ProbeFrom};
use crate::pod::Exec;

/// What is kept of a check's output.
pub const MAX_OUTPUT: usize = 10 << 10;

/// How probes name themselves: as a kubelet of this version does, for servers that know it by that.
pub const USER_AGENT: &str = "kube-probe/1.36";

/// What a check has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Success,
    /// A success that should be told of: the server sent the check elsewhere.
    Warning,
    Failure,
    /// Whether it is well could not be found out; does not count.
    Unknown,
}

/// A check that has been done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub verdict: Verdict,
    /// At most [`MAX_OUTPUT`] bytes.
    pub output: String,
}

impl Report {
    fn new(verdict: Verdict, output: impl Into<String>) -> Self {
        let output = crate::pod::cut(output.into(), MAX_OUTPUT);
        Self { verdict, output }
    }

    fn success(output: impl Into<String>) -> Self {
        Self::new(Verdict::Success, output)
    }

    fn failure(output: impl Into<String>) -> Self {
        Self::new(Verdict::Failure, output)
    }

    pub(super) fn unknown(output: impl Into<String>) -> Self {
        Self::new(Verdict::Unknown, output)
    }
}

/// Does checks. Cheap to clone.
#[derive(Clone)]
pub struct Checks {
    dialer: Dialer,
    exec: Arc<dyn Exec>,
}

impl Checks {
    pub fn new(dialer: Dialer, exec: Arc<dyn Exec>) -> Self {
        Self { dialer, exec }
    }

    /// One attempt of `probe`, within its timeout. To drop the future is to stop it: its connection is closed, its
    /// command killed.
    pub async fn probe(&self, container: &Id, target: &Target, probe: &Probe) -> Report {
        let target = match probe.from {
            ProbeFrom::Pod => Cow::Borrowed(target),
            ProbeFrom::Host => Cow::Owned(Target {
                net: Net::Host,
                ..target.clone()
            }),
        };
        self.check(container, &target, &probe.check, probe.timeout()).await
    }

    async fn check(&self, container: &Id, target: &Target, check: &Check, timeout: Duration) -> Report {
        match check {
            Check::Exec { command } => exec::check(&*self.exec, container, command, timeout).await,
            Check::Http(http) => http::check(&self.dialer, target, http, timeout).await,
            Check::Tcp(at) => tcp::check(&self.dialer, target, at, timeout).await,
            Check::Grpc { at, service } => grpc::check(&self.dialer, target, at, service, timeout).await,
        }
    }
}

/// What is missing before there can be a connection is nobody's failure; a connection that does not come is the
/// server's.
fn not_connected(error: &crate::dial::Error, text: String) -> Report {
    if error.is_ours() {
        Report::unknown(text)
    } else {
        Report::failure(text)
    }
}
