//! The commands of exec probes.

use super::{Check, Probe, Probes};
use crate::model::expand::expand;

impl Probes {
    /// Expands `$(NAME)` in the commands of probes, as a kubelet does (prober.go: ExpandContainerCommandOnlyStatic).
    /// It does not do so with the commands of hooks.
    pub fn expand(&mut self, value_of: impl Fn(&str) -> Option<String>) {
        let Self {
            liveness,
            readiness,
            startup,
        } = self;
        for Probe { check, .. } in [liveness, readiness, startup].into_iter().flatten() {
            if let Check::Exec { command } = check {
                command.iter_mut().for_each(|word| *word = expand(word, &value_of));
            }
        }
    }
}
