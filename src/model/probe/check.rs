//! From Kubernetes' objects to ours, by Kubernetes' rules (its validation of `Probe` and `LifecycleHandler`, and its
//! defaults). A zero where a positive number is wanted stands for the default, as it does there.

use super::wire;
use super::{Check, Endpoint, Hook, Hooks, HttpGet, Probe, ProbeFrom, ProbeKind};

/// What is wrong: the field's path, and the reason.
pub type Problems = Vec<(String, String)>;

/// The numbers of the container's named ports.
pub type Ports<'a> = &'a dyn Fn(&str) -> Option<u16>;

/// The shortest period: a probe may be fast, but not a busy loop.
const MIN_PERIOD_MS: i64 = 10;

/// Reads a `Probe` from JSON and checks it. Fields are named from the object on, such as `httpGet.port`; of what is
/// no JSON, or has the wrong type or an unknown field, the first problem is told.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_probe(json: &str, kind: ProbeKind, ports: Ports<'_>) -> Result<Probe, Problems> {
    check_probe("", kind, parse(json)?, ports)
}

/// Reads a `LifecycleHandler` from JSON and checks it, as [`parse_probe`] does.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_hook(json: &str, ports: Ports<'_>) -> Result<Hook, Problems> {
    check_hook("", parse(json)?, ports)
}

/// Checks a probe that stands at `path`; empty: the paths of problems begin with the probe's fields.
///
/// # Errors
/// All that is wrong with it.
pub fn check_probe(path: &str, kind: ProbeKind, wire: wire::Probe, ports: Ports<'_>) -> Result<Probe, Problems> {
    let mut checker = Checker::new(ports);
    let probe = checker.probe(path, kind, wire);
    checker.end(probe)
}

/// Checks a hook that stands at `path`.
///
/// # Errors
/// All that is wrong with it.
pub fn check_hook(path: &str, wire: wire::LifecycleHandler, ports: Ports<'_>) -> Result<Hook, Problems> {
    let mut checker = Checker::new(ports);
    let hook = checker.hook(path, wire);
    checker.end(hook)
}

/// Checks both hooks.
///
/// # Errors
/// All that is wrong with them.
pub fn check_hooks(path: &str, wire: wire::Lifecycle, ports: Ports<'_>) -> Result<Hooks, Problems> {
    let mut checker = Checker::new(ports);
    let post_start = wire.post_start.map(|hook| checker.hook(&at(path, "postStart"), hook));
    let pre_stop = wire.pre_stop.map(|hook| checker.hook(&at(path, "preStop"), hook));
    // What could not be checked has told why.
    let (post_start, pre_stop) = (post_start.flatten(), pre_stop.flatten());
    checker.end(Some(Hooks { post_start, pre_stop }))
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, Problems> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        // A path that ends in `?` or is a lone `.` is that of the object around.
        let path = path.trim_end_matches(['?', '.']).to_owned();
        vec![(path, error.inner().to_string())]
    })?;
    let end = deserializer.end();
    end.map_err(|error| vec![(String::new(), error.to_string())])?;
    Ok(parsed)
}

fn at(path: &str, field: &str) -> String {
    if path.is_empty() {
        field.to_owned()
    } else {
        format!("{path}.{field}")
    }
}

struct Checker<'a> {
    ports: Ports<'a>,
    problems: Problems,
}

impl<'a> Checker<'a> {
    fn new(ports: Ports<'a>) -> Self {
        let problems = Vec::new();
        Self { ports, problems }
    }

    fn end<T>(self, checked: Option<T>) -> Result<T, Problems> {
        match checked {
            Some(checked) if self.problems.is_empty() => Ok(checked),
            _ => Err(self.problems),
        }
    }

    fn refuse(&mut self, path: impl Into<String>, reason: impl Into<String>) {
        self.problems.push((path.into(), reason.into()));
    }

