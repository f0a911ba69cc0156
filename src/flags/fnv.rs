//! FNV-1a with 32 bits, over UTF-16 code units as `GrowthBook` does it.

const START: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// The hash of a text, gone on from that of what stands before it.
pub(super) fn go_on(hash: u32, text: &str) -> u32 {
    let step = |hash: u32, unit: u32| (hash ^ unit).wrapping_mul(PRIME);
    if text.is_ascii() {
        return text.bytes().fold(hash, |hash, byte| step(hash, byte.into()));
    }
    // What JavaScript's charCodeAt gives, not the bytes of UTF-8.
    text.encode_utf16().fold(hash, |hash, unit| step(hash, unit.into()))
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

    #[test]
    fn a_code_unit_is_taken_whole() {
        let by_hand = |units: &[u32]| units.iter().fold(START, |hash, unit| (hash ^ unit).wrapping_mul(PRIME));
        assert_eq!(fnv1a32("é"), by_hand(&[0xe9]));
        assert_eq!(fnv1a32("🙂"), by_hand(&[0xd83d, 0xde42]));
    }
}
