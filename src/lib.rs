//! berth: a Kubernetes container runtime on containerd.

pub mod api;
pub mod cli;
pub mod config;
pub mod containerd;
pub mod cri;
pub mod daemon;
pub mod failpoint;
pub mod image;
pub mod logs;
pub mod manifest;
pub mod model;
pub mod netns;
pub mod network;
pub mod oci;
pub mod pod;
pub mod proto;
pub mod sys;
