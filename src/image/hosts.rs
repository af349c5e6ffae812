//! `certs.d/<host>/hosts.toml`: mirrors of a registry, and how to speak to it.
//!
//! The format is containerd's, in the part that pulling needs: `server`, `capabilities`, `ca`, `skip_verify` and
//! `override_path`, and the same in tables `[host."<url>"]`, which are asked in the order in which they are written,
//! before the server. The directory is named `host`, `host:port` or `host_port_`; `_default` is for all others. A key
//! that is not known here is refused with its line.

use std::path::{Path, PathBuf};

use reqwest::Url;
use serde::Deserialize;
use toml::Spanned;

/// A place to fetch an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its API's root, ending in `/`.
    pub url: Url,
    /// May say what a tag stands for.
    pub resolve: bool,
    /// Serves manifests and blobs by digest.
    pub pull: bool,
    pub skip_verify: bool,
    /// Files with certificates that are trusted beside the system's.
    pub ca: Vec<PathBuf>,
    /// The registry that the reference names, and no mirror: it may see the caller's credentials.
    pub own: bool,
}

/// A hosts.toml that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}:{line}: {reason}", path.display())]
    Invalid { path: PathBuf, line: usize, reason: String },
}

/// Where to ask for images of the registry `domain`, in order.
pub fn endpoints(certs_dirs: &[PathBuf], domain: &str) -> Result<Vec<Endpoint>, Error> {
    for path in candidates(certs_dirs, domain) {
        match std::fs::read_to_string(&path) {
            Ok(text) => return parse(&text, &path, domain),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::Read { path, source }),
        }
    }
    Ok(vec![default_endpoint(domain)])
}

/// A registry without a hosts.toml. As with docker, one on this machine speaks plain HTTP.
fn default_endpoint(domain: &str) -> Endpoint {
    let host = if domain == "docker.io" {
        "registry-1.docker.io"
    } else {
        domain
    };
    let scheme = if is_loopback(host) { "http" } else { "https" };
    Endpoint {
        url: Url::parse(&format!("{scheme}://{host}/v2/")).expect("a reference's domain is a host"),
        resolve: true,
        pull: true,
        skip_verify: false,
        ca: Vec::new(),
        own: true,
    }
}

/// Whether `host` (with or without a port) is this machine.
pub fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let address = name.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn candidates(certs_dirs: &[PathBuf], domain: &str) -> Vec<PathBuf> {
    let mut names = vec![domain.to_owned()];
    if let Some((host, port)) = domain.rsplit_once(':') {
        names.push(format!("{host}_{port}_"));
    }
    names.push("_default".to_owned());
    let in_dir = |dir: &PathBuf| {
        names
            .iter()
            .map(|name| dir.join(name).join("hosts.toml"))
            .collect::<Vec<_>>()
    };
    certs_dirs.iter().flat_map(in_dir).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    server: Option<Spanned<String>>,
    #[serde(default)]
    host: std::collections::BTreeMap<String, Spanned<Table>>,
    // What follows is about the server. (Flattening a shared struct would lose the refusal of unknown keys.)
    capabilities: Option<Vec<Capability>>,
    #[serde(default)]
    ca: OneOrMany,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    capabilities: Option<Vec<Capability>>,
    #[serde(default)]
    ca: OneOrMany,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
}

