//! `berth-probe`: a probe as a command that need not be in any image. An exec of it is answered by berth itself, from
//! inside the pod's network namespace, so that a kubelet's exec probe can be an HTTP, TCP or gRPC one.
//!
//! An empty host, as in `tcp :5432`, is the pod's IP; `localhost` is the pod's loopback.

use std::time::Duration;

use super::check::{Checks, Verdict};
use crate::dial::Target;
use crate::model::Id;
use crate::model::probe::{Probe, ProbeKind, check_probe, wire};
use crate::pod::ExecResult;

/// The name of the command, as argv\[0\].
pub const NAME: &str = "berth-probe";

/// When neither the command nor its caller says how long: Kubernetes' default for a probe.
const TIMEOUT: Duration = Duration::from_secs(1);

const USAGE: &str = "\
usage: berth-probe http URL [--header 'NAME: VALUE']... [--timeout DURATION]
       berth-probe tcp [HOST]:PORT [--timeout DURATION]
       berth-probe grpc [HOST]:PORT [--service NAME] [--timeout DURATION]
an empty HOST is the pod's IP; DURATION is like 500ms or 2s
";

/// A command line that asks for a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    probe: Probe,
    timeout: Option<Duration>,
}

/// Why a command line is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misuse(String);

/// Whether a command is to be answered here.
pub fn is_probe(command: &[String]) -> bool {
    command.first().is_some_and(|name| name == NAME)
}

/// Answers `command` as a program of its name would: 0 if what it checks is well, 1 if not, 2 if it is used wrongly.
/// Without `--timeout` it takes as long as `limit`, or a second.
///
/// # Errors
/// Why it could not be checked at all, which is no exit code: nothing is known about the container then.
pub async fn answer(
    checks: &Checks,
    container: &Id,
    target: &Target,
    command: &[String],
    limit: Option<Duration>,
) -> Result<ExecResult, String> {
    let Command { mut probe, timeout } = match parse(command) {
        Ok(command) => command,
        Err(Misuse(why)) => return Ok(result(2, "", &format!("{NAME}: {why}\n{USAGE}"))),
    };
    let timeout = timeout.or(limit).unwrap_or(TIMEOUT);
    probe.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    let report = checks.probe(container, target, &probe).await;
    let text = match report.output {
        text if text.is_empty() || text.ends_with('\n') => text,
        text => text + "\n",
    };
    match report.verdict {
        Verdict::Success | Verdict::Warning => Ok(result(0, &text, "")),
        Verdict::Failure => Ok(result(1, "", &text)),
        Verdict::Unknown => Err(text.trim_end().to_owned()),
    }
}

fn result(code: i32, stdout: &str, stderr: &str) -> ExecResult {
    ExecResult {
        stdout: stdout.into(),
        stderr: stderr.into(),
        code,
    }
}

/// Reads a command line whose first word is [`NAME`].
pub fn parse(command: &[String]) -> Result<Command, Misuse> {
    let mut words = command.iter().skip(1).map(String::as_str);
    let what = words.next().ok_or_else(|| Misuse("what shall be probed?".to_owned()))?;
    let options = Options::read(words)?;
    let at = options.at.as_deref().unwrap_or_default();
    let mut wire = wire::Probe::default();
    match what {
        "http" => wire.http_get = Some(http(at, options.headers)?),
        "tcp" => {
            let (host, port) = host_and_port(at)?;
            let port = Some(wire::Port::Number(port));
            wire.tcp_socket = Some(wire::TcpSocketAction { host, port });
        }
        "grpc" => {
            let (host, port) = host_and_port(at)?;
            let (port, service) = (Some(port), options.service);
            wire.grpc = Some(wire::GrpcAction { host, port, service });
        }
        other => return Err(Misuse(format!("{other:?} is neither http, tcp nor grpc"))),
    }
    let probe = check_probe("", ProbeKind::Readiness, wire, &|_| None).map_err(|problems| {
        let problems = problems.into_iter().map(|(field, reason)| format!("{field}: {reason}"));
        Misuse(problems.collect::<Vec<_>>().join("; "))
    })?;
    let timeout = options.timeout;
    Ok(Command { probe, timeout })
}

/// What stands behind the kind of probe.
#[derive(Default)]
struct Options {
    at: Option<String>,
    headers: Vec<wire::HttpHeader>,
    service: Option<String>,
    timeout: Option<Duration>,
}

