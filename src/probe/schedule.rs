//! When a probe is due. Pure: times are spans since one moment that the caller chose.

use std::time::Duration;

/// The ticks of a probe: the first one, and one each period after it. They do not drift, and one that is missed is
/// counted and left out, never made up for by two at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    due: Duration,
    period: Duration,
}

impl Schedule {
    /// The first tick of a probe that begins now is at once, or when the initial delay is over.
    pub fn fresh(now: Duration, delay_left: Duration, period: Duration) -> Self {
        let due = now + delay_left;
        Self { due, period }
    }

    /// The probes of a berth that has just come back would all be due at once. They are spread over their period
    /// instead: the `number`th begins at its [`phase`] of it.
    pub fn resumed(now: Duration, delay_left: Duration, period: Duration, number: u64) -> Self {
        let due = now + delay_left.max(period.mul_f64(phase(number)));
        Self { due, period }
    }

    /// When the next check is due.
    pub fn due(&self) -> Duration {
        self.due
    }

    /// Goes to the next tick that is not past at `now`, when a check has ended. Gives how many were missed.
    pub fn advance(&mut self, now: Duration) -> u64 {
        self.due += self.period;
        self.skip(now)
    }

    /// Leaves out the ticks before `now`. Gives how many.
    pub fn skip(&mut self, now: Duration) -> u64 {
        let behind = now.saturating_sub(self.due).as_nanos();
        let period = self.period.as_nanos().max(1);
        let ticks = behind.div_ceil(period);
        let span = u64::try_from(ticks.saturating_mul(period)).unwrap_or(u64::MAX);
        self.due += Duration::from_nanos(span);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }

    /// Makes a tick of `now`; the next is one period later.
    pub fn trigger(&mut self, now: Duration) {
        self.due = now;
    }
}

/// The `number`th point of a sequence in [0, 1) of which any stretch is spread evenly: multiples of the golden ratio,
/// the number that fractions approach worst (Weyl's equidistribution).
pub fn phase(number: u64) -> f64 {
    // 2^64 divided by the golden ratio: wrapping is the fractional part.
    let point = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The 53 bits that a float holds.
    (point >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_first_run_is_at_once_and_then_one_each_period() {
        let mut schedule = Schedule::fresh(ms(700), Duration::ZERO, ms(250));
        let mut due = Vec::new();
        for late in [0, 3, 249, 1] {
            due.push(schedule.due().as_millis());
            assert_eq!(schedule.advance(schedule.due() + ms(late)), 0);
        }
        assert_eq!(due, [700, 950, 1200, 1450]);
    }

    #[test]
    fn the_first_run_is_when_the_initial_delay_is_over() {
        assert_eq!(Schedule::fresh(ms(100), ms(5000), ms(10)).due(), ms(5100));
        assert!(Schedule::resumed(ms(100), ms(5000), ms(10), 7).due() >= ms(5100));
    }

    #[test]
    fn a_missed_tick_is_counted_and_never_made_up_for() {
        let mut schedule = Schedule::fresh(ms(0), Duration::ZERO, ms(100));
        assert_eq!(schedule.advance(ms(350)), 3);
        assert_eq!(schedule.due(), ms(400));
        assert_eq!(schedule.advance(ms(500)), 0);
        assert_eq!(schedule.due(), ms(500));
    }

    #[test]
    fn readiness_can_be_triggered_by_hand_which_resets_the_ticker() {
        let mut schedule = Schedule::fresh(ms(0), Duration::ZERO, ms(1000));
        schedule.advance(ms(0));
        schedule.trigger(ms(300));
        assert_eq!(schedule.due(), ms(300));
        schedule.advance(ms(310));
        assert_eq!(schedule.due(), ms(1300));
    }

    proptest! {
        #[test]
        fn probes_of_a_berth_that_comes_back_are_spread_evenly(first in 0_u64..100_000, count in 1_usize..2000) {
            let mut phases: Vec<f64> = (first..).take(count).map(phase).collect();
            phases.sort_by(f64::total_cmp);
            prop_assert!(phases.iter().all(|phase| (0.0..1.0).contains(phase)));
            let around = phases[0] + 1.0 - phases[count - 1];
            let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).fold(around, f64::max);
            prop_assert!(widest <= 2.7 / count as f64, "{widest} of {count}");
        }

        #[test]
        fn in_no_moment_are_more_due_than_an_even_share(first in 0_u64..100_000, window in 0.0_f64..0.99) {
            let phases = (first..).take(1000).map(phase);
            let due = phases.filter(|phase| (window..window + 0.01).contains(phase)).count();
            prop_assert!((7..=13).contains(&due), "{due}");
        }

        #[test]
        fn ticks_never_drift(period in 1_u64..10_000, ends in prop::collection::vec(0_u64..50_000, 1..50)) {
            let mut schedule = Schedule::fresh(ms(5), Duration::ZERO, ms(period));
            let (mut ticks, mut now) = (0, schedule.due());
            for late in ends {
                now = now.max(schedule.due()) + ms(late);
                ticks += 1 + schedule.advance(now);
                prop_assert_eq!(schedule.due(), ms(5 + ticks * period));
                prop_assert!(schedule.due() >= now && schedule.due() <= now.max(schedule.due()));
                prop_assert!(schedule.due() - now <= ms(period));
            }
        }

        #[test]
        fn a_resumed_probe_waits_less_than_its_period(number: u64, period in 1_u64..100_000) {
            let due = Schedule::resumed(ms(9), Duration::ZERO, ms(period), number).due();
            prop_assert!(due >= ms(9) && due < ms(9 + period));
        }
    }
}
