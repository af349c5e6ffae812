//! The names of annotations and labels that berth writes where other programs read them.

/// Annotations of an OCI runtime spec.
pub mod annotation {
    /// containerd's runc shim serves all containers that share this value with one process. A spec annotation it has
    /// to be: the shim reads no label.
    pub const SHIM_GROUP: &str = "io.containerd.runc.v2.group";

    /// The directory of the shim process, of berth's own kind, that is to hold the container.
    pub const SHIM_PLACE: &str = "berth.dev/shim";

    /// [`SANDBOX`] or [`CONTAINER`]. Sandboxing runtimes (Kata, gVisor) decide by it.
    pub const CONTAINER_TYPE: &str = "io.kubernetes.cri.container-type";
    pub const SANDBOX: &str = "sandbox";
    pub const CONTAINER: &str = "container";

    pub const SANDBOX_ID: &str = "io.kubernetes.cri.sandbox-id";
    pub const SANDBOX_NAME: &str = "io.kubernetes.cri.sandbox-name";
    pub const SANDBOX_NAMESPACE: &str = "io.kubernetes.cri.sandbox-namespace";
    pub const SANDBOX_UID: &str = "io.kubernetes.cri.sandbox-uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.cri.container-name";
    pub const IMAGE_NAME: &str = "io.kubernetes.cri.image-name";

    /// Marks every spec that berth made; the value is berth's version.
    pub const MADE_BY: &str = "berth.dev/version";
}

/// Labels of containerd's records. They only index: what a record is stands in its extension.
pub mod label {
    /// The instance of berth that a record, lease or snapshot belongs to.
    pub const INSTANCE: &str = "berth.dev/instance";

    /// [`SANDBOX`] or [`CONTAINER`].
    pub const KIND: &str = "berth.dev/kind";
    pub const SANDBOX: &str = "sandbox";
    pub const CONTAINER: &str = "container";

    /// The id of the sandbox that a container belongs to.
    pub const SANDBOX_ID: &str = "berth.dev/sandbox-id";
}
