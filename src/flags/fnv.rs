//! FNV-1a with 32 bits, over code points as `GrowthBook`'s Python does it.

const START: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// The hash of a text, gone on from that of what stands before it.
pub(super) fn go_on(hash: u32, text: &str) -> u32 {
    // A code point is taken whole, not its UTF-8 bytes. For ASCII that is the FNV of everybody else.
    text.chars()
        .fold(hash, |hash, char| (hash ^ u32::from(char)).wrapping_mul(PRIME))
}

/// The hash of a text.
pub fn fnv1a32(text: &str) -> u32 {
    go_on(START, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_values() {
        for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            assert_eq!(fnv1a32(text), hash, "{text:?}");
        }
        assert_eq!(go_on(fnv1a32("foo"), "bar"), fnv1a32("foobar"));
    }
}
