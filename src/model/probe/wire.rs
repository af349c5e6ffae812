//! Probes and hooks as Kubernetes' API has them (core/v1), with berth's extension fields: types and nothing more.
//! A null is the same as no field; an unknown field is an error.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer};

/// `Probe`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGetAction>,
    pub tcp_socket: Option<TcpSocketAction>,
    pub grpc: Option<GrpcAction>,
    pub initial_delay_seconds: Option<i64>,
    pub timeout_seconds: Option<i64>,
    pub period_seconds: Option<i64>,
    pub success_threshold: Option<i64>,
    pub failure_threshold: Option<i64>,
    pub termination_grace_period_seconds: Option<i64>,
    /// berth's: wins over `timeoutSeconds`, which may stand beside it for a Kubernetes that does not know it.
    pub timeout_milliseconds: Option<i64>,
    /// berth's: wins over `periodSeconds` likewise.
    pub period_milliseconds: Option<i64>,
    /// berth's: `pod` (the default) or `host`.
    pub probe_from: Option<String>,
}

/// `Lifecycle`, without what is no hook.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lifecycle {
    pub post_start: Option<LifecycleHandler>,
    pub pre_stop: Option<LifecycleHandler>,
}

/// `LifecycleHandler`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LifecycleHandler {
    pub exec: Option<ExecAction>,
    pub http_get: Option<HttpGetAction>,
    pub tcp_socket: Option<TcpSocketAction>,
    pub sleep: Option<SleepAction>,
}

/// `ExecAction`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecAction {
    pub command: Option<Vec<String>>,
}

/// `HTTPGetAction`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpGetAction {
    pub path: Option<String>,
    pub port: Option<Port>,
    pub host: Option<String>,
    pub scheme: Option<String>,
    pub http_headers: Option<Vec<HttpHeader>>,
}

/// `HTTPHeader`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpHeader {
    pub name: Option<String>,
    pub value: Option<String>,
}

/// `TCPSocketAction`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSocketAction {
    pub port: Option<Port>,
    pub host: Option<String>,
}

/// `GRPCAction`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcAction {
    pub port: Option<i64>,
    pub service: Option<String>,
    /// berth's: as that of the other handlers.
    pub host: Option<String>,
}

/// `SleepAction`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SleepAction {
    pub seconds: Option<i64>,
}

/// `IntOrString`: a number, or the name of one of the container's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    Number(i64),
    Name(String),
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl Visitor<'_> for Either {
            type Value = Port;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number or the name of a port")
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Port, E> {
                Ok(Port::Number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Port, E> {
                Ok(Port::Number(i64::try_from(number).unwrap_or(i64::MAX)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Port, E> {
                Ok(Port::Name(name.to_owned()))
            }
        }

        deserializer.deserialize_any(Either)
    }
}
