//! A connection: well if there is one.

use std::time::Duration;

use super::{Report, not_connected};
use crate::dial::{Dialer, Target};
use crate::model::probe::Endpoint;

pub async fn check(dialer: &Dialer, target: &Target, at: &Endpoint, timeout: Duration) -> Report {
    match tokio::time::timeout(timeout, dialer.connect(target, at)).await {
        Ok(Ok(_)) => Report::success(""),
        Ok(Err(error)) => not_connected(&error, error.to_string()),
        Err(_) => Report::failure(format!("dial tcp {}: i/o timeout", address(target, at))),
    }
}

/// Where it goes, in words.
pub fn address(target: &Target, at: &Endpoint) -> Endpoint {
    let host = target.host(at).ok();
    Endpoint { host, port: at.port }
}
