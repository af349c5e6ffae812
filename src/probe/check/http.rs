//! An HTTP GET: well if the answer's status is 200 to 399, after redirects on the same host.

use std::time::Duration;

use reqwest::Url;
use tokio::time::Instant;

use super::{Report, USER_AGENT, Verdict, not_connected};
use crate::dial::http::{Answer, Error, Get};
use crate::dial::{Dialer, Target};
use crate::model::probe::HttpGet;

/// Requests of one check: the tenth redirect is too many, as for Go's client.
const MAX_REQUESTS: usize = 10;

pub async fn check(dialer: &Dialer, target: &Target, http: &HttpGet, timeout: Duration) -> Report {
    let deadline = Instant::now() + timeout;
    let mut get = match Get::new(http, target, USER_AGENT) {
        Ok(get) => get,
        Err(error) => return Report::unknown(error.to_string()),
    };
    for _ in 0..MAX_REQUESTS {
        let answer = match get.send(dialer, target, Some(deadline)).await {
            Ok(answer) => answer,
            Err(error) => return no_answer(&get, &error),
        };
        get = match redirect(&get, &answer) {
            Ok(Some(next)) => next,
            Ok(None) => return judge(&answer),
            Err(reason) => return Report::failure(format!("Get {:?}: {reason}", get.url())),
        };
    }
    Report::failure(format!("Get {:?}: stopped after {MAX_REQUESTS} redirects", get.url()))
}

fn no_answer(get: &Get, error: &Error) -> Report {
    let text = format!("Get {:?}: {error}", get.url());
    match error {
        Error::Dial(error) => not_connected(error, text),
        Error::Unwritable { .. } => Report::unknown(text),
        _ => Report::failure(text),
    }
}

fn judge(answer: &Answer) -> Report {
    let body = || String::from_utf8_lossy(&answer.body);
    match answer.status {
        200..300 => Report::success(body()),
        300..400 => Report::new(
            Verdict::Warning,
            format!("Probe terminated redirects, Response body: {}", body()),
        ),
        // Not the body: it may hold what is not for everybody who may read events.
        status => Report::failure(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// The request that the answer redirects to; None: there is none, or it leaves the host, and the answer is the last.
fn redirect(get: &Get, answer: &Answer) -> Result<Option<Get>, String> {
    let location = answer.location.as_deref().filter(|location| !location.is_empty());
    let (301..=303 | 307 | 308, Some(location)) = (answer.status, location) else {
        return Ok(None);
    };
    let from = Url::parse(&get.url()).map_err(|error| error.to_string())?;
    let unreadable = |error| format!("failed to parse Location header {location:?}: {error}");
    let to = from.join(location).map_err(unreadable)?;
    if to.host_str() != from.host_str() {
        return Ok(None);
    }
    let (https, port) = match (to.scheme(), to.port_or_known_default()) {
        ("http", Some(port)) => (false, port),
        ("https", Some(port)) => (true, port),
        (scheme, _) => return Err(format!("unsupported protocol scheme {scheme:?}")),
    };
    let relative = Url::parse(location).is_err();
    let path = match to.query() {
        None => to.path().to_owned(),
        Some(query) => format!("{}?{query}", to.path()),
    };
    Ok(Some(get.to(https, port, &path, relative)))
}
