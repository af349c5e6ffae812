//! The generated wire types of `proto/`.

/// `runtime.v1`: the Container Runtime Interface.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
pub mod runtime {
    tonic::include_proto!("runtime.v1");

    /// Written by hand so that no credential is ever printed.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}

/// `berth.v1`: pods without Kubernetes, and images for people.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
pub mod berth {
    tonic::include_proto!("berth.v1");

    /// Written by hand so that no credential is ever printed.
    impl std::fmt::Debug for ImageCredentials {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("ImageCredentials").finish_non_exhaustive()
        }
    }
}

/// `grpc.health.v1`: how a server of gRPC tells whether it is well.
#[allow(clippy::all, clippy::unwrap_used, missing_docs)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The messages between containerd and a shim, over ttrpc.
pub mod shim {
    use prost::{DecodeError, Message, Name};
    use prost_types::Any;

    #[allow(clippy::all, clippy::unwrap_used, missing_docs)]
    mod wire {
        include!(concat!(env!("OUT_DIR"), "/shim.rs"));
    }

    pub use wire::containerd::runc::v1 as runc;
    pub use wire::containerd::services::events::ttrpc::v1::ForwardRequest;
    pub use wire::containerd::task::v2 as task;
    pub use wire::containerd::v1::types as process;
    pub use wire::containerd::{events, types};
    pub use wire::google::rpc;
    pub use wire::io::containerd::cgroups::{v1 as cgroup1, v2 as cgroup2};
    pub use wire::ttrpc;

    /// `message` as containerd packs it: the url is the bare name (containerd's typeurl), without the usual domain.
    pub fn pack<M: Message + Name>(message: &M) -> Any {
        Any {
            type_url: M::full_name(),
            value: message.encode_to_vec(),
        }
    }

    /// Whether `any` holds an `M`, whatever domain its url has.
    pub fn holds<M: Name>(any: &Any) -> bool {
        any.type_url.rsplit('/').next() == Some(M::full_name().as_str())
    }

    /// What is in `any` if it [`holds`] an `M`.
    pub fn unpack<M: Message + Name + Default>(any: &Any) -> Option<Result<M, DecodeError>> {
        holds::<M>(any).then(|| M::decode(any.value.as_slice()))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn an_any_has_the_url_that_containerd_looks_for() {
            let urls = [
                pack(&events::TaskExit::default()).type_url,
                pack(&events::TaskOom::default()).type_url,
                pack(&cgroup1::Metrics::default()).type_url,
                pack(&cgroup2::Metrics::default()).type_url,
                pack(&runc::Options::default()).type_url,
                pack(&runc::ProcessDetails::default()).type_url,
            ];
            let expected = [
                "containerd.events.TaskExit",
                "containerd.events.TaskOOM",
                "io.containerd.cgroups.v1.Metrics",
                "io.containerd.cgroups.v2.Metrics",
                "containerd.runc.v1.Options",
                "containerd.runc.v1.ProcessDetails",
            ];
            assert_eq!(urls, expected);
        }

        #[test]
        fn an_any_is_unpacked_with_and_without_a_domain_and_never_as_another_type() {
            let options = runc::Options {
                binary_name: "/usr/bin/crun".to_owned(),
                ..Default::default()
            };
            let mut any = pack(&options);
            assert_eq!(unpack::<runc::Options>(&any), Some(Ok(options.clone())));
            any.type_url = format!("type.googleapis.com/{}", any.type_url);
            assert_eq!(unpack::<runc::Options>(&any), Some(Ok(options)));
            assert_eq!(unpack::<runc::CheckpointOptions>(&any), None);
            any.value = vec![0xff];
            assert!(matches!(unpack::<runc::Options>(&any), Some(Err(_))));
        }
    }
}
