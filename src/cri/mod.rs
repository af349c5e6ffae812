//! The gRPC face of the Container Runtime Interface.

pub mod image;
pub mod status_image;
pub mod translate;
