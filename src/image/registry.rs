//! Speaking to a registry over HTTP (OCI distribution specification): manifests and blobs, through mirrors, with
//! whatever authorization is asked for.

use std::error::Error as _;
use std::sync::{Mutex, Once};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::auth::Secret;
use super::challenge::Challenge;
use super::document::{self, digest_of};
use super::hosts::{Endpoint, is_loopback};
use super::reference::Version;
use super::{Auth, Error, Reference};

const CONNECT: Duration = Duration::from_secs(15);
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes of a refusal's text that are read, and characters that are shown.
const SAID: (usize, usize) = (8 << 10, 300);
const TOKEN_LIMIT: usize = 1 << 20;

/// One repository, for the time of one pull: tokens and credentials end with it.
pub struct Registry {
    reference: Reference,
    auth: Option<Auth>,
    hosts: Vec<Host>,
}

struct Host {
    endpoint: Endpoint,
    client: Client,
    /// `host[:port]`, for messages.
    name: String,
    /// What the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A manifest or an index as it came.
pub struct Fetched {
    pub bytes: Vec<u8>,
    pub media_type: Option<String>,
}

impl Registry {
    pub fn open(reference: &Reference, endpoints: Vec<Endpoint>, auth: Option<&Auth>) -> Result<Self, Error> {
        let hosts = endpoints.into_iter().map(Host::new).collect::<Result<_, _>>()?;
        Ok(Self {
            reference: reference.clone(),
            auth: auth.cloned(),
            hosts,
        })
    }

    /// Fetches the manifest or index that `version` stands for. What a digest names has that digest.
    pub async fn manifest(&self, version: &Version) -> Result<Fetched, Error> {
        let mut outcome = Err(self.nobody());
        for host in &self.hosts {
            let can = match version {
                Version::Tag(_) => host.endpoint.resolve,
                Version::Digest(_) => host.endpoint.pull,
            };
            if can {
                outcome = self.manifest_from(host, version).await;
                if host.settles(&outcome) {
                    break;
                }
            }
        }
        outcome
    }

    /// Begins to fetch a blob. The `attempt`th time the `attempt`th host is asked first.
    pub async fn blob(&self, digest: &str, attempt: usize) -> Result<Response, Error> {
        let path = format!("{}/blobs/{digest}", self.reference.path);
        let what = format!("blob {digest} of {}", self.reference);
        let mut hosts: Vec<_> = self.hosts.iter().filter(|host| host.endpoint.pull).collect();
        let first = attempt % hosts.len().max(1);
        hosts.rotate_left(first);
        let mut outcome = Err(self.nobody());
        for host in hosts {
            outcome = self.get(host, &path, "*/*", &what).await;
            if host.settles(&outcome) {
                break;
            }
        }
        outcome
    }

    fn nobody(&self) -> Error {
        Error::Unreachable {
            what: self.reference.to_string(),
            registry: self.reference.domain.clone(),
            message: "no host in its hosts.toml has the capability".to_owned(),
        }
    }

