//! What our shim makes of bad input, of a world that fails under it, and of its own death: real kernel, real runc, and
//! no containerd. The tests execute its commands and call it as containerd would. Wants root.
//!
//! Each test has a ground of its own ([`ground::Ground`]) and looks in the end that nothing is left there.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod adoption;
mod bundle;
mod bundles;
mod commands;
mod containers;
mod disks;
mod ground;
mod ids;
mod records;
mod runtimes;
mod traffic;
mod wire;
