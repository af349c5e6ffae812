//! What containerd says of itself.

use containerd_client::services::v1::PluginsRequest;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::version_client::VersionClient;

use super::{Client, Error};

impl Client {
    /// containerd's version, which is also the sign that it answers.
    pub async fn version(&self) -> Result<String, Error> {
        let answer = VersionClient::new(self.channel()).version(self.request(())).await;
        answer
            .map(|answer| answer.into_inner().version)
            .map_err(|status| self.error("ask for the version", &status))
    }

    /// Whether its CRI plugin is loaded (under the names it has in containerd 1.x and 2.x).
    pub async fn has_cri_plugin(&self) -> Result<bool, Error> {
        let request = self.request(PluginsRequest::default());
        let answer = IntrospectionClient::new(self.channel()).plugins(request).await;
        let plugins = answer
            .map_err(|status| self.error("list the plugins", &status))?
            .into_inner()
            .plugins;
        let is_cri = |kind: &str, id: &str| {
            matches!(
                (kind, id),
                ("io.containerd.grpc.v1", "cri") | ("io.containerd.cri.v1", "runtime" | "images")
            )
        };
        Ok(plugins
            .iter()
            .any(|plugin| is_cri(&plugin.r#type, &plugin.id) && plugin.init_err.is_none()))
    }
}