    async fn manifest_from(&self, host: &Host, version: &Version) -> Result<Fetched, Error> {
        let accept = [
            document::OCI_INDEX,
            document::OCI_MANIFEST,
            document::DOCKER_INDEX,
            document::DOCKER_MANIFEST,
        ];
        let (Version::Tag(text) | Version::Digest(text)) = version;
        let path = format!("{}/manifests/{text}", self.reference.path);
        let what = self.reference.to_string();
        let mut response = self.get(host, &path, &accept.join(", "), &what).await?;
        let media_type = response.headers().get(CONTENT_TYPE);
        let media_type = media_type
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or_default().trim().to_owned());
        let bytes = match read(&mut response, document::LIMIT).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let reason = format!("its manifest is larger than {} bytes", document::LIMIT);
                return Err(Error::Malformed { what, reason });
            }
            Err(error) => return Err(host.unreachable(&what, &error)),
        };
        match version {
            Version::Digest(wanted) if *wanted != digest_of(&bytes) => {
                let reason = format!("{} sent content with the digest {}", host.name, digest_of(&bytes));
                Err(Error::Corrupt { what, reason })
            }
            _ => Ok(Fetched { bytes, media_type }),
        }
    }

    /// GETs a path below the API's root, answering one challenge.
    async fn get(&self, host: &Host, path: &str, accept: &str, what: &str) -> Result<Response, Error> {
        let mut url = host.endpoint.url.join(path).expect("a reference is a URL's path");
        if !host.endpoint.own {
            // Mirrors of many registries are told which one is meant.
            url.query_pairs_mut().append_pair("ns", &self.reference.domain);
        }
        let request = || host.client.get(url.clone()).header(ACCEPT, accept);
        let mut response = host.send(request(), what).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenges = response.headers().get_all(WWW_AUTHENTICATE).iter();
            let challenge = challenges
                .filter_map(|value| Challenge::parse(value.to_str().ok()?))
                .next();
            let Some(authorization) = self.answer(host, challenge, what).await? else {
                return Err(refused(response, host, what).await);
            };
            *host.authorization.lock().expect("nobody panics with the lock held") = Some(authorization);
            response = host.send(request(), what).await?;
        }
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refused(response, host, what).await)
        }
    }

    /// The `Authorization` that answers a challenge; None: we have nothing to answer it with.
    async fn answer(
        &self,
        host: &Host,
        challenge: Option<Challenge>,
        what: &str,
    ) -> Result<Option<HeaderValue>, Error> {
        let secret = self.auth.as_ref();
        let secret = secret.and_then(|auth| auth.for_host(&host.name, host.endpoint.own));
        match (challenge, secret) {
            (Some(Challenge::Bearer { .. }), Some(Secret::Bearer(token))) => Ok(bearer(token)),
            (Some(Challenge::Bearer { realm, service, scope }), secret) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.path));
                let pairs = [("service", service.unwrap_or_default()), ("scope", scope)];
                host.token(&realm, &pairs, secret, what).await
            }
            (Some(Challenge::Basic), Some(Secret::Password { user, password })) => Ok(basic(user, password)),
            (Some(Challenge::Basic) | None, _) => Ok(None),
        }
    }
}

impl Host {
    fn new(endpoint: Endpoint) -> Result<Self, Error> {
        let host = endpoint.url.host_str().expect("an endpoint has a host");
        let name = match endpoint.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let client = http_client(&endpoint, &name)?;
        Ok(Self {
            endpoint,
            client,
            name,
            authorization: Mutex::default(),
        })
    }

    /// Whether the next host need not be asked. When all refuse, the answer is that of the last: the registry itself.
    fn settles<T>(&self, outcome: &Result<T, Error>) -> bool {
        if let (Err(error), false) = (outcome, self.endpoint.own) {
            tracing::info!(mirror = self.name, %error, "a mirror does not serve the image");
        }
        outcome.is_ok()
    }

    async fn send(&self, request: RequestBuilder, what: &str) -> Result<Response, Error> {
        let known = self
            .authorization
            .lock()
            .expect("nobody panics with the lock held")
            .clone();
        let request = match known {
            Some(authorization) => request.header(AUTHORIZATION, authorization),
            None => request,
        };
        request.send().await.map_err(|error| self.unreachable(what, &error))
    }

    /// Asks the token service for a bearer token: with a GET as whom the password says (or as nobody), or in exchange
    /// for a refresh token.
    async fn token(
        &self,
        realm: &str,
        pairs: &[(&str, String)],
        secret: Option<&Secret>,
        what: &str,
    ) -> Result<Option<HeaderValue>, Error> {
        let denied = |message: String| Error::Denied {
            what: what.to_owned(),
            registry: self.name.clone(),
            message,
        };
        let mut url = Url::parse(realm).map_err(|_| denied("its token service has no valid URL".to_owned()))?;
        if self.endpoint.url.scheme() == "https" && url.scheme() != "https" {
            return Err(denied("its token service is not reached by https".to_owned()));
        }
        url.query_pairs_mut()
            .extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
        let request = match secret {
            Some(Secret::Identity(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("client_id", "berth"),
                    ("refresh_token", token),
                ];
                url.query_pairs_mut().extend_pairs(form);
                let body = url.query().unwrap_or_default().to_owned();
                url.set_query(None);
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                self.client.post(url).header(CONTENT_TYPE, form_type).body(body)
            }
            Some(Secret::Password { user, password }) => self.client.get(url).basic_auth(user, Some(password)),
            Some(Secret::Bearer(_)) | None => self.client.get(url),
        };
        let mut response = request.send().await.map_err(|error| self.unreachable(what, &error))?;
        if !response.status().is_success() {
            return Err(refused(response, self, what).await);
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bytes = read(&mut response, TOKEN_LIMIT).await;
        let bytes = bytes
            .map_err(|error| self.unreachable(what, &error))?
            .unwrap_or_default();
        let answer = serde_json::from_slice::<Token>(&bytes).ok();
        let token = answer.and_then(|answer| answer.token.or(answer.access_token));
        let token = token.ok_or_else(|| denied("its token service answered without a token".to_owned()))?;
        Ok(bearer(&token))
    }

    fn unreachable(&self, what: &str, error: &reqwest::Error) -> Error {
        Error::Unreachable {
            what: what.to_owned(),
            registry: self.name.clone(),
            message: cause(error),
        }
    }
}

/// The innermost cause, which says it plainest. Not the whole chain: reqwest's own text has the URL, and a redirect's
/// URL may be signed.
pub fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut cause = error.source();
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    match cause {
        Some(cause) => cause.to_string(),
        None if error.is_redirect() => "too many redirects".to_owned(),
        None => "the request failed".to_owned(),
    }
}

