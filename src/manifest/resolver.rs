//! A resolv.conf (resolv.conf(5)) for pods, read as a kubelet reads its own `--resolv-conf`.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::sandbox::Dns;

/// What the C library takes at most, and Kubernetes of both.
const SERVERS: usize = 3;
const SEARCHES: usize = 32;

#[derive(Debug, thiserror::Error)]
#[error("cannot read the pods' resolv.conf {}: {source}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

pub fn read(path: &Path) -> Result<Dns, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error {
        path: path.to_owned(),
        source,
    })?;
    Ok(parse(&text))
}

/// Of several `search` lines and of several `options` lines the last counts.
fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => dns.servers.extend(words.next()),
            Some("search") => dns.searches = words.collect(),
            Some("options") => dns.options = words.collect(),
            _ => {}
        }
    }
    dns.servers.truncate(SERVERS);
    dns.searches.truncate(SEARCHES);
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_searches_and_options_are_read() {
        let text = "# comment\nnameserver 10.0.0.1 # one\n\tnameserver fd00::1\nsearch a\nsearch b c\n; more\n\
                    options ndots:2 edns0\nsortlist x\nnameserver 1.1.1.1\nnameserver 2.2.2.2\nnameserver";
        let dns = parse(text);
        assert_eq!(dns.servers, ["10.0.0.1", "fd00::1", "1.1.1.1"]);
        assert_eq!(dns.searches, ["b", "c"]);
        assert_eq!(dns.options, ["ndots:2", "edns0"]);
        assert_eq!(parse(""), Dns::default());
    }
}
