//! Taking turns: two pulls that need the same blob or layer do not make it twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::OwnedMutexGuard;

/// One lock for each thing being made just now.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

/// The right to make a thing, until dropped.
pub struct Turn {
    _held: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits until nobody else makes `thing`. Whoever comes second has to look whether it is made already.
    pub async fn wait(&self, thing: &str) -> Turn {
        let lock = self.lock_of(thing);
        Turn {
            _held: lock.lock_owned().await,
        }
    }

    fn lock_of(&self, thing: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().expect("nobody panics with the lock held");
        if let Some(lock) = locks.get(thing).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(thing.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_things_do_not_pile_up() {
        let turns = Turns::default();
        let first = turns.wait("a").await;
        let mut second = Box::pin(turns.wait("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        let other = turns.wait("b").await;
        drop(first);
        drop(second.await);
        drop(other);
        drop(turns.wait("c").await);
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
