//! Images and credentials.

use serde_json::json;

use crate::image::{Auth, Usage};
use crate::model::Refusal;
use crate::model::image::Image;
use crate::proto::runtime;

/// The image that a request names.
pub fn reference(spec: Option<runtime::ImageSpec>) -> Result<runtime::ImageSpec, Refusal> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(spec),
        _ => Err(Refusal::invalid("image.image", "it is empty")),
    }
}

/// The credentials of a pull; all fields empty: none.
pub fn auth(wire: &runtime::AuthConfig) -> Result<Option<Auth>, Refusal> {
    let auth = if !wire.registry_token.is_empty() {
        Auth::registry_token(&wire.registry_token)
    } else if !wire.identity_token.is_empty() {
        Auth::identity_token(&wire.identity_token)
    } else if !wire.username.is_empty() {
        Auth::password(&wire.username, &wire.password)
    } else if !wire.auth.is_empty() {
        Auth::basic(&wire.auth).map_err(|error| Refusal::invalid("auth.auth", error.to_string()))?
    } else {
        return Ok(None);
    };
    if wire.server_address.is_empty() {
        Ok(Some(auth))
    } else {
        Ok(Some(auth.only_for(&wire.server_address)))
    }
}

/// An image as CRI lists it. Its user is a number or a name, never both.
pub fn image(image: &Image) -> runtime::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = if user.is_empty() { Some(0) } else { user.parse().ok() };
    runtime::Image {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        size: image.size,
        uid: uid.map(|value| runtime::Int64Value { value }),
        username: if uid.is_some() { String::new() } else { user.to_owned() },
        spec: Some(runtime::ImageSpec {
            image: image.id.clone(),
            ..runtime::ImageSpec::default()
        }),
        pinned: image.pinned,
    }
}

/// What `crictl inspecti` shows beside: JSON in the shape that its readers know from containerd.
pub fn verbose(image: &Image) -> String {
    let config = &image.config;
    json!({
        "chainID": config.chain_id,
        "imageSpec": {"config": {
            "User": config.user,
            "Env": config.env,
            "Entrypoint": config.entrypoint,
            "Cmd": config.cmd,
            "WorkingDir": config.working_dir,
            "Labels": config.labels,
            "StopSignal": config.stop_signal.map(|signal| signal.to_string()),
        }},
    })
    .to_string()
}

pub fn usage(usage: &Usage) -> runtime::FilesystemUsage {
    let mountpoint = usage.mountpoint.to_string_lossy().into_owned();
    runtime::FilesystemUsage {
        timestamp: usage.taken_at,
        fs_id: Some(runtime::FilesystemIdentifier { mountpoint }),
        used_bytes: Some(runtime::UInt64Value {
            value: usage.used_bytes,
        }),
        inodes_used: Some(runtime::UInt64Value { value: usage.inodes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::image::ImageConfig;

    #[test]
    fn an_image_s_user_is_a_number_or_a_name() {
        for (user, uid, username) in [
            ("", Some(0), ""),
            ("0", Some(0), ""),
            ("1002", Some(1002), ""),
            ("1003:1004", Some(1003), ""),
            ("www-data", None, "www-data"),
            ("www-data:100", None, "www-data"),
        ] {
            let config = ImageConfig {
                user: user.to_owned(),
                ..ImageConfig::default()
            };
            let wire = image(&Image {
                config,
                ..Image::default()
            });
            assert_eq!(
                (wire.uid.map(|uid| uid.value), wire.username.as_str()),
                (uid, username),
                "{user:?}"
            );
        }
    }

    #[test]
    fn credentials_come_in_four_forms_and_a_bad_one_names_its_field() {
        let wire = |set: fn(&mut runtime::AuthConfig)| {
            let mut wire = runtime::AuthConfig::default();
            set(&mut wire);
            auth(&wire)
        };
        assert!(wire(|_| {}) == Ok(None));
        assert!(wire(|auth| auth.username = "u".into()) == Ok(Some(Auth::password("u", ""))));
        assert!(wire(|auth| auth.auth = "dTpw".into()) == Ok(Some(Auth::password("u", "p"))));
        assert!(wire(|auth| auth.identity_token = "t".into()) == Ok(Some(Auth::identity_token("t"))));
        assert!(wire(|auth| auth.registry_token = "t".into()) == Ok(Some(Auth::registry_token("t"))));
        let refusal = wire(|auth| auth.auth = "!".into()).unwrap_err();
        assert!(refusal.to_string().starts_with("auth.auth"), "{refusal}");
    }
}
