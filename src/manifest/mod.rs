//! Kubernetes Pod manifests without Kubernetes.

mod check;
mod events;
mod expand;
mod fields;
mod log;
mod names;
mod parse;
mod plan;
mod pod;
mod problem;
mod quantity;
mod request;
mod store;
mod tree;
mod wire;

pub use parse::parse;
pub use plan::Phase;
pub use pod::{Pod, PodName};
pub use problem::{Problem, Problems, What};
