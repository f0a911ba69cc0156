//! Social security numbers of the USA: the form, and the numbers that are given to nobody.

use super::card::{may_begin, may_end};
use super::characters::is_word;

/// Numbers that were printed in advertisements, and are nobody's.
const ADVERTISED: [&[u8]; 2] = [b"078051120", b"219099999"];

/// The beginning of the number whose last four digits begin here.
pub(super) fn ssn_before(text: &[u8], serial: usize) -> Option<usize> {
    let start = serial.checked_sub(7)?;
    let number = text.get(start..start + 11)?;
    let separator = number[3];
    if !matches!(separator, b'-' | b' ') || number[6] != separator {
        return None;
    }
    let mut digits = [0; 9];
    for (digit, byte) in digits
        .iter_mut()
        .zip(number[..3].iter().chain(&number[4..6]).chain(&number[7..]))
    {
        if !byte.is_ascii_digit() {
            return None;
        }
        *digit = *byte;
    }
    let end = start + 11;
    // With hyphens it is no part of a longer number with hyphens.
    let longer = separator == b'-'
        && ((start >= 2 && text[start - 1] == b'-' && is_word(text[start - 2]))
            || (text.get(end) == Some(&b'-') && text.get(end + 1).is_some_and(|next| is_word(*next))));
    let given = &digits[..3] != b"000"
        && &digits[..3] != b"666"
        && digits[0] != b'9'
        && &digits[3..5] != b"00"
        && &digits[5..] != b"0000"
        && !ADVERTISED.contains(&&digits[..]);
    (given && !longer && may_begin(text, start) && may_end(text, end)).then_some(start)
}
