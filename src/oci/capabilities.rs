//! The capability sets of a container's process, exact.
//!
//! The order is the one that Kubernetes' runtimes agree on: `ALL` in `add` starts from everything, `ALL` in `drop`
//! from nothing (and wins over the former), neither from the default set; then the named ones are added, then the
//! named ones are dropped. The inheritable set stays empty (a filled one lets a program file with inheritable
//! capabilities gain them: CVE-2022-24769), except for what is ambient, since an ambient capability has to be
//! inheritable too (capabilities(7)).

use std::collections::HashSet;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxCapabilitiesBuilder};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as NotACapability;

use super::{Host, security_field};
use crate::model::Refusal;
use crate::model::security::{Capabilities, Security};

/// What a container may do when its request does not speak of capabilities: the set that Docker gives.
const DEFAULT: [Capability; 14] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Mknod,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The five sets for a container with the security context `security`.
pub(super) fn sets(security: &Security, host: &Host) -> Result<LinuxCapabilities, Refusal> {
    let Granted { set, ambient } = granted(security, host)?;
    Ok(LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .permitted(set.clone())
        .effective(set)
        .inheritable(ambient.clone())
        .ambient(ambient)
        .build()
        .expect("every set has a default"))
}

/// No capability in any set.
pub(super) fn none() -> LinuxCapabilities {
    LinuxCapabilitiesBuilder::default()
        .bounding(HashSet::new())
        .permitted(HashSet::new())
        .effective(HashSet::new())
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .expect("every set has a default")
}

struct Granted {
    set: HashSet<Capability>,
    /// A part of `set`.
    ambient: HashSet<Capability>,
}

fn granted(security: &Security, host: &Host) -> Result<Granted, Refusal> {
    let held: HashSet<_> = host.capabilities.iter().filter_map(|name| parse(name).ok()).collect();
    let asked = &security.capabilities;
    let add = List::parse("add_capabilities", &asked.add)?;
    let drop = List::parse("drop_capabilities", &asked.drop)?;
    let ambient = List::parse("add_ambient_capabilities", &asked.add_ambient)?;
    add.refuse_beyond(&held, &drop)?;
    ambient.refuse_beyond(&held, &drop)?;

    let mut set = if security.privileged {
        held.clone()
    } else if drop.all {
        HashSet::new()
    } else if add.all {
        held.clone()
    } else {
        DEFAULT.into_iter().filter(|one| held.contains(one)).collect()
    };
    let ambient = if ambient.all { held } else { ambient.named };
    if !security.privileged {
        set.extend(add.named);
        set.extend(&ambient);
        set.retain(|one| !drop.named.contains(one));
    }
    let ambient = ambient.into_iter().filter(|one| set.contains(one)).collect();
    Ok(Granted { set, ambient })
}

/// One of the three lists of a request.
struct List {
    field: String,
    all: bool,
    named: HashSet<Capability>,
}

impl List {
    fn parse(field: &str, names: &[String]) -> Result<Self, Refusal> {
        let field = security_field(&format!("capabilities.{field}"));
        let (all, names): (Vec<_>, Vec<_>) = names
            .iter()
            .partition(|name| name.eq_ignore_ascii_case(Capabilities::ALL));
        let one = |name: &String| parse(name).map_err(|_| Refusal::invalid(&field, format!("no capability {name:?}")));
        let named = names.into_iter().map(one).collect::<Result<_, _>>()?;
        Ok(Self {
            all: !all.is_empty(),
            named,
            field,
        })
    }

    /// Refuses a capability that is named here, is not dropped again and cannot be given. (`ALL` means all that can.)
    fn refuse_beyond(&self, held: &HashSet<Capability>, drop: &Self) -> Result<(), Refusal> {
        let beyond = |one: &&Capability| !held.contains(one) && !drop.named.contains(one);
        match self.named.iter().find(beyond) {
            None => Ok(()),
            Some(one) => Err(Refusal::invalid(
                &self.field,
                format!("berth lacks CAP_{one} itself (it is not in its bounding set), so it cannot grant it"),
            )),
        }
    }
}

