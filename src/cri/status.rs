//! The one place that knows gRPC codes.

use std::io::ErrorKind;

use tonic::{Code, Status};

use crate::model::{Refusal, causes};
use crate::{containerd, image, network, nsexec, pod};

/// A pod's error as gRPC tells it. NOT_FOUND and DEADLINE_EXCEEDED are relied upon by kubelets.
pub fn status(error: &pod::Error) -> Status {
    Status::new(code(error), causes(error))
}

/// An image's error as gRPC tells it.
pub fn of_image(error: &image::Error) -> Status {
    let field = match error {
        // The one field by which a request names an image.
        image::Error::Reference(_) | image::Error::Ambiguous { .. } => "image.image: ",
        _ => "",
    };
    Status::new(image_code(error), format!("{field}{}", causes(error)))
}

/// A refusal found while parsing.
pub fn refused(refusal: &Refusal) -> Status {
    Status::new(refusal_code(refusal), refusal.to_string())
}

fn code(error: &pod::Error) -> Code {
    match error {
        pod::Error::Refused(refusal) => refusal_code(refusal),
        pod::Error::NotFound { .. } | pod::Error::NoImage { .. } => Code::NotFound,
        pod::Error::Ambiguous { .. } => Code::InvalidArgument,
        pod::Error::NameTaken { .. } => Code::AlreadyExists,
        pod::Error::WrongState { .. } => Code::FailedPrecondition,
        pod::Error::Hook { .. } => Code::Aborted,
        pod::Error::ExecTimeout(_) | pod::Error::WillNotDie { .. } => Code::DeadlineExceeded,
        pod::Error::Start { source, .. } | pod::Error::Exec { source } | pod::Error::Containerd(source) => {
            containerd_code(source)
        }
        pod::Error::Command(error) => command_code(error),
        pod::Error::File { source, .. } | pod::Error::Cgroup { source, .. } => io_code(source),
        pod::Error::Network(error) => network_code(error),
        pod::Error::Image(error) => image_code(error),
        pod::Error::Log { .. } | pod::Error::Namespaces(_) | pod::Error::Probe(_) | pod::Error::Panicked(_) => {
            Code::Internal
        }
        pod::Error::NoShim { .. } | pod::Error::ShimStart { .. } | pod::Error::Shim(_) => Code::Unavailable,
        pod::Error::Several(errors) => errors.first().map_or(Code::Internal, code),
        pod::Error::Shared(error) => code(error),
    }
}

fn command_code(error: &nsexec::Error) -> Code {
    match error {
        nsexec::Error::Failed(_) => Code::Unknown,
        nsexec::Error::Unreachable(_) | nsexec::Error::Lost => Code::Unavailable,
        nsexec::Error::Io(error) => io_code(error),
    }
}

fn refusal_code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Invalid { .. } => Code::InvalidArgument,
        Refusal::Unsupported { .. } => Code::Unimplemented,
    }
}

fn containerd_code(error: &containerd::Error) -> Code {
    match error {
        // Not the object the client asked about, but one that berth lost: a client must not take it for gone.
        containerd::Error::NotFound { .. } | containerd::Error::AlreadyExists { .. } => Code::Internal,
        containerd::Error::Unavailable { .. } | containerd::Error::ShimLost { .. } => Code::Unavailable,
        containerd::Error::Failed { message, .. } if message.contains("no space left on device") => {
            Code::ResourceExhausted
        }
        containerd::Error::Failed { .. } => Code::Unknown,
        containerd::Error::Unreadable { .. } => Code::DataLoss,
    }
}

fn network_code(error: &network::Error) -> Code {
    match error {
        network::Error::Failed { source, .. } => io_code(source),
        network::Error::Exhausted { .. } => Code::ResourceExhausted,
        network::Error::NoFreeSubnet
        | network::Error::SubnetTaken { .. }
        | network::Error::SubnetTooSmall { .. }
        | network::Error::NotAnInstance { .. }
        | network::Error::Nft { .. } => Code::Internal,
    }
}

fn image_code(error: &image::Error) -> Code {
    match error {
        image::Error::Reference(_)
        | image::Error::Ambiguous { .. }
        | image::Error::Auth(_)
        | image::Error::Archive(_) => Code::InvalidArgument,
        image::Error::NotFound { .. } | image::Error::NoPlatform { .. } | image::Error::Gone { .. } => Code::NotFound,
        image::Error::Denied { .. } => Code::PermissionDenied,
        image::Error::Unreachable { .. } => Code::Unavailable,
        image::Error::Hosts(_) | image::Error::Malformed { .. } => Code::FailedPrecondition,
        image::Error::Registry { status: 429, .. } => Code::ResourceExhausted,
        image::Error::Registry { .. } => Code::Unknown,
        image::Error::Corrupt { .. } => Code::DataLoss,
        image::Error::Containerd(error) => containerd_code(error),
    }
}

fn io_code(error: &std::io::Error) -> Code {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::ResourceExhausted,
        _ => Code::Internal,
    }
}
