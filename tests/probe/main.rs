//! Probes and hooks over real sockets in real network namespaces. Needs root.
#![allow(clippy::unwrap_used)]

mod exec;
mod ground;
mod grpc;
mod hooks;
mod http;
mod rate;
mod redirects;
mod tcp;