    fn probe(&mut self, path: &str, kind: ProbeKind, wire: wire::Probe) -> Option<Probe> {
        let field = |name| at(path, name);
        let from = self.from(&field("probeFrom"), wire.probe_from.as_deref(), wire.exec.is_some());
        let period = self.count(&field("periodSeconds"), wire.period_seconds, 10);
        let timeout = self.count(&field("timeoutSeconds"), wire.timeout_seconds, 1);
        let period_ms = self.millis(
            &field("periodMilliseconds"),
            wire.period_milliseconds,
            MIN_PERIOD_MS,
            period,
        );
        let timeout_ms = self.millis(&field("timeoutMilliseconds"), wire.timeout_milliseconds, 1, timeout);
        let initial_delay_s = self.count(&field("initialDelaySeconds"), wire.initial_delay_seconds, 0);
        let success_threshold = self.count(&field("successThreshold"), wire.success_threshold, 1);
        if kind != ProbeKind::Readiness && success_threshold != 1 {
            self.refuse(
                field("successThreshold"),
                format!("must be 1 for a {} probe", kind.name()),
            );
        }
        let failure_threshold = self.count(&field("failureThreshold"), wire.failure_threshold, 3);
        let grace = wire.termination_grace_period_seconds;
        let grace_s = self.grace(&field("terminationGracePeriodSeconds"), kind, grace);
        let handlers = [
            wire.exec
                .map(|exec| self.exec(&field("exec"), exec).map(|command| Check::Exec { command })),
            wire.http_get
                .map(|http| self.http(&field("httpGet"), http).map(Check::Http)),
            wire.tcp_socket
                .map(|tcp| self.tcp(&field("tcpSocket"), tcp).map(Check::Tcp)),
            wire.grpc.map(|grpc| self.grpc(&field("grpc"), grpc)),
        ];
        Some(Probe {
            check: self.only(path, handlers, "exec, httpGet, tcpSocket or grpc")?,
            from,
            initial_delay_s,
            period_ms,
            timeout_ms,
            success_threshold,
            failure_threshold,
            grace_s,
        })
    }

    fn hook(&mut self, path: &str, wire: wire::LifecycleHandler) -> Option<Hook> {
        let field = |name| at(path, name);
        let handlers = [
            wire.exec
                .map(|exec| self.exec(&field("exec"), exec).map(|command| Hook::Exec { command })),
            wire.http_get
                .map(|http| self.http(&field("httpGet"), http).map(Hook::Http)),
            wire.tcp_socket
                .map(|tcp| self.tcp(&field("tcpSocket"), tcp).map(Hook::Tcp)),
            wire.sleep.map(|sleep| {
                let path = field("sleep.seconds");
                if sleep.seconds.is_none() {
                    self.refuse(&path, "is required");
                }
                let seconds = self.count(&path, sleep.seconds, 0);
                Some(Hook::Sleep { seconds })
            }),
        ];
        self.only(path, handlers, "exec, httpGet, tcpSocket or sleep")
    }

    /// The one handler that is there.
    fn only<T>(&mut self, path: &str, handlers: [Option<Option<T>>; 4], names: &str) -> Option<T> {
        let mut there = handlers.into_iter().flatten();
        let first = there.next();
        if first.is_none() {
            self.refuse(path, format!("needs a handler: {names}"));
        } else if there.next().is_some() {
            self.refuse(path, format!("may have only one handler: {names}"));
        }
        first.flatten()
    }

    fn exec(&mut self, path: &str, exec: wire::ExecAction) -> Option<Vec<String>> {
        let command = exec.command.unwrap_or_default();
        if command.first().is_none_or(String::is_empty) {
            self.refuse(at(path, "command"), "must not be empty");
            return None;
        }
        Some(command)
    }

    fn http(&mut self, path: &str, http: wire::HttpGetAction) -> Option<HttpGet> {
        let https = match http.scheme.as_deref() {
            None | Some("" | "HTTP") => false,
            Some("HTTPS") => true,
            Some(other) => {
                self.refuse(at(path, "scheme"), format!("{other:?} is neither HTTP nor HTTPS"));
                false
            }
        };
        let headers = self.headers(&at(path, "httpHeaders"), http.http_headers.unwrap_or_default());
        Some(HttpGet {
            https,
            at: self.endpoint(path, http.host, http.port)?,
            path: request_path(http.path.as_deref().unwrap_or_default()),
            headers,
        })
    }

