//! What must not block the main loop runs on short-lived threads: at most so many at once, the others wait in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::thread;

type Job = Box<dyn FnOnce() + Send>;

/// Enough for JSON of any depth that is accepted, and for the standard library's spawning of processes.
const STACK: usize = 192 << 10;

/// A lane of jobs.
pub struct Jobs {
    name: &'static str,
    width: usize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    running: usize,
    waiting: VecDeque<Job>,
}

impl Jobs {
    /// A lane in which at most `width` jobs run at once.
    pub fn new(name: &'static str, width: usize) -> Arc<Self> {
        Arc::new(Self {
            name,
            width,
            queue: Mutex::default(),
        })
    }

    /// Runs `job` now or when its turn comes.
    pub fn run(self: &Arc<Self>, job: impl FnOnce() + Send + 'static) {
        super::lock(&self.queue).waiting.push_back(Box::new(job));
        self.nudge();
    }

    /// Starts a thread if one is wanted. When none can be had (a limit on tasks), the next nudge tries again.
    pub fn nudge(self: &Arc<Self>) {
        let mut queue = super::lock(&self.queue);
        if queue.waiting.is_empty() || queue.running == self.width {
            return;
        }
        queue.running += 1;
        drop(queue);
        let jobs = Arc::clone(self);
        let thread = thread::Builder::new().name(self.name.to_owned()).stack_size(STACK);
        if thread.spawn(move || jobs.work()).is_err() {
            super::lock(&self.queue).running -= 1;
        }
    }

    /// Whether nothing runs or waits.
    pub fn is_idle(&self) -> bool {
        let queue = super::lock(&self.queue);
        queue.running == 0 && queue.waiting.is_empty()
    }

    /// How many wait for a thread.
    pub fn waiting(&self) -> usize {
        super::lock(&self.queue).waiting.len()
    }

    fn work(&self) {
        loop {
            let mut queue = super::lock(&self.queue);
            let Some(job) = queue.waiting.pop_front() else {
                queue.running -= 1;
                return;
            };
            drop(queue);
            job();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn all_jobs_run_and_never_more_than_the_lane_is_wide() {
        let jobs = Jobs::new("test", 3);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (done, all) = mpsc::channel();
        for n in 0..20 {
            let (now, most, done) = (now.clone(), most.clone(), done.clone());
            jobs.run(move || {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(2));
                now.fetch_sub(1, Ordering::SeqCst);
                done.send(n).unwrap();
            });
        }
        let mut ran: Vec<usize> = (0..20).map(|_| all.recv().unwrap()).collect();
        ran.sort_unstable();
        assert_eq!(ran, (0..20).collect::<Vec<_>>());
        assert!((1..=3).contains(&most.load(Ordering::SeqCst)));
    }
}
