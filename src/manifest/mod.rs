//! Kubernetes Pod manifests without Kubernetes.

mod check;
mod expand;
mod fields;
mod names;
mod parse;
mod pod;
mod problem;
mod quantity;
mod tree;
mod wire;

pub use parse::parse;
pub use pod::{Pod, PodName};
pub use problem::{Problem, Problems, What};
