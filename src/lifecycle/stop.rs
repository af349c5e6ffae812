//! The end of a container: preStop within its grace period, then the stop of [`crate::pod`] with what is left of it.
//!
//! One driver per container and end, a task of the daemon's. Whoever asks for a stop while one is under way joins it,
//! and can only make it shorter. A stop that has a hook to run or a cause to tell is kept in the container's file from
//! its first moment, so that the next berth goes on with it ([`super::recovery`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::grace::{self, Patience};
use super::texts;
use super::ward::{HookKind, HookOutcome, Kept, StopIntent, Ward, lock};
use super::{Error, Lifecycle, now};
use crate::failpoint::effect;
use crate::model::Id;
use crate::model::container::{ContainerState, Ending};
use crate::model::probe::Hook;
use crate::pod::{ContainerView, owned};

/// How long the end of a container may take to be recorded after what it ended has noticed.
const SETTLING: Duration = Duration::from_millis(500);

/// How long a stop that failed rests before it is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// A stop under way.
pub struct Stop {
    patience: watch::Sender<Patience>,
    /// None until it is over.
    outcome: watch::Sender<Option<Result<(), Arc<Error>>>>,
}

impl Stop {
    fn new(patience: Patience) -> Arc<Self> {
        Arc::new(Self {
            patience: watch::Sender::new(patience),
            outcome: watch::Sender::new(None),
        })
    }

    fn shorten(&self, grace: Duration) {
        self.patience.send_if_modified(|patience| {
            let shorter = patience.shortened(Instant::now(), grace);
            let changed = shorter != *patience;
            *patience = shorter;
            changed
        });
    }

    async fn over(&self) -> Result<(), Error> {
        let mut outcome = self.outcome.subscribe();
        let outcome = outcome
            .wait_for(Option::is_some)
            .await
            .expect("a stop always has an outcome")
            .clone();
        outcome.expect("it was waited for").map_err(Error::Shared)
    }

    /// Waits until its time is over.
    async fn overdue(&self) {
        let mut patience = self.patience.subscribe();
        loop {
            let deadline = patience.borrow_and_update().deadline();
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => return,
                changed = patience.changed() => changed.expect("we hold the sender"),
            }
        }
    }

    /// Waits until it is shortened to an end before `deadline`, and for that.
    async fn cut_short(&self, deadline: Instant) {
        let mut patience = self.patience.subscribe();
        let sooner = patience.wait_for(|patience| patience.deadline() < deadline).await;
        drop(sooner.expect("we hold the sender"));
        self.overdue().await;
    }
}

/// What a stop is about, beside how long it may take.
#[derive(Clone)]
pub(super) struct Order {
    pub cause: Option<Ending>,
    /// Whether the hook has been run by an earlier berth.
    pub hook_done: bool,
}

impl Lifecycle {
    /// Stops a container: its preStop hook if it has one and there is any grace, its stop signal, and SIGKILL when the
    /// grace is over. Returns when it has ended. Not running is fine.
    pub async fn stop_container(&self, id: &Id, grace: Duration) -> Result<(), Error> {
        let (this, id) = (self.clone(), id.clone());
        owned(async move {
            this.0.pods.settled(&id).await?;
            let order = Order {
                cause: None,
                hook_done: false,
            };
            match this.stop_of(&id, Patience::new(Instant::now(), grace), order)? {
                Some(stop) => stop.over().await,
                None => Ok(()),
            }
        })
        .await
    }

    /// Ends a container for a cause, and waits for that.
    pub(super) async fn end(&self, id: &Id, cause: Ending, grace: Duration) -> Result<(), Error> {
        let order = Order {
            cause: Some(cause),
            hook_done: false,
        };
        // Nobody waits for a container that is to end for a cause only two seconds at the least.
        match self.stop_of(id, Patience::new(Instant::now(), grace.max(grace::FLOOR)), order)? {
            Some(stop) => stop.over().await,
            None => Ok(()),
        }
    }

    /// The stop of a container: the one under way, shortened if need be, or a new one. None: it does not run.
    pub(super) fn stop_of(&self, id: &Id, patience: Patience, order: Order) -> Result<Option<Arc<Stop>>, Error> {
        let view = self.0.pods.container(id)?;
        let ward = self.ward(&view);
        let mut current = lock(&ward.stop);
        if let Some(stop) = &*current {
            stop.shorten(patience.grace);
            return Ok(Some(Arc::clone(stop)));
        }
        if !matches!(view.record.state, ContainerState::Running { .. }) {
            return Ok(None);
        }
        let stop = Stop::new(patience);
        *current = Some(Arc::clone(&stop));
        drop(current);
        tokio::spawn(
            self.clone()
                .carry_out(view, Arc::clone(&ward), Arc::clone(&stop), order),
        );
        Ok(Some(stop))
    }

