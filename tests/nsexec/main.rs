//! Commands run without the OCI runtime, held against those that it runs: they must be alike in all that shows, and
//! whatever a container tries on the way in must fail. Wants root.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

#[path = "../cri/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "../support/mod.rs"]
mod support;

mod alike;
mod attacks;
mod bounds;
mod house;
