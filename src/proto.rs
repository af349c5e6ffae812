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
