//! Whether a text looks as if it had been drawn at random.

/// Bytes that are looked at.
const SAMPLE: usize = 256;
/// Fewest bytes of something random.
pub(super) const LEAST: usize = 20;
/// Bits a character: hexadecimal digits have four at most, the characters of base64 six. Words of a language have less than
/// this in so short a text, unless they contain digits as well, which is asked for beside it.
const LEAST_BITS: f64 = 3.5;
const LEAST_BITS_HEX: f64 = 2.8;

/// Whether it looks random: long enough, with letters and digits, and with few repetitions.
pub(super) fn is_random(text: &[u8]) -> bool {
    let sample = &text[..text.len().min(SAMPLE)];
    let digits = sample.iter().filter(|byte| byte.is_ascii_digit()).count();
    let letters = sample.iter().filter(|byte| byte.is_ascii_alphabetic()).count();
    if text.len() < LEAST || digits < 2 || letters < 2 {
        return false;
    }
    let is_hex = sample.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    bits(sample) >= if is_hex { LEAST_BITS_HEX } else { LEAST_BITS }
}

/// Shannon's entropy of a character.
fn bits(text: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    let total = text.len() as f64;
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum()
}