    fn headers(&mut self, path: &str, headers: Vec<wire::HttpHeader>) -> Vec<(String, String)> {
        let mut checked = Vec::new();
        for (i, header) in headers.into_iter().enumerate() {
            let (name, value) = (header.name.unwrap_or_default(), header.value.unwrap_or_default());
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
                self.refuse(
                    format!("{path}[{i}].name"),
                    format!("{name:?} must consist of letters, digits and '-'"),
                );
            }
            if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
                self.refuse(format!("{path}[{i}].value"), "must not have control characters");
            }
            if name.eq_ignore_ascii_case("host") && !value.is_empty() && !is_authority(&value) {
                self.refuse(format!("{path}[{i}].value"), format!("{value:?} is not a host"));
            }
            checked.push((name, value));
        }
        checked
    }

    fn tcp(&mut self, path: &str, tcp: wire::TcpSocketAction) -> Option<Endpoint> {
        self.endpoint(path, tcp.host, tcp.port)
    }

    fn grpc(&mut self, path: &str, grpc: wire::GrpcAction) -> Option<Check> {
        let at = self.endpoint(path, grpc.host, grpc.port.map(wire::Port::Number))?;
        let service = grpc.service.unwrap_or_default();
        Some(Check::Grpc { at, service })
    }

    fn endpoint(&mut self, path: &str, host: Option<String>, port: Option<wire::Port>) -> Option<Endpoint> {
        let host = host.filter(|host| !host.is_empty());
        if let Some(host) = host.as_ref().filter(|host| !is_host(host)) {
            self.refuse(
                at(path, "host"),
                format!("{host:?} is neither an IP address nor a host name"),
            );
        }
        let port = self.port(&at(path, "port"), port)?;
        // Addresses are written without the brackets that URLs need.
        let host = host.map(|host| host.trim_matches(['[', ']']).to_owned());
        Some(Endpoint { host, port })
    }

    fn port(&mut self, path: &str, port: Option<wire::Port>) -> Option<u16> {
        let (found, reason) = match port {
            None => (None, "is required".to_owned()),
            Some(wire::Port::Number(number)) => {
                let found = u16::try_from(number).ok().filter(|port| *port > 0);
                (found, format!("{number} is not between 1 and 65535"))
            }
            Some(wire::Port::Name(name)) => {
                let found = (self.ports)(&name);
                (found, format!("the container has no port named {name:?}"))
            }
        };
        if found.is_none() {
            self.refuse(path, reason);
        }
        found
    }

    /// A number that Kubernetes keeps in 32 bits; 0 and none are `default`.
    fn count(&mut self, path: &str, number: Option<i64>, default: u32) -> u32 {
        let number = number.unwrap_or_default();
        match u32::try_from(number) {
            Ok(0) => default,
            Ok(number) if i32::try_from(number).is_ok() => number,
            _ => {
                self.refuse(path, format!("{number} is not between 0 and {}", i32::MAX));
                default
            }
        }
    }

    /// Milliseconds, or the seconds that stand in their place.
    fn millis(&mut self, path: &str, millis: Option<i64>, least: i64, seconds: u32) -> u64 {
        let otherwise = u64::from(seconds) * 1000;
        let Some(millis) = millis else { return otherwise };
        match u64::try_from(millis) {
            Ok(right) if (least..=i64::from(i32::MAX)).contains(&millis) => right,
            _ => {
                self.refuse(path, format!("{millis} is not between {least} and {}", i32::MAX));
                otherwise
            }
        }
    }

    fn grace(&mut self, path: &str, kind: ProbeKind, seconds: Option<i64>) -> Option<u32> {
        let seconds = seconds?;
        if kind == ProbeKind::Readiness {
            self.refuse(path, "must not be set for a readiness probe");
            return None;
        }
        let checked = u32::try_from(seconds).ok().filter(|seconds| *seconds > 0);
        if checked.is_none() {
            self.refuse(path, format!("{seconds} is not between 1 and {}", u32::MAX));
        }
        checked
    }

    fn from(&mut self, path: &str, from: Option<&str>, exec: bool) -> ProbeFrom {
        match from {
            None => ProbeFrom::Pod,
            Some(_) if exec => {
                self.refuse(path, "has no meaning for an exec, which runs in the container");
                ProbeFrom::Pod
            }
            Some("pod") => ProbeFrom::Pod,
            Some("host") => ProbeFrom::Host,
            Some(other) => {
                self.refuse(path, format!("{other:?} is neither pod nor host"));
                ProbeFrom::Pod
            }
        }
    }
}

/// An IP address, with or without brackets, or a DNS name.
fn is_host(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let part = |part: &str| {
        let mut bytes = part.bytes();
        !part.is_empty()
            && part.len() <= 63
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    bare.unwrap_or(text).parse::<std::net::IpAddr>().is_ok()
        || (text.len() <= 253 && text.trim_end_matches('.').split('.').all(part))
}

/// A host with or without a port, as it may stand in a `Host` header.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `path` as it stands in a request: with a slash before it and without a fragment; what no URL may have is
/// percent-encoded. As in Go, whose `url.Parse` a kubelet uses, a text with a broken `%` is a path as a whole.
fn request_path(path: &str) -> String {
    let literal = path.bytes().any(|byte| byte.is_ascii_control()) || has_broken_escape(path);
    let path = if literal {
        path
    } else {
        path.split('#').next().unwrap_or_default()
    };
    let mut written = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        written.push('/');
    }
    for byte in path.bytes() {
        let forbidden = !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte);
        if forbidden || (literal && b"%?#".contains(&byte)) {
            written.push_str(&format!("%{byte:02X}"));
        } else {
            written.push(char::from(byte));
        }
    }
    written
}

fn has_broken_escape(path: &str) -> bool {
    let mut parts = path.split('%');
    parts.next();
    parts.any(|rest| rest.len() < 2 || !rest.bytes().take(2).all(|byte| byte.is_ascii_hexdigit()))
}
