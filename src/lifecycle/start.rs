//! The start of a container: that of [`crate::pod`], then postStart, and then its probes.

use std::sync::Arc;

use super::texts;
use super::ward::{HookKind, HookOutcome, Ward};
use super::{Error, Lifecycle, grace};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::{ContainerState, Ending, Reason};
use crate::model::probe::Hook;
use crate::pod::ContainerView;

impl Lifecycle {
    /// Starts a created container, and answers when its postStart hook, if it has one, has succeeded.
    ///
    /// # Errors
    /// Those of [`crate::pod::Pods::start_container`], and `Hook` when the hook did not succeed: the container has been
    /// ended then, with the reason `FailedPostStartHook`, or is being stopped by somebody else.
    pub async fn start_container(&self, id: &Id) -> Result<(), Error> {
        let view = self.0.pods.container(id)?;
        let Some(hook) = view.record.config.hooks.post_start.clone() else {
            self.0.pods.start_container(id).await?;
            self.attend();
            return Ok(());
        };
        let (this, id) = (self.clone(), id.clone());
        let work = async move {
            let view = this.0.pods.container(&id)?;
            let ward = this.ward(&view);
            let new = view.record.state == ContainerState::Created;
            if new {
                effect("lifecycle.start", async {
                    ward.keep(|kept| kept.post_start_due = true)
                })
                .await;
            }
            if let Err(error) = this.0.pods.start_container(&id).await {
                if new {
                    ward.keep(|kept| kept.post_start_due = false);
                }
                return Err(error);
            }
            this.post_start(&view, &ward, &hook).await?;
            Ok(id)
        };
        self.0.starts.joined(view.id, work).await.map(drop)
    }

    /// Runs the postStart hook of a container that has just been started, or whose start an earlier berth left here.
    pub(super) async fn post_start(&self, view: &ContainerView, ward: &Arc<Ward>, hook: &Hook) -> Result<(), Error> {
        self.begin_hook(ward, HookKind::PostStart);
        let mut stopping = ward.stopping.subscribe();
        let (outcome, output) = tokio::select! {
            biased;
            () = self.0.pods.ended(&ward.id) => (HookOutcome::Ended, "the container ended while it ran".to_owned()),
            // Dropped, and with it what it runs: nobody waits for a container's start that is to end.
            _ = stopping.wait_for(|stopping| *stopping) => (HookOutcome::Cancelled, String::new()),
            (outcome, output) = effect("lifecycle.post_start", self.perform(ward, hook)) => (outcome, output),
        };
        self.end_hook(ward, HookKind::PostStart, outcome, output.clone());
        // Of one that failed it stays due until the end of its container is kept ([`super::stop`]): a berth that is
        // killed between the two must not take the container for one that was started well.
        if matches!(outcome, HookOutcome::Succeeded | HookOutcome::Cancelled) {
            ward.keep(|kept| kept.post_start_due = false);
        }
        let failed = |message: &str| Error::Hook {
            hook: HookKind::PostStart.name(),
            message: message.to_owned(),
        };
        match outcome {
            HookOutcome::Succeeded => {
                self.attend();
                Ok(())
            }
            HookOutcome::Cancelled => {
                self.tell(ward, texts::post_start_cancelled());
                Err(failed("cancelled, for the container is being stopped"))
            }
            HookOutcome::Failed | HookOutcome::Ended | HookOutcome::Running => {
                self.tell(ward, texts::post_start_failed(&output));
                let cause = Ending {
                    reason: Reason::FailedPostStartHook,
                    message: texts::bounded(&output),
                };
                let ended = self.end(&ward.id, cause, grace::of(&view.record.config.annotations, None));
                let ended = ended.await;
                ward.keep(|kept| kept.post_start_due = false);
                ended?;
                Err(failed(&output))
            }
        }
    }
}
