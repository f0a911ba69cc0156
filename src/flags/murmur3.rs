//! `MurmurHash3_x86_32`, by Austin Appleby's public-domain reference, for text that comes in pieces.

const C1: u32 = 0xcc9e_2d51;
const C2: u32 = 0x1b87_3593;

/// A hash that is being made. What was written so far can be kept and gone on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Murmur3 {
    hash: u32,
    /// Bytes that do not fill a block yet, the first one lowest.
    rest: u32,
    length: u32,
}

impl Murmur3 {
    /// Nothing is written yet.
    pub const fn new(seed: u32) -> Self {
        Self {
            hash: seed,
            rest: 0,
            length: 0,
        }
    }

    /// The same as before with these bytes behind it.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        let pending = self.length % 4;
        let fill = if pending == 0 { 0 } else { 4 - pending as usize };
        let (first, rest) = bytes.split_at(fill.min(bytes.len()));
        for byte in first {
            self.push(*byte);
        }
        let (blocks, last) = rest.as_chunks::<4>();
        for block in blocks {
            self.block(u32::from_le_bytes(*block));
            self.length = self.length.wrapping_add(4);
        }
        for byte in last {
            self.push(*byte);
        }
        self
    }

    fn push(&mut self, byte: u8) {
        self.rest |= u32::from(byte) << (8 * (self.length % 4));
        self.length = self.length.wrapping_add(1);
        if self.length.is_multiple_of(4) {
            let block = std::mem::take(&mut self.rest);
            self.block(block);
        }
    }

    fn block(&mut self, block: u32) {
        self.hash ^= scrambled(block);
        self.hash = self.hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }

    /// The hash of all that was written.
    pub fn finish(self) -> u32 {
        // With nothing pending `rest` is zero, and scrambling zero is zero.
        let mut hash = self.hash ^ scrambled(self.rest) ^ self.length;
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }
}

fn scrambled(block: u32) -> u32 {
    block.wrapping_mul(C1).rotate_left(15).wrapping_mul(C2)
}

/// The hash of these bytes.
pub fn murmur3_x86_32(seed: u32, bytes: &[u8]) -> u32 {
    Murmur3::new(seed).with(bytes).finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn published_values() {
        // The verification values that implementations of MurmurHash3 are commonly checked with.
        for (seed, text, hash) in [
            (0, "", 0),
            (1, "", 0x514e_28b7),
            (0xffff_ffff, "", 0x81f1_6f39),
            (0, "\0\0\0\0", 0x2362_f9de),
            (0x9747_b28c, "aaaa", 0x5a97_808a),
            (0x9747_b28c, "aaa", 0x283e_0130),
            (0x9747_b28c, "aa", 0x5d21_1726),
            (0x9747_b28c, "a", 0x7fa0_9ea6),
            (0x9747_b28c, "abc", 0xc84a_62dd),
            (0x9747_b28c, "Hello, world!", 0x2488_4cba),
            (0x9747_b28c, "ππππππππ", 0xd580_63c1),
        ] {
            assert_eq!(murmur3_x86_32(seed, text.as_bytes()), hash, "{seed} {text:?}");
        }
    }

    #[test]
    fn preimages_of_the_boundaries() {
        for (text, hash) in [
            ("ejOoVL", 0),
            ("bY9fO-", 1),
            ("SI7p-", i32::MAX as u32),
            ("6LvT0", 1 << 31),
            ("ceQdGm", u32::MAX),
        ] {
            assert_eq!(murmur3_x86_32(0, text.as_bytes()), hash, "{text}");
        }
    }

    proptest! {
        #[test]
        fn in_pieces_it_is_the_same(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..6)) {
            let whole: Vec<u8> = pieces.concat();
            let hash = pieces.iter().fold(Murmur3::new(7), |hash, piece| hash.with(piece));
            prop_assert_eq!(hash.finish(), murmur3_x86_32(7, &whole));
        }
    }
}
