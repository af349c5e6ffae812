//! Steps of a pod that failed, and how long each rests before it is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::events::Trouble;
use super::plan::Subject;

/// How long a failed step rests: this at first, twice as long each time, up to the last.
const FIRST_REST: Duration = Duration::from_secs(1);
const LAST_REST: Duration = Duration::from_secs(300);

/// The failures of one pod.
#[derive(Default)]
pub struct Failures(BTreeMap<Subject, Failure>);

pub struct Failure {
    count: u32,
    /// Nanoseconds since the Unix epoch.
    pub retry_at: i64,
    pub trouble: Trouble,
    pub message: String,
}

impl Failures {
    /// Counts a failure; says when to try again.
    pub fn failed(&mut self, subject: Subject, trouble: Trouble, message: String, now: i64) -> i64 {
        let count = self.0.get(&subject).map_or(0, |failure| failure.count);
        let retry_at = now.saturating_add(nanos(rest(count)));
        let failure = Failure {
            count: count + 1,
            retry_at,
            trouble,
            message,
        };
        self.0.insert(subject, failure);
        retry_at
    }

    pub fn succeeded(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }

    /// What must not be tried before which time.
    pub fn held(&self) -> BTreeMap<Subject, i64> {
        let all = self.0.iter();
        all.map(|(subject, failure)| (subject.clone(), failure.retry_at))
            .collect()
    }

    /// What keeps a container from being started.
    pub fn of(&self, container: &str) -> Option<&Failure> {
        self.0.get(&Subject::Container(container.to_owned()))
    }
}

/// How long to rest after `count` failures before this one.
pub fn rest(count: u32) -> Duration {
    FIRST_REST.saturating_mul(1 << count.min(16)).min(LAST_REST)
}

pub fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
