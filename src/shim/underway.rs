//! Ids of containers that something is under way for, and those who wait until it is over.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::lock;

/// What is under way, by id.
#[derive(Default)]
pub struct Underway {
    begun: Mutex<Begun>,
    over: Condvar,
}

#[derive(Default)]
struct Begun {
    /// Counts all that ever began.
    count: u64,
    ids: BTreeMap<String, Vec<u64>>,
}

/// Something that began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning(u64);

impl Underway {
    /// To be given to [`Underway::end`].
    pub fn begin(&self, id: &str) -> Beginning {
        let mut begun = lock(&self.begun);
        begun.count += 1;
        let number = begun.count;
        begun.ids.entry(id.to_owned()).or_default().push(number);
        Beginning(number)
    }

    pub fn end(&self, id: &str, beginning: Beginning) {
        let mut begun = lock(&self.begun);
        if let Some(numbers) = begun.ids.get_mut(id) {
            numbers.retain(|number| *number != beginning.0);
            if numbers.is_empty() {
                begun.ids.remove(id);
            }
        }
        self.over.notify_all();
    }

    /// The latest beginning there is, of any id.
    pub fn latest(&self) -> Beginning {
        Beginning(lock(&self.begun).count)
    }

    /// Waits until all is over that began for `id` up to `latest`: what comes later may itself wait for whoever asks.
    /// False: it takes longer than `patience`.
    pub fn wait(&self, id: &str, latest: Beginning, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut begun = lock(&self.begun);
        while begun
            .ids
            .get(id)
            .is_some_and(|numbers| numbers.iter().any(|number| *number <= latest.0))
        {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.over.wait_timeout(begun, left);
            begun = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        lock(&self.begun).ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(5);

    #[test]
    fn whoever_waits_goes_on_when_all_of_that_id_is_over() {
        let underway = Underway::default();
        assert!(underway.wait("one", underway.latest(), Duration::ZERO));
        let (first, second, other) = (underway.begin("one"), underway.begin("one"), underway.begin("two"));
        underway.end("one", first);
        let latest = underway.latest();
        assert!(!underway.wait("one", latest, SOON));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| underway.wait("one", latest, Duration::from_secs(20)));
            std::thread::sleep(SOON);
            underway.end("one", second);
            assert!(waiting.join().unwrap());
        });
        assert!(!underway.is_empty());
        underway.end("two", other);
        assert!(underway.is_empty());
    }

    #[test]
    fn nobody_waits_for_what_began_later() {
        let underway = Underway::default();
        let first = underway.begin("one");
        let latest = underway.latest();
        let later = underway.begin("one");
        assert!(!underway.wait("one", latest, SOON));
        underway.end("one", first);
        assert!(underway.wait("one", latest, Duration::ZERO));
        assert!(!underway.wait("one", later, SOON));
    }
}
