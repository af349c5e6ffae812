//! What went wrong with an image, as a gRPC status.

use tonic::{Code, Status};

use crate::containerd;
use crate::image::Error;

/// The status of an error of the image store.
pub fn of_image(error: &Error) -> Status {
    let message = error.to_string();
    match error {
        // The one field by which a request names an image.
        Error::Reference(_) => Status::invalid_argument(format!("image.image: {message}")),
        Error::Ambiguous { .. } => Status::invalid_argument(format!("image.image: {message}")),
        Error::Auth(_) => Status::invalid_argument(message),
        Error::Archive(_) => Status::invalid_argument(message),
        Error::NotFound { .. } | Error::NoPlatform { .. } | Error::Gone { .. } => Status::not_found(message),
        Error::Denied { .. } => Status::permission_denied(message),
        Error::Unreachable { .. } => Status::unavailable(message),
        Error::Hosts(_) => Status::failed_precondition(message),
        Error::Registry { status: 429, .. } => Status::resource_exhausted(message),
        Error::Registry { .. } => Status::unknown(message),
        Error::Corrupt { .. } => Status::data_loss(message),
        Error::Malformed { .. } => Status::failed_precondition(message),
        Error::Containerd(error) => Status::new(of_containerd(error), message),
    }
}

fn of_containerd(error: &containerd::Error) -> Code {
    match error {
        containerd::Error::NotFound { .. } => Code::NotFound,
        containerd::Error::AlreadyExists { .. } => Code::AlreadyExists,
        containerd::Error::Unavailable { .. } => Code::Unavailable,
        containerd::Error::Failed { code, .. } => *code,
        containerd::Error::Unreadable { .. } => Code::FailedPrecondition,
    }
}
