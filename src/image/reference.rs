//! References to images, in the grammar of docker and the OCI distribution specification.

use std::fmt;

/// A reference with every part filled in: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host of the registry, with its port if one is named.
    pub domain: String,
    /// Path of the repository in the registry.
    pub path: String,
    pub version: Version,
}

/// Which image of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Version {
    Tag(String),
    /// `sha256:` and 64 hexadecimal digits. A tag beside a digest says nothing more and is dropped.
    Digest(String),
}

/// A text that is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct Invalid {
    text: String,
    reason: &'static str,
}

const HUB: &str = "docker.io";
/// Bytes of a repository's name with its registry (docker's limit).
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

impl Reference {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        parse(text).map_err(|reason| Invalid {
            text: text.chars().take(NAME_MAX).collect(),
            reason,
        })
    }

    /// The repository with its registry.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The canonical form, which names the image's record in containerd.
    pub fn record_name(&self) -> String {
        self.to_string()
    }

    /// The tag or digest, as a registry's manifest URL has it.
    pub fn version(&self) -> &str {
        match &self.version {
            Version::Tag(version) | Version::Digest(version) => version,
        }
    }

    /// This repository at a digest.
    pub fn at(&self, digest: &str) -> Self {
        Self {
            version: Version::Digest(digest.to_owned()),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

/// Whether `text` is `sha256:` and 64 lower-case hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex_id)
}

/// Whether `text` is the hexadecimal part of an image's id.
pub fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

/// Whether `text` has lower-case hexadecimal digits and nothing else.
pub fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash is a registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if is_hex_id(name) {
        return Err("64 hexadecimal digits are an image id, not a repository");
    }
    let (domain, path) = split_domain(name);
    check_domain(domain)?;
    check_path(&path)?;
    if domain.len() + 1 + path.len() > NAME_MAX {
        return Err("the repository's name is longer than 255 bytes");
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let version = match (digest, tag) {
        (Some(digest), _) if is_digest(digest) => Version::Digest(digest.to_owned()),
        (Some(_), _) => return Err("the digest is not sha256: and 64 lower-case hexadecimal digits"),
        (None, Some(tag)) => Version::Tag(tag.to_owned()),
        (None, None) => Version::Tag("latest".to_owned()),
    };
    Ok(Reference {
        domain: domain.to_owned(),
        path,
        version,
    })
}

/// The first component is a registry when it looks like a host: a dot, a port, upper case, or `localhost`.
fn split_domain(name: &str) -> (&str, String) {
    let looks_like_host = |part: &str| {
        part == "localhost" || part.contains(['.', ':']) || part.bytes().any(|byte| byte.is_ascii_uppercase())
    };
    match name.split_once('/') {
        Some(("index.docker.io" | HUB, path)) => (HUB, on_hub(path)),
        Some((domain, path)) if looks_like_host(domain) => (domain, path.to_owned()),
        _ => (HUB, on_hub(name)),
    }
}

fn on_hub(path: &str) -> String {
    if path.contains('/') {
        path.to_owned()
    } else {
        format!("library/{path}")
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    const BAD: &str = "the registry is not a host name or address with an optional port";
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(BAD);
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(drop).map_err(|_| BAD);
    }
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric();
        label.bytes().all(|byte| plain(byte) || byte == b'-')
            && label.bytes().next().is_some_and(plain)
            && label.bytes().next_back().is_some_and(plain)
    };
    if host.split('.').all(label) { Ok(()) } else { Err(BAD) }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository must be lower case");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err(
            "a part of the repository is not lower-case letters and digits, with single '.', '_', '__' or dashes between",
        )
    }
}

fn is_path_component(component: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| plain(*byte));
    ends(bytes.first())
        && ends(bytes.last())
        && component
            .split(|c: char| u8::try_from(c).is_ok_and(plain))
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let good = tag.bytes().next().is_some_and(word)
        && tag.len() <= TAG_MAX
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'));
    if good {
        Ok(())
    } else {
        Err("the tag is not 1 to 128 letters, digits, '_', '.' and '-', the first neither '.' nor '-'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn references_are_filled_in_as_docker_does() {
        for (text, canonical) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("foo/bar", "docker.io/foo/bar:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            ("127.0.0.1:5000/a/b/c:v1", "127.0.0.1:5000/a/b/c:v1"),
            ("[::1]:5000/a:v1", "[::1]:5000/a:v1"),
            ("Example/bar", "Example/bar:latest"),
            (
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
            ),
            ("r.io/a__b/c--d/e.f_g", "r.io/a__b/c--d/e.f_g:latest"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = format!("sha256:{HEX}");
        let reference = Reference::parse(&format!("busybox:1.36@{digest}")).unwrap();
        assert_eq!(reference.to_string(), format!("docker.io/library/busybox@{digest}"));
        assert_eq!(reference.version, Version::Digest(digest));
    }

    #[test]
    fn other_texts_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "empty"),
            ("Busybox", "lower case"),
            ("docker.io/library/Busybox", "lower case"),
            ("busybox:", "tag"),
            ("busybox:-x", "tag"),
            ("busybox:a b", "tag"),
            ("busy box", "part of the repository"),
            ("/busybox", "part of the repository"),
            ("a//b", "part of the repository"),
            ("a..b", "part of the repository"),
            ("a___b", "part of the repository"),
            ("-a", "part of the repository"),
            ("host.example:port/a", "registry"),
            ("host..example/a", "registry"),
            ("a@sha256:abc", "digest"),
            ("a@md5:0123", "digest"),
            ("a@", "digest"),
            (HEX, "image id"),
            ("a\u{0}b", "part of the repository"),
        ] {
            let error = Reference::parse(text).unwrap_err();
            assert!(error.reason.contains(reason), "{text:?}: {error}");
        }
        assert!(Reference::parse(&"a".repeat(300)).is_err());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    proptest! {
        #[test]
        fn the_canonical_form_parses_to_itself(
            domain in "(docker\\.io|localhost|[a-z][a-z0-9]{0,5}\\.[a-z]{2,3})(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,4}([._-][a-z0-9]{1,3})?(/[a-z0-9]{1,4}){1,2}",
            tag in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
        ) {
            let reference = Reference::parse(&format!("{domain}/{path}:{tag}")).unwrap();
            prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
        }

        #[test]
        fn no_text_makes_it_panic_and_what_it_takes_is_stable(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
