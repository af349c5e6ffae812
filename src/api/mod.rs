//! The gRPC face of berth's own API, `berth.v1`, beside CRI's on the same socket.

mod describe;
pub mod images;
pub mod metrics;
mod node;
mod pods;
mod probes;
mod stream;
mod translate;

pub use node::{DownReply, NodeFace};
pub use pods::PodsFace;
pub use probes::ProbesFace;
