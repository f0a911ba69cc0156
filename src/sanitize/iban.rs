//! Bank account numbers: the length that each country has, and the check digits (ISO 13616, modulo 97).

use super::characters::{begins_word, ends_word};

/// Lengths by country, from the registry of ISO 13616.
const LENGTHS: [(&[u8; 2], usize); 83] = [
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BI", 27),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DJ", 27),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FK", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MN", 20),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NI", 28),
    (b"NL", 18),
    (b"NO", 15),
    (b"OM", 23),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"SO", 23),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
];
/// Groups of four before the one that was seen: the longest number has eight.
pub(super) const GROUPS: usize = 8;

/// Whether a number may begin here: two capital letters and two digits.
pub(super) fn may_begin(text: &[u8], start: usize) -> bool {
    matches!(text.get(start..start + 4), Some([a, b, c, d])
        if a.is_ascii_uppercase() && b.is_ascii_uppercase() && c.is_ascii_digit() && d.is_ascii_digit())
        && begins_word(text, start)
}

/// The end of the number that begins here, written in one piece or in groups of four. In groups, at least one must be of
/// digits alone, as it is in every country: that is where they are looked for.
pub(super) fn iban_at(text: &[u8], start: usize) -> Option<usize> {
    if !may_begin(text, start) {
        return None;
    }
    let country = &text[start..start + 2];
    let (_, length) = LENGTHS.iter().find(|(code, _)| code[..] == *country)?;
    let grouped = text.get(start + 4) == Some(&b' ');
    let (mut at, mut number, mut digits) = (start, [0_u8; 34], !grouped);
    for place in 0..*length {
        if grouped && place > 0 && place % 4 == 0 {
            if text.get(at) != Some(&b' ') {
                return None;
            }
            at += 1;
        }
        let byte = *text.get(at)?;
        if !byte.is_ascii_uppercase() && !byte.is_ascii_digit() {
            return None;
        }
        number[place] = byte;
        at += 1;
        if place % 4 == 3 && number[place - 3..=place].iter().all(u8::is_ascii_digit) {
            digits = true;
        }
    }
    (digits && ends_word(text, at) && is_checked(&number[..*length])).then_some(at)
}

/// The remainder of the number, with its first four characters moved to the end and letters as 10 to 35.
fn is_checked(number: &[u8]) -> bool {
    let rearranged = number[4..].iter().chain(&number[..4]);
    let remainder = rearranged.fold(0_u32, |remainder, byte| match byte {
        b'0'..=b'9' => (remainder * 10 + u32::from(byte - b'0')) % 97,
        _ => (remainder * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    remainder == 1
}
