//! Randomness that a seed brings back.

/// SplitMix64 (Steele, Lea and Flood, 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From BERTH_TEST_SEED, or else a new one, which is printed.
    pub fn thrown() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let given = std::env::var("BERTH_TEST_SEED").map(|seed| seed.parse().expect("BERTH_TEST_SEED is a number"));
        let seed = given.unwrap_or(u64::from(now.subsec_nanos()));
        eprintln!("BERTH_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// Dice of somebody else's, which fall as they will whatever these do.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }
}
