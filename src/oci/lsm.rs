//! AppArmor: the name of the profile that confines a container.

use super::{AppArmor, Host, security_field};
use crate::model::Refusal;
use crate::model::security::{Profile, Security};

/// The profile's name, None for an unconfined process.
pub(super) fn apparmor(security: &Security, host: &Host) -> Result<Option<String>, Refusal> {
    let field = || security_field("apparmor");
    match (&security.apparmor, &host.apparmor) {
        (Profile::Unconfined, _) => Ok(None),
        (_, AppArmor::Off) => Err(Refusal::invalid(field(), "AppArmor is not enabled on this host")),
        // As the peers do: a privileged container is confined by a profile of its own choice only.
        (Profile::RuntimeDefault, _) if security.privileged => Ok(None),
        (Profile::RuntimeDefault, AppArmor::On { default: Some(name) }) => Ok(Some(name.clone())),
        (Profile::RuntimeDefault, AppArmor::On { default: None }) => Err(Refusal::unsupported(
            field(),
            "RuntimeDefault on a host where no default profile is loaded",
        )),
        (Profile::Localhost(name), AppArmor::On { .. }) => Ok(Some(name.to_string_lossy().into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(apparmor: Profile, privileged: bool, host: AppArmor) -> Result<Option<String>, Refusal> {
        let security = Security {
            apparmor,
            privileged,
            ..Security::default()
        };
        let host = Host {
            apparmor: host,
            ..Host::default()
        };
        super::apparmor(&security, &host)
    }

    #[test]
    fn a_profile_is_never_quietly_left_out() {
        let on = || AppArmor::On {
            default: Some("berth".into()),
        };
        let local = || Profile::Localhost("mine".into());
        assert_eq!(profile(Profile::Unconfined, false, AppArmor::Off), Ok(None));
        assert!(profile(Profile::RuntimeDefault, false, AppArmor::Off).is_err());
        assert!(profile(local(), true, AppArmor::Off).is_err());
        assert_eq!(profile(Profile::RuntimeDefault, false, on()), Ok(Some("berth".into())));
        assert_eq!(profile(Profile::RuntimeDefault, true, on()), Ok(None));
        assert!(profile(Profile::RuntimeDefault, false, AppArmor::On { default: None }).is_err());
        assert_eq!(profile(local(), true, on()), Ok(Some("mine".into())));
    }
}
