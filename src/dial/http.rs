//! One HTTP/1.1 GET over a connection of its own: no redirects, no proxy, no keep-alive, no compression.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};

use super::{Dialer, Target, tls};
use crate::model::probe::{Endpoint, HttpGet};

/// What is read of a body; the rest is left.
pub const MAX_BODY: usize = 10 << 10;

/// What a server's headers may take.
const MAX_HEAD: usize = 64 << 10;

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub struct Get {
    pub https: bool,
    /// Its host is there.
    at: Endpoint,
    path: String,
    host: HeaderValue,
    headers: HeaderMap,
}

/// An answer, with at most [`MAX_BODY`] bytes of its body.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// The `Location` header.
    pub location: Option<String>,
    pub body: Vec<u8>,
}

/// Why there is no answer. The texts are Go's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Dial(#[from] super::Error),
    #[error("tls: {0}")]
    Tls(std::io::Error),
    #[error("http: server gave HTTP response to HTTPS client")]
    PlainHttp,
    #[error("{}", told(.0))]
    Http(hyper::Error),
    #[error("{what:?} cannot stand in a request")]
    Unwritable { what: String },
    #[error("context deadline exceeded (Client.Timeout exceeded while {0})")]
    Timeout(&'static str),
}

/// hyper's error and its deepest cause.
fn told(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        return "EOF".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let io = cause.downcast_ref::<std::io::Error>();
    io.map_or_else(|| error.to_string(), super::reason)
}

impl Get {
    /// The request of `http` to `target`, with the headers that Kubernetes promises: `agent` as User-Agent and any type
    /// as Accept, each unless the probe sets it or, with an empty value, takes it away.
    pub fn new(http: &HttpGet, target: &Target, agent: &str) -> Result<Self, Error> {
        let at = Endpoint {
            host: Some(target.host(&http.at)?),
            port: http.at.port,
        };
        let mut headers = HeaderMap::new();
        let mut host = at.to_string();
        for (name, value) in &http.headers {
            let unwritable = |_| Error::Unwritable { what: value.clone() };
            let written = HeaderValue::from_bytes(value.as_bytes()).map_err(unwritable)?;
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                return Err(Error::Unwritable { what: name.clone() });
            };
            match name {
                // The first one counts, as of Go's Header.Get.
                header::HOST if host == at.to_string() && !value.is_empty() => host.clone_from(value),
                // Those say how the message is written, which is ours to say; as in Go they are left out.
                header::HOST
                | header::CONTENT_LENGTH
                | header::TRANSFER_ENCODING
                | header::TRAILER
                | header::CONNECTION => {}
                name => drop(headers.append(name, written)),
            }
        }
        default(&mut headers, header::USER_AGENT, agent)?;
        default(&mut headers, header::ACCEPT, "*/*")?;
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Ok(Self {
            https: http.https,
            at,
            path: http.path.clone(),
            host: writable(&host)?,
            headers,
        })
    }

    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}{}", self.at, self.path)
    }

    /// The host it goes to, without a port and brackets.
    pub fn host(&self) -> &str {
        self.at.host.as_deref().unwrap_or_default()
    }

    /// The same request to another port or path of this host. `Host` is kept if `keep_host`.
    #[must_use]
    pub fn to(&self, https: bool, port: u16, path: &str, keep_host: bool) -> Self {
        let mut other = self.clone();
        (other.https, other.at.port, other.path) = (https, port, path.to_owned());
        if !keep_host {
            other.host = HeaderValue::from_str(&other.at.to_string()).unwrap_or(other.host);
        }
        other
    }

    /// The same request without TLS and without credentials.
    #[must_use]
    pub fn in_the_clear(&self) -> Self {
        let mut other = self.clone();
        other.https = false;
        other.headers.remove(header::AUTHORIZATION);
        other
    }

    /// Sends it and reads the answer, until `deadline` if there is one.
    pub async fn send(&self, dialer: &Dialer, target: &Target, deadline: Option<Instant>) -> Result<Answer, Error> {
        let connect = dialer.connect(target, &self.at);
        let connection = within(deadline, "awaiting headers", connect).await??;
        if !self.https {
            return self.exchange(connection, deadline).await;
        }
        let shaken = within(deadline, "awaiting headers", tls::handshake(connection, self.host())).await?;
        match shaken {
            Ok(stream) => self.exchange(stream, deadline).await,
            Err((_, connection)) if connection.is_plain_http() => Err(Error::PlainHttp),
            Err((error, _)) => Err(Error::Tls(error)),
        }
    }

    async fn exchange<S>(&self, stream: S, deadline: Option<Instant>) -> Result<Answer, Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_HEAD).title_case_headers(true);
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Error::Http)?;
        let mut connection = pin!(connection);
        let sent = sender.send_request(self.request()?);
        let answered = driven(connection.as_mut(), sent);
        let answer = within(deadline, "awaiting headers", answered).await?;
        let answer = answer.map_err(Error::Http)?;
        let (status, location) = (answer.status().as_u16(), location(&answer));
        let read = driven(connection, read(answer.into_body()));
        let body = within(deadline, "reading body", read).await?.map_err(Error::Http)?;
        Ok(Answer { status, location, body })
    }

    fn request(&self) -> Result<Request<String>, Error> {
        let unwritable = |_| Error::Unwritable {
            what: self.path.clone(),
        };
        let mut request = Request::get(&self.path).body(String::new()).map_err(unwritable)?;
        request.headers_mut().insert(header::HOST, self.host.clone());
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

fn writable(value: &str) -> Result<HeaderValue, Error> {
    let what = || value.to_owned();
    HeaderValue::from_str(value).map_err(|_| Error::Unwritable { what: what() })
}

fn default(headers: &mut HeaderMap, name: HeaderName, value: &str) -> Result<(), Error> {
    match headers.get(&name) {
        None => drop(headers.insert(name, writable(value)?)),
        Some(set) if set.is_empty() => drop(headers.remove(name)),
        Some(_) => {}
    }
    Ok(())
}

fn location(answer: &Response<Incoming>) -> Option<String> {
    let value = answer.headers().get(header::LOCATION)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

async fn within<T>(deadline: Option<Instant>, doing: &'static str, work: impl Future<Output = T>) -> Result<T, Error> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| Error::Timeout(doing)),
    }
}

/// `work` to its end, while the connection is driven in the same task, so that to drop one is to drop both.
async fn driven<T>(mut connection: Pin<&mut impl Future>, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    let mut open = true;
    poll_fn(move |cx| {
        if open {
            // How it ended, the work is told, too.
            open = connection.as_mut().poll(cx).is_pending();
        }
        work.as_mut().poll(cx)
    })
    .await
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, hyper::Error> {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_BODY
        && let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
    {
        if let Ok(data) = frame?.into_data() {
            let room = MAX_BODY - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    Ok(bytes)
}
