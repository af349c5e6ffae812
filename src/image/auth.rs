//! Credentials for a registry.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Who a pull is made as. Its `Debug` prints nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    /// The registry that the credentials are for; None: the one that the image's reference names.
    server: Option<String>,
    secret: Secret,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// An OAuth2 refresh token, to be exchanged for a bearer token.
    Identity(String),
    /// A bearer token, sent as it is.
    Bearer(String),
}

/// Credentials that cannot be read. Says nothing of what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("auth.auth: not the base64 form of user:password")]
pub struct Invalid;

impl Auth {
    pub fn password(user: &str, password: &str) -> Self {
        Self::with(Secret::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// From the base64 form of `user:password`, as docker's config file has it.
    pub fn basic(encoded: &str) -> Result<Self, Invalid> {
        let bytes = STANDARD.decode(encoded.trim()).map_err(|_| Invalid)?;
        let text = String::from_utf8(bytes).map_err(|_| Invalid)?;
        // docker pads with NUL bytes.
        let text = text.trim_end_matches('\0');
        let (user, password) = text.split_once(':').ok_or(Invalid)?;
        Ok(Self::password(user, password))
    }

    pub fn identity_token(token: &str) -> Self {
        Self::with(Secret::Identity(token.to_owned()))
    }

    pub fn registry_token(token: &str) -> Self {
        Self::with(Secret::Bearer(token.to_owned()))
    }

    /// Restricts the credentials to one registry: a host, or a URL on it as docker writes them.
    pub fn only_for(mut self, server: &str) -> Self {
        let host = server.split_once("://").map_or(server, |(_, rest)| rest);
        let host = host.split('/').next().unwrap_or_default();
        self.server = (!host.is_empty()).then(|| host.to_owned());
        self
    }

    /// The secret, if it may be shown to `host`. `own`: this is the registry that the reference names, and no mirror.
    pub(super) fn for_host(&self, host: &str, own: bool) -> Option<&Secret> {
        let allowed = match self.server.as_deref() {
            None => own,
            Some("index.docker.io" | "docker.io") if host == "registry-1.docker.io" => true,
            Some(server) => server == host,
        };
        allowed.then_some(&self.secret)
    }

    fn with(secret: Secret) -> Self {
        Self { server: None, secret }
    }
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base64_form_is_read_with_docker_s_padding() {
        let encoded = STANDARD.encode("me:pass:word\0\0");
        assert!(Auth::basic(&encoded) == Ok(Auth::password("me", "pass:word")));
        assert!(Auth::basic("%%%") == Err(Invalid));
        assert!(Auth::basic(&STANDARD.encode("nocolon")) == Err(Invalid));
    }

    #[test]
    fn credentials_go_to_the_registry_they_are_for_alone() {
        let any = Auth::password("u", "p");
        assert!(any.for_host("r.example", true).is_some());
        assert!(any.for_host("mirror.example", false).is_none());
        let one = any.only_for("https://r.example/v2/");
        assert!(one.for_host("r.example", false).is_some());
        assert!(one.for_host("other.example", true).is_none());
        let hub = Auth::password("u", "p").only_for("https://index.docker.io/v1/");
        assert!(hub.for_host("registry-1.docker.io", true).is_some());
    }

    #[test]
    fn debug_prints_no_secret() {
        assert_eq!(format!("{:?}", Auth::password("user", "hunter2")), "Auth");
    }
}