    /// Drives a stop until the container does not run any more. Whoever waits is told of a failure, and whoever asks
    /// again meanwhile joins the next attempt: a container that is half stopped, whose probes have ended, is not to
    /// run on.
    async fn carry_out(self, view: ContainerView, ward: Arc<Ward>, mut stop: Arc<Stop>, mut order: Order) {
        loop {
            let work = {
                let (this, view, ward) = (self.clone(), view.clone(), Arc::clone(&ward));
                let (stop, order) = (Arc::clone(&stop), order.clone());
                owned(async move { this.drive(&view, &ward, &stop, order).await })
            };
            let outcome = work.await.map_err(Arc::new);
            let again = outcome.as_ref().err().filter(|_| self.runs(&ward.id)).map(|error| {
                tracing::error!(id = ?ward.id, %error, "cannot stop a container; trying again");
                Stop::new(Patience::new(Instant::now(), grace::FLOOR))
            });
            lock(&ward.stop).clone_from(&again);
            stop.outcome.send_replace(Some(outcome));
            let Some(next) = again else { return };
            (stop, order.hook_done) = (next, true);
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn runs(&self, id: &Id) -> bool {
        let view = self.0.pods.container(id);
        view.is_ok_and(|view| matches!(view.record.state, ContainerState::Running { .. }))
    }

    async fn drive(&self, view: &ContainerView, ward: &Arc<Ward>, stop: &Stop, order: Order) -> Result<(), Error> {
        ward.stopping.send_replace(true);
        self.probe_only_readiness(ward);
        let cause = order.cause.clone();
        let hook = view.record.config.hooks.pre_stop.clone().filter(|_| !order.hook_done);
        let patience = *stop.patience.borrow();
        if cause.is_some() || (hook.is_some() && !patience.grace.is_zero()) {
            let intent = StopIntent {
                cause: cause.clone(),
                grace_ms: u64::try_from(patience.grace.as_millis()).unwrap_or(u64::MAX),
                until: super::at(patience.deadline()),
                hook_done: hook.is_none(),
            };
            let caused = cause.is_some();
            let keep = |kept: &mut Kept| {
                kept.stop = Some(intent);
                kept.post_start_due &= !caused;
            };
            effect("lifecycle.stop", async { ward.keep(keep) }).await;
        }
        if let Some(cause) = &cause {
            self.0.pods.note_ending(&ward.id, cause.clone()).await?;
        }
        self.tell(
            ward,
            texts::killing(&ward.name, cause.as_ref().map(|cause| cause.reason)),
        );
        let ran = match hook {
            Some(hook) if !patience.grace.is_zero() => {
                self.pre_stop(ward, stop, &hook).await;
                true
            }
            _ => order.hook_done,
        };
        self.signal(ward, stop, ran || cause.is_some()).await?;
        ward.keep(|kept| kept.stop = None);
        Ok(())
    }

    /// Runs the preStop hook until it or its time or its container is over. Whatever comes of it, the stop goes on.
    async fn pre_stop(&self, ward: &Arc<Ward>, stop: &Stop, hook: &Hook) {
        self.begin_hook(ward, HookKind::PreStop);
        let (outcome, output) = tokio::select! {
            biased;
            () = self.0.pods.ended(&ward.id) => (HookOutcome::Ended, String::new()),
            () = stop.overdue() => (HookOutcome::Cancelled, String::new()),
            (outcome, output) = effect("lifecycle.pre_stop", self.perform(ward, hook)) => (outcome, output),
        };
        // It may have failed because its container went away under it: that is no failure of it.
        let outcome = match outcome {
            HookOutcome::Failed if self.has_ended(&ward.id).await => HookOutcome::Ended,
            outcome => outcome,
        };
        match outcome {
            HookOutcome::Failed => self.tell(ward, texts::pre_stop_failed(&output)),
            HookOutcome::Cancelled => self.tell(ward, texts::pre_stop_overran(stop.patience.borrow().grace)),
            HookOutcome::Succeeded | HookOutcome::Ended | HookOutcome::Running => {}
        }
        self.end_hook(ward, HookKind::PreStop, outcome, output);
        ward.keep(|kept| {
            if let Some(stop) = &mut kept.stop {
                stop.hook_done = true;
            }
        });
    }

    /// The stop signal, and SIGKILL when what is left of the grace period is over. After a hook, or for a cause of
    /// berth's own, at least two seconds are left, as a kubelet leaves them.
    async fn signal(&self, ward: &Ward, stop: &Stop, floor: bool) -> Result<(), Error> {
        let begin = Instant::now();
        let mut rest = Duration::ZERO;
        // What is left counts from here; what is asked for from now on can shorten that.
        stop.patience.send_modify(|patience| {
            rest = if floor { patience.rest(begin) } else { patience.grace };
            *patience = Patience::new(begin, rest);
        });
        let deadline = Patience::new(begin, rest).deadline();
        tokio::select! {
            stopped = self.0.pods.stop_container(&ward.id, rest) => stopped,
            () = stop.cut_short(deadline) => self.0.pods.stop_container(&ward.id, Duration::ZERO).await,
        }
    }

    /// Whether a container has ended, if only just: its end takes a moment to be recorded.
    pub(super) async fn has_ended(&self, id: &Id) -> bool {
        tokio::time::timeout(SETTLING, self.0.pods.ended(id)).await.is_ok()
    }
}

/// What is left of a stop that an earlier berth began.
pub(super) fn resumed(intent: &StopIntent) -> Patience {
    let left = u64::try_from(intent.until.saturating_sub(now())).unwrap_or(0);
    Patience::new(Instant::now(), Duration::from_nanos(left).max(grace::FLOOR))
}
