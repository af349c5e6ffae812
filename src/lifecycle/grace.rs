//! How long a container gets to end: pure arithmetic of what the kubelet does (pkg/kubelet/kuberuntime,
//! killContainer).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Annotations by which a kubelet tells a container its pod's grace periods, in seconds.
const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";

/// Kubernetes' default of a pod's `terminationGracePeriodSeconds`.
const DEFAULT: Duration = Duration::from_secs(30);

/// What is left for the signal, however long the hook took.
pub const FLOOR: Duration = Duration::from_secs(2);

/// The grace period of a container that berth itself ends: the one that the pod's deletion gave if it is being
/// deleted, else the probe's own, else the pod's.
pub fn of(annotations: &BTreeMap<String, String>, probe_s: Option<u32>) -> Duration {
    let told = |name: &str| annotations.get(name)?.trim().parse().ok().map(Duration::from_secs);
    let probe = probe_s.map(|seconds| Duration::from_secs(seconds.into()));
    told(DELETION_GRACE)
        .or(probe)
        .or_else(|| told(POD_GRACE))
        .unwrap_or(DEFAULT)
}

/// How long a stop may take, which a later stop can shorten and never lengthen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    pub since: Instant,
    pub grace: Duration,
}

impl Patience {
    pub fn new(since: Instant, grace: Duration) -> Self {
        Self { since, grace }
    }

    /// When it is over.
    pub fn deadline(&self) -> Instant {
        // A client may ask for more seconds than the clock has.
        self.since.checked_add(self.grace).unwrap_or(self.since + FOREVER)
    }

    /// What it is when `grace` is asked for at `now`.
    pub fn shortened(self, now: Instant, grace: Duration) -> Self {
        let other = Self::new(now, grace);
        if other.deadline() < self.deadline() {
            other
        } else {
            self
        }
    }

    /// What is left at `now`, after the hook: elapsed whole seconds are subtracted, and the floor remains. Without
    /// any grace nothing is left.
    pub fn rest(&self, now: Instant) -> Duration {
        if self.grace.is_zero() {
            return Duration::ZERO;
        }
        let elapsed = Duration::from_secs(now.saturating_duration_since(self.since).as_secs());
        self.grace.saturating_sub(elapsed).max(FLOOR)
    }
}

const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pairs.collect()
    }

    #[test]
    fn the_deletions_grace_goes_before_the_probes_and_that_before_the_pods() {
        let pod = annotations(&[(POD_GRACE, "7")]);
        let deleted = annotations(&[(POD_GRACE, "7"), (DELETION_GRACE, "3")]);
        let seconds = |annotations: &BTreeMap<_, _>, probe| of(annotations, probe).as_secs();
        assert_eq!(seconds(&annotations(&[]), None), 30);
        assert_eq!(seconds(&pod, None), 7);
        assert_eq!(seconds(&pod, Some(5)), 5);
        assert_eq!(seconds(&deleted, Some(5)), 3);
        assert_eq!(seconds(&deleted, None), 3);
        assert_eq!(seconds(&annotations(&[(POD_GRACE, "soon")]), None), 30);
    }

    #[test]
    fn whole_seconds_of_the_hook_are_subtracted_and_two_remain() {
        let begin = Instant::now();
        let patience = Patience::new(begin, Duration::from_secs(10));
        let rest = |ms| patience.rest(begin + Duration::from_millis(ms)).as_secs();
        assert_eq!((rest(0), rest(999), rest(1000), rest(4500)), (10, 10, 9, 6));
        assert_eq!((rest(8000), rest(9000), rest(60_000)), (2, 2, 2));
        let none = Patience::new(begin, Duration::ZERO);
        assert_eq!(none.rest(begin + Duration::from_secs(1)), Duration::ZERO);
    }

    #[test]
    fn a_later_stop_shortens_and_never_lengthens() {
        let begin = Instant::now();
        let patience = Patience::new(begin, Duration::from_secs(30));
        let later = begin + Duration::from_secs(3);
        assert_eq!(patience.shortened(later, Duration::from_secs(60)), patience);
        assert_eq!(patience.shortened(later, Duration::from_secs(27)), patience);
        let shorter = patience.shortened(later, Duration::from_secs(1));
        assert_eq!(shorter.deadline(), later + Duration::from_secs(1));
        let at_once = patience.shortened(later, Duration::ZERO);
        assert_eq!((at_once.deadline(), at_once.rest(later)), (later, Duration::ZERO));
    }

    #[test]
    fn more_seconds_than_the_clock_has_are_no_panic() {
        let patience = Patience::new(Instant::now(), Duration::from_secs(u64::MAX));
        assert!(patience.deadline() > Instant::now());
    }
}