#[derive(PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Capability {
    Pull,
    Resolve,
    /// berth never pushes.
    Push,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Default for OneOrMany {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

fn parse(text: &str, path: &Path, domain: &str) -> Result<Vec<Endpoint>, Error> {
    let at = |offset: usize, reason: String| Error::Invalid {
        path: path.to_owned(),
        line: text[..offset.min(text.len())].matches('\n').count() + 1,
        reason,
    };
    let file: File = toml::from_str(text).map_err(|error: toml::de::Error| {
        let offset = error.span().map_or(0, |span| span.start);
        at(offset, error.message().to_owned())
    })?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut hosts: Vec<_> = file.host.into_iter().collect();
    hosts.sort_by_key(|(_, table)| table.span().start);
    let mut endpoints = Vec::with_capacity(hosts.len() + 1);
    for (url, table) in hosts {
        let offset = table.span().start;
        let url = root(&url, table.get_ref().override_path).map_err(|reason| at(offset, reason))?;
        endpoints.push(endpoint(url, table.into_inner(), dir, false));
    }
    let own = default_endpoint(domain);
    let url = match file.server {
        Some(server) => {
            let offset = server.span().start;
            root(server.get_ref(), file.override_path).map_err(|reason| at(offset, reason))?
        }
        None => own.url,
    };
    let table = Table {
        capabilities: file.capabilities,
        ca: file.ca,
        skip_verify: file.skip_verify,
        override_path: file.override_path,
    };
    endpoints.push(endpoint(url, table, dir, true));
    Ok(endpoints)
}

fn endpoint(url: Url, table: Table, dir: &Path, own: bool) -> Endpoint {
    let can = |wanted| table.capabilities.as_ref().is_none_or(|all| all.contains(&wanted));
    let ca = match table.ca {
        OneOrMany::One(path) => vec![path],
        OneOrMany::Many(paths) => paths,
    };
    Endpoint {
        url,
        resolve: can(Capability::Resolve),
        pull: can(Capability::Pull),
        skip_verify: table.skip_verify,
        ca: ca.into_iter().map(|path| dir.join(path)).collect(),
        own,
    }
}

/// The root of the API at `text`, which may leave out `https://` and `/v2`.
fn root(text: &str, override_path: bool) -> Result<Url, String> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&full).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("{text:?} is not an http or https URL"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") {
        path
    } else {
        format!("{path}/v2")
    };
    url.set_path(&format!("{path}/"));
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_for(domain: &str, text: &str) -> Result<Vec<Endpoint>, Error> {
        parse(text, Path::new("/certs.d/x/hosts.toml"), domain)
    }

    fn urls(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect()
    }

    #[test]
    fn without_a_file_the_registry_itself_is_asked() {
        for (domain, url) in [
            ("docker.io", "https://registry-1.docker.io/v2/"),
            ("r.example:5000", "https://r.example:5000/v2/"),
            ("localhost:5000", "http://localhost:5000/v2/"),
            ("localhost", "http://localhost/v2/"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/v2/"),
            ("[::1]:5000", "http://[::1]:5000/v2/"),
        ] {
            assert_eq!(urls(&endpoints(&[], domain).unwrap()), [url], "{domain}");
        }
    }

    #[test]
    fn mirrors_are_asked_in_the_order_written_and_the_server_last() {
        let endpoints = parse_for(
            "docker.io",
            r#"
            server = "https://hub.example"
            [host."http://z.example:5000"]
              capabilities = ["pull", "resolve"]
            [host."https://a.example/mirror/"]
              capabilities = ["pull"]
              skip_verify = true
              ca = "ca.pem"
            [host."https://b.example/api/hub"]
              override_path = true
              ca = ["/etc/one.pem", "two.pem"]
            "#,
        )
        .unwrap();
        assert_eq!(
            urls(&endpoints),
            [
                "http://z.example:5000/v2/",
                "https://a.example/mirror/v2/",
                "https://b.example/api/hub/",
                "https://hub.example/v2/",
            ]
        );
        assert!(endpoints[0].resolve && endpoints[0].pull && !endpoints[0].own);
        assert!(!endpoints[1].resolve && endpoints[1].skip_verify);
        assert_eq!(endpoints[1].ca, [PathBuf::from("/certs.d/x/ca.pem")]);
        assert_eq!(
            endpoints[2].ca,
            [PathBuf::from("/etc/one.pem"), PathBuf::from("/certs.d/x/two.pem")]
        );
        assert!(endpoints[3].own);
    }

    #[test]
    fn a_file_without_a_server_keeps_the_registry_itself_as_the_last() {
        let endpoints = parse_for("r.example", "[host.\"http://m.example\"]").unwrap();
        assert_eq!(urls(&endpoints), ["http://m.example/v2/", "https://r.example/v2/"]);
        assert_eq!(
            urls(&parse_for("r.example", "skip_verify = true").unwrap()),
            ["https://r.example/v2/"]
        );
    }

    #[test]
    fn mistakes_are_reported_with_file_and_line() {
        for (text, line, word) in [
            ("\nsever = \"x\"", 2, "sever"),
            ("[host.\"http://m\"]\n\ncapabilites = []", 3, "capabilites"),
            ("capabilities = [\"fetch\"]", 1, "fetch"),
            ("\n\n[host.\"ftp://m\"]", 3, "http"),
            ("server = \"http://\"", 1, "URL"),
            ("skip_verify = \"yes\"", 1, "bool"),
            ("[host", 1, ""),
        ] {
            let error = parse_for("r.example", text).unwrap_err();
            let shown = error.to_string();
            assert!(
                shown.starts_with(&format!("/certs.d/x/hosts.toml:{line}: ")),
                "{text:?}: {shown}"
            );
            assert!(shown.contains(word), "{text:?}: {shown}");
        }
    }

    #[test]
    fn the_directory_is_found_under_each_of_its_names() {
        for name in ["127.0.0.1:5000", "127.0.0.1_5000_", "_default"] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("hosts.toml"), "server = \"http://found\"").unwrap();
            let endpoints = endpoints(&["/none".into(), dir.path().to_owned()], "127.0.0.1:5000").unwrap();
            assert_eq!(urls(&endpoints), ["http://found/v2/"], "{name}");
        }
    }
}
