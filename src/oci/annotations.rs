//! The annotations of a spec, by which shims group containers and other tools know them.

use std::collections::HashMap;

use crate::model::Id;
use crate::model::container::ContainerConfig;
use crate::model::names::annotation;
use crate::model::sandbox::SandboxConfig;

/// Those of a container of a pod.
pub(super) fn container(
    sandbox_id: &Id,
    sandbox: &SandboxConfig,
    container: &ContainerConfig,
) -> HashMap<String, String> {
    let image = match container.image.user_specified_image.as_str() {
        "" => &container.image.image,
        name => name,
    };
    let own = [
        (annotation::CONTAINER_TYPE, annotation::CONTAINER),
        (annotation::CONTAINER_NAME, &container.name),
        (annotation::IMAGE_NAME, image),
    ];
    with_pod(sandbox_id, sandbox, &own)
}

/// Those of a pod's holder, which is what other tools take for its sandbox container.
pub(super) fn holder(sandbox_id: &Id, sandbox: &SandboxConfig) -> HashMap<String, String> {
    with_pod(
        sandbox_id,
        sandbox,
        &[(annotation::CONTAINER_TYPE, annotation::SANDBOX)],
    )
}

fn with_pod(sandbox_id: &Id, sandbox: &SandboxConfig, own: &[(&str, &str)]) -> HashMap<String, String> {
    let pod = [
        (annotation::SHIM_GROUP, sandbox_id.as_str()),
        (annotation::SANDBOX_ID, sandbox_id.as_str()),
        (annotation::SANDBOX_NAME, &sandbox.name.name),
        (annotation::SANDBOX_NAMESPACE, &sandbox.name.namespace),
        (annotation::SANDBOX_UID, &sandbox.name.uid),
        (annotation::MADE_BY, env!("CARGO_PKG_VERSION")),
    ];
    pod.iter()
        .chain(own)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}
