//! Measured times and their summary.

use serde::Serialize;

/// What is measured: the name of a sample, and how the table calls it. Steps of a measure follow it, indented.
pub const MEASURES: [(&str, &str); 13] = [
    ("start", "pod start"),
    ("start/sandbox", "– RunPodSandbox"),
    ("start/create", "– CreateContainer"),
    ("start/start", "– StartContainer"),
    ("exec", "ExecSync /bin/true"),
    ("stop", "pod stop and removal"),
    ("stop/stop", "– StopContainer"),
    ("stop/remove", "– RemoveContainer"),
    ("stop/stop-sandbox", "– StopPodSandbox"),
    ("stop/remove-sandbox", "– RemovePodSandbox"),
    ("start-8", "pod start, eight at once, per pod"),
    ("exec-8", "ExecSync, eight at once, per exec"),
    ("stop-8", "pod stop and removal, eight at once, per pod"),
];

/// One time.
#[derive(Serialize)]
pub struct Sample {
    pub peer: &'static str,
    pub round: usize,
    pub measure: &'static str,
    pub ms: f64,
}

/// All times, in the order they were taken.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub struct Samples(Vec<Sample>);

/// Times of one turn: measure and milliseconds.
pub type Turn = Vec<(&'static str, f64)>;

impl Samples {
    pub fn add(&mut self, peer: &'static str, round: usize, turn: &Turn) {
        self.0.extend(turn.iter().map(|&(measure, ms)| Sample {
            peer,
            round,
            measure,
            ms,
        }));
    }

    /// None when nothing of that kind was measured.
    pub fn summary(&self, peer: &str, measure: &str) -> Option<Summary> {
        let taken = self
            .0
            .iter()
            .filter(|sample| sample.peer == peer && sample.measure == measure);
        Summary::of(taken.map(|sample| sample.ms).collect())
    }
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub count: usize,
    pub median: f64,
    pub p95: f64,
    pub min: f64,
}

impl Summary {
    fn of(mut times: Vec<f64>) -> Option<Self> {
        times.sort_by(f64::total_cmp);
        let min = *times.first()?;
        Some(Self {
            count: times.len(),
            median: quantile(&times, 50),
            p95: quantile(&times, 95),
            min,
        })
    }
}

/// The smallest of the sorted times that at least `percent` of 100 do not exceed (the nearest-rank method).
fn quantile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_nothing_is_none() {
        assert_eq!(Summary::of(Vec::new()), None);
    }

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = (1..=20).rev().map(f64::from).collect();
        assert_eq!(
            Summary::of(times),
            Some(Summary {
                count: 20,
                median: 10.0,
                p95: 19.0,
                min: 1.0
            })
        );
        assert_eq!(
            Summary::of(vec![7.0]),
            Some(Summary {
                count: 1,
                median: 7.0,
                p95: 7.0,
                min: 7.0
            })
        );
    }

    #[test]
    fn peers_and_measures_are_kept_apart() {
        let mut samples = Samples::default();
        samples.add("a", 1, &vec![("start", 1.0), ("stop", 9.0)]);
        samples.add("b", 1, &vec![("start", 5.0)]);
        assert_eq!(samples.summary("a", "start").unwrap().median, 1.0);
        assert_eq!(samples.summary("b", "start").unwrap().median, 5.0);
        assert_eq!(samples.summary("b", "stop"), None);
    }
}
