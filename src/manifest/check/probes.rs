//! Probes and hooks: the model's rules, with the manifest's paths, ports and variables.

use super::Check;
use crate::manifest::pod::Port;
use crate::manifest::wire;
use crate::model::probe::wire::{Lifecycle, Probe as WireProbe};
use crate::model::probe::{self, Hooks, ProbeKind, Probes};

/// Kubernetes' words; sidecars, which may have them, are not covered.
const NOT_FOR_INIT: &str = "may not be set for init containers without restartPolicy=Always";

impl Check {
    /// Those of a container, in the order of [`ProbeKind::ALL`].
    pub(super) fn probes(&mut self, path: &str, wire: [Option<WireProbe>; 3], ports: &[Port]) -> Probes {
        let mut checked = ProbeKind::ALL.into_iter().zip(wire).map(|(kind, wire)| {
            let path = format!("{path}.{}Probe", kind.name());
            let number = |name: &str| number_of(ports, name);
            self.taken(probe::check_probe(&path, kind, wire?, &number))
        });
        let mut next = || checked.next().flatten();
        Probes {
            liveness: next(),
            readiness: next(),
            startup: next(),
        }
    }

    pub(super) fn hooks(&mut self, path: &str, wire: Option<Lifecycle>, ports: &[Port]) -> Hooks {
        let number = |name: &str| number_of(ports, name);
        let checked = probe::check_hooks(&format!("{path}.lifecycle"), wire.unwrap_or_default(), &number);
        self.taken(checked).unwrap_or_default()
    }

    /// Init containers run to their end: nobody waits for them to be ready or alive.
    pub(super) fn no_probes_nor_hooks(&mut self, init: &[wire::Container]) {
        for (i, container) in init.iter().enumerate() {
            for (field, given) in [
                ("livenessProbe", container.liveness_probe.is_some()),
                ("readinessProbe", container.readiness_probe.is_some()),
                ("startupProbe", container.startup_probe.is_some()),
                ("lifecycle", container.lifecycle.is_some()),
            ] {
                if given {
                    self.refuse(format!("spec.initContainers[{i}].{field}"), NOT_FOR_INIT);
                }
            }
        }
    }

    fn taken<T>(&mut self, checked: Result<T, probe::Problems>) -> Option<T> {
        match checked {
            Ok(checked) => Some(checked),
            Err(problems) => {
                self.wrong.extend(problems);
                None
            }
        }
    }
}

fn number_of(ports: &[Port], name: &str) -> Option<u16> {
    let named = ports.iter().find(|port| port.name.as_deref() == Some(name));
    named.map(|port| port.number)
}
