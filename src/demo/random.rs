//! A small generator of pseudorandom numbers (splitmix64, Steele, Lea and Flood 2014): the same everywhere, from a seed.

/// A stream of pseudorandom numbers.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The stream that belongs to several numbers together.
    pub fn of(parts: [u64; 4]) -> Self {
        let mut mixed = Random(0);
        for part in parts {
            mixed.0 ^= part;
            mixed.0 = mixed.number();
        }
        mixed
    }

    /// Any number.
    #[inline]
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.number()) * u128::from(end)) >> 64) as u64
    }

    /// True `percent` times in a hundred.
    #[inline]
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A number below `end`, small ones far more often than large ones: the lowest percent is hit every fifth time.
    #[inline]
    pub fn skewed(&mut self, end: u64) -> u64 {
        let unit = (self.number() >> 11) as f64 / (1u64 << 53) as f64;
        ((unit * unit * unit * end as f64) as u64).min(end - 1)
    }

    /// One of `choices`.
    #[inline]
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}
