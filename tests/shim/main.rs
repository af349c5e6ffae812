//! What containerd's clients rely on when they run tasks, held against a shim: the real containerd, runc and kernel, and
//! no berth daemon. Wants root.
//!
//! The shim is ours, named by its absolute path, or containerd's stock one with `BERTH_TEST_SHIM=stock`: whatever is
//! asked of ours here must hold of that one too. `BERTH_TEST_CONTAINERD` names another containerd than the one in PATH.
//! Each test has a containerd of its own, and looks in the end that nothing is left ([`node::Node::end`]).

// clippy.toml allows it in test functions; their helpers are outside of those.
#![allow(clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod container;
mod daemon;
mod events;
mod execs;
mod exits;
mod failures;
mod limits;
mod node;
mod options;
mod pipes;
mod process;
mod streams;
mod upgrade;
