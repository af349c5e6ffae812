//! What a new berth goes on with: stops that were under way, hooks that were running, and probes.
//!
//! No container ends because berth did. A hook that was cut off is run again (Kubernetes promises at least once), and
//! a stop goes on with what is left of its grace period; if the container has ended meanwhile, that is said.

use std::collections::BTreeSet;

use super::stop::{Order, resumed};
use super::ward::{HookKind, HookOutcome, Ward};
use super::{Error, Lifecycle, grace, texts};
use crate::model::container::ContainerState;
use crate::pod::ContainerView;

impl Lifecycle {
    /// Goes on where an earlier berth was cut off. To be called once, when the pods are recovered and before anything
    /// is served.
    pub fn recover(&self) {
        let views = self.0.pods.containers();
        self.sweep(&views);
        for view in &views {
            let config = &view.record.config;
            if config.hooks.is_empty() && config.probes.is_empty() && view.record.ending.is_none() {
                continue;
            }
            let ward = self.ward(view);
            match view.record.state {
                ContainerState::Running { .. } => {
                    if let Err(error) = self.go_on(view, &ward) {
                        tracing::error!(id = ?view.id, %error, "cannot go on with a container's stop");
                    }
                }
                ContainerState::Created | ContainerState::Exited(_) => self.close(&ward),
            }
        }
        self.attend();
    }

    fn go_on(&self, view: &ContainerView, ward: &std::sync::Arc<Ward>) -> Result<(), Error> {
        let (kept, config) = (ward.kept(), &view.record.config);
        if let Some(intent) = &kept.stop {
            tracing::info!(id = ?view.id, "going on with the stop of a container");
            let order = Order {
                cause: intent.cause.clone(),
                hook_done: intent.hook_done,
            };
            self.stop_of(&view.id, resumed(intent), order)?;
        } else if let Some(cause) = view.record.ending.clone() {
            let (this, id, grace) = (self.clone(), view.id.clone(), grace::of(&config.annotations, None));
            tokio::spawn(async move {
                if let Err(error) = this.end(&id, cause, grace).await {
                    tracing::error!(?id, %error, "cannot end a container");
                }
            });
        } else if let (true, Some(hook)) = (kept.post_start_due, config.hooks.post_start.clone()) {
            tracing::info!(id = ?view.id, "running a postStart hook again");
            let (this, view, ward) = (self.clone(), view.clone(), ward.clone());
            // Whoever asks for the start again waits for this.
            self.0.starts.begin(view.id.clone(), async move {
                this.post_start(&view, &ward, &hook).await?;
                Ok(view.id)
            });
        } else if let Some(end) = kept.probes.end {
            self.end_for_probe(ward.clone(), end);
        }
        Ok(())
    }

    /// What was under way for a container that does not run (any more) is over.
    fn close(&self, ward: &Ward) {
        let cut_off = |kind| {
            let hooks = ward.kept().hooks;
            hooks.get(&kind).is_some_and(|run| run.outcome == HookOutcome::Running)
        };
        for kind in [HookKind::PostStart, HookKind::PreStop] {
            if !cut_off(kind) {
                continue;
            }
            let said = "the container ended while it ran, and berth did not see how";
            self.end_hook(ward, kind, HookOutcome::Ended, said.to_owned());
            if kind == HookKind::PostStart {
                self.tell(ward, texts::post_start_failed(said));
            }
        }
        ward.keep(|kept| {
            kept.post_start_due = false;
            kept.stop = None;
        });
    }

    /// Removes the files of containers that are gone.
    fn sweep(&self, views: &[ContainerView]) {
        let there: BTreeSet<_> = views.iter().map(|view| view.id.as_str()).collect();
        let entries = std::fs::read_dir(&self.0.settings.directory).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.strip_suffix(".json").is_some_and(|id| there.contains(id)) {
                std::fs::remove_file(entry.path()).ok();
            }
        }
    }
}