fn http_client(endpoint: &Endpoint, name: &str) -> Result<Client, Error> {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Err: somebody in this process has installed one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let broken = |message: String| Error::Unreachable {
        what: "preparing to pull".to_owned(),
        registry: name.to_owned(),
        message,
    };
    let mut authorities = Vec::new();
    for path in &endpoint.ca {
        let pem = std::fs::read(path).map_err(|error| broken(format!("{}: {error}", path.display())))?;
        let some = reqwest::Certificate::from_pem_bundle(&pem);
        authorities.extend(some.map_err(|error| broken(format!("{}: {}", path.display(), cause(&error))))?);
    }
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .tls_danger_accept_invalid_certs(endpoint.skip_verify);
        // As in Go's clients, this machine is not reached through a proxy.
        if is_loopback(name) { builder.no_proxy() } else { builder }
    };
    let client = builder().tls_certs_merge(authorities).build();
    let client = match client {
        // A machine without any authority of its own can still speak plain HTTP.
        Err(_) if endpoint.url.scheme() == "http" => builder().tls_certs_only([]).build(),
        other => other,
    };
    client.map_err(|error| broken(cause(&error)))
}

/// A registry's refusal as our error, with its own words.
async fn refused(mut response: Response, host: &Host, what: &str) -> Error {
    let status = response.status();
    let body = read(&mut response, SAID.0).await.ok().flatten().unwrap_or_default();
    let (what, registry, message) = (what.to_owned(), host.name.clone(), words(&body));
    match status.as_u16() {
        404 => Error::NotFound {
            what,
            registry,
            message,
        },
        401 | 403 => Error::Denied {
            what,
            registry,
            message,
        },
        502..=504 => Error::Unreachable {
            what,
            registry,
            message: format!("answered {status} {message}").trim_end().to_owned(),
        },
        status => Error::Registry {
            what,
            registry,
            status,
            message,
        },
    }
}

/// The messages in a registry's error document; nothing when it is none.
fn words(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(default)]
        errors: Vec<One>,
        #[serde(alias = "error_description", alias = "message")]
        details: Option<String>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else {
        return String::new();
    };
    let one = |one: One| if one.message.is_empty() { one.code } else { one.message };
    let said: Vec<_> = refusal.errors.into_iter().map(one).chain(refusal.details).collect();
    let said = said.join("; ");
    said.chars().filter(|c| !c.is_control()).take(SAID.1).collect()
}

/// The body; None: it is larger than `limit`.
async fn read(response: &mut Response, limit: usize) -> Result<Option<Vec<u8>>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret_header(&format!("Bearer {token}"))
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    secret_header(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn secret_header(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_s_words_are_shown_without_the_rest() {
        let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{}},{"code":"X"}]}"#;
        assert_eq!(words(body), "manifest unknown; X");
        assert_eq!(
            words(br#"{"details":"incorrect username or password"}"#),
            "incorrect username or password"
        );
        assert_eq!(words(b"<html>"), "");
        assert_eq!(
            words(format!("{{\"message\":\"{}\"}}", "x".repeat(9000)).as_bytes()).len(),
            SAID.1
        );
    }
}
