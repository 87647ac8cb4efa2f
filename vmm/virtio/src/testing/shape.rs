//! Random numbers and the shapes cut with them.

/// xorshift64*: small, seeded, the same everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 for 0.
    pub fn below(&mut self, end: u64) -> u64 {
        if end == 0 {
            0
        } else {
            (self.number() >> 11) % end
        }
    }

    /// As [`below`](Self::below), for lengths.
    pub fn len(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    /// Fills `data`.
    pub fn fill(&mut self, data: &mut [u8]) {
        for chunk in data.chunks_mut(8) {
            let number = self.number().to_le_bytes();
            chunk.copy_from_slice(&number[..chunk.len()]);
        }
    }

    /// Random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.fill(&mut data);
        data
    }
}

/// Cuts `len` into at most `pieces` lengths, at random, none of them zero (but one zero for 0).
pub fn cut(len: usize, pieces: usize, random: &mut Random) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..pieces).map(|_| random.len(len + 1)).collect();
    cuts.extend([0, len]);
    cuts.sort_unstable();
    cuts.dedup();
    let lengths: Vec<usize> = cuts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if lengths.is_empty() { vec![0] } else { lengths }
}
