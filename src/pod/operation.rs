//! Work that the daemon owns: it runs to its end whether or not the client that asked for it is still there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing::Instrument;

use super::error::Error;
use super::registry::Name;
use crate::model::Id;

/// What a running operation of a pod makes or starts; a second one of the same key joins the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Make(Name),
    Start(Id),
}

/// None: it is not known yet.
pub type Outcome = Option<Result<Id, Arc<Error>>>;

/// The operations that others can join, by what tells them apart.
pub struct Operations<K>(Arc<Mutex<HashMap<K, watch::Receiver<Outcome>>>>);

impl<K> Default for Operations<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Operations<K> {
    /// Runs `work` as the operation `key`, or waits for the one that runs already.
    pub async fn joined<F>(&self, key: K, work: F) -> Result<Id, Error>
    where
        F: Future<Output = Result<Id, Error>> + Send + 'static,
    {
        let mut outcome = self.begin(key, work);
        let outcome = outcome
            .wait_for(Option::is_some)
            .await
            .expect("an operation always has an outcome")
            .clone();
        outcome.expect("it was waited for").map_err(Error::Shared)
    }

    /// The same without waiting: where its outcome will be.
    pub fn begin<F>(&self, key: K, work: F) -> watch::Receiver<Outcome>
    where
        F: Future<Output = Result<Id, Error>> + Send + 'static,
    {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let vacant = match running.entry(key.clone()) {
            Entry::Occupied(entry) => return entry.get().clone(),
            Entry::Vacant(vacant) => vacant,
        };
        let (sender, receiver) = watch::channel(None);
        vacant.insert(receiver.clone());
        let running = Arc::clone(&self.0);
        tokio::spawn(async move {
            let outcome = owned(work).await.map_err(Arc::new);
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
            sender.send_replace(Some(outcome));
        });
        receiver
    }
}

/// Runs `work` as a task of the daemon's; dropping the returned future does not end it.
pub async fn owned<T, F>(work: F) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Error>> + Send + 'static,
{
    let outcome = tokio::spawn(work.in_current_span()).await;
    outcome.unwrap_or_else(|error| Err(Error::Panicked(error.to_string())))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_repeat_joins_and_a_dropped_caller_stops_nothing() {
        let operations = Operations::default();
        let (runs, id) = (Arc::new(AtomicUsize::new(0)), Id::random());
        let (open, gate) = watch::channel(false);
        let work = |id: Id| {
            let (runs, mut gate) = (Arc::clone(&runs), gate.clone());
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                gate.wait_for(|open| *open).await.unwrap();
                Ok(id)
            }
        };
        let key = Key::Start(id.clone());
        let dropped = tokio::time::timeout(
            std::time::Duration::from_millis(10),
            operations.joined(key.clone(), work(id.clone())),
        );
        dropped.await.unwrap_err();
        open.send_replace(true);
        let joined = operations.joined(key, work(Id::random())).await;
        // Either it joined the first, or the first had ended just before: it never ran beside it.
        assert!(joined.is_ok());
        assert!(runs.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_frees_the_key() {
        let operations = Operations::default();
        let key = Key::Start(Id::random());
        let outcome = operations.joined(key.clone(), async { panic!("on purpose") }).await;
        assert!(outcome.unwrap_err().to_string().contains("failed inside"));
        let id = Id::random();
        assert_eq!(
            operations
                .joined(key, {
                    let id = id.clone();
                    async move { Ok(id) }
                })
                .await
                .unwrap(),
            id
        );
    }
}
