//! Probes and hooks of containers, through CRI as a kubelet's pods would have them: the real daemon on a real kernel.
//! Each row of a kubelet's semantics that is about their effects has a test named after it. Wants root.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

// Every test binary uses a part of this.
#[allow(dead_code)]
#[path = "../cri/client.rs"]
mod client;

mod commands;
mod effects;
mod ground;
mod hooks;
mod places;
mod refusals;
mod restart;
mod watch;