/// Takes a name with or without `CAP_`, in any case.
fn parse(name: &str) -> Result<Capability, NotACapability> {
    Capability::deserialize(name.into_deserializer())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HELD: [&str; 5] = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"];

    fn host() -> Host {
        Host {
            capabilities: HELD.map(String::from).to_vec(),
            ..Host::default()
        }
    }

    fn security(add: &[&str], drop: &[&str], ambient: &[&str]) -> Security {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Security {
            capabilities: Capabilities {
                add: owned(add),
                drop: owned(drop),
                add_ambient: owned(ambient),
            },
            ..Security::default()
        }
    }

    fn sorted(set: &Option<HashSet<Capability>>) -> Vec<String> {
        let mut names: Vec<_> = set.iter().flatten().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn lists_are_applied_in_the_order_of_the_peers() {
        let default = &["CHOWN", "KILL", "NET_RAW"][..];
        let all = &["CHOWN", "KILL", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"][..];
        let cases: [(&[&str], &[&str], &[&str]); 9] = [
            (&[], &[], default),
            (&["ALL"], &[], all),
            (&[], &["ALL"], &[]),
            (&["ALL"], &["ALL"], &[]),
            (&["NET_ADMIN"], &["ALL"], &["NET_ADMIN"]),
            (&["ALL"], &["CHOWN"], &all[1..]),
            (&["all", "net_admin"], &["cap_chown", "CAP_KILL"], &all[2..]),
            (&["NET_ADMIN"], &["NET_ADMIN"], default),
            (&["NET_ADMIN"], &[], &["CHOWN", "KILL", "NET_ADMIN", "NET_RAW"]),
        ];
        for (add, drop, expected) in cases {
            let sets = sets(&security(add, drop, &[]), &host()).unwrap();
            for set in [sets.bounding(), sets.permitted(), sets.effective()] {
                assert_eq!(sorted(set), expected, "add {add:?} drop {drop:?}");
            }
            assert_eq!(sorted(sets.inheritable()), [""; 0]);
            assert_eq!(sorted(sets.ambient()), [""; 0]);
        }
    }

    #[test]
    fn an_ambient_capability_is_in_all_five_sets() {
        let sets = sets(&security(&[], &["ALL"], &["NET_ADMIN"]), &host()).unwrap();
        for set in [
            sets.bounding(),
            sets.permitted(),
            sets.effective(),
            sets.inheritable(),
            sets.ambient(),
        ] {
            assert_eq!(sorted(set), ["NET_ADMIN"]);
        }
    }

    #[test]
    fn a_dropped_ambient_capability_is_in_none() {
        let sets = sets(&security(&[], &["ALL", "NET_ADMIN"], &["NET_ADMIN"]), &host()).unwrap();
        assert_eq!(sets, none());
    }

    #[test]
    fn a_privileged_container_holds_what_berth_holds() {
        let mut security = security(&[], &["ALL"], &[]);
        security.privileged = true;
        let sets = sets(&security, &host()).unwrap();
        assert_eq!(sorted(sets.bounding()).len(), HELD.len());
    }

    #[test]
    fn an_unknown_capability_is_refused_by_field_and_name() {
        for (security, field) in [
            (security(&["NET_ADMN"], &[], &[]), "add_capabilities"),
            (security(&[], &["NET_ADMN"], &[]), "drop_capabilities"),
            (security(&[], &[], &["NET_ADMN"]), "add_ambient_capabilities"),
        ] {
            let refusal = sets(&security, &host()).unwrap_err().to_string();
            let expected = format!("linux.security_context.capabilities.{field}: no capability \"NET_ADMN\"");
            assert_eq!(refusal, expected);
        }
        assert!(sets(&security(&[""], &[], &[]), &host()).is_err());
    }

    #[test]
    fn what_berth_lacks_is_refused_by_name_but_not_in_all() {
        let refusal = sets(&security(&["SYS_RESOURCE"], &[], &[]), &host()).unwrap_err();
        assert!(refusal.to_string().contains("CAP_SYS_RESOURCE"), "{refusal}");
        assert!(sets(&security(&["ALL"], &[], &[]), &host()).is_ok());
    }

    proptest! {
        #[test]
        fn the_sets_always_nest(
            add in prop::sample::subsequence(vec!["ALL", "CHOWN", "NET_ADMIN", "SYS_ADMIN"], 0..=4),
            drop in prop::sample::subsequence(vec!["ALL", "CHOWN", "NET_ADMIN", "KILL"], 0..=4),
            ambient in prop::sample::subsequence(vec!["ALL", "CHOWN", "KILL", "SYS_ADMIN"], 0..=4),
            privileged: bool,
        ) {
            let mut security = security(&add, &drop, &ambient);
            security.privileged = privileged;
            let sets = sets(&security, &host()).unwrap();
            let names = |set| sorted(set).into_iter().collect::<HashSet<_>>();
            prop_assert_eq!(sets.bounding(), sets.permitted());
            prop_assert_eq!(sets.bounding(), sets.effective());
            prop_assert_eq!(sets.ambient(), sets.inheritable());
            prop_assert!(names(sets.ambient()).is_subset(&names(sets.bounding())));
            for name in drop.into_iter().filter(|name| *name != "ALL" && !privileged) {
                prop_assert!(!names(sets.bounding()).contains(name));
            }
        }
    }
}
