//! berth's CRI, held against what kubelets and crictl rely on: the real daemon with its own containerd, on a real
//! kernel. Wants root.

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod cancel;
mod client;
mod daemon;
mod exec;
mod face;
mod logs;
mod memory;
mod mounts;
mod namespaces;
mod process;
mod refusals;
mod resources;
mod restart;
mod rules;
mod sandboxes;
mod security;
