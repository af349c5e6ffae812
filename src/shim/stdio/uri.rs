//! The names of streams, parsed. Pure.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Error;

/// Where an output goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Uri {
    None,
    Path(PathBuf),
    File(PathBuf),
    Binary(Program),
}

/// A logging program and what the URI's query gives it: arguments in the order of the text, and variables
/// (`env.NAME=value`) as `NAME=value`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<OsString>,
}

/// Names that a query cannot set: the shim does.
pub(super) const OWN: [&str; 2] = ["CONTAINER_ID", "CONTAINER_NAMESPACE"];

impl Uri {
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(match text {
                "" => Self::None,
                path => Self::Path(path.into()),
            });
        };
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(OsString::from_vec(decode(path, false)));
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" => Ok(Self::Binary(program(path, query))),
            other => Err(Error::Scheme(other.to_owned())),
        }
    }
}

/// Every pair of the query becomes two arguments, and of pairs with one key the first counts (containerd,
/// pkg/process/io_util.go).
fn program(path: PathBuf, query: &str) -> Program {
    let mut program = Program {
        path,
        ..Program::default()
    };
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key, true), decode(value, true));
        if seen.contains(&key) {
            continue;
        }
        match key.strip_prefix(b"env.") {
            Some(name) if OWN.iter().any(|own| own.as_bytes() == name) => {}
            Some(name) => program.env.push(OsString::from_vec([name, b"=", &value].concat())),
            None => {
                program.args.push(OsString::from_vec(key.clone()));
                program.args.push(OsString::from_vec(value));
            }
        }
        seen.push(key);
    }
    program
}

/// Undoes percent-encoding (RFC 3986); in a query a plus is a space. What is no code stays as it is.
fn decode(text: &str, query: bool) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let code = bytes.get(at + 1..at + 3).and_then(hex);
        let (byte, step) = match (byte, code) {
            (b'%', Some(code)) => (code, 3),
            (b'+', _) if query => (b' ', 1),
            (byte, _) => (*byte, 1),
        };
        decoded.push(byte);
        at += step;
    }
    decoded
}

fn hex(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(
        std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?,
        16,
    )
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_path_and_nothing_is_nothing() {
        assert_eq!(Uri::parse("").unwrap(), Uri::None);
        assert_eq!(Uri::parse("/run/a%20b?c").unwrap(), Uri::Path("/run/a%20b?c".into()));
        assert_eq!(Uri::parse("fifo:///run/x").unwrap(), Uri::Path("/run/x".into()));
        assert_eq!(Uri::parse("file:///a%20b%2").unwrap(), Uri::File("/a b%2".into()));
    }

    #[test]
    fn a_query_becomes_arguments_and_variables_of_the_program() {
        let text = "binary:///bin/log?_NERDCTL_INTERNAL_LOGGING=%2Fvar%2Flib&a=1&a=2&flag&b=x+y&env.LEVEL=debug&env.CONTAINER_ID=no";
        let expected = Program {
            path: "/bin/log".into(),
            args: [
                "_NERDCTL_INTERNAL_LOGGING",
                "/var/lib",
                "a",
                "1",
                "flag",
                "",
                "b",
                "x y",
            ]
            .map(OsString::from)
            .to_vec(),
            env: vec!["LEVEL=debug".into()],
        };
        assert_eq!(Uri::parse(text).unwrap(), Uri::Binary(expected));
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_too_strange(text in ".*") {
            let _ = Uri::parse(&text);
            let _ = Uri::parse(&format!("binary://{text}"));
        }
    }
}
