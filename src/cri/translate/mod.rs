//! Between CRI's protobuf and the model.

pub mod image;