impl Options {
    fn read<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<Self, Misuse> {
        let mut read = Self::default();
        while let Some(word) = words.next() {
            let Some(option) = word.strip_prefix("--") else {
                if read.at.replace(word.to_owned()).is_some() {
                    return Err(Misuse(format!("{word:?} is one too many")));
                }
                continue;
            };
            let (name, value) = match option.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (option, words.next()),
            };
            let value = value.ok_or_else(|| Misuse(format!("--{name} needs a value")))?;
            read.set(name, value)?;
        }
        Ok(read)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Misuse> {
        match name {
            "header" => {
                let header = value.split_once(':');
                let (name, value) = header.ok_or_else(|| Misuse(format!("the header {value:?} has no colon")))?;
                let (name, value) = (Some(name.to_owned()), Some(value.trim().to_owned()));
                self.headers.push(wire::HttpHeader { name, value });
            }
            "service" => self.service = Some(value.to_owned()),
            "timeout" => {
                let timeout = humantime::parse_duration(value)
                    .ok()
                    .filter(|timeout| !timeout.is_zero());
                let timeout = timeout.ok_or_else(|| Misuse(format!("{value:?} is no duration above 0")))?;
                self.timeout = Some(timeout);
            }
            other => return Err(Misuse(format!("--{other} is unknown"))),
        }
        Ok(())
    }
}

fn http(url: &str, headers: Vec<wire::HttpHeader>) -> Result<wire::HttpGetAction, Misuse> {
    let wrong = || Misuse(format!("{url:?} is no http or https URL"));
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let (scheme, default) = match scheme.to_ascii_lowercase().as_str() {
        "http" => ("HTTP", 80),
        "https" => ("HTTPS", 443),
        _ => return Err(wrong()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let bare = authority.ends_with(']') || !authority.contains(':');
    let (host, port) = if bare {
        (Some(authority.to_owned()), default)
    } else {
        host_and_port(authority)?
    };
    Ok(wire::HttpGetAction {
        path: Some(path.to_owned()),
        port: Some(wire::Port::Number(port)),
        host,
        scheme: Some(scheme.to_owned()),
        http_headers: Some(headers),
    })
}

/// Of `host:port`, `[IPv6]:port` or `:port`.
fn host_and_port(text: &str) -> Result<(Option<String>, i64), Misuse> {
    let wrong = || Misuse(format!("{text:?} is not [HOST]:PORT"));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().map_err(|_| wrong())?;
    Ok((Some(host.to_owned()), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::probe::{Check, Endpoint};

    fn parsed(line: &[&str]) -> Result<Command, Misuse> {
        let words: Vec<_> = [NAME].iter().chain(line).map(ToString::to_string).collect();
        assert!(is_probe(&words));
        parse(&words)
    }

    #[test]
    fn http_takes_a_url_headers_and_a_timeout() {
        let line = [
            "http",
            "http://localhost:8080/readyz?full",
            "--header",
            "Host: a.test",
            "--timeout=250ms",
        ];
        let command = parsed(&line).unwrap();
        assert_eq!(command.timeout, Some(Duration::from_millis(250)));
        let Check::Http(http) = command.probe.check else {
            panic!("no http")
        };
        assert_eq!(http.to_string(), "http://localhost:8080/readyz?full");
        assert_eq!(http.headers, [("Host".to_owned(), "a.test".to_owned())]);
    }

    #[test]
    fn an_address_is_read_with_and_without_host_and_brackets() {
        for (line, expected) in [
            (["tcp", ":5432"], "tcp-socket :5432"),
            (["tcp", "localhost:5432"], "tcp-socket localhost:5432"),
            (["tcp", "[::1]:5432"], "tcp-socket [::1]:5432"),
            (["http", "http://:8080/x"], "http-get http://:8080/x"),
            (["http", "HTTPS://[::1]"], "http-get https://[::1]:443/"),
            (["http", "http://10.0.0.1?a"], "http-get http://10.0.0.1:80/?a"),
            (["grpc", ":9090"], "grpc <pod>:9090"),
        ] {
            assert_eq!(parsed(&line).unwrap().probe.check.to_string(), expected);
        }
    }

    #[test]
    fn grpc_takes_a_service() {
        let Check::Grpc { at, service } = parsed(&["grpc", "--service", "x", ":9090"]).unwrap().probe.check else {
            panic!("no grpc")
        };
        assert_eq!((at, service.as_str()), (Endpoint { host: None, port: 9090 }, "x"));
    }

    #[test]
    fn what_is_used_wrongly_is_told() {
        for line in [
            &[][..],
            &["udp", ":1"],
            &["tcp"],
            &["tcp", "5432"],
            &["tcp", ":0"],
            &["tcp", ":http"],
            &["tcp", ":1", ":2"],
            &["tcp", "a b:1"],
            &["http", "localhost:80"],
            &["http", "ftp://localhost/"],
            &["http", "http://u@h/"],
            &["http", "http://h/", "--header", "no colon"],
            &["http", "http://h/", "--header"],
            &["http", "http://h/", "--timeout", "0s"],
            &["http", "http://h/", "--timeout", "soon"],
            &["http", "http://h/", "--shout", "x"],
        ] {
            assert!(parsed(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn other_commands_are_not_ours() {
        assert!(!is_probe(&[]));
        assert!(!is_probe(&["/bin/berth-probe".to_owned()]));
    }
}
