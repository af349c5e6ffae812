//! Ids of containers that something is under way for, and those who wait until it is over.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;

/// How many things are under way by id.
#[derive(Default)]
pub struct Underway {
    ids: Mutex<BTreeMap<String, usize>>,
    over: Condvar,
}

impl Underway {
    pub fn begin(&self, id: &str) {
        *lock(&self.ids).entry(id.to_owned()).or_default() += 1;
    }

    /// After as many of these as there were beginnings, it is over.
    pub fn end(&self, id: &str) {
        let mut ids = lock(&self.ids);
        match ids.get_mut(id) {
            Some(count @ 2..) => *count -= 1,
            _ => drop(ids.remove(id)),
        }
        self.over.notify_all();
    }

    /// Waits until nothing is under way for `id`. False: it takes longer than `patience`.
    pub fn wait(&self, id: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut ids = lock(&self.ids);
        while ids.contains_key(id) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.over.wait_timeout(ids, left);
            ids = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.ids).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_goes_on_when_all_of_that_id_is_over() {
        let (underway, soon) = (Underway::default(), Duration::from_millis(5));
        assert!(underway.wait("one", Duration::ZERO));
        underway.begin("one");
        underway.begin("one");
        underway.begin("two");
        underway.end("one");
        assert!(!underway.wait("one", soon));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| underway.wait("one", Duration::from_secs(20)));
            std::thread::sleep(soon);
            underway.end("one");
            assert!(waiting.join().unwrap());
        });
        assert!(!underway.is_empty());
        underway.end("two");
        assert!(underway.is_empty());
    }
}
