//! One run of a hook, and what is kept of it.

use super::texts;
use super::ward::{HookKind, HookOutcome, HookRun, Ward};
use super::{Lifecycle, now};
use crate::model::causes;
use crate::model::probe::Hook;

impl Lifecycle {
    /// Runs a hook to its end: whether it succeeded, and what it said. Dropping the future cancels it.
    pub(super) async fn perform(&self, ward: &Ward, hook: &Hook) -> (HookOutcome, String) {
        let target = self.target(&ward.sandbox);
        let ended = self.0.pods.ended(&ward.id);
        match self.0.hooks.run(hook, &ward.id, &target, ended).await {
            Ok(done) => {
                if let Some(host) = done.fallback {
                    self.tell(ward, texts::fell_back(&host));
                }
                (HookOutcome::Succeeded, done.output)
            }
            Err(error) => (HookOutcome::Failed, causes(&error)),
        }
    }

    pub(super) fn begin_hook(&self, ward: &Ward, kind: HookKind) {
        ward.keep(|kept| {
            let runs = kept.hooks.get(&kind).map_or(0, |run| run.runs);
            let run = HookRun {
                outcome: HookOutcome::Running,
                began_at: now(),
                ended_at: 0,
                output: String::new(),
                runs: runs.saturating_add(1),
            };
            kept.hooks.insert(kind, run);
        });
        self.changed();
    }

    pub(super) fn end_hook(&self, ward: &Ward, kind: HookKind, outcome: HookOutcome, output: String) {
        tracing::info!(id = ?ward.id, hook = kind.name(), ?outcome, "a hook is over");
        ward.keep(|kept| {
            if let Some(run) = kept.hooks.get_mut(&kind) {
                run.outcome = outcome;
                run.ended_at = now();
                run.output = texts::bounded(&output);
            }
        });
        self.changed();
    }
}
