//! Metrics as Prometheus reads them: what probes came to between two readings.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

/// Counts since the daemon's start.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    successful: u64,
    others: u64,
    missed: u64,
    /// Starts that were at most so late, by microseconds; u64::MAX: any.
    late: BTreeMap<u64, u64>,
}

/// What probes came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probed {
    pub successful: u64,
    /// Failed, or not to be found out.
    pub others: u64,
    /// Ticks that were left out.
    pub missed: u64,
    /// At most so late began half of them, and 99 of 100, in milliseconds. None: later than any bucket tells.
    pub p50: Option<f64>,
    pub p99: Option<f64>,
}

impl Reading {
    pub async fn of(address: SocketAddr) -> Outcome<Self> {
        let mut connection = TcpStream::connect(address).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        connection.read_to_string(&mut text).await?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let samples = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, labels) = series.split_once('{')?;
            Some((name, labels, value.parse::<u64>().ok()?))
        });
        let mut read = Self {
            successful: 0,
            others: 0,
            missed: 0,
            late: BTreeMap::new(),
        };
        for (name, labels, value) in samples {
            match name {
                "prober_probe_total" if labels.contains("result=\"successful\"") => read.successful += value,
                "prober_probe_total" => read.others += value,
                "berth_probe_missed_total" => read.missed += value,
                "berth_probe_start_delay_seconds_bucket" => {
                    *read.late.entry(bound(labels)).or_default() += value;
                }
                _ => {}
            }
        }
        read
    }

    /// What came since an earlier reading.
    pub fn since(&self, before: &Self) -> Probed {
        let late = self.late.iter().map(|(bound, count)| {
            let already = before.late.get(bound).copied().unwrap_or(0);
            (*bound, count - already)
        });
        let late: Vec<_> = late.collect();
        Probed {
            successful: self.successful - before.successful,
            others: self.others - before.others,
            missed: self.missed - before.missed,
            p50: quantile(&late, 50),
            p99: quantile(&late, 99),
        }
    }
}

/// A bucket's bound in microseconds.
fn bound(labels: &str) -> u64 {
    let le = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
    let seconds = le.and_then(|le| le.parse::<f64>().ok());
    seconds
        .filter(|seconds| seconds.is_finite())
        .map_or(u64::MAX, |seconds| (seconds * 1e6).round() as u64)
}

/// The bound, in milliseconds, of the first bucket with at least so many of a hundred. Buckets count what is in the
/// smaller ones, too.
fn quantile(buckets: &[(u64, u64)], percent: u64) -> Option<f64> {
    let all = buckets.last()?.1;
    let rank = (all * percent).div_ceil(100).max(1);
    let &(bound, _) = buckets.iter().find(|(_, count)| *count >= rank)?;
    (bound != u64::MAX).then_some(bound as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
        prober_probe_total{probe_type=\"Liveness\",result=\"successful\",pod=\"a\"} 10\n\
        berth_probe_start_delay_seconds_bucket{le=\"0.001\",probe_type=\"Liveness\"} 10\n\
        berth_probe_start_delay_seconds_bucket{le=\"0.02\",probe_type=\"Liveness\"} 10\n\
        berth_probe_start_delay_seconds_bucket{le=\"+Inf\",probe_type=\"Liveness\"} 10\n";
    const AFTER: &str = "HTTP/1.1 200 OK\r\n\r\n\
        # TYPE prober_probe counter\n\
        prober_probe_total{probe_type=\"Liveness\",result=\"successful\",pod=\"a\"} 100\n\
        prober_probe_total{probe_type=\"Liveness\",result=\"successful\",pod=\"b\"} 15\n\
        prober_probe_total{probe_type=\"Liveness\",result=\"failed\",pod=\"b\"} 5\n\
        berth_probe_missed_total{probe_type=\"Liveness\"} 3\n\
        berth_probe_start_delay_seconds_bucket{le=\"0.001\",probe_type=\"Liveness\"} 70\n\
        berth_probe_start_delay_seconds_bucket{le=\"0.02\",probe_type=\"Liveness\"} 119\n\
        berth_probe_start_delay_seconds_bucket{le=\"+Inf\",probe_type=\"Liveness\"} 120\n";

    #[test]
    fn what_came_between_two_readings_is_counted_over_all_pods() {
        let probed = Reading::parse(AFTER).since(&Reading::parse(BEFORE));
        assert_eq!((probed.successful, probed.others, probed.missed), (105, 5, 3));
    }

    #[test]
    fn a_quantile_is_the_bound_below_which_so_many_are() {
        let probed = Reading::parse(AFTER).since(&Reading::parse(BEFORE));
        assert_eq!((probed.p50, probed.p99), (Some(1.0), Some(20.0)));
        assert_eq!(quantile(&[(1000, 1), (u64::MAX, 100)], 99), None);
        assert_eq!(quantile(&[], 50), None);
    }
}
