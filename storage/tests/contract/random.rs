//! Random numbers whose seed a failed test prints: set `MOORING_SEED` to it to see the same again.

use std::time::{SystemTime, UNIX_EPOCH};

/// A generator (`SplitMix64`).
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    /// One whose seed is `MOORING_SEED`, or new.
    pub fn seeded() -> Self {
        let asked = std::env::var("MOORING_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = asked.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            u64::try_from(now.as_micros()).expect("not that far after it")
        });
        println!("MOORING_SEED={seed}");
        Self { seed, state: seed }
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[usize::try_from(self.below(choices.len() as u64)).expect("it fits")]
    }
}

impl std::fmt::Display for Random {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "MOORING_SEED={}", self.seed)
    }
}
