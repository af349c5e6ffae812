//! The manifests of examples/, each run by a berth of its own and held against what it is named for. Wants root, and what
//! integration/images/build.sh wants.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod command;
mod demo;
mod init_container;
mod lifecycle;
mod liveness;
mod names;
mod readiness;
mod sidecar;
