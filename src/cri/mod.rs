//! The gRPC face of the Container Runtime Interface: routing tables, translation, one error door.

mod image;
pub mod observe;
mod runtime;
mod status;
mod translate;

pub use image::{ImageFace, InUse};
pub use runtime::Runtime;
pub use status::{of_image, refused, status};
