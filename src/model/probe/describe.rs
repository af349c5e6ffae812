//! A probe in one line, as `kubectl describe pod` prints it.

use std::fmt;

use super::{Check, Endpoint, HttpGet, Probe, ProbeKind};

impl fmt::Display for ProbeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} delay={}s timeout={} period={} #success={} #failure={}",
            self.check,
            self.initial_delay_s,
            Span(self.timeout_ms),
            Span(self.period_ms),
            self.success_threshold,
            self.failure_threshold
        )
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec { command } => write!(f, "exec [{}]", command.join(" ")),
            Self::Http(http) => write!(f, "http-get {http}"),
            Self::Tcp(at) => write!(f, "tcp-socket {at}"),
            Self::Grpc { at, service } => {
                // kubectl has a fixed word where Kubernetes has no field.
                match &at.host {
                    None => write!(f, "grpc <pod>:{}", at.port)?,
                    Some(_) => write!(f, "grpc {at}")?,
                }
                if service.is_empty() {
                    Ok(())
                } else {
                    write!(f, " {service}")
                }
            }
        }
    }
}

impl fmt::Display for HttpGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.at, self.path)
    }
}

/// `host:port`; the host is empty for the pod's IP, and in brackets if it is an IPv6 address.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.as_deref() {
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            host => write!(f, "{}:{}", host.unwrap_or_default(), self.port),
        }
    }
}

/// Milliseconds; whole seconds are written as such.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            millis if millis % 1000 == 0 => write!(f, "{}s", millis / 1000),
            millis => write!(f, "{millis}ms"),
        }
    }
}
